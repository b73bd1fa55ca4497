"""Nodes, made up or shown. A virtual cluster has a Node for each host node that runs something of it, since pods are bound to Nodes.

*Made up* (`fake-nodes`, the default): the owner of a namespace may not read the host's nodes, so a Node is made of nothing but
its name, and of figures and conditions that are plausible. *Shown* (`nodes`): the host's nodes as they are, as far as
`translate.nodes` lets a tenant see them: those in use, those of --node-selector, or all.

A Node without our mark is never touched, whoever made it. The tenant's own labels, annotations, taints and conditions stay on
ours, and its cordons on made-up ones. Which pods keep a Node is told in `needed`; how a Node stays alive in the eyes of a
node controller, in `leases`; where its kubelet is said to be, in `kubelet`.
"""

from __future__ import annotations

from syncer.kube.types import NODES, PODS, SERVICES, Key, Ref, Side, key_of
from syncer.resources.nodes import made_up, real
from syncer.resources.nodes.kubelet import node_at, services_spec
from syncer.resources.nodes.kubelet_endpoints import endpoints_spec
from syncer.resources.nodes.leases import INDEXES, WATCH
from syncer.resources.nodes.needed import BY_NODE, BY_NODE_AND_IMAGE, IMAGE_IN_USE, USED_OR_NOT
from syncer.sync.spec import Right, Scope, SyncSpec, Wake, Watch

_WATCHES = (
    Watch(side=Side.VIRTUAL, resource=NODES),
    Watch(side=Side.VIRTUAL, resource=PODS),
    Watch(side=Side.HOST, resource=PODS, scope=Scope.MANAGED),
    Watch(side=Side.HOST, resource=SERVICES, optional=True),
    WATCH,
)
_WAKES = (Wake(Side.HOST, SERVICES, node_at),)
_READ = (
    Right(group="", resource="pods", verbs=("get", "list", "watch")),
    Right(group="", resource="services", verbs=("get", "list", "watch"), optional=True),
)

MADE_UP = SyncSpec(
    name="fake-nodes",
    kind=NODES,
    watches=_WATCHES,
    decide=made_up.decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, NODES, key),
    host_ref=lambda _names, _key: None,
    virtual_key=lambda _host, _view: None,
    wakes=_WAKES,
    index_wakes=USED_OR_NOT,
    indexes={**BY_NODE, **INDEXES},
    host_rights=_READ,
)
REAL = SyncSpec(
    name="nodes",
    kind=NODES,
    watches=(*_WATCHES, Watch(side=Side.HOST, resource=NODES, slim=real.slim)),
    decide=real.decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, NODES, key),
    host_ref=lambda _names, key: Ref(Side.HOST, NODES, Key("", key.name)),
    virtual_key=lambda host, _view: key_of(host),
    wakes=_WAKES,
    index_wakes=(*USED_OR_NOT, IMAGE_IN_USE),
    indexes={**BY_NODE_AND_IMAGE, **INDEXES},
    host_rights=(
        *_READ,
        Right(group="", resource="nodes", verbs=("get", "list", "watch"), cluster=True),
        # For metrics and statistics of kubelets, see proxy.kubelet. Kubelets let whoever has it do much more, so that it is asked for
        # only where the host's nodes are the syncer's business; with made-up nodes somebody may grant it all the same.
        Right(group="", resource="nodes/proxy", verbs=("get",), optional=True, cluster=True),
    ),
    deletes_virtual=True,
    default=False,
    replaces=MADE_UP.name,
)
SERVICES_OF_MADE_UP = services_spec("fake-node-services", MADE_UP.name)
SERVICES_OF_REAL = services_spec("node-services", REAL.name)
ENDPOINTS_OF_MADE_UP = endpoints_spec("fake-node-endpoints", MADE_UP.name)
ENDPOINTS_OF_REAL = endpoints_spec("node-endpoints", REAL.name)
