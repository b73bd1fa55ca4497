"""IngressClasses: up. What the host offers is shown under its own name, so that the tenant's Ingresses can ask for it.

Only classes that carry our mark are changed or removed; one that the tenant has made, for a controller of its own, is left alone even if
the host has one of that name. Of annotations only the one that makes a class the default is shown, and parameters only where
they are cluster-scoped: what else there is tells of the host. A class's controller cannot be changed, so the class is made anew.
"""

from __future__ import annotations

from syncer.kube.types import INGRESS_CLASSES, Obj, Ref, Side, annotations_of, is_deleting, key_of, labels_of, uid_of
from syncer.naming import ANNOTATION_MANAGED_LABELS, DOMAIN, LABEL_MANAGED_BY
from syncer.sync.intents import Create, Delete, Intent, Pair, Patch
from syncer.sync.spec import Right, SyncSpec, Watch
from syncer.sync.view import View
from syncer.translate.merge import diff, owned

_DEFAULT = "ingressclass.kubernetes.io/is-default-class"


def decide(pair: Pair, view: View) -> list[Intent]:
    """What a class's pair needs now."""
    virtual, host = pair.virtual, pair.host
    if virtual is None:
        return [Create(Side.VIRTUAL, INGRESS_CLASSES, _virtual_class(host, view))] if host is not None and not is_deleting(host) else []
    if is_deleting(virtual) or labels_of(virtual).get(LABEL_MANAGED_BY) != view.names.suffix:
        return []
    if host is None:
        return [_delete(virtual, "the host does not have that class any more", unexplained=True)]
    wanted = _virtual_class(host, view)
    if (virtual.get("spec") or {}).get("controller") != wanted["spec"].get("controller"):
        return [_delete(virtual, "the class of that name on the host is another controller's now")]
    changes: Obj = {}
    if metadata := _metadata_changes(virtual, wanted):
        changes["metadata"] = metadata
    if spec := diff(virtual.get("spec") or {}, wanted["spec"]):
        changes["spec"] = spec
    return [Patch(Side.VIRTUAL, INGRESS_CLASSES, pair.key, uid_of(virtual), changes)] if changes else []


def _virtual_class(host: Obj, view: View) -> Obj:
    labels = {key: value for key, value in labels_of(host).items() if not key.startswith(DOMAIN + "/")}
    annotations = {ANNOTATION_MANAGED_LABELS: "\n".join(sorted(labels))} if labels else {}
    if (default := annotations_of(host).get(_DEFAULT)) is not None:
        annotations[_DEFAULT] = default
    spec = dict(host.get("spec") or {})
    if (spec.get("parameters") or {}).get("scope") == "Namespace":
        del spec["parameters"]
    return {
        "apiVersion": INGRESS_CLASSES.api_version,
        "kind": INGRESS_CLASSES.kind,
        "metadata": {"name": key_of(host).name, "labels": {**labels, LABEL_MANAGED_BY: view.names.suffix}, "annotations": annotations},
        "spec": spec,
    }


def _metadata_changes(virtual: Obj, wanted: Obj) -> Obj | None:
    """To labels and annotations that we wrote; the tenant may add more."""
    labels, annotations = dict(wanted["metadata"]["labels"]), dict(wanted["metadata"]["annotations"])
    for key in (ANNOTATION_MANAGED_LABELS, _DEFAULT):
        annotations.setdefault(key, None)
    for key in annotations_of(virtual).get(ANNOTATION_MANAGED_LABELS, "").split("\n"):
        labels.setdefault(key, None)
    return owned({"labels": labels_of(virtual), "annotations": annotations_of(virtual)}, {"labels": labels, "annotations": annotations})


def _delete(virtual: Obj, why: str, *, unexplained: bool = False) -> Delete:
    return Delete(Side.VIRTUAL, INGRESS_CLASSES, key_of(virtual), uid_of(virtual), why, unexplained=unexplained)


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
