from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.kube.types import PERSISTENT_VOLUME_CLAIMS, PODS, Key, Obj
from syncer.naming import Names
from syncer.proxy.exposition import Exposition
from syncer.proxy.residents import Residents, residents
from syncer.proxy.summary import shown_summary
from syncer.translate.merge import apply
from syncer.translate.metadata import host_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMES = Names("blue", "team-17")
HOST_UID = "1b1e9d1c-5a1f-4c5e-9d7f-0a8f6f3f9a11"
UID = "77777777-aaaa-4bbb-8ccc-dddddddddddd"
CONTAINER = "ab" * 32
WEB: Obj = {
    "metadata": {"name": "web", "namespace": "shop", "uid": UID},
    "spec": {
        "nodeName": "n1",
        "containers": [{"name": "main", "image": "shop/web:1"}],
        "initContainers": [{"name": "setup", "image": 'odd"image\\'}],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
        ],
    },
}
NETWORKED: Obj = apply(WEB, {"metadata": {"name": "agent", "uid": "agent-uid"}, "spec": {"hostNetwork": True}})
HOST_WEB, HOST_AGENT = "web-x-shop-x-blue", "agent-x-shop-x-blue"


def host_pod(pod: Obj = WEB, uid: str = HOST_UID) -> Obj:
    return {"metadata": {**host_metadata(NAMES, None, PODS, pod), "uid": uid}}


def of_node(virtual: Iterable[Obj] = (WEB, NETWORKED), host: Iterable[Obj] | None = None) -> Residents:
    return residents(NAMES, "n1", virtual, [host_pod(), host_pod(NETWORKED, "host-agent-uid")] if host is None else host)


RESIDENTS = of_node()


def shown(text: str, piece: int = 0) -> str:
    exposition, data = Exposition(RESIDENTS), text.encode()
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)] if piece else [data]
    return b"".join([*map(exposition.feed, pieces), exposition.end()]).decode()


IN_WEB = f'namespace="team-17",pod="{HOST_WEB}"'
OUT_WEB = 'namespace="shop",pod="web"'
SLICES = f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{HOST_UID.replace('-', '_')}.slice"
SYSTEMD, SCOPE = f"{SLICES}/cri-containerd-{CONTAINER}.scope", f"/kubepods/pod{UID}/cri-containerd-{CONTAINER}.scope"
ODD = r"odd\"image\\"

