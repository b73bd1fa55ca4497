"""IngressClasses: the host's, shown in the virtual cluster, so that the tenant's Ingresses can ask for one.

A class goes by its name on both sides; Ingresses name it. Shown are its controller, whether it is the default, and parameters if they are
cluster-scoped; others would tell of the host's namespaces. A class that the tenant made, for a controller of its own, is
never touched, even if the host has one of that name.
"""

from __future__ import annotations

from syncer.kube.types import INGRESS_CLASSES, Obj, Ref, Side, annotations_of, is_deleting, key_of, uid_of
from syncer.naming import LABEL_MANAGED_BY
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch
from syncer.sync.spec import Right, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.merge import diff, owned

_DEFAULT = "ingressclass.kubernetes.io/is-default-class"


def decide(pair: Pair, view: View) -> list[Intent]:
    """What an IngressClass needs in the virtual cluster now."""
    virtual, host = pair.virtual, pair.host
    if virtual is None:
        return [Create(Side.VIRTUAL, INGRESS_CLASSES, _virtual(host, view))] if host is not None and not is_deleting(host) else []
    if is_deleting(virtual) or annotations_of(virtual).get(LABEL_MANAGED_BY) != view.names.suffix:
        return []
    uid = uid_of(virtual)
    if host is None:
        return [Delete(Side.VIRTUAL, INGRESS_CLASSES, pair.key, uid, "the host cluster has no such class any more", unexplained=True)]
    want, have = _virtual(host, view), virtual.get("spec") or {}
    if have.get("controller") != want["spec"].get("controller"):  # no API server lets anybody change it
        why = "it was made anew on the host cluster for another controller"
        return [Delete(Side.VIRTUAL, INGRESS_CLASSES, pair.key, uid, why), Create(Side.VIRTUAL, INGRESS_CLASSES, want)]
    default = {"metadata": {"annotations": {_DEFAULT: annotations_of(want).get(_DEFAULT)}}}
    changes: Obj = owned(virtual, default) or {}
    if spec := diff(have, want["spec"]):
        changes["spec"] = spec
    return [Patch(Side.VIRTUAL, INGRESS_CLASSES, pair.key, uid, changes)] if changes else []


def _virtual(host: Obj, view: View) -> Obj:
    annotations = {LABEL_MANAGED_BY: view.names.suffix}
    if (default := annotations_of(host).get(_DEFAULT)) is not None:
        annotations[_DEFAULT] = default
    spec = dict(host.get("spec") or {})
    if (spec.get("parameters") or {}).get("scope") == "Namespace":
        del spec["parameters"]
    metadata = {"name": key_of(host).name, "annotations": annotations}
    return {"apiVersion": INGRESS_CLASSES.api_version, "kind": INGRESS_CLASSES.kind, "metadata": metadata, "spec": spec}


SPEC = SyncSpec(
    name="ingressclasses",
    kind=INGRESS_CLASSES,
    watches=(Watch(side=Side.VIRTUAL, resource=INGRESS_CLASSES), Watch(side=Side.HOST, resource=INGRESS_CLASSES)),
    decide=decide,
    virtual_ref=lambda key: Ref(Side.VIRTUAL, INGRESS_CLASSES, key),
    host_ref=lambda _names, key: Ref(Side.HOST, INGRESS_CLASSES, key),
    virtual_key=lambda host, _view: key_of(host),
    host_rights=(Right(group=INGRESS_CLASSES.group, resource="ingressclasses", verbs=("get", "list", "watch"), cluster=True),),
    dispensable=True,
    deletes_virtual=True,
)
