"""The verbs on objects, without HTTP: rules that hold for every type (names, conflicts, preconditions, finalizers, deletion)."""

from __future__ import annotations

import copy
import ipaddress
import random
import string
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from syncer.kube.types import NAMESPACES, PODS, SERVICE_ACCOUNTS, SERVICES, Key, Obj, Resource, key_of
from tests.fakes import strategies
from tests.fakes.statuses import (
    Failure,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    no_such_path,
    not_found,
    precondition_failed,
    success,
    uid_conflict,
    unconditional,
)
from tests.fakes.storage import Storage

UNDELETABLE_NAMESPACES = ("default", "kube-system", "kube-public")
_SET_BY_SERVER = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "managedFields")
_RECREATED = " The object might have been deleted and then recreated"
_GC_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


class Registry:
    """The verbs. `now` is seconds since the epoch. Objects given in are copied; objects given out must not be modified."""

    def __init__(self, storage: Storage, resources: Iterable[Resource], now: Callable[[], float], service_cidr: str) -> None:
        self.storage = storage
        self.resources = {(resource.api_version, resource.plural): resource for resource in resources}
        self.now = now
        self.service_cidr = ipaddress.IPv4Network(service_cidr)

    def resource_of(self, obj: Obj) -> Resource:
        """By apiVersion and kind."""
        for resource in self.resources.values():
            if resource.api_version == obj.get("apiVersion") and resource.kind == obj.get("kind"):
                return resource
        raise KeyError(f"register {obj.get('apiVersion')} {obj.get('kind')} first")

    def timestamp(self, later: float = 0) -> str:
        return datetime.fromtimestamp(self.now() + later, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def new_uid(self) -> str:
        return str(uuid.uuid4())

    def get(self, resource: Resource, key: Key) -> Obj:
        obj = self.storage.get(resource, key)
        if obj is None:
            raise not_found(resource, key.name)
        return obj

    def create(self, resource: Resource, namespace: str, body: Obj, *, dry_run: bool = False) -> Obj:
        obj = self._typed(resource, body)
        meta = obj["metadata"] = dict(obj.get("metadata") or {})
        if resource.namespaced:
            self._place(resource, namespace, meta)
        elif meta.get("namespace"):
            raise bad_request("namespace should not be set on a cluster-scoped object")
        if meta.get("resourceVersion"):
            raise Failure(500, "", "resourceVersion should not be set on objects to be created")
        for field in _SET_BY_SERVER:
            if field != "generation":  # kept as given where the type does not count it
                meta.pop(field, None)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"][:58] + "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
        _tidy(meta)
        strategies.validate_metadata(resource, meta)
        meta["uid"] = self.new_uid()
        meta["creationTimestamp"] = self.timestamp()
        strategies.prepare_for_create(resource, obj, self._services(resource), self.service_cidr)
        if self.storage.get(resource, key_of(obj)):
            raise already_exists(resource, meta["name"])
        return obj if dry_run else self.storage.write(resource, obj)

    def _typed(self, resource: Resource, body: Any) -> Obj:
        if not isinstance(body, dict):
            raise bad_request("the object provided is unrecognized: json: cannot unmarshal into Go value")
        kind, version = body.get("kind") or resource.kind, body.get("apiVersion") or resource.api_version
        if (kind, version) != (resource.kind, resource.api_version):
            raise bad_request(f'{kind} in version "{version}" cannot be handled as a {resource.kind}: unknown conversion')
        return {**copy.deepcopy(body), "kind": kind, "apiVersion": version}

    def _place(self, resource: Resource, namespace: str, meta: Obj) -> None:
        if not namespace:
            raise Failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})
        if meta.setdefault("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        home = self.storage.get(NAMESPACES, Key("", namespace))
        if home is None:
            raise not_found(NAMESPACES, namespace)
        if home["metadata"].get("deletionTimestamp"):
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(resource, meta.get("name", ""), why, [cause])

    def update(
        self, resource: Resource, key: Key, change: Callable[[Obj], Obj], *, subresource: str = "", put: bool = False, dry_run: bool = False
    ) -> Obj:
        """PUT and PATCH: `change` makes the new object out of the old. What changes nothing is not written."""
        if subresource and not self.has_subresource(resource, subresource):
            raise no_such_path()
        old = self.get(resource, key)
        new = self._typed(resource, change(old))
        meta, have = new.setdefault("metadata", {}), old["metadata"]
        _check_identity(resource, key, meta, have, put)
        for field in _SET_BY_SERVER:
            if field in have:
                meta[field] = copy.deepcopy(have[field])
            else:
                meta.pop(field, None)
        meta["resourceVersion"] = have["resourceVersion"]
        _tidy(meta)
        strategies.validate_metadata(resource, meta)
        added = [word for word in meta.get("finalizers", ()) if word not in have.get("finalizers", ())]
        if have.get("deletionTimestamp") and added:
            words = ", ".join(f'"{word}"' for word in added)
            problem = f"no new finalizers can be added if the object is being deleted, found new finalizers []string{{{words}}}"
            raise invalid(resource, key.name, "metadata.finalizers", f"Forbidden: {problem}", "FieldValueForbidden")
        new = strategies.prepare_for_update(resource, old, new, subresource, self._services(resource), self.service_cidr)
        if new == old:
            return old
        if dry_run:
            return new
        if (
            have.get("deletionTimestamp")
            and not meta.get("finalizers")
            and not meta.get("deletionGracePeriodSeconds")
            and resource != NAMESPACES
        ):
            self._remove(resource, key)
            return new
        return self.storage.write(resource, new)

    def has_subresource(self, resource: Resource, subresource: str) -> bool:
        if subresource == "status":
            return resource.plural not in strategies.WITHOUT_STATUS
        return resource == PODS and subresource in ("ephemeralcontainers", "resize")

    def delete(self, resource: Resource, key: Key, options: Obj, *, dry_run: bool = False) -> Obj:
        """The answer: the object as it is now or was at last, or a Status, as the real one has it for that type."""
        obj = self.get(resource, key)
        _check_preconditions(resource, obj["metadata"], options.get("preconditions") or {})
        if resource == NAMESPACES:
            return self._delete_namespace(obj)
        requested = options.get("gracePeriodSeconds")
        marked = self._mark_deleted(resource, obj, options, requested)
        if dry_run:
            return marked
        meta = marked["metadata"]
        if meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
            return self.storage.write(resource, marked) if marked != obj else obj
        if strategies.grace_period(resource, obj, requested) is not None:  # graceful types are marked first, even for 0 seconds
            self.storage.write(resource, marked)
        last = self._remove(resource, key)
        if resource.plural in strategies.RETURNED_WHEN_DELETED:
            return last
        return success(resource, key.name, meta["uid"])

    def _mark_deleted(self, resource: Resource, obj: Obj, options: Obj, requested: int | None) -> Obj:
        meta = dict(obj["metadata"])
        grace = strategies.grace_period(resource, obj, requested)
        finalizers = _deletion_finalizers(meta, options.get("propagationPolicy"))
        if not meta.get("deletionTimestamp"):
            if grace is None and not finalizers:
                return obj
            meta["deletionTimestamp"] = self.timestamp(grace or 0)
            meta["deletionGracePeriodSeconds"] = grace or 0
            if "generation" in meta:
                meta["generation"] += 1
        elif requested is not None and requested < (have := meta.get("deletionGracePeriodSeconds") or 0):  # it may only be shortened
            then = datetime.strptime(meta["deletionTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
            meta["deletionTimestamp"] = self.timestamp(then - have + requested - self.now())
            meta["deletionGracePeriodSeconds"] = requested
        meta["finalizers"] = finalizers
        _tidy(meta)
        return {**obj, "metadata": meta}

    def _remove(self, resource: Resource, key: Key) -> Obj:
        last = self.storage.remove(resource, key)
        if key.namespace:
            self._finish_namespace(key.namespace)
        return last

    def remove(self, resource: Resource, key: Key) -> Obj:
        """Gone at once, whatever it had: finalizers, grace."""
        return self._remove(resource, key)

    def _delete_namespace(self, obj: Obj) -> Obj:
        name = obj["metadata"]["name"]
        if name in UNDELETABLE_NAMESPACES:
            raise forbidden(NAMESPACES, name, "this namespace may not be deleted")
        if not obj["metadata"].get("deletionTimestamp"):
            meta = {**obj["metadata"], "deletionTimestamp": self.timestamp()}
            obj = self.storage.write(NAMESPACES, {**obj, "metadata": meta, "status": {"phase": "Terminating"}})
            for resource in self.storage.resources():
                for content in self.storage.objects(resource, name):
                    if self.storage.get(resource, key_of(content)):
                        self.delete(resource, key_of(content), {})
            self._finish_namespace(name)
        return obj

    def _finish_namespace(self, name: str) -> None:
        home = self.storage.get(NAMESPACES, Key("", name))
        if not home or not home["metadata"].get("deletionTimestamp") or home["metadata"].get("finalizers"):
            return
        if not any(resource.namespaced and self.storage.objects(resource, name) for resource in self.storage.resources()):
            self.storage.remove(NAMESPACES, Key("", name))

    def bind(self, key: Key, binding: Obj, *, dry_run: bool = False) -> Obj:
        """pods/binding."""
        pod = self.get(PODS, key)
        meta = binding.get("metadata") or {}
        if meta.get("uid") and meta["uid"] != pod["metadata"]["uid"]:
            raise uid_conflict(PODS, *key, meta["uid"], pod["metadata"]["uid"])
        why = ""
        if pod["metadata"].get("deletionTimestamp"):
            why = f"pod {key.name} is being deleted, cannot be assigned to a host"
        elif pod["spec"].get("nodeName"):
            why = f'pod {key.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        if why:
            problem = conflict(PODS, key.name, why)
            raise Failure(
                409, "Conflict", problem.message.replace("on pods ", "on pods/binding "), {"name": key.name, "kind": "pods/binding"}
            )
        scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": self.timestamp()}
        status = pod.get("status", {})
        conditions = [c for c in status.get("conditions") or [] if c["type"] != "PodScheduled"]
        annotations = {**(pod["metadata"].get("annotations") or {}), **(meta.get("annotations") or {})}
        bound = {
            **pod,
            "metadata": {**pod["metadata"], "annotations": annotations},
            "spec": {**pod["spec"], "nodeName": binding["target"]["name"]},
            "status": {**status, "conditions": [*conditions, scheduled]},
        }
        _tidy(bound["metadata"])
        if not dry_run:
            self.storage.write(PODS, bound)
        return success(code=201)

    def issue_token(self, key: Key, body: Obj) -> Obj:
        """serviceaccounts/token. The token is opaque, but differs each time."""
        account = self.get(SERVICE_ACCOUNTS, key)
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds") or 3600
        request = Resource("authentication.k8s.io", "v1", "tokenrequests", "TokenRequest")
        if seconds < 600:
            problem = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            raise invalid(request, "", "spec.expirationSeconds", problem)
        bound = spec.get("boundObjectRef")
        if bound and bound.get("kind") == "Pod":
            pod = self.get(PODS, Key(key.namespace, bound.get("name", "")))
            if bound.get("uid") and bound["uid"] != pod["metadata"]["uid"]:
                why = f"the UID in the bound object reference ({bound['uid']}) does not match the UID in record.{_RECREATED}"
                raise conflict(PODS, pod["metadata"]["name"], why)
        audiences = spec.get("audiences") or ["https://kubernetes.default.svc.cluster.local"]
        meta = {**{field: account["metadata"][field] for field in ("name", "namespace", "uid")}, "creationTimestamp": self.timestamp()}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": meta,
            "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
            "status": {"token": f"fake.{key.namespace}.{key.name}.{uuid.uuid4()}", "expirationTimestamp": self.timestamp(seconds)},
        }

    def collect_garbage(self) -> list[Key]:
        """What the garbage collector would: objects all of whose owners are gone. Returns their keys."""
        collected: list[Key] = []
        while True:
            alive = {obj["metadata"]["uid"] for resource in self.storage.resources() for obj in self.storage.objects(resource)}
            orphans = [
                (resource, key_of(obj))
                for resource in self.storage.resources()
                for obj in self.storage.objects(resource)
                if (owners := obj["metadata"].get("ownerReferences"))
                and not obj["metadata"].get("deletionTimestamp")
                and not any(owner["uid"] in alive for owner in owners)
            ]
            if not orphans:
                return collected
            for resource, key in orphans:
                self.delete(resource, key, {})
                collected.append(key)

    def _services(self, resource: Resource) -> list[Obj]:
        return self.storage.objects(SERVICES) if resource == SERVICES else []


def _tidy(meta: Obj) -> None:
    """Empty maps and lists are not kept."""
    for field in ("labels", "annotations", "finalizers", "ownerReferences", "generateName"):
        if field in meta and not meta[field]:
            del meta[field]


def _check_identity(resource: Resource, key: Key, meta: Obj, have: Obj, put: bool) -> None:
    if meta.get("name", key.name) != key.name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({key.name})")
    meta["name"] = key.name
    if resource.namespaced and meta.setdefault("namespace", key.namespace) != key.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    uid, revision = meta.get("uid"), meta.get("resourceVersion")
    if put and uid and uid != have["uid"]:
        raise uid_conflict(resource, *key, uid, have["uid"])
    if put and not revision and resource.plural in strategies.NO_BLIND_UPDATE:
        raise unconditional(resource, key.name)
    if revision and revision != have["resourceVersion"]:
        raise conflict(resource, key.name)
    if uid and uid != have["uid"]:
        raise invalid(resource, key.name, "metadata.uid", f'Invalid value: "{uid}": field is immutable')


def _check_preconditions(resource: Resource, meta: Obj, wanted: Obj) -> None:
    uid, revision = wanted.get("uid"), wanted.get("resourceVersion")
    if uid and uid != meta["uid"]:
        why = f"the UID in the precondition ({uid}) does not match the UID in record ({meta['uid']}).{_RECREATED}"
        raise precondition_failed(resource, meta["name"], why)
    if revision and revision != meta["resourceVersion"]:
        found = f"the ResourceVersion in record ({meta['resourceVersion']})"
        why = f"the ResourceVersion in the precondition ({revision}) does not match {found}. The object might have been modified"
        raise precondition_failed(resource, meta["name"], why)


def _deletion_finalizers(meta: Obj, policy: str | None) -> list[str]:
    finalizers = list(meta.get("finalizers") or [])
    if policy:
        finalizers = [word for word in finalizers if word not in _GC_FINALIZERS.values()]
        if policy in _GC_FINALIZERS:
            finalizers.append(_GC_FINALIZERS[policy])
    return finalizers
