"""What the API server itself does with an object of a certain type when it is created, changed or deleted."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from syncer.kube.types import PODS, Obj, Resource
from tests.fakes.statuses import Failure, invalid

WITHOUT_STATUS = frozenset(
    {
        "configmaps",
        "secrets",
        "events",
        "serviceaccounts",
        "endpoints",
        "endpointslices",
        "leases",
        "mutatingwebhookconfigurations",
        "roles",
        "rolebindings",
        "clusterroles",
        "clusterrolebindings",
        "storageclasses",
        "ingressclasses",
        "priorityclasses",
        "networkpolicies",
    }
)
"""Types that have no status subresource; all others do."""

WITH_GENERATION = frozenset({"pods", "ingresses", "networkpolicies", "poddisruptionbudgets", "mutatingwebhookconfigurations"})

RETURNED_WHEN_DELETED = frozenset({"pods", "services", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes"})
"""Types whose deletion is answered with the object; all others with a Status."""

NO_BLIND_UPDATE = frozenset({"leases", "mutatingwebhookconfigurations", "servicecidrs"})
"""Types that a PUT without resourceVersion cannot change."""

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"


def validate_metadata(resource: Resource, meta: Obj) -> None:
    """Failure 422 for a name or a label that cannot be."""
    name = meta.get("name") or ""
    if not name:
        raise invalid(resource, "", "metadata.name", "Required value: name or generateName is required", "FieldValueRequired")
    if resource.plural in ("namespaces", "services"):
        if not re.fullmatch(_LABEL, name) or len(name) > 63:
            raise invalid(resource, name, "metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 label must consist of …')
    elif not re.fullmatch(r"[^/%]+" if resource.plural.endswith(("roles", "rolebindings")) else _SUBDOMAIN, name) or len(name) > 253:
        raise invalid(resource, name, "metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of …')
    for field in ("labels", "annotations"):
        for key, value in (meta.get(field) or {}).items():
            where = f"metadata.{field}"
            prefix, slash, word = key.rpartition("/")
            if (slash and (not re.fullmatch(_SUBDOMAIN, prefix) or len(prefix) > 253)) or not re.fullmatch(_VALUE, word) or not word:
                raise invalid(resource, name, where, f'Invalid value: "{key}": a qualified name must consist of …')
            if len(word) > 63:
                raise invalid(resource, name, where, f'Invalid value: "{key}": name part must be no more than 63 bytes')
            if not isinstance(value, str):
                raise Failure(400, "BadRequest", f"json: cannot unmarshal {where}.{key} into Go value of type string")
            if field == "labels" and len(value) > 63:
                raise invalid(resource, name, where, f'Invalid value: "{value}": must be no more than 63 bytes')
            if field == "labels" and not re.fullmatch(_VALUE, value):
                raise invalid(resource, name, where, f'Invalid value: "{value}": a valid label must be an empty string or consist of …')
    if sum(len(key.encode()) + len(value.encode()) for key, value in (meta.get("annotations") or {}).items()) > 256 * 1024:
        raise invalid(resource, name, "metadata.annotations", "Too long: may not be more than 262144 bytes", "FieldValueTooLong")


def validate_data(resource: Resource, obj: Obj) -> None:
    """Failure 422 for a key in a ConfigMap or Secret that could not be a file name."""
    if resource.plural not in ("configmaps", "secrets"):
        return
    for field in ("data", "binaryData"):
        for key in obj.get(field) or {}:
            if not re.fullmatch(r"[-._a-zA-Z0-9]+", key) or len(key) > 253 or key in (".", ".."):
                problem = f'Invalid value: "{key}": a valid config key must consist of …'
                raise invalid(resource, obj["metadata"]["name"], f"{field}[{key}]", problem)


def prepare_for_create(resource: Resource, obj: Obj, services: Iterable[Obj], cidr: ipaddress.IPv4Network) -> None:
    """Defaults and server-side fields of the types that matter here; the object is changed in place."""
    if resource.plural not in WITHOUT_STATUS and resource.plural != "nodes":
        obj.pop("status", None)
    if resource.plural in WITH_GENERATION:
        obj["metadata"]["generation"] = 1
    if resource.plural == "pods":
        _default_pod(resource, obj)
    elif resource.plural == "services":
        _default_service(obj)
        allocate(resource, obj, services, cidr)
        obj["status"] = {"loadBalancer": {}}
    elif resource.plural == "namespaces":
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    elif resource.plural == "secrets":
        fold_string_data(obj)
        obj.setdefault("type", "Opaque")
    validate_data(resource, obj)


def fold_string_data(secret: Obj) -> None:
    """`stringData` is write-only: it ends up in `data`."""

    words = secret.pop("stringData", None) or {}
    if words:
        secret["data"] = {**(secret.get("data") or {}), **{key: base64.b64encode(value.encode()).decode() for key, value in words.items()}}


def _default_pod(resource: Resource, pod: Obj) -> None:
    spec = pod.setdefault("spec", {})
    if not spec.get("containers"):
        raise invalid(resource, pod["metadata"]["name"], "spec.containers", "Required value", "FieldValueRequired")
    defaults: Obj = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": spec.get("serviceAccount") or "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    for key, value in defaults.items():
        spec.setdefault(key, value)
    spec["serviceAccount"] = spec["serviceAccountName"]
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key", key) == key and t.get("effect", "NoExecute") == "NoExecute" for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    for container in (*(spec.get("initContainers") or []), *spec["containers"]):
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        tag = container.get("image", "").rpartition("/")[2].partition(":")[2]
        container.setdefault("imagePullPolicy", "Always" if tag in ("", "latest") else "IfNotPresent")
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")
    for volume in spec.get("volumes") or []:
        for source in ("configMap", "secret", "projected", "downwardAPI"):
            if source in volume:
                volume[source].setdefault("defaultMode", 420)
    pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _default_service(service: Obj) -> None:
    spec = service.setdefault("spec", {})
    kind = spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def allocate(resource: Resource, service: Obj, services: Iterable[Obj], cidr: ipaddress.IPv4Network) -> None:
    """ClusterIP and node ports, from what no other service has; Failure 422 where the wanted one cannot be given."""
    spec, name = service["spec"], service["metadata"]["name"]
    others = [other["spec"] for other in services if other["metadata"].get("uid") != service["metadata"].get("uid")]
    if spec["type"] == "ExternalName":
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
        return
    wanted = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or []), "")
    if wanted != "None" and not spec.get("ports"):
        raise invalid(resource, name, "spec.ports", "Required value", "FieldValueRequired")
    if wanted != "None":
        taken = {other.get("clusterIP") for other in others}
        if not wanted:
            hosts = cidr.hosts()
            next(hosts)  # the first address is the API server's own
            wanted = next(str(address) for address in hosts if str(address) not in taken)
        elif ipaddress.ip_address(wanted) not in cidr:
            raise _refused(resource, name, wanted, "the provided network does not match the current range")
        elif wanted in taken:
            raise _refused(resource, name, wanted, "provided IP is already allocated")
    spec["clusterIP"], spec["clusterIPs"] = wanted, [wanted]
    if spec["type"] in ("NodePort", "LoadBalancer") and spec.get("allocateLoadBalancerNodePorts", True):
        used = {port["nodePort"] for other in others for port in other.get("ports") or [] if port.get("nodePort")}
        for number, port in enumerate(spec["ports"]):
            if port.get("nodePort") in used:
                where = f"spec.ports[{number}].nodePort"
                raise invalid(resource, name, where, f"Invalid value: {port['nodePort']}: provided port is already allocated")
            if not port.get("nodePort"):
                # Random on a real one; here each server begins elsewhere, as two of them seldom give the same.
                first = 30000 + int(cidr.network_address) % 2500
                port["nodePort"] = next(candidate for candidate in range(first, 32768) if candidate not in used)
            used.add(port["nodePort"])


def _refused(resource: Resource, name: str, address: str, why: str) -> Failure:
    return invalid(resource, name, "spec.clusterIPs", f'Invalid value: ["{address}"]: failed to allocate IP {address}: {why}')


def prepare_for_update(
    resource: Resource, old: Obj, new: Obj, subresource: str, services: Iterable[Obj], cidr: ipaddress.IPv4Network
) -> Obj:
    """The object that an update leaves: what the subresource may not touch is taken from the old one."""
    if resource.plural not in WITHOUT_STATUS:
        if subresource == "status":
            new = {**old, "metadata": new["metadata"], "status": new.get("status", {})}
        else:
            new = {**new, "status": old["status"]} if "status" in old else {key: value for key, value in new.items() if key != "status"}
    name = new["metadata"]["name"]
    if resource.plural == "pods" and subresource != "status":
        new = _update_pod(resource, name, old, new, subresource)
    elif resource.plural == "services" and not subresource:
        _update_service(resource, name, old, new)
        allocate(resource, new, services, cidr)
    elif resource.plural == "secrets":
        fold_string_data(new)
        if new.get("type") != old.get("type"):
            raise invalid(resource, name, "type", f'Invalid value: "{new.get("type")}": field is immutable')
    elif resource.plural == "namespaces":
        new["spec"] = old["spec"]
    validate_data(resource, new)
    if old.get("immutable") and any(old.get(field) != new.get(field) for field in ("data", "binaryData", "immutable")):
        raise invalid(resource, name, "data", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")
    if resource.plural in WITH_GENERATION and old.get("spec") != new.get("spec"):
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
    return new


def _update_pod(resource: Resource, name: str, old: Obj, new: Obj, subresource: str) -> Obj:
    before, after = old.get("spec", {}), new.get("spec", {})
    if subresource == "ephemeralcontainers":
        return {**old, "metadata": new["metadata"], "spec": {**before, "ephemeralContainers": after.get("ephemeralContainers", [])}}
    if subresource == "resize":
        return {**old, "metadata": new["metadata"], "spec": _keep_only_resources(before, after)}
    if _frozen(before) != _frozen(after):
        problem = (
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        raise invalid(resource, name, "spec", problem, "FieldValueForbidden")
    return new


def _frozen(spec: Obj) -> Obj:
    """A pod spec without what an update may change."""
    rest = {
        key: value for key, value in spec.items() if key not in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")
    }
    for field in ("containers", "initContainers"):
        if field in rest:
            rest[field] = [{key: value for key, value in container.items() if key != "image"} for container in rest[field]]
    return rest


def _keep_only_resources(before: Obj, after: Obj) -> Obj:
    wanted = {container["name"]: container.get("resources", {}) for container in after.get("containers") or []}
    containers: list[Any] = [{**c, "resources": wanted.get(c["name"], c.get("resources", {}))} for c in before.get("containers") or []]
    return {**before, "containers": containers}


def _update_service(resource: Resource, name: str, old: Obj, new: Obj) -> None:
    before, after = old["spec"], new.setdefault("spec", {})
    _wipe(before, after)
    _default_service(new)
    if "ExternalName" in (before["type"], after["type"]):
        return
    if not after.get("clusterIP") and not after.get("clusterIPs"):  # left out means unchanged
        after["clusterIP"], after["clusterIPs"] = before["clusterIP"], before["clusterIPs"]
    elif after.get("clusterIP") != before["clusterIP"]:
        if after.get("clusterIP"):
            wanted = after["clusterIP"]
            raise invalid(resource, name, "spec.clusterIPs[0]", f'Invalid value: ["{wanted}"]: may not change once set')
        after["clusterIP"], after["clusterIPs"] = before["clusterIP"], before["clusterIPs"]


_WITH_ADDRESS = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


def _wipe(before: Obj, after: Obj) -> None:
    """What a type has no use for goes with it, unless it was changed as well (dropTypeDependentFields of the API server)."""
    gone: list[str] = []
    if after.get("type") == "ExternalName":
        gone += _WITH_ADDRESS
    if after.get("type") not in ("NodePort", "LoadBalancer"):
        gone.append("externalTrafficPolicy")
        if [port.get("nodePort") for port in after.get("ports") or ()] == [port.get("nodePort") for port in before.get("ports") or ()]:
            for port in after.get("ports") or ():
                port.pop("nodePort", None)
    if after.get("type") != "LoadBalancer":
        gone += ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"]
    for field in gone:
        if after.get(field) == before.get(field):
            after.pop(field, None)


def grace_period(resource: Resource, obj: Obj, requested: int | None) -> int | None:
    """Seconds that a first deletion is to take; None for types without graceful deletion."""
    if resource != PODS:
        return None
    spec, phase = obj.get("spec", {}), obj.get("status", {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    period: int = spec.get("terminationGracePeriodSeconds", 30) if requested is None else requested
    return period if period >= 0 else 1