LINES: list[tuple[str, str, str]] = [
    ("a container", f'x{{container="main",{IN_WEB}}} 1 1700000000000', f'x{{container="main",{OUT_WEB}}} 1 1700000000000'),
    ("a pod", f"x{{{IN_WEB}}} 1.5e+09", f"x{{{OUT_WEB}}} 1.5e+09"),
    ("not a number", f"x{{{IN_WEB}}} NaN", f"x{{{OUT_WEB}}} NaN"),
    ("a histogram", f'x_bucket{{{IN_WEB},le="+Inf"}} 3', f'x_bucket{{{OUT_WEB},le="+Inf"}} 3'),
    ("a UID", f'x{{{IN_WEB},pod_uid="{HOST_UID}"}} 1', f'x{{{OUT_WEB},pod_uid="{UID}"}} 1'),
    ("a UID of another", f'x{{{IN_WEB},pod_uid="other"}} 1', ""),
    ("a container that is not the tenant's", f'x{{container="mesh",{IN_WEB}}} 1', ""),
    ("a label that is not known", f'x{{{IN_WEB},neighbour="n"}} 1', ""),
    ("an unknown label without a value", f'x{{{IN_WEB},neighbour=""}} 1', f'x{{{OUT_WEB},neighbour=""}} 1'),
    ("a pod of that name elsewhere", f'x{{namespace="other",pod="{HOST_WEB}"}} 1', ""),
    ("another's pod beside ours", 'x{namespace="team-17",pod="web-x-shop-x-red"} 1', ""),
    ("the virtual name, on the host a stranger's", 'x{namespace="team-17",pod="web"} 1', ""),
    ("systemd's cgroup", f'x{{container="main",id="{SYSTEMD}",{IN_WEB}}} 1', f'x{{container="main",id="{SCOPE}",{OUT_WEB}}} 1'),
    ("cgroupfs", f'x{{id="/kubepods/burstable/pod{HOST_UID}/c",{IN_WEB}}} 1', f'x{{id="/kubepods/pod{UID}/c",{OUT_WEB}}} 1'),
    (
        "an image by any name",
        f'x{{container="main",image="r.example/x@sha256:1",name="{CONTAINER}",{IN_WEB}}} 1',
        f'x{{container="main",image="shop/web:1",name="{CONTAINER}",{OUT_WEB}}} 1',
    ),
    (
        "the sandbox",
        f'x{{container="",image="r.internal/pause:3",name="k8s_POD_{HOST_WEB}",{IN_WEB}}} 1',
        f'x{{container="",image="pause",name="",{OUT_WEB}}} 1',
    ),
    ("a cgroup that is not the pod's", f'x{{id="/system.slice/x.service",{IN_WEB}}} 1', ""),
    ("an image to be escaped", f'x{{container="setup",image="i",{IN_WEB}}} 1', f'x{{container="setup",image="{ODD}",{OUT_WEB}}} 1'),
    ("a pod's network", f'container_network_x{{interface="eth0",{IN_WEB}}} 1', f'container_network_x{{interface="eth0",{OUT_WEB}}} 1'),
    ("the node's network", f'container_network_x{{interface="eth0",namespace="team-17",pod="{HOST_AGENT}"}} 1', ""),
    (
        "a claim",
        'kubelet_volume_stats_used_bytes{namespace="team-17",persistentvolumeclaim="data-x-shop-x-blue"} 5',
        'kubelet_volume_stats_used_bytes{namespace="shop",persistentvolumeclaim="data"} 5',
    ),
    (
        "an ephemeral volume's claim",
        'kubelet_volume_stats_used_bytes{namespace="team-17",persistentvolumeclaim="web-scratch-x-shop-x-blue"} 5',
        'kubelet_volume_stats_used_bytes{namespace="shop",persistentvolumeclaim="web-scratch"} 5',
    ),
    ("a claim, and more", 'kubelet_volume_x{namespace="team-17",node="n",persistentvolumeclaim="data-x-shop-x-blue"} 5', ""),
    ("another's claim", 'kubelet_volume_stats_used_bytes{namespace="team-17",persistentvolumeclaim="data-x-shop-x-red"} 5', ""),
    ("the node", "node_cpu_usage_seconds_total 12.5 1700000000000", "node_cpu_usage_seconds_total 12.5 1700000000000"),
    ("the machine", 'machine_memory_bytes{boot_id="b",machine_id="m",system_uuid="s"} 9', "machine_memory_bytes 9"),
    ("its name", 'kubelet_node_name{node="n1"} 1', 'kubelet_node_name{node="n1"} 1'),
    ("another's name", 'kubelet_node_name{node="n2"} 1', ""),
    ("all of the host", 'container_cpu_usage_seconds_total{container="",id="/",image="",name="",namespace="",pod=""} 1', ""),
    ("a host service", 'container_cpu_usage_seconds_total{container="",id="/system.slice/k.service",namespace="",pod=""} 1', ""),
    ("the kubelet's requests", 'rest_client_requests_total{code="200",host="10.0.0.1:6443",method="GET"} 7', ""),
    ("how many pods there are", "kubelet_running_pods 40", ""),
    ("the kubelet's process", "process_resident_memory_bytes 1e+08", ""),
    ("nothing", "", ""),
    ("a comment", "# team-17", ""),
    ("not in the format", f'x{{{IN_WEB}" 1', ""),
    ("a label twice", f'x{{{IN_WEB},pod="{HOST_WEB}"}} 1', ""),
    ("a quoted name", f'{{"x",{IN_WEB}}} 1', ""),
    ("an exemplar", f'x_bucket{{{IN_WEB},le="1"}} 3 # {{trace="other"}} 1', ""),
    ("no text", f"x{{{IN_WEB}}} 1 other", ""),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), [line[1:] for line in LINES], ids=[line[0] for line in LINES])
def test_line(line: str, expected: str) -> None:
    assert shown(f"{line}\n") == (f"{expected}\n" if expected else "")
    assert shown(line) == (f"{expected}\n" if expected else "")


def test_comments_come_with_the_first_line_of_their_family() -> None:
    text = f"""# HELP a About a.
# TYPE a histogram
a_bucket{{namespace="x",pod="y",le="1"}} 1
a_bucket{{{IN_WEB},le="1"}} 1
a_sum{{{IN_WEB}}} 1
# HELP b About b.
# TYPE b gauge
b{{namespace="x",pod="y"}} 1
# HELP ab About ab.
# TYPE ab gauge
ab{{{IN_WEB}}} 1
# EOF
"""
    assert shown(text).splitlines() == [
        "# HELP a About a.",
        "# TYPE a histogram",
        f'a_bucket{{{OUT_WEB},le="1"}} 1',
        f"a_sum{{{OUT_WEB}}} 1",
        "# HELP ab About ab.",
        "# TYPE ab gauge",
        f"ab{{{OUT_WEB}}} 1",
    ]


