"""Failures of a kube-apiserver, worded as version 1.36 words them (observed on a real one, see test_refusals.py)."""

from __future__ import annotations

from typing import Any

from syncer.kube.types import Obj, Resource


class Failure(Exception):
    """Raised anywhere inside the fake; becomes the HTTP answer, or the object of an ERROR event."""

    def __init__(self, code: int, reason: str, message: str, details: Obj | None = None) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> Obj:
        """The body."""
        body: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        return {**body, "code": self.code}


def success(resource: Resource | None = None, name: str = "", uid: str = "", code: int = 0) -> Obj:
    """A Status of success: with details after a deletion, with a code after a binding."""
    body: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if resource is not None:
        body["details"] = {**_about(resource, name), "uid": uid}
    if code:
        body["code"] = code
    return body


def _about(resource: Resource, name: str) -> Obj:
    details = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: value for key, value in details.items() if value}


def not_found(resource: Resource, name: str) -> Failure:
    return Failure(404, "NotFound", f'{resource} "{name}" not found', _about(resource, name))


def no_such_path() -> Failure:
    return Failure(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> Failure:
    return Failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def already_exists(resource: Resource, name: str) -> Failure:
    return Failure(409, "AlreadyExists", f'{resource} "{name}" already exists', _about(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> Failure:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    return Failure(409, "Conflict", f'Operation cannot be fulfilled on {resource} "{name}": {why}', _about(resource, name))


def uid_conflict(resource: Resource, namespace: str, name: str, wanted: str, found: str) -> Failure:
    path = "/".join(filter(None, ("/registry", resource.plural, namespace, name)))
    return conflict(
        resource,
        name,
        f"StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, "
        f"AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}",
    )


def precondition_failed(resource: Resource, name: str, why: str) -> Failure:
    """Of a DELETE. Unlike other conflicts it speaks of the kind, not of the plural."""
    details = {key: value for key, value in {"name": name, "group": resource.group, "kind": resource.kind}.items() if value}
    return Failure(409, "Conflict", f'Operation cannot be fulfilled on {resource.kind} "{name}": {why}', details)


def invalid(resource: Resource, name: str, field: str, problem: str, cause: str = "FieldValueInvalid") -> Failure:
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details: dict[str, Any] = {"name": name, "group": resource.group, "kind": resource.kind}
    details = {key: value for key, value in details.items() if value}
    details["causes"] = [{"reason": cause, "message": problem, "field": field}]
    return Failure(422, "Invalid", f'{kind} "{name}" is invalid: {field}: {problem}', details)


def unconditional(resource: Resource, name: str) -> Failure:
    """A PUT without resourceVersion to a type that wants one. Unlike other invalid ones it speaks of the plural."""
    field, problem = "metadata.resourceVersion", "Invalid value: 0: must be specified for an update"
    details = {**_about(resource, name), "causes": [{"reason": "FieldValueInvalid", "message": problem, "field": field}]}
    return Failure(422, "Invalid", f'{resource} "{name}" is invalid: {field}: {problem}', details)


def invalid_options(kind: str, field: str, problem: str, cause: str) -> Failure:
    details = {"group": "meta.k8s.io", "kind": kind, "causes": [{"reason": cause, "message": problem, "field": field}]}
    return Failure(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {field}: {problem}', details)


def forbidden(resource: Resource, name: str, why: str, causes: list[Obj] | None = None) -> Failure:
    details = _about(resource, name)
    if causes:
        details["causes"] = causes
    return Failure(403, "Forbidden", f'{resource} "{name}" is forbidden: {why}', details)


def bad_request(message: str) -> Failure:
    return Failure(400, "BadRequest", message)


def expired(message: str) -> Failure:
    return Failure(410, "Expired", message)


def too_large_revision(wanted: int, current: int) -> Failure:
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1}
    return Failure(504, "Timeout", f"Timeout: Too large resource version: {wanted}, current: {current}", details)
