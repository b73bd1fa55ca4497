"""A kubelet's /stats/summary (stats/v1alpha1) as a tenant may read it.

Shown are the figures of his own pods under the names that he knows, and of the node those that every container reads anyway. The
node's network and images are those of all tenants, and its processes the host's. Fields that are not known here are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from syncer.kube.types import Obj
    from syncer.proxy.residents import Residents

_OF_NODES = ("cpu", "memory", "fs", "swap", "rlimit")
_OF_PODS = ("cpu", "memory", "io", "swap", "process_stats", "ephemeral-storage")
_OF_CONTAINERS = ("cpu", "memory", "io", "swap", "rootfs", "logs")
_TIMES = ("time", "startTime")


def shown_summary(summary: Mapping[str, Any], residents: Residents) -> Obj:
    """What of the summary of their node may be shown."""
    node = summary.get("node") or {}
    return {
        "node": {"nodeName": residents.node, **_times(node), **_parts(node, _OF_NODES)},
        "pods": list(_pods(summary.get("pods") or (), residents)),
    }


def _pods(pods: Iterable[Mapping[str, Any]], residents: Residents) -> Iterator[Obj]:
    for pod in pods:
        ref = pod.get("podRef") or {}
        resident = residents.pods.get(ref.get("name") or "")
        if resident is None or (ref.get("namespace"), ref.get("uid")) != (residents.host_namespace, resident.host_uid):
            continue
        shown = {
            "podRef": {"name": resident.key.name, "namespace": resident.key.namespace, "uid": resident.uid},
            **_times(pod),
            "containers": [
                {"name": item["name"], **_times(item), **_parts(item, _OF_CONTAINERS)}
                for item in pod.get("containers") or ()
                if item.get("name") in resident.images
            ],
            **_parts(pod, _OF_PODS),
        }
        if pod.get("network") and not resident.shares_network:
            shown["network"] = _network(pod["network"])
        if volumes := [_volume(item, residents) for item in pod.get("volume") or () if item.get("name") in resident.volumes]:
            shown["volume"] = volumes
        yield shown


def _network(network: Mapping[str, Any]) -> Obj:
    """Of a pod, which sees these interfaces itself."""
    interfaces = [{"name": str(item.get("name") or ""), **_figures(item)} for item in network.get("interfaces") or ()]
    return {"name": str(network.get("name") or ""), **_times(network), **_figures(network), "interfaces": interfaces}


def _volume(volume: Mapping[str, Any], residents: Residents) -> Obj:
    shown = {**_times(volume), **_figures(volume), "name": volume["name"]}
    ref = volume.get("pvcRef") or {}
    claim = residents.claims.get(ref.get("name") or "")
    if claim is not None and ref.get("namespace") == residents.host_namespace:
        shown["pvcRef"] = {"name": claim.name, "namespace": claim.namespace}
    if health := _figures(volume.get("volumeHealthStats") or {}):
        shown["volumeHealthStats"] = health
    return shown


def _parts(whole: Mapping[str, Any], names: Iterable[str]) -> Obj:
    return {name: {**_times(whole[name]), **_figures(whole[name])} for name in names if isinstance(whole.get(name), dict)}


def _times(part: Mapping[str, Any]) -> Obj:
    return {name: part[name] for name in _TIMES if isinstance(part.get(name), str)}


def _figures(part: Mapping[str, Any]) -> Obj:
    """Numbers, and what holds nothing but numbers: no text tells of others."""
    shown: Obj = {}
    for name, value in part.items():
        if isinstance(value, int | float):
            shown[name] = value
        elif isinstance(value, dict) and (inner := _figures(value)):
            shown[name] = inner
    return shown
