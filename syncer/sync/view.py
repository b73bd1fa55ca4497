"""The read-only look at both caches that a decision gets, and a table-driven one for tests and offline use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from syncer.kube.types import CONFIGMAPS, SECRETS, Key, Obj, Resource, Side, key_of
from syncer.naming import Names

IndexFunction = Callable[[Obj], Iterable[str]]
"""The values under which an object is found in an index; pure, called once when the object enters the store."""

Indexes = Mapping[tuple[Side, Resource], Mapping[str, IndexFunction]]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the flags say about decisions. One flag, one field; `docs/compatibility.md` names the flag of each."""

    service_name: str
    """Host Service in front of the virtual API server; its ClusterIP is what pods see as KUBERNETES_SERVICE_HOST."""
    dns_service: str
    """Host Service of the virtual cluster's CoreDNS; its ClusterIP is the pods' nameserver."""
    cluster_domain: str = "cluster.local"
    service_account: str = ""
    """Host service account of every synced pod; "" leaves the host's default."""
    virtual_version: str = ""
    """Version that the virtual API server tells; made-up nodes report it as their kubelet's. No flag: asked at start."""
    service_cidr: tuple[str, ...] = ()
    """Ranges that the virtual API server takes Service addresses of, as far as a person has said so."""
    translate_images: Mapping[str, str] = field(default_factory=dict)
    synced: frozenset[Resource] = frozenset({CONFIGMAPS, SECRETS})
    """Types that a running loop syncs (`SyncSpec.kind`), so that whatever refers to an object of one waits for its copy."""
    lacking: frozenset[str] = frozenset()
    """What the host does not grant or serve of what is optional: resources as in `pods/resize` or `priorityclasses.scheduling.k8s.io`.
    No flag: asked at start."""
    all_copied: frozenset[Resource] = frozenset()
    """Of ConfigMaps and Secrets, those that are copied whether anything refers to them or not."""
    enforced_tolerations: tuple[Obj, ...] = ()
    """Tolerations that every host pod gets besides its own."""
    node_selector: str = ""
    """Label selector of host nodes, "" for all."""
    enforce_node_selector: bool = True
    """Whether pods may run only on nodes that `node_selector` selects."""
    sync_all_nodes: bool = False
    """Whether all host nodes are shown, and not only those in use."""
    clear_node_images: bool = False
    """Whether shown nodes keep quiet about the images that they have."""
    fake_kubelets: bool = False
    """Whether virtual nodes name the proxy as their kubelet."""
    kubelet_port: int = 0
    """The proxy's own port, to which a host Service for each virtual node leads; 0 for no such Services."""
    paused_at: float = 0.0
    """Up to when (epoch seconds) host pods had been started that a pause deleted; 0.0 if there was none. No flag: asked at start."""
    owner: Obj | None = None
    """ownerReference put on every namespaced host object; None with --set-owner=false."""


class View(Protocol):
    """Read-only, consistent for the length of one decision (nothing else runs meanwhile on the one event loop)."""

    @property
    def names(self) -> Names:
        """Virtual name to host name."""
        ...

    @property
    def policy(self) -> Policy:
        """What the flags say."""
        ...

    @property
    def now(self) -> float:
        """Seconds since the epoch, taken once for this decision."""
        ...

    def get(self, side: Side, resource: Resource, key: Key) -> Obj | None:
        """A private copy of the cached object. Metadata only where the type is watched so and nobody needs more."""
        ...

    def find(self, side: Side, resource: Resource, index: str, value: str) -> list[Key]:
        """Keys of the objects that carry `value` in a declared index, sorted."""
        ...

    def has(self, side: Side, resource: Resource, index: str, value: str) -> bool:
        """Whether `find` would find any; costs the same however many there are."""
        ...


class TableView:
    """A View over plain lists of objects."""

    def __init__(
        self,
        *,
        names: Names,
        policy: Policy,
        virtual: Mapping[Resource, Iterable[Obj]] | None = None,
        host: Mapping[Resource, Iterable[Obj]] | None = None,
        indexes: Indexes | None = None,
        now: float = 0.0,
    ) -> None:
        self.names = names
        self.policy = policy
        self.now = now
        self._indexes = indexes or {}
        self._objects: dict[tuple[Side, Resource], dict[Key, Obj]] = {}
        for side, tables in ((Side.VIRTUAL, virtual or {}), (Side.HOST, host or {})):
            for resource, objects in tables.items():
                self._objects[side, resource] = {key_of(obj): obj for obj in objects}

    def get(self, side: Side, resource: Resource, key: Key) -> Obj | None:
        """As View.get."""
        return self._objects.get((side, resource), {}).get(key)

    def find(self, side: Side, resource: Resource, index: str, value: str) -> list[Key]:
        """As View.find."""
        function = self._indexes[side, resource][index]
        return sorted(key for key, obj in self._objects.get((side, resource), {}).items() if value in function(obj))

    def has(self, side: Side, resource: Resource, index: str, value: str) -> bool:
        """As View.has."""
        return bool(self.find(side, resource, index, value))
