"""From a request to an answer: which verb of the registry, paging, selectors, the form that the client accepts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from syncer.kube.types import PODS, SERVICE_ACCOUNTS, Key, Obj, Resource, key_of
from syncer.sync.fields import text_of, without
from tests.fakes import patches
from tests.fakes.registry import Registry
from tests.fakes.requests import Request
from tests.fakes.selectors import Predicate, field_predicate, label_predicate
from tests.fakes.statuses import Failure, bad_request, expired, invalid_options, method_not_allowed, no_such_path, success
from tests.fakes.watching import Watch, wait_until_fresh

PATCH_TYPES: Mapping[str, Callable[[Any, Any], Any]] = {
    "application/merge-patch+json": patches.merge,
    "application/strategic-merge-patch+json": patches.strategic,
    "application/json-patch+json": patches.json_patch,
    "application/apply-patch+yaml": patches.strategic,
}
_BUILT_IN_GROUPS = ("", "apps", "batch", "autoscaling", "policy")


@dataclass(slots=True)
class Features:
    """What this server can and whom it lets do what."""

    watch_list: bool = True
    gone_as_status: bool = False
    bookmark_every: float = 60.0
    version: str = "1.36"
    allows: Callable[[Obj], bool] = lambda _attributes: True
    lacks: set[tuple[str, ...]] = field(default_factory=set)
    """Fields that its version does not have, as in syncer.sync.fields: they are dropped."""
    warns: bool = True
    """Whether it tells so; it does not where a feature gate is off."""


class Handlers:
    """`answer` for everything but watches, `open_watch` for those."""

    def __init__(self, registry: Registry, features: Features) -> None:
        self.registry = registry
        self.features = features

    async def answer(self, request: Request) -> tuple[int, Any]:
        """HTTP code and decoded body. Failure for all that goes wrong."""
        resource, key = request.resource, request.key
        if resource is None:
            return self._no_resource(request)
        if request.verb == "list":
            return 200, await self._list(request, resource)
        if request.verb == "create":
            return self._create(request, resource)
        dry_run = request.params.get("dryRun") == "All"
        if not key.name:
            if request.verb != "deletecollection":
                raise method_not_allowed()
            return 200, self._delete_collection(request, resource)
        if request.verb == "get":
            if request.subresource and not self.registry.has_subresource(resource, request.subresource):
                raise no_such_path()
            await self._fresh(request)
            return 200, self.registry.get(resource, key)
        if request.verb == "update":
            change = _checked(request.body)
            return 200, self.registry.update(resource, key, lambda _: change, subresource=request.subresource, put=True, dry_run=dry_run)
        if request.verb == "patch":
            return self._patch(request, resource, dry_run)
        if request.subresource:
            raise method_not_allowed()
        return 200, self.registry.delete(resource, key, _delete_options(request), dry_run=dry_run)

    def warnings(self, request: Request) -> list[str]:
        """The values of Warning headers for what is written."""
        body = request.body
        if not self.features.warns or request.verb not in ("create", "patch") or not isinstance(body, dict):
            return []
        return [f'299 - "unknown field \\"{text_of(path)}\\""' for path in self.features.lacks if without(body, [path]) != body]

    def _create(self, request: Request, resource: Resource) -> tuple[int, Obj]:
        key, body = request.key, without(request.body, self.features.lacks)
        dry_run = request.params.get("dryRun") == "All"
        if not request.subresource:
            if key.name:
                raise method_not_allowed()
            return 201, self.registry.create(resource, key.namespace, body, dry_run=dry_run)
        if resource == PODS and request.subresource == "binding":
            return 201, self.registry.bind(key, body, dry_run=dry_run)
        if resource == PODS and request.subresource == "eviction":
            self.registry.delete(PODS, key, body.get("deleteOptions") or {}, dry_run=dry_run)
            return 201, success(code=201)
        if resource == SERVICE_ACCOUNTS and request.subresource == "token":
            return 201, self.registry.issue_token(key, body)
        raise no_such_path()

    def _patch(self, request: Request, resource: Resource, dry_run: bool) -> tuple[int, Obj]:
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip()
        apply_patch = PATCH_TYPES.get(kind)
        custom = resource.group not in _BUILT_IN_GROUPS and not resource.group.endswith(".k8s.io")
        if apply_patch is None or (custom and kind == "application/strategic-merge-patch+json"):
            raise Failure(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        body = without(request.body, self.features.lacks) if isinstance(request.body, dict) else request.body
        if kind == "application/apply-patch+yaml":
            if not request.params.get("fieldManager"):
                problem = "Required value: is required for apply patch"
                raise invalid_options("PatchOptions", "fieldManager", problem, "FieldValueRequired")
            if not self.registry.storage.get(resource, request.key) and not request.subresource:
                if not (body.get("metadata") or {}).get("name"):
                    raise bad_request(f"the name of the object ({request.key.name} based on URL) was undeterminable: name must be provided")
                return 201, self.registry.create(resource, request.key.namespace, body, dry_run=dry_run)

        def change(old: Obj) -> Obj:
            try:
                return _checked(apply_patch(old, body))
            except patches.PatchError as error:
                raise Failure(422, "Invalid", "the server rejected our request due to an error in our request", {}) from error

        return 200, self.registry.update(resource, request.key, change, subresource=request.subresource, dry_run=dry_run)

    def _delete_collection(self, request: Request, resource: Resource) -> Obj:
        matches = selection(request, resource)
        doomed = [obj for obj in self.registry.storage.objects(resource, request.key.namespace) if matches(obj)]
        for obj in doomed:
            self.registry.delete(resource, key_of(obj), _delete_options(request))
        return self._as_list(resource, doomed, self.registry.storage.revision)

    async def _list(self, request: Request, resource: Resource) -> Obj:
        storage, params, matches = self.registry.storage, request.params, selection(request, resource)
        try:
            limit = int(params.get("limit") or 0)
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing "{params["limit"]}": invalid syntax') from None
        token, start, revision = params.get("continue", ""), Key("", ""), storage.revision
        if token:
            if params.get("resourceVersion", "") not in ("", "0"):
                raise bad_request("specifying resource version is not allowed when using continue")
            revision, start = _read_token(token)
        else:
            await self._fresh(request)
            if params.get("resourceVersionMatch") == "Exact":
                revision = int(params["resourceVersion"])
                if revision < storage.compacted:
                    raise expired(f"The resourceVersion for the provided list is too old: {revision}")
            else:
                revision = storage.revision
        objects = storage.at(resource, revision, request.key.namespace)
        found = [obj for obj in objects if key_of(obj) > start and matches(obj)]
        page = found[:limit] if limit else found
        answer = self._as_list(resource, page, revision)
        if len(page) < len(found):
            answer["metadata"]["continue"] = _write_token(revision, key_of(page[-1]))
            if not params.get("labelSelector") and not params.get("fieldSelector"):
                answer["metadata"]["remainingItemCount"] = len(found) - len(page)
        return answer

    def _as_list(self, resource: Resource, objects: list[Obj], revision: int) -> Obj:
        items = [{key: value for key, value in obj.items() if key not in ("kind", "apiVersion")} for obj in objects]
        meta = {"resourceVersion": str(revision)}
        return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta, "items": items}

    async def _fresh(self, request: Request) -> None:
        wanted = request.params.get("resourceVersion") or "0"
        if not wanted.isdecimal():
            why = f'resourceVersion: Invalid value: "{wanted}": strconv.ParseUint: parsing "{wanted}": invalid syntax'
            raise bad_request(f"invalid resource version: {why}")
        await wait_until_fresh(self.registry.storage, int(wanted))

    async def open_watch(self, request: Request) -> Watch:
        """A watch that has not sent anything yet. What is wrong with its resourceVersion may be a Failure, or an ERROR event."""
        resource, params, storage = request.resource, request.params, self.registry.storage
        if resource is None:
            raise no_such_path()
        matches = selection(request, resource)
        wanted = params.get("resourceVersion") or "0"
        if not wanted.isdecimal():
            raise Failure(500, "", f'resourceVersion: Invalid value: "{wanted}": strconv.ParseUint: parsing "{wanted}": invalid syntax')
        bookmarks = params.get("allowWatchBookmarks") in ("1", "true")
        stream = params.get("sendInitialEvents") in ("1", "true")
        self._check_stream_options(params, stream)
        revision = int(wanted)
        watch = Watch(
            storage=storage,
            resource=resource,
            namespace=request.key.namespace,
            matches=matches,
            revision=revision or storage.revision,
            bookmarks=bookmarks,
            bookmark_every=self.features.bookmark_every,
            timeout=float(params.get("timeoutSeconds") or 1800),
        )
        if stream:
            watch.wait_for = revision
            watch.initial_bookmark = bookmarks
        if stream or not revision:
            watch.from_state = True
        elif revision < storage.compacted and self.features.gone_as_status:
            storage.since(revision)
        return watch

    def _check_stream_options(self, params: Mapping[str, str], stream: bool) -> None:
        field = problem = ""
        if "sendInitialEvents" in params and not self.features.watch_list:
            field, problem = "sendInitialEvents", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        elif stream and params.get("resourceVersionMatch") != "NotOlderThan":
            field, problem = "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        elif "resourceVersionMatch" in params and "sendInitialEvents" not in params:
            field, problem = "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        if problem:
            raise invalid_options("ListOptions", field, f"Forbidden: {problem}", "FieldValueForbidden")

    def _no_resource(self, request: Request) -> tuple[int, Any]:
        steps = request.path.strip("/").split("/")
        if request.method == "POST" and steps[:2] == ["apis", "authorization.k8s.io"]:
            return self._review(steps[-1], request.body)
        found = self._discover(steps) if request.method == "GET" else None
        if found is None:
            raise no_such_path()
        return 200, found

    def _review(self, plural: str, body: Obj) -> tuple[int, Obj]:
        status: Obj
        if plural == "selfsubjectaccessreviews":
            attributes = body["spec"].get("resourceAttributes") or body["spec"].get("nonResourceAttributes") or {}
            kind, status = "SelfSubjectAccessReview", {"allowed": self.features.allows(attributes)}
        elif plural == "selfsubjectrulesreviews":
            everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            kind, status = "SelfSubjectRulesReview", {"resourceRules": [everything], "nonResourceRules": [], "incomplete": False}
        else:
            raise no_such_path()
        return 201, {"kind": kind, "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": body["spec"], "status": status}

    def _discover(self, steps: list[str]) -> Any:
        groups: dict[str, list[str]] = {}
        for group, version in sorted({(r.group, r.version) for r in self.registry.resources.values() if r.group}):
            groups.setdefault(group, []).append(version)
        match steps:
            case ["healthz" | "livez" | "readyz"]:
                return "ok"
            case ["version"]:
                major, minor = self.features.version.split(".")[:2]
                return {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0", "platform": "linux/amd64"}
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
            case ["apis"]:
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_api_group(*group) for group in groups.items()]}
            case ["apis", name]:
                return _api_group(name, groups[name]) | {"kind": "APIGroup", "apiVersion": "v1"} if name in groups else None
            case ["api", version] | ["apis", *_, version] if len(steps) < 4:
                wanted = version if steps[0] == "api" else f"{steps[1]}/{version}"
                served = [_api_resource(r) for r in self.registry.resources.values() if r.api_version == wanted]
                return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": wanted, "resources": served} if served else None
        return None


def selection(request: Request, resource: Resource) -> Predicate:
    """What the selectors of a list, watch or delete let through."""
    labels = label_predicate(request.params.get("labelSelector", ""))
    fields = field_predicate(resource, request.params.get("fieldSelector", ""))
    return lambda obj: labels(obj) and fields(obj)


def accepts_partial(accept: str) -> bool:
    """Whether the first form that the client accepts, and that is served, is PartialObjectMetadata; Failure 406 when none is."""
    for form in accept.split(",") if accept else ["*/*"]:
        media, *rest = [part.strip() for part in form.split(";")]
        params = dict(part.partition("=")[::2] for part in rest)
        if media not in ("application/json", "application/*", "*/*"):
            continue
        if "as" not in params:
            return False
        if params["as"] in ("PartialObjectMetadata", "PartialObjectMetadataList") and params.get("v") == "v1":
            return True
    raise Failure(406, "NotAcceptable", "only the following media types are accepted: application/json")


def as_partial(body: Any) -> Any:
    """An object, list or bookmark with nothing but metadata; a Status as it is."""
    if not isinstance(body, dict) or body.get("kind") == "Status" or "metadata" not in body:
        return body
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    if "items" in body:
        items = [{**partial, "metadata": item["metadata"]} for item in body["items"]]
        return {**partial, "kind": "PartialObjectMetadataList", "metadata": body["metadata"], "items": items}
    return {**partial, "metadata": body["metadata"]}


def decode(raw: bytes, content_type: str) -> Any:
    """A request body; Failure 400 when it is none."""
    if not raw:
        return {}
    try:
        return yaml.safe_load(raw) if "yaml" in content_type else json.loads(raw)
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def _checked(body: Any) -> Obj:
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized")
    return body


def _delete_options(request: Request) -> Obj:
    if request.body:
        return _checked(request.body)
    options: Obj = {}
    if "gracePeriodSeconds" in request.params:
        options["gracePeriodSeconds"] = int(request.params["gracePeriodSeconds"])
    if "propagationPolicy" in request.params:
        options["propagationPolicy"] = request.params["propagationPolicy"]
    return options


def _write_token(revision: int, last: Key) -> str:
    token = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": f"{last.namespace}/{last.name}\0"}, separators=(",", ":"))
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, Key]:
    try:
        found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = found["start"].rstrip("\0").partition("/")
        return found["rv"], Key(namespace, name)
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error


def _api_group(group: str, versions: list[str]) -> Obj:
    """It prefers the version whose name sorts first, as v1 does before its betas."""
    served = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": served, "preferredVersion": served[0]}


def _api_resource(resource: Resource) -> Obj:
    verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    singular = resource.kind.lower()
    return {"name": resource.plural, "singularName": singular, "namespaced": resource.namespaced, "kind": resource.kind, "verbs": verbs}
