"""A kubelet's metrics (Prometheus' text format) as a tenant may read them: filtered and renamed line by line, as they come.

Everything is hidden that no rule here shows, whatever kubelets of other versions may tell:

- A series about a pod is shown if the pod is the tenant's and the container one that he wrote. It has the names that he knows.
  A label that is not known here hides the series, as nobody can say what is in it.
- A series about a claim is shown if one of his pods uses it.
- Of the node those are shown that every container reads in its /proc anyway (processors, memory, how much of them is used), without
  what identifies the machine, and those that say whether the kubelet could tell. All others are of the kubelet itself, whose
  counts and times are those of all tenants' pods together, and whose labels name the host's API address, volumes and drivers; or
  of processes and slices of the host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncer.proxy.residents import Resident, Residents

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LONGEST_LINE = 1 << 20
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+([-+]?[0-9.][-+0-9.eE]*|[-+]?Inf|NaN)(?:[ \t]+(-?[0-9]+))?[ \t]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_POD = re.compile(rb'[{,]pod="([^"]*)"')
_COMMENT = re.compile(r"#[ \t]+(?:HELP|TYPE)[ \t]+([a-zA-Z_:][a-zA-Z0-9_:]*)(?:[ \t].*)?")
_PARTS = frozenset({"", "_bucket", "_sum", "_count", "_total", "_created"})
"""What the name of a sample may have after that of its family."""
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_PODS = "/kubepods"
_SANDBOX = frozenset({"", "POD"})
_SANDBOX_IMAGE = "pause"

_AS_THEY_ARE = frozenset(
    {
        "container", "container_state", "cpu", "device", "failure_type", "interface", "le", "node_id", "operation", "pagesize",
        "probe_type", "quantile", "reason", "resource", "result", "scope", "state", "tcp_state", "type", "udp_state", "ulimit", "unit",
    }
)  # fmt: skip
"""Labels of a pod's series that name nothing of others: parts of the pod, devices that it sees itself, words of the metric."""
_OF_NETWORK = "container_network_"
_OF_CLAIMS = frozenset({"namespace", "persistentvolumeclaim"})
_OF_NODES: Mapping[str, frozenset[str]] = {
    "node_cpu_usage_seconds_total": frozenset(),
    "node_memory_working_set_bytes": frozenset(),
    "node_swap_usage_bytes": frozenset(),
    "machine_cpu_cores": frozenset(),
    "machine_cpu_physical_cores": frozenset(),
    "machine_cpu_sockets": frozenset(),
    "machine_memory_bytes": frozenset(),
    "machine_swap_bytes": frozenset(),
    "machine_scrape_error": frozenset(),
    "container_scrape_error": frozenset(),
    "resource_scrape_error": frozenset(),
    "scrape_error": frozenset(),
    "kubelet_node_name": frozenset({"node"}),
}
"""Series of the node that are shown, with the labels that they keep."""
_NOT_OF_PODS = (b"#", *(name.encode() for name in _OF_NODES))


