"""The service variables that a kubelet would set, computed from the virtual Services.

Kubelets of the host know only host Services, so on the host `enableServiceLinks` is off and the variables are written into the
containers, before the tenant's own, which may refer to them as `$(NAME)`.
Names and values follow pkg/kubelet/envvars and Kubelet.getServiceEnvVarMap of Kubernetes 1.36.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from syncer.kube.types import Key, Obj, key_of
from syncer.translate.references import Kind

DataKeys = Callable[[Kind, str], Iterable[str]]
"""Keys in the data of a virtual ConfigMap or Secret, by kind and name, in the namespace of the pod in question; none if not known."""

API_PORT = 443
_API_SERVICE = Key("default", "kubernetes")


def service_variables(namespace: str, services: Iterable[Obj], api_address: str, *, links: bool) -> dict[str, str]:
    """Variables for a pod in `namespace`: those of the API server, and with `links` of every Service there that has an address.

    A Service called `kubernetes` in another namespace than `default` takes the API server's place there, as with a kubelet.
    """
    result = _variables("kubernetes", api_address, [{"name": "https", "port": API_PORT}])
    if links:
        for service in services:
            key = key_of(service)
            spec = service.get("spec") or {}
            address, ports = spec.get("clusterIP"), spec.get("ports")
            if key.namespace == namespace and key != _API_SERVICE and ports and address and address != "None":
                if key.name == _API_SERVICE.name:
                    result = {name: value for name, value in result.items() if not name.startswith("KUBERNETES_")}
                result.update(_variables(key.name, address, ports))
    return result


def own_names(container: Obj, data_keys: DataKeys) -> set[str]:
    """Names that the container sets itself, by `env` and `envFrom`."""
    result = {variable.get("name") for variable in container.get("env") or ()}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        for field, kind in (("configMapRef", Kind.CONFIGMAP), ("secretRef", Kind.SECRET)):
            name = (source.get(field) or {}).get("name")
            if name:
                result.update(prefix + key for key in data_keys(kind, name))
    return result


def _variables(service: str, address: str, ports: list[Obj]) -> dict[str, str]:
    prefix = _name(service)
    host = f"[{address}]" if ":" in address else address
    result = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0].get("port"))}
    for number, item in enumerate(ports):
        port, protocol = item.get("port"), (item.get("protocol") or "TCP")
        url = f"{protocol.lower()}://{host}:{port}"
        if item.get("name"):
            result[f"{prefix}_SERVICE_PORT_{_name(item['name'])}"] = str(port)
        if number == 0:
            result[f"{prefix}_PORT"] = url
        link = f"{prefix}_PORT_{port}_{protocol.upper()}"
        result |= {link: url, f"{link}_PROTO": protocol.lower(), f"{link}_PORT": str(port), f"{link}_ADDR": address}
    return result


def _name(text: str) -> str:
    return text.replace("-", "_").upper()