def test_what_is_of_the_node_comes_once() -> None:
    text = 'machine_cpu_cores{machine_id="a"} 1\nmachine_cpu_cores{machine_id="b"} 2\n'
    assert shown(text) == "machine_cpu_cores 1\n"


@given(piece=st.integers(1, 400))
def test_pieces_of_any_size_give_the_same(piece: int) -> None:
    text = "\n".join(line for _, line, _ in LINES) + "\n"
    assert shown(text, piece) == shown(text)


def test_a_line_without_an_end_is_not_kept() -> None:
    exposition = Exposition(RESIDENTS)
    for _ in range(100):
        assert exposition.feed(b"x" * 65536) == b""
    assert len(exposition._rest) <= 1 << 21
    assert exposition.feed(f" {IN_WEB}\nx{{{IN_WEB}}} 1\n".encode()) == f"x{{{OUT_WEB}}} 1\n".encode()


class TestResidents:
    """Whose series are shown at all."""

    @pytest.mark.parametrize(
        ("virtual", "host"),
        [
            ((), (host_pod(),)),
            ((WEB,), ()),
            ((apply(WEB, {"metadata": {"uid": "made anew"}}),), (host_pod(),)),
            ((apply(WEB, {"spec": {"nodeName": "n2"}}),), (host_pod(),)),
            ((WEB,), (apply(host_pod(), {"metadata": {"name": "a-copy"}}),)),
            ((WEB,), (apply(host_pod(), {"metadata": {"labels": {"vcluster.loft.sh/managed-by": "red"}}}),)),
            ((WEB,), (apply(host_pod(), {"metadata": {"namespace": "team-18"}}),)),
        ],
        ids=["no virtual pod", "no host pod", "its predecessor's", "on another node", "a copy", "another's", "in another namespace"],
    )
    def test_none(self, virtual: tuple[Obj, ...], host: tuple[Obj, ...]) -> None:
        found = of_node(virtual, host)
        assert (found.pods, found.claims) == ({}, {})

    def test_one(self) -> None:
        found = of_node((WEB,), (host_pod(),))
        assert found.pods[HOST_WEB].key == Key("shop", "web")
        assert found.claims[NAMES.host_name("shop", "data")] == Key("shop", "data")
        assert PERSISTENT_VOLUME_CLAIMS.namespaced


# What another tenant or the host calls things; none of it is part of what our tenant may read.
FOREIGN = st.text(string.ascii_uppercase, min_size=6, max_size=12).map(lambda text: f"{text}Q")
OWN_LABELS = st.sampled_from([("container", "main"), ("container", ""), ("pod_uid", HOST_UID), ("le", "0.5"), ("interface", "eth0")])
LABEL_NAMES = st.sampled_from(["image", "name", "id", "uid", "pod_uid", "container", "volume_plugin", "node", "host", "boot_id", "zone"])
FAMILIES = st.sampled_from(
    ["container_cpu_usage_seconds_total", "kubelet_volume_stats_used_bytes", "machine_memory_bytes", "node_cpu_usage_seconds_total", "rest"]
)


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, set[str]]:
    """A line, and the strings of others in it."""
    foreign = draw(st.lists(FOREIGN, max_size=3))
    labels: dict[str, str] = {}
    match draw(st.sampled_from(["ours", "theirs", "beside us", "claim", "node"])):
        case "ours":
            labels |= {"namespace": "team-17", "pod": HOST_WEB, **dict(draw(st.lists(OWN_LABELS, max_size=3)))}
        case "theirs":
            foreign += [draw(FOREIGN), draw(FOREIGN)]
            labels |= {"namespace": foreign[-1], "pod": foreign[-2]}
        case "beside us":
            foreign.append(draw(FOREIGN))
            labels |= {"namespace": "team-17", "pod": draw(st.sampled_from([foreign[-1], f"{HOST_WEB}{foreign[-1]}"]))}
        case "claim":
            foreign.append(draw(FOREIGN))
            labels |= {"namespace": "team-17", "persistentvolumeclaim": foreign[-1]}
        case _:
            pass
    for value in foreign:
        if value not in "".join(labels.values()):
            wrapped = draw(st.sampled_from(["{}", "/kubepods/{}", "k8s_{}_x", '\\"{}', "a/{}:1", f"/{{}}/pod{HOST_UID}/c"]))
            name = draw(LABEL_NAMES)
            # Below a pod's cgroup there is nothing but its own.
            labels.setdefault(name, wrapped.format(value))
    order = draw(st.permutations(sorted(labels.items())))
    body = ",".join(f'{name}="{value}"' for name, value in order)
    return f"{draw(FAMILIES)}{{{body}}} {draw(st.sampled_from(['1', '0.5 1700000000000', 'NaN']))}", set(foreign)


