"""What `k3s server` can be told: its flags, its environment variables, and its configuration file.

https://docs.k3s.io/cli/server, https://docs.k3s.io/installation/configuration#configuration-file
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class ArgumentError(Exception):
    """Says what is wrong with an argument."""


CONFIG = "/etc/rancher/k3s/config.yaml"
"""Where the configuration file is unless told otherwise."""

SHORT = {"c": "config", "d": "data-dir", "o": "write-kubeconfig", "t": "token", "s": "server", "l": "log"}
_SWITCHES_WORDS = """
alsologtostderr cluster-init cluster-reset debug disable-agent disable-apiserver disable-cloud-controller
disable-controller-manager disable-default-registry-endpoint disable-etcd disable-helm-controller disable-kube-proxy
disable-network-policy disable-scheduler docker embedded-registry enable-pprof etcd-disable-snapshots etcd-expose-metrics
flannel-external-ip flannel-ipv6-masq kine-tls prefer-bundled-bin protect-kernel-defaults rootless secrets-encryption selinux
supervisor-metrics tls-san-security with-node-id
"""
SWITCHES = frozenset(_SWITCHES_WORDS.split())
_LISTS_WORDS = """
cluster-cidr cluster-dns disable etcd-arg kube-apiserver-arg kube-cloud-controller-manager-arg kube-controller-manager-arg
kube-proxy-arg kube-scheduler-arg kubelet-arg node-external-ip node-ip node-label node-taint service-cidr tls-san
"""
LISTS = frozenset(_LISTS_WORDS.split())
_COMMAS = frozenset({"cluster-cidr", "cluster-dns", "disable", "node-external-ip", "node-ip", "service-cidr", "tls-san"})
_SINGLE_WORDS = """
advertise-address advertise-port agent-token agent-token-file bind-address cluster-domain cluster-reset-restore-path config
container-runtime-endpoint data-dir datastore-cafile datastore-certfile datastore-endpoint datastore-keyfile
default-local-storage-path default-runtime egress-selector-mode etcd-snapshot-dir etcd-snapshot-name etcd-snapshot-retention
etcd-snapshot-schedule-cron flannel-backend flannel-cni-conf flannel-conf flannel-iface helm-job-image https-listen-port
image-credential-provider-bin-dir image-credential-provider-config image-service-endpoint lb-server-port log node-name pause-image
private-registry resolv-conf secrets-encryption-provider server service-node-port-range servicelb-namespace snapshotter
system-default-registry token token-file v vmodule vpn-auth vpn-auth-file write-kubeconfig write-kubeconfig-group
write-kubeconfig-mode
"""
SINGLE = frozenset(_SINGLE_WORDS.split())
VARIABLES = {
    "K3S_CONFIG_FILE": "config",
    "K3S_DATA_DIR": "data-dir",
    "K3S_DATASTORE_CAFILE": "datastore-cafile",
    "K3S_DATASTORE_CERTFILE": "datastore-certfile",
    "K3S_DATASTORE_ENDPOINT": "datastore-endpoint",
    "K3S_DATASTORE_KEYFILE": "datastore-keyfile",
    "K3S_DEBUG": "debug",
    "K3S_KUBECONFIG_MODE": "write-kubeconfig-mode",
    "K3S_KUBECONFIG_OUTPUT": "write-kubeconfig",
    "K3S_TOKEN": "token",
    "K3S_TOKEN_FILE": "token-file",
}
_DEFAULTS = {
    "bind-address": "0.0.0.0",
    "cluster-domain": "cluster.local",
    "data-dir": "/var/lib/rancher/k3s",
    "flannel-backend": "vxlan",
    "https-listen-port": "6443",
    "service-node-port-range": "30000-32767",
    "write-kubeconfig": "/etc/rancher/k3s/k3s.yaml",
    "write-kubeconfig-mode": "600",
}
_LIST_DEFAULTS = {"cluster-cidr": ("10.42.0.0/16",), "service-cidr": ("10.43.0.0/16",)}
_NEEDED = {
    "disable-agent": "there is no kubelet and no containerd",
    "disable-cloud-controller": "there is no cloud controller",
    "disable-scheduler": "there is no scheduler",
}
_MISSING = ("cluster-init", "cluster-reset", "disable-apiserver", "disable-controller-manager", "rootless", "secrets-encryption", "server")
_PACKAGED = frozenset({"coredns", "local-storage", "metrics-server", "servicelb", "traefik"})


@dataclass(frozen=True)
class Arguments:
    """What counts: the last value of a flag, all values of a list, and whether a switch is on."""

    single: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    switches: frozenset[str] = frozenset()

    def __getitem__(self, flag: str) -> str:
        """The value of a flag, its default, or nothing."""
        return self.single.get(flag, _DEFAULTS.get(flag, ""))

    def all(self, flag: str) -> Sequence[str]:
        """The values of a list, or its default."""
        return self.lists.get(flag, _LIST_DEFAULTS.get(flag, ()))


def parse(words: Sequence[str], environment: Mapping[str, str], files: Sequence[Mapping[str, Any]] = ()) -> Arguments:
    """Put together what the words after `server`, the environment and the configuration files say; the former win, flag by flag.

    ArgumentError for what k3s does not know, and for what this program cannot do though k3s can.
    """
    single: dict[str, str] = {VARIABLES[name]: value for name, value in environment.items() if name in VARIABLES and value}
    lists: dict[str, list[str]] = {}
    switches: dict[str, bool] = {}
    if (debug := single.pop("debug", None)) is not None:
        switches["debug"] = _switch("debug", debug)
    for file in files:
        for flag, value, more in _entries(file):
            _take(flag, value, single, lists, switches, fresh=not more)
    seen: set[str] = set()
    for flag, value in _pairs(words):
        _take(flag, value, single, lists, switches, fresh=flag not in seen)
        seen.add(flag)
    given = Arguments(
        single, {flag: tuple(values) for flag, values in lists.items()}, frozenset(flag for flag, on in switches.items() if on)
    )
    _check(given)
    return given


def config_file(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Where the configuration file is to be."""
    given = [value for flag, value in _pairs(words) if flag == "config" and isinstance(value, str)]
    return given[-1] if given else environment.get("K3S_CONFIG_FILE") or CONFIG


