"""Contexts of virtual clusters in a kubeconfig document: pure functions from document to document.

A context is called `vcluster_NAME_NAMESPACE_HOSTCONTEXT`, as the Go original calls it, and so are its cluster and its user. Neither a
name nor a namespace has an underscore, so the name tells where it leads; the host's context may be one of a virtual cluster itself.
Everything else in a document is kept, in its order. Of several entries of a name the first one counts, as in client-go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from syncer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncer.kube.types import Obj

_PREFIX = "vcluster"
_LISTS = ("clusters", "users", "contexts")
_EMPTY: Obj = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}


@dataclass(frozen=True)
class Origin:
    """What a context's name tells: which virtual cluster it leads to, and from which context that was found."""

    name: str
    namespace: str
    host: str

    @property
    def context(self) -> str:
        """The name that tells it."""
        return f"{_PREFIX}_{self.name}_{self.namespace}_{self.host}"


def origin(context: str) -> Origin | None:
    """None for the name of a context that is not of a virtual cluster."""
    prefix, *parts = context.split("_", 3)
    return Origin(*parts) if prefix == _PREFIX and len(parts) == 3 and all(parts) else None


def hosts(context: str) -> list[str]:
    """The contexts below one: where it was found, where that one was found, and so on."""
    found = []
    while (below := origin(context)) is not None:
        context = below.host
        found.append(context)
    return found


@dataclass(frozen=True)
class Entry:
    """A context with its cluster and its user, all of the same name."""

    context: str
    cluster: Obj
    user: Obj = field(repr=False)
    namespace: str = ""

    def standalone(self) -> Obj:
        """A kubeconfig of nothing else."""
        return with_current(with_entry({"apiVersion": "v1", "kind": "Config"}, self), self.context)


def with_entry(document: Obj, entry: Entry) -> Obj:
    """With this context, in the place of one of its name; what that had besides, such as a namespace that was chosen, stays."""
    chosen: Obj = {"cluster": entry.context, "user": entry.context}
    if entry.namespace:
        chosen["namespace"] = entry.namespace
    document = _put(document, "clusters", "cluster", entry.context, entry.cluster)
    document = _put(document, "users", "user", entry.context, entry.user)
    had = _named(document, "contexts", "context", entry.context)
    return _put(document, "contexts", "context", entry.context, {**had, **chosen})


def has(document: Obj, entry: Entry) -> bool:
    """Whether the context still leads where it did; not so when somebody else made it anew."""
    return _named(document, "clusters", "cluster", entry.context) == entry.cluster


def without_entry(document: Obj, entry: Entry) -> Obj:
    """Without the context, unless its cluster is another by now: then somebody else made it anew."""
    if not has(document, entry):
        return document
    return {
        key: [one for one in value if not (isinstance(one, dict) and one.get("name") == entry.context)]
        if key in _LISTS and isinstance(value, list)
        else value
        for key, value in document.items()
    }


def left(document: Obj, entry: Entry, former: str, known: Iterable[str]) -> Obj:
    """The document of somebody who is no longer connected: without the entry, and in the former context again, if that is still there.

    Else in the host's. What others changed meanwhile stays. `known` are the contexts of all files.
    """
    after = without_entry(document, entry)
    if after is document or document.get("current-context") != entry.context:
        return after
    there = {*known} - {entry.context}
    below = [former, *hosts(former), *hosts(entry.context)]
    return with_current(after, next((context for context in below if context in there), ""))


def forgotten(document: Obj, context: str, known: Iterable[str]) -> Obj:
    """The document after a virtual cluster is gone: without the context that led to it, whoever made that, and in the host's again."""
    return left(document, Entry(context, _named(document, "clusters", "cluster", context), {}), "", known)


def with_current(document: Obj, context: str) -> Obj:
    """With that context made current; whether there is one is the caller's matter."""
    return {**document, "current-context": context}


def current(documents: Iterable[Obj]) -> str:
    """The current context of kubeconfigs that are read as one, "" if there is none."""
    return next((str(context) for document in documents if (context := document.get("current-context"))), "")


def names(documents: Iterable[Obj]) -> list[str]:
    """Of all contexts, each once."""
    found: dict[str, None] = {}
    for document in documents:
        found |= {str(one["name"]): None for one in _entries(document, "contexts") if isinstance(one, dict) and one.get("name")}
    return list(found)


def chosen_for(documents: Iterable[Obj], name: str, namespace: str = "") -> str:
    """The context of the virtual cluster called so, made by `connect`. Raises ConfigError unless there is exactly one."""
    documents = list(documents)
    found = {context: known for context in names(documents) if (known := origin(context)) is not None and known.name == name}
    if namespace:
        found = {context: known for context, known in found.items() if known.namespace == namespace}
    if len(found) > 1 and (here := current(documents)):
        # The one on the cluster that one works with.
        near = {context: known for context, known in found.items() if known.host in (here, *hosts(here))}
        found = near or found
    if not found:
        where = f" of namespace {namespace}" if namespace else ""
        raise ConfigError(f"no context leads to a virtual cluster {name!r}{where}; `syncer connect {name}` makes one")
    if len(found) > 1:
        raise ConfigError(
            f"several contexts lead to virtual clusters {name!r}: {', '.join(found)}; "
            "choose one with --namespace, or with kubectl config use-context"
        )
    return next(iter(found))


def host_of_current(documents: Iterable[Obj]) -> str:
    """The context to go back to from the current one. Raises ConfigError if that is none of a virtual cluster, or leads to nowhere."""
    documents = list(documents)
    here = current(documents)
    if not here:
        raise ConfigError("no context is current; `kubectl config use-context` chooses one")
    known = origin(here)
    if known is None:
        raise ConfigError(f"the current context {here!r} is not one of a virtual cluster, so there is nothing to leave")
    if known.host not in names(documents):
        raise ConfigError(f"the context {known.host!r}, from which {here!r} was made, is gone; choose one with kubectl config use-context")
    return known.host


def checked(document: Any, place: str) -> Obj:
    """The document of a kubeconfig, a new one for an empty file. Raises ConfigError for what could not be changed without loss."""
    if document is None:
        return dict(_EMPTY)
    if not isinstance(document, dict):
        raise ConfigError(f"{place}: is not a mapping, so nothing is changed; write a kubeconfig as `kubectl config view --raw` prints it")
    for key in _LISTS:
        if not isinstance(document.get(key) or [], list):
            raise ConfigError(f"{place}: {key}: is not a list, so nothing is changed; correct it first")
    return document


def _entries(document: Obj, key: str) -> list[Any]:
    return document.get(key) or []


def _named(document: Obj, key: str, kind: str, name: str) -> Obj:
    for one in _entries(document, key):
        if isinstance(one, dict) and one.get("name") == name:
            value = one.get(kind)
            return value if isinstance(value, dict) else {}
    return {}


def _put(document: Obj, key: str, kind: str, name: str, value: Obj) -> Obj:
    entries = list(_entries(document, key))
    wanted = {"name": name, kind: value}
    for at, one in enumerate(entries):
        if isinstance(one, dict) and one.get("name") == name:
            entries[at] = wanted
            break
    else:
        entries.append(wanted)
    return {**document, key: entries}
