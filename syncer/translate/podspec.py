"""The spec that a virtual pod has on the host.

The host's scheduler, admission and kubelets decide about it, under the host's rules; so what only the host can grant
(priority, overhead, service account) is left to it, what the tenant refers to by name is renamed, what the pod is told about
its surroundings (API server, Services, DNS, itself) is virtual, and everything else, known or not, passes unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from syncer.kube.types import Obj, key_of
from syncer.naming import Names
from syncer.translate.downward import facts, host_items, host_variable
from syncer.translate.environment import DataKeys, own_names, service_variables
from syncer.translate.references import Rename, renamed_container, renamed_spec, token_data_key
from syncer.translate.scheduling import NamespacesMatching, host_affinity, host_spread, host_tolerations, narrowed_to_nodes
from syncer.translate.selectors import parse_selector


class PodPolicy(Protocol):
    """The part of sync.view.Policy that pod specs depend on."""

    @property
    def cluster_domain(self) -> str:
        """Domain of the virtual cluster's DNS."""
        ...

    @property
    def service_account(self) -> str:
        """Host service account of every pod; "" for the host namespace's default."""
        ...

    @property
    def translate_images(self) -> Mapping[str, str]:
        """Images to be replaced, by exact match."""
        ...

    @property
    def enforced_tolerations(self) -> tuple[Obj, ...]:
        """Tolerations that every host pod gets besides its own."""
        ...

    @property
    def node_selector(self) -> str:
        """Label selector of host nodes, "" for all."""
        ...

    @property
    def enforce_node_selector(self) -> bool:
        """Whether pods may run only on nodes that `node_selector` selects."""
        ...


_LEFT_TO_HOST = (
    "serviceAccountName",
    "serviceAccount",
    "priority",  # these two were resolved from a virtual PriorityClass; the host resolves its own, and rejects others' results
    "preemptionPolicy",
    "overhead",  # the host's RuntimeClass admission sets it, and rejects a pod whose value differs from its own
    "ephemeralContainers",  # may not be there at creation; they have a subresource
)
_API_HOST_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
_MAX_NAMESERVERS, _MAX_SEARCHES, _MAX_SEARCH_LENGTH = 3, 32, 2048  # core/validation, the same for all versions since 1.26
_HOSTNAME_LENGTH = 63


def uses_cluster_dns(pod: Obj) -> bool:
    """Whether the pod resolves names through the cluster's DNS, so that it should not be created before that has an address."""
    spec = pod.get("spec") or {}
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    return policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not spec.get("hostNetwork"))


def required_nodes(policy: PodPolicy, spec: Obj) -> Obj:
    """The fields of `spec` that keep the pod on the nodes of this virtual cluster; none if it may use all."""
    if not policy.node_selector or not policy.enforce_node_selector:
        return {}
    return narrowed_to_nodes(spec, parse_selector(policy.node_selector))


def host_pod_spec(
    names: Names,
    policy: PodPolicy,
    pod: Obj,
    *,
    api_address: str,
    dns_address: str | None,
    services: Iterable[Obj],
    token_secret: str,
    namespaces_matching: NamespacesMatching,
    data_keys: DataKeys = lambda _kind, _name: (),
    has_priority_class: Callable[[str], bool] = lambda _name: False,
) -> Obj:
    """`spec` to create the host pod with; shares with `pod` what it does not change.

    `api_address` is the ClusterIP of the virtual API server. `dns_address` is that of the virtual DNS; None: there is none,
    and as with a kubelet without cluster DNS the pod gets its node's resolver. `services` are virtual Services, at least those of
    the pod's namespace. `token_secret` names the host Secret that stands in for projected service account tokens.
    `data_keys` lets variables from envFrom win over service variables, as they do with a kubelet; without it they lose.
    `has_priority_class` tells whether the host has a PriorityClass of that name for tenants; one that it has not got is left out,
    so that such a pod runs with the host's default priority.
    """
    namespace = key_of(pod).namespace
    spec = renamed_spec(pod, _renaming(names, namespace))
    for field in _LEFT_TO_HOST:
        spec.pop(field, None)
    if not has_priority_class(spec.get("priorityClassName") or ""):
        spec.pop("priorityClassName", None)
    if policy.service_account:
        spec["serviceAccountName"] = policy.service_account
    spec["automountServiceAccountToken"] = False
    containers = _Containers(names, policy, pod, api_address=api_address, services=services, data_keys=data_keys)
    for field in ("initContainers", "containers"):
        if spec.get(field):
            spec[field] = [containers.on_host(container) for container in spec[field]]
    spec["enableServiceLinks"] = False
    if spec.get("volumes"):
        spec["volumes"] = [_host_volume(names, volume, token_secret) for volume in spec["volumes"]]
    if spec.get("affinity"):
        spec["affinity"] = host_affinity(names, namespace, spec["affinity"], namespaces_matching)
    if spec.get("topologySpreadConstraints"):
        spec["topologySpreadConstraints"] = [host_spread(names, namespace, item) for item in spec["topologySpreadConstraints"]]
    if policy.enforced_tolerations:
        spec["tolerations"] = host_tolerations(spec.get("tolerations") or (), policy.enforced_tolerations)
    spec |= required_nodes(policy, spec)
    spec["hostAliases"] = _host_aliases(spec.get("hostAliases") or [], api_address)
    if uses_cluster_dns(pod):
        spec |= _host_dns(spec.get("dnsConfig") or {}, dns_address, namespace, policy.cluster_domain)
    _set_hostname(spec, key_of(pod).name)
    return spec