def flags(defaults: Mapping[str, str], extra: Sequence[str]) -> list[str]:
    """The command line of a component: our own flags, and those of the user, which take the place of ours of the same name."""
    named = [text.removeprefix("--").partition("=") for text in extra]
    theirs = {name for name, _, _ in named}
    ours = [f"--{name}={value}" for name, value in defaults.items() if name not in theirs]
    return [*ours, *(f"--{name}={value if equals else 'true'}" for name, equals, value in named)]


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str | bool]]:
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word in ("-", "--"):
            raise ArgumentError(f"{word}: k3s server takes flags only")
        name, equals, value = word.lstrip("-").partition("=")
        flag = SHORT.get(name, name)
        if flag in SWITCHES:
            yield flag, _switch(flag, value) if equals else True
        elif flag not in SINGLE | LISTS:
            raise ArgumentError(f"flag provided but not defined: -{name}")
        else:
            found = value if equals else next(rest, None)
            if found is None:
                raise ArgumentError(f"flag needs an argument: -{name}")
            yield flag, found


def _entries(file: Mapping[str, Any]) -> Iterator[tuple[str, str | bool, bool]]:
    """Flag, value, and whether it is to be added to what there is."""
    for key, given in file.items():
        flag = SHORT.get(key.removesuffix("+"), key.removesuffix("+"))
        if flag not in SWITCHES | SINGLE | LISTS:
            raise ArgumentError(f"flag provided but not defined: -{flag} (in the configuration file)")
        more = key.endswith("+")
        for item in given if isinstance(given, list) else [given]:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            yield flag, _switch(flag, text) if flag in SWITCHES else text, more
            more = True


def _take(
    flag: str, value: str | bool, single: dict[str, str], lists: dict[str, list[str]], switches: dict[str, bool], *, fresh: bool
) -> None:
    if isinstance(value, bool):
        switches[flag] = value
    elif flag in LISTS:
        parts = [part.strip() for part in value.split(",") if part.strip()] if flag in _COMMAS else [value]
        lists[flag] = [*([] if fresh else lists.get(flag, [])), *parts]
    else:
        single[flag] = value


def _switch(flag: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "t", "f", "1", "0"):
        raise ArgumentError(f"invalid boolean value {text!r} for -{flag}")
    return text.lower() in ("true", "t", "1")


def _check(given: Arguments) -> None:
    for flag, fact in _NEEDED.items():
        if flag not in given.switches:
            raise ArgumentError(f"{fact} in this image: give --{flag}")
    for flag in _MISSING:
        if flag in given.switches or given[flag]:
            raise ArgumentError(f"--{flag} is not possible with this image")
    if given["flannel-backend"] != "none":
        raise ArgumentError("there is no network in this image: give --flannel-backend=none")
    if left := sorted(_PACKAGED - set(given.all("disable"))):
        raise ArgumentError(f"{', '.join(left)}: not in this image; give --disable={','.join(left)}")
    endpoint = given["datastore-endpoint"]
    if endpoint and not all(one.startswith(("http://", "https://")) for one in endpoint.split(",")):
        raise ArgumentError("--datastore-endpoint: this image knows http(s) addresses of etcd, and SQLite when there is none")
    for flag in ("https-listen-port", "advertise-port"):
        if given[flag] and not given[flag].isdecimal():
            raise ArgumentError(f"invalid value {given[flag]!r} for -{flag}")
