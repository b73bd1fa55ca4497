"""The downward API: what a pod is told about itself must be its virtual self.

In environment variables the facts that never change (name, namespace, UID, service account) are written out. In volumes,
and for labels and annotations, the kubelet reads the host pod; so the host pod carries the virtual facts as annotations.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

from syncer.kube.types import Obj, annotations_of, key_of, labels_of, uid_of
from syncer.naming import DOMAIN, Names
from syncer.translate.labels import host_label_key
from syncer.translate.metadata import TOKEN_EXPIRY
from syncer.translate.references import CONTAINER_FIELDS

APPLIED = DOMAIN + "/applied-spec"
"""Annotation of a host pod: what of the changeable spec was last written there; see translate.podupdate."""

RESIZED = DOMAIN + "/applied-resources"
"""Annotation of a host pod: the requests and limits that were last written there; see translate.podupdate."""

_OWN = DOMAIN + "/"
_NEVER_COPIED = frozenset({APPLIED, RESIZED, TOKEN_EXPIRY})

_IN_VOLUME = {
    "metadata.name": f"metadata.annotations['{_OWN}name']",
    "metadata.namespace": f"metadata.annotations['{_OWN}namespace']",
    "metadata.uid": f"metadata.annotations['{_OWN}uid']",
    "spec.serviceAccountName": f"metadata.annotations['{_OWN}service-account-name']",
    # The host pod has labels and annotations of ours and of the host's beside the tenant's.
    "metadata.labels": f"metadata.annotations['{_OWN}labels']",
    "metadata.annotations": f"metadata.annotations['{_OWN}annotations']",
}


def pod_annotations(pod: Obj) -> dict[str, str]:
    """Annotations that the host pod has to carry, at all times, for its downward API volumes to tell virtual facts.

    `name`, `namespace`, `uid`, `service-account-name` and `labels` are always there, other tools read them too;
    `annotations` only when a volume asks for the whole map. An annotation of our domain that the tenant's pod has itself and
    refers to keeps the tenant's value: such pods come from a virtual cluster inside this one.
    """
    key, own = key_of(pod), annotations_of(pod)
    result = {
        _OWN + "name": key.name,
        _OWN + "namespace": key.namespace,
        _OWN + "uid": uid_of(pod),
        _OWN + "service-account-name": _service_account(pod),
        _OWN + "labels": _formatted(labels_of(pod)),
    }
    for path in _field_paths(pod):
        if path == "metadata.annotations":
            result[_OWN + "annotations"] = _formatted(own)
        elif path.startswith("metadata.annotations['" + _OWN):
            subscript = path[len("metadata.annotations['") : -2]
            if subscript in own and subscript not in _NEVER_COPIED:
                result[subscript] = own[subscript]
    return result


def facts(pod: Obj) -> dict[str, str]:
    """Field path to value, for the facts that never change in the life of a pod."""
    key = key_of(pod)
    return {
        "metadata.name": key.name,
        "metadata.namespace": key.namespace,
        "metadata.uid": uid_of(pod),
        "spec.serviceAccountName": _service_account(pod),
    }


def host_variable(names: Names, known: Mapping[str, str], variable: Obj) -> Obj:
    """An environment variable with its `fieldRef`, if it has one, replaced by the fact or pointed to the renamed label."""
    source: Obj = variable.get("valueFrom") or {}
    reference = source.get("fieldRef")
    if not reference:
        return variable
    path = reference.get("fieldPath") or ""
    if path in known:
        return {**{key: value for key, value in variable.items() if key != "valueFrom"}, "value": known[path]}
    host_path = _label_path(names, path)
    return variable if host_path == path else {**variable, "valueFrom": {**source, "fieldRef": {**reference, "fieldPath": host_path}}}


def host_items(names: Names, holder: Obj) -> Obj:
    """A downward API volume (or projection) with its `items` pointed to where the host pod holds the virtual facts."""
    items = holder.get("items")
    if not items:
        return holder
    return {**holder, "items": [_host_item(names, item) for item in items]}


def _host_item(names: Names, item: Obj) -> Obj:
    reference = item.get("fieldRef")
    if not reference:
        return item
    path = reference.get("fieldPath") or ""
    host_path = _IN_VOLUME.get(path) or _label_path(names, path)
    return item if host_path == path else {**item, "fieldRef": {**reference, "fieldPath": host_path}}


def _label_path(names: Names, path: str) -> str:
    prefix, suffix = "metadata.labels['", "']"
    if not path.startswith(prefix) or not path.endswith(suffix):
        return path
    return prefix + host_label_key(names, path[len(prefix) : -len(suffix)]) + suffix


def _field_paths(pod: Obj) -> Iterator[str]:
    spec = pod.get("spec") or {}
    for field in CONTAINER_FIELDS:
        for container in spec.get(field) or ():
            for variable in container.get("env") or ():
                source = variable.get("valueFrom")
                if source and source.get("fieldRef"):
                    yield source["fieldRef"].get("fieldPath") or ""
    for volume in spec.get("volumes") or ():
        holders = [volume.get("downwardAPI")]
        holders += [source.get("downwardAPI") for source in (volume.get("projected") or {}).get("sources") or ()]
        for holder in holders:
            for item in (holder or {}).get("items") or ():
                if item.get("fieldRef"):
                    yield item["fieldRef"].get("fieldPath") or ""


def _service_account(pod: Obj) -> str:
    spec = pod.get("spec") or {}
    return spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"


def _formatted(mapping: Mapping[str, str]) -> str:
    """As a kubelet writes a map of strings to a file: sorted lines `key="value"`, the value quoted as in Go."""
    return "\n".join(f'{key}="{_quoted(value)}"' for key, value in sorted(mapping.items()))


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(_ESCAPES.get(char) or (char if _printable(char) else _escaped(ord(char))) for char in text)


def _printable(char: str) -> bool:
    """Go's unicode.IsPrint: letters, marks, numbers, punctuation, symbols, and the ASCII space."""
    return char == " " or unicodedata.category(char)[0] in "LMNPS"


def _escaped(code: int) -> str:
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