@given(st.lists(lines(), max_size=20), st.integers(0, 50))
@example([(f'x{{container="main",image="QQQQQQQ",{IN_WEB}}} 1', {"QQQQQQQ"})], 0)
def test_nothing_of_others_is_ever_shown(given_lines: list[tuple[str, set[str]]], piece: int) -> None:
    text = "\n".join(line for line, _ in given_lines) + "\n"
    result = shown(text, piece)
    for _, foreign in given_lines:
        for value in foreign:
            assert value not in result
    assert "team-17" not in result
    assert HOST_UID not in result
    assert "-x-" not in result


def summary_of(**pods: Any) -> Obj:
    figures = {"time": "2026-11-21T00:00:00Z", "usageNanoCores": 5, "psi": {"full": {"total": 1}}}
    return {
        "node": {
            "nodeName": "host-name",
            "startTime": "2026-11-20T00:00:00Z",
            "systemContainers": [{"name": "kubelet", "cpu": figures}],
            "cpu": figures,
            "memory": figures,
            "network": {"name": "eth0", "interfaces": [{"name": "veth-of-others", "rxBytes": 1}]},
            "runtime": {"imageFs": {"usedBytes": 1}},
            "dns": {"name": "host"},
        },
        "pods": [
            {
                "podRef": {"name": name, "namespace": "team-17", "uid": HOST_UID} | pod.get("ref", {}),
                "startTime": "2026-11-20T00:00:00Z",
                "containers": [
                    {"name": "main", "cpu": figures, "rootfs": figures, "userDefinedMetrics": [{"name": "of others"}]},
                    {"name": "mesh", "cpu": figures},
                ],
                "cpu": figures,
                "network": {"name": "eth0", "rxBytes": 1, "interfaces": [{"name": "eth0", "rxBytes": 1}]},
                "volume": [
                    {"name": "data", "usedBytes": 4, "pvcRef": {"name": "data-x-shop-x-blue", "namespace": "team-17"}},
                    {"name": "injected", "usedBytes": 4},
                ],
                "owner": "host",
            }
            for name, pod in pods.items()
        ],
    }


class TestSummary:
    def test_ones_own_pods_under_their_own_names(self) -> None:
        figures = {"time": "2026-11-21T00:00:00Z", "usageNanoCores": 5, "psi": {"full": {"total": 1}}}
        assert shown_summary(summary_of(**{HOST_WEB: {}, "web-x-shop-x-red": {}}), RESIDENTS) == {
            "node": {"nodeName": "n1", "startTime": "2026-11-20T00:00:00Z", "cpu": figures, "memory": figures},
            "pods": [
                {
                    "podRef": {"name": "web", "namespace": "shop", "uid": UID},
                    "startTime": "2026-11-20T00:00:00Z",
                    "containers": [{"name": "main", "cpu": figures, "rootfs": figures}],
                    "cpu": figures,
                    "network": {"name": "eth0", "rxBytes": 1, "interfaces": [{"name": "eth0", "rxBytes": 1}]},
                    "volume": [{"usedBytes": 4, "name": "data", "pvcRef": {"name": "data", "namespace": "shop"}}],
                }
            ],
        }

    @pytest.mark.parametrize("ref", [{"uid": "other"}, {"namespace": "other"}])
    def test_a_pod_that_only_has_the_name_is_not_shown(self, ref: Mapping[str, str]) -> None:
        assert shown_summary(summary_of(**{HOST_WEB: {"ref": ref}}), RESIDENTS)["pods"] == []

    def test_a_pod_in_the_nodes_network_has_no_traffic_of_its_own(self) -> None:
        found = summary_of(**{HOST_AGENT: {"ref": {"uid": "host-agent-uid"}}})
        assert "network" not in shown_summary(found, RESIDENTS)["pods"][0]

    def test_an_empty_one(self) -> None:
        assert shown_summary({}, RESIDENTS) == {"node": {"nodeName": "n1"}, "pods": []}