class Exposition:
    """Takes a text in pieces, in order, and gives back what of it may be shown."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self._namespace = f'namespace="{residents.host_namespace}"'.encode()
        self._pods = frozenset(name.encode() for name in ("", *residents.pods))
        self._rest = b""
        self._is_lost = False
        self._comments: list[str] = []
        self._family = ""
        self._told: set[str] = set()

    def feed(self, piece: bytes) -> bytes:
        """What is shown of all lines that end in this piece."""
        *whole, rest = (self._rest + piece).split(b"\n")
        if whole and self._is_lost:
            whole, self._is_lost = whole[1:], False
        if len(rest) > _LONGEST_LINE:
            rest, self._is_lost = b"", True
        self._rest = b"" if self._is_lost else rest
        return b"".join(shown for line in whole for shown in self._shown(line))

    def end(self) -> bytes:
        """What is shown of a last line without an end."""
        rest, self._rest = self._rest, b""
        return b"".join(self._shown(rest))

    def _shown(self, line: bytes) -> Iterator[bytes]:
        """The line, after the comments on its family that it is the first to need."""
        if self._is_surely_hidden(line):
            return
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return
        if text.startswith("#"):
            self._comment(text)
            return
        sample = _SAMPLE.fullmatch(text)
        if sample is None:
            return
        name, body, value, time = sample.groups()
        labels = _labels(body or "")
        shown = None if labels is None else self._shown_labels(name, labels)
        if shown is None:
            return
        if self._comments and self._family and name.removeprefix(self._family) in _PARTS:
            yield from (f"{comment}\n".encode() for comment in self._comments)
            self._comments = []
        written = ",".join(f'{label}="{content}"' for label, content in shown.items())
        yield f"{name}{f'{{{written}}}' if written else ''} {value}{f' {time}' if time else ''}\n".encode()

    def _is_surely_hidden(self, line: bytes) -> bool:
        """Nearly all lines are of others' pods; taking them apart would cost ten times as much."""
        if self._namespace in line:
            pod = _POD.search(line)
            return pod is not None and pod[1] not in self._pods
        return not line.startswith(_NOT_OF_PODS)

    def _comment(self, text: str) -> None:
        match = _COMMENT.fullmatch(text)
        if match is None:
            return
        if match[1] != self._family:
            self._family, self._comments = match[1], []
        self._comments.append(text)

    def _shown_labels(self, name: str, labels: dict[str, str]) -> dict[str, str] | None:
        if labels.get("pod"):
            return self._of_pod(name, labels)
        if labels.get("persistentvolumeclaim"):
            return self._of_claim(labels)
        return self._of_node(name, labels)

    def _of_pod(self, name: str, labels: dict[str, str]) -> dict[str, str] | None:
        pod = self._residents.pods.get(labels["pod"])
        if pod is None or labels.get("namespace") != self._residents.host_namespace:
            return None
        if labels.get("container", "") not in _SANDBOX | pod.images.keys() or (pod.shares_network and name.startswith(_OF_NETWORK)):
            return None
        shown: dict[str, str] = {}
        for label, value in labels.items():
            if (content := _in_virtual_terms(label, value, labels, pod)) is None:
                return None
            shown[label] = content
        return shown

    def _of_claim(self, labels: dict[str, str]) -> dict[str, str] | None:
        claim = self._residents.claims.get(labels["persistentvolumeclaim"])
        if claim is None or labels.get("namespace") != self._residents.host_namespace or labels.keys() != _OF_CLAIMS:
            return None
        return {"namespace": claim.namespace, "persistentvolumeclaim": claim.name}

    def _of_node(self, name: str, labels: dict[str, str]) -> dict[str, str] | None:
        kept = _OF_NODES.get(name)
        if (
            kept is None
            or name in self._told
            or labels.get("namespace")
            or labels.get("node", self._residents.node) != self._residents.node
        ):
            return None
        self._told.add(name)  # without its labels a second one would be the same
        return {label: value for label, value in labels.items() if label in kept}


def _labels(body: str) -> dict[str, str] | None:
    """Labels with their values as they are written, escapes included; None for what is not in the format."""
    labels: dict[str, str] = {}
    position = 0
    while position < len(body):
        match = _LABEL.match(body, position)
        if match is None or match[1] in labels:
            return None
        labels[match[1]] = match[2]
        position = match.end()
    return labels


def _in_virtual_terms(label: str, value: str, labels: Mapping[str, str], pod: Resident) -> str | None:
    """A label of a pod's series as the tenant may read it; None hides the series. An empty value is as good as no label."""
    if not value or label in _AS_THEY_ARE:
        return value
    match label:
        case "pod":
            return pod.key.name
        case "namespace":
            return pod.key.namespace
        case "uid" | "pod_uid":
            return pod.uid if value == pod.host_uid else None
        case "id":
            return _cgroup(value, pod)
        case "name":
            # With containerd and CRI-O a container's ID; elsewhere it may be made of host names.
            return value if _CONTAINER_ID.fullmatch(value) else ""
        case "image":
            # What runs can go by another tenant's name for the same image.
            return _escaped(pod.images.get(labels.get("container", ""), _SANDBOX_IMAGE))
        case _:
            return None


def _cgroup(path: str, pod: Resident) -> str | None:
    """A cgroup under the UID that the tenant knows, in one form for all drivers; what is above the pod's is the host's."""
    for separator in ("-", "_"):  # systemd's slices have no dashes in their names
        _, found, below = path.partition(f"pod{pod.host_uid.replace('-', separator)}")
        if found:
            return f"{_PODS}/pod{pod.uid}{below.removeprefix('.slice')}"
    return None


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
