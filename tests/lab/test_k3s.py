"""What the lab's k3s-shaped program makes of its command line, and of what servers share. That it runs is seen in e2e/test_k3s.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.lab.k3s import arguments
from e2e.lab.k3s.arguments import ArgumentError, parse
from e2e.lab.k3s.bootstrap import BootstrapError, seal, unseal
from e2e.lab.k3s.server import server_names

TEMPLATE = Path(__file__).parents[2] / "deploy" / "chart" / "templates" / "_k3s.tpl"
NEEDED = (
    "--disable=traefik,servicelb,metrics-server,local-storage,coredns",
    "--disable-agent",
    "--disable-scheduler",
    "--disable-cloud-controller",
    "--flannel-backend=none",
)
CLASSIC = (
    "--disable-network-policy",
    "--egress-selector-mode=disabled",
    "--kube-apiserver-arg=bind-address=127.0.0.1",
    "--kube-controller-manager-arg=controllers=*,-nodeipam",
    "--kube-apiserver-arg=endpoint-reconciler-type=none",
    "--service-cidr=10.96.0.0/16,fd00::/108",
)
"""What the classic chart passes besides."""


def test_all_of_the_charts_own_flags_are_known() -> None:
    flags = re.findall(r"^\s*- (--[a-z-]+=?)", TEMPLATE.read_text().partition("- server\n")[2].partition("env:")[0], re.MULTILINE)
    assert len(flags) > 12
    known = arguments.SWITCHES | arguments.SINGLE | arguments.LISTS
    assert {flag.strip("-=") for flag in flags} <= known


def test_the_classic_charts_flags_are_taken() -> None:
    given = parse([*NEEDED, *CLASSIC, "--data-dir", "/data", "-o", "/k"], {})
    assert (given["data-dir"], given["write-kubeconfig"], given["https-listen-port"]) == ("/data", "/k", "6443")
    assert given.all("service-cidr") == ("10.96.0.0/16", "fd00::/108")
    assert {"10.96.0.1", "fd00::1", "127.0.0.1"} <= set(server_names(given))
    assert given.all("kube-apiserver-arg") == ("bind-address=127.0.0.1", "endpoint-reconciler-type=none")


def test_defaults_are_those_of_k3s() -> None:
    given = parse(NEEDED, {})
    assert (given.all("service-cidr"), given.all("cluster-cidr"), given["cluster-domain"]) == (
        ("10.43.0.0/16",),
        ("10.42.0.0/16",),
        "cluster.local",
    )


def test_the_command_line_wins_over_the_file_and_that_over_the_environment() -> None:
    file = {
        "token": "file",
        "tls-san": ["a", "b"],
        "disable-network-policy": True,
        "kube-apiserver-arg": ["v=2"],
        "cluster-dns": "10.0.0.10",
    }
    more = {"kube-apiserver-arg+": "profiling=true"}
    given = parse([*NEEDED, "--tls-san=c,d", "--tls-san=e"], {"K3S_TOKEN": "variable", "K3S_DATA_DIR": "/d", "HOME": "/"}, [file, more])
    assert (given["token"], given["data-dir"]) == ("file", "/d")
    assert given.all("tls-san") == ("c", "d", "e")
    assert given.all("kube-apiserver-arg") == ("v=2", "profiling=true")
    assert "disable-network-policy" in given.switches
    assert parse([*NEEDED, "--token=word"], {}, [file])["token"] == "word"


@pytest.mark.parametrize(
    ("words", "file", "message"),
    [
        ([*NEEDED, "--enable-everything"], {}, "flag provided but not defined: -enable-everything"),
        ([*NEEDED, "--enable-everything=1"], {}, "flag provided but not defined: -enable-everything"),
        (NEEDED, {"everything": 1}, "flag provided but not defined: -everything (in the configuration file)"),
        ([*NEEDED, "--token"], {}, "flag needs an argument: -token"),
        ([*NEEDED, "agent"], {}, "agent: k3s server takes flags only"),
        ([*NEEDED, "--debug=perhaps"], {}, "invalid boolean value 'perhaps' for -debug"),
        (NEEDED[:1] + NEEDED[2:], {}, "there is no kubelet and no containerd in this image: give --disable-agent"),
        ([*NEEDED, "--disable-scheduler=false"], {}, "there is no scheduler in this image"),
        (NEEDED[1:], {}, "coredns, local-storage, metrics-server, servicelb, traefik: not in this image"),
        (NEEDED[:-1], {}, "there is no network in this image: give --flannel-backend=none"),
        ([*NEEDED, "--server=https://other:6443"], {}, "--server is not possible with this image"),
        ([*NEEDED, "--datastore-endpoint=mysql://db"], {}, "this image knows http(s) addresses of etcd, and SQLite"),
        ([*NEEDED, "--https-listen-port=https"], {}, "invalid value 'https' for -https-listen-port"),
    ],
)
def test_what_is_wrong_is_told(words: list[str], file: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        parse(words, {}, [file])


def test_flags_of_users_take_the_place_of_ours() -> None:
    found = arguments.flags({"v": "0", "profiling": "false"}, ["profiling=true", "feature-gates=A=true", "--audit-log-path=-", "x"])
    assert found == ["--v=0", "--profiling=true", "--feature-gates=A=true", "--audit-log-path=-", "--x=true"]


def test_where_the_configuration_file_is() -> None:
    assert arguments.config_file([], {}) == "/etc/rancher/k3s/config.yaml"
    assert arguments.config_file([], {"K3S_CONFIG_FILE": "/a"}) == "/a"
    assert arguments.config_file(["-c", "/b"], {"K3S_CONFIG_FILE": "/a"}) == "/b"


def test_what_servers_share_needs_the_token() -> None:
    files = {"server-ca.key": b"secret", "service.key": b"other"}
    sealed = seal(files, "token")
    assert b"secret" not in sealed
    assert unseal(sealed, "token") == files
    with pytest.raises(BootstrapError, match="encrypted with different token"):
        unseal(sealed, "tokem")
    with pytest.raises(BootstrapError, match="something else than bootstrap data"):
        unseal(yaml.safe_dump({"of": "k3s"}).encode(), "token")
