"""Virtual name to host name, and the keys that mark a host object as ours.

All objects of a virtual cluster share one host namespace, so namespace and cluster go into the name:
`name-x-namespace-x-suffix`, the form that vcluster's users and tools know. Taken alone it is not safe: `a` in namespace
`b-x-c` and `a-x-b` in namespace `c` would meet in one host object, and a tenant could take over another's. Therefore

- the readable form is used only when its two separators can be found again without doubt, which is when `-x-` occurs in it
  exactly twice, overlapping ones counted;
- an ambiguous name gets a hash over name, namespace and suffix at its end; it still contains `-x-` three times or has the
  length and shape of a cut name, so it can never equal a readable one;
- a name of more than 63 characters is cut and gets a hash over the whole, exactly as vcluster does it.

Two different pairs thus meet only if 40 bits of SHA-256 do. Whoever brings that about finds the host object's
annotations naming another owner, and is refused. The way back is by those annotations, never by taking names apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from syncer.kube.types import Key

DOMAIN = "vcluster.loft.sh"
"""Prefix of all our label and annotation keys; the one that existing tools read."""

LABEL_MANAGED_BY = DOMAIN + "/managed-by"
"""Value: the suffix of the virtual cluster."""
LABEL_NAMESPACE = DOMAIN + "/namespace"
"""Value: the virtual namespace."""

LABEL_CLUSTER = DOMAIN + "/vcluster-name"
"""Label of what the syncer keeps for itself on the host. Value: the virtual cluster's name."""
LABEL_HOME = DOMAIN + "/vcluster-namespace"
"""Label of what of that may be in another namespace. Value: the virtual cluster's host namespace."""

ANNOTATION_NAME = DOMAIN + "/object-name"
ANNOTATION_NAMESPACE = DOMAIN + "/object-namespace"
ANNOTATION_UID = DOMAIN + "/object-uid"
ANNOTATION_KIND = DOMAIN + "/object-kind"
"""Value: group, version and kind as Go prints them, `apps/v1, Kind=Deployment` or `/v1, Kind=Pod`."""
ANNOTATION_MANAGED_ANNOTATIONS = DOMAIN + "/managed-annotations"
"""Value: the annotation keys that we copied, one a line, so that their removal can be copied too."""
ANNOTATION_MANAGED_LABELS = DOMAIN + "/managed-labels"
"""Value: the label keys that we wrote, one a line."""

MAX_LENGTH = 63
"""Applied to all types, also those that allow 253, because a pod's name becomes a label value and a host name."""

_CUT = 52
_SEPARATOR = re.compile("(?=-x-)")
_HASHED = re.compile(r"-[0-9a-f]{10}\Z")


@dataclass(frozen=True, slots=True)
class Names:
    """Names objects of the virtual cluster `suffix` (a DNS label) that lives in `host_namespace`."""

    suffix: str
    host_namespace: str

    def host_name(self, namespace: str, name: str) -> str:
        """Name of the host object for a namespaced virtual one. Valid wherever `name` is, at most 63 characters."""
        return _joined(name, namespace, self.suffix)

    def host_key(self, key: Key) -> Key:
        """The host object's key for a namespaced virtual object's."""
        return Key(self.host_namespace, _joined(key.name, key.namespace, self.suffix))

    def cluster_name(self, name: str) -> str:
        """Name of the host object for a cluster-scoped virtual one; such names are unique across host namespaces."""
        return _joined("vcluster-" + name, self.host_namespace, self.suffix)

    def node_service(self, node: str) -> Key:
        """Key of the host Service that leads to the kubelet of a virtual Node. Names of Services have no dots, those of Nodes may."""
        full = f"{self.suffix}-node-{node}"
        return Key(self.host_namespace, _hashed(full.replace(".", "-"), full) if "." in node else shorten(full))


def shorten(text: str) -> str:
    """`text` itself up to 63 characters, else its beginning and a hash over all of it: vcluster's SafeConcatName."""
    return text if len(text) <= MAX_LENGTH else _hashed(text, text)


def _joined(first: str, second: str, third: str) -> str:
    full = f"{first}-x-{second}-x-{third}"
    if len(_SEPARATOR.findall(full)) != 2:
        return _hashed(full, f"{first}/{second}/{third}")  # no name contains a slash, so this is injective
    if len(full) > MAX_LENGTH or (len(full) >= MAX_LENGTH - 1 and _HASHED.search(full)):
        return _hashed(full, full)
    return full


def _hashed(full: str, hashed: str) -> str:
    return f"{full[:_CUT]}-{sha256(hashed.encode()).hexdigest()[:10]}".replace(".-", "-")