def host_ephemeral_containers(
    names: Names,
    policy: PodPolicy,
    pod: Obj,
    *,
    api_address: str,
    services: Iterable[Obj],
    data_keys: DataKeys = lambda _kind, _name: (),
) -> list[Obj]:
    """The pod's ephemeral containers as the host pod's `ephemeralcontainers` subresource takes them."""
    containers = _Containers(names, policy, pod, api_address=api_address, services=services, data_keys=data_keys)
    return [containers.on_host(container) for container in (pod.get("spec") or {}).get("ephemeralContainers") or ()]


def host_image(policy: PodPolicy, image: str) -> str:
    """The image that takes the place of `image` on the host; the same one if none is configured."""
    return policy.translate_images.get(image, image)


class _Containers:
    """Translates containers of one pod; what they have in common is computed once."""

    def __init__(
        self, names: Names, policy: PodPolicy, pod: Obj, *, api_address: str, services: Iterable[Obj], data_keys: DataKeys
    ) -> None:
        namespace = key_of(pod).namespace
        links = (pod.get("spec") or {}).get("enableServiceLinks") is not False
        variables = service_variables(namespace, services, api_address, links=links)
        self._names, self._policy, self._data_keys = names, policy, data_keys
        self._rename = _renaming(names, namespace)
        self._facts = facts(pod)
        self._variables: list[Obj] = [{"name": name, "value": value} for name, value in sorted(variables.items())]

    def on_host(self, container: Obj) -> Obj:
        """The container as it is on the host."""
        result = dict(renamed_container(container, self._rename))
        taken = own_names(container, self._data_keys)
        env = [variable for variable in self._variables if variable["name"] not in taken]
        env += [host_variable(self._names, self._facts, variable) for variable in result.get("env") or ()]
        result["env"] = env
        if container.get("image"):
            result["image"] = host_image(self._policy, container["image"])
        return result


def _renaming(names: Names, namespace: str) -> Rename:
    return lambda _kind, name, _optional: names.host_name(namespace, name)


def _host_volume(names: Names, volume: Obj, token_secret: str) -> Obj:
    if volume.get("downwardAPI"):
        return {**volume, "downwardAPI": host_items(names, volume["downwardAPI"])}
    projected = volume.get("projected")
    if not projected or not projected.get("sources"):
        return volume
    sources = [_host_source(names, volume.get("name") or "", source, token_secret) for source in projected["sources"]]
    return {**volume, "projected": {**projected, "sources": sources}}


def _host_source(names: Names, volume: str, source: Obj, token_secret: str) -> Obj:
    if source.get("downwardAPI"):
        return {**source, "downwardAPI": host_items(names, source["downwardAPI"])}
    token = source.get("serviceAccountToken")
    if not token:
        return source
    path = token.get("path") or ""
    others = {key: value for key, value in source.items() if key != "serviceAccountToken"}
    return {**others, "secret": {"name": token_secret, "items": [{"key": token_data_key(volume, path), "path": path}]}}


def _host_aliases(aliases: list[Obj], api_address: str) -> list[Obj]:
    """With the API server's names added. Kubelets honour them for hostNetwork pods too. The list is a map by ip.

    Names that the pod gives to another address keep that one: so do pods of a virtual cluster inside this one, whose API server it is.
    """
    result = [alias for alias in aliases if alias.get("ip") != api_address]
    taken = {name for alias in result for name in alias.get("hostnames") or ()}
    same = [name for alias in aliases if alias.get("ip") == api_address for name in alias.get("hostnames") or ()]
    names = [*same, *(name for name in _API_HOST_NAMES if name not in taken)]
    if names:
        result.append({"ip": api_address, "hostnames": list(dict.fromkeys(names))})
    return result


def _host_dns(config: Obj, dns_address: str | None, namespace: str, domain: str) -> Obj:
    """`dnsPolicy` and `dnsConfig` by which a pod on the host resolves names as its virtual cluster does.

    The node's own search domains, which ClusterFirst would add, cannot be had with policy None. Limits are kept as a
    kubelet keeps them, by leaving out what comes last.
    """
    nameservers = list(dict.fromkeys([*([dns_address] if dns_address else ()), *(config.get("nameservers") or ())]))
    searches = list(dict.fromkeys([f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *(config.get("searches") or ())]))[:_MAX_SEARCHES]
    while len(" ".join(searches)) > _MAX_SEARCH_LENGTH:
        searches.pop()
    options = list(config.get("options") or ())
    if not any(option.get("name") == "ndots" for option in options):
        options.insert(0, {"name": "ndots", "value": "5"})
    result = {**config, "searches": searches, "options": options}
    if nameservers:
        result["nameservers"] = nameservers[:_MAX_NAMESERVERS]
    return {"dnsPolicy": "None" if nameservers else "Default", "dnsConfig": result}


def _set_hostname(spec: Obj, pod_name: str) -> None:
    if not spec.get("hostname"):
        spec["hostname"] = pod_name[:_HOSTNAME_LENGTH].replace(".", "-").rstrip("-")
    if spec.pop("subdomain", None):
        # Together they make the name that the host's DNS would use; the virtual DNS answers the one that counts.
        spec.pop("setHostnameAsFQDN", None)
