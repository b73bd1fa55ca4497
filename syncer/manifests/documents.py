"""What is in files of YAML: the objects in the order in which they are to be applied, and what cannot be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from syncer.kube import codec
from syncer.kube.types import Obj, key_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FIRST = ("Namespace", "CustomResourceDefinition")
"""Kinds that others need, in order."""
_UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What the library raises for wrong input; the last few where a tag says other than what follows (`!!timestamp now`)."""
_OF_THE_SERVER = ("managedFields", "resourceVersion", "uid")
"""Metadata that `kubectl get` shows and that nobody may apply."""


class Document(NamedTuple):
    """An object, and the file that it is from."""

    file: str
    obj: Obj

    @property
    def title(self) -> str:
        """What it is called in words to a person."""
        return f"{self.obj['kind']} {key_of(self.obj)} of {self.file}"


class _Loader(yaml.SafeLoader):
    """As Kubernetes reads YAML: dates are text, and so are all keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012  the library's own, less one
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def parse(files: Mapping[str, str]) -> tuple[list[Document], list[str]]:
    """The documents of all files, by their names, and a line for everything that cannot be applied.

    A file that is not YAML has one line and no document, as nobody knows where the mistake began.
    """
    found: list[Document] = []
    problems: list[str] = []
    for file, text in sorted(files.items()):
        try:
            contents = [list(_flat(content)) for content in yaml.load_all(text, _Loader)]
        except _UNREADABLE as error:
            problems.append(f"{file} is not YAML: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        for number, objects in enumerate(contents, 1):
            for obj in objects:
                if wrong := _wrong(obj):
                    problems.append(f"{file}, document {number}: {wrong}")
                else:
                    found.append(Document(file, _applicable(obj)))
    found.sort(key=lambda document: _rank(document.obj["kind"]))
    return found, problems


def _flat(content: Any) -> Iterator[Any]:
    """The objects of a document: none if it is empty, those in it if it is a List."""
    if content is None:
        return
    items = content.get("items") or [] if isinstance(content, dict) else None
    if isinstance(items, list) and (content.get("kind"), content.get("apiVersion")) == ("List", "v1"):
        for item in items:
            yield from _flat(item)
    else:
        yield content


def _wrong(obj: Any) -> str:
    """What keeps it from being an object of Kubernetes, "" for nothing that can be seen from here."""
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    if not isinstance(metadata, dict):
        return "it is no object of Kubernetes, which has apiVersion, kind and metadata"
    for field, value in (("apiVersion", obj.get("apiVersion")), ("kind", obj.get("kind")), ("metadata.name", metadata.get("name"))):
        if not isinstance(value, str) or not value:
            return f"it has no {field}"
    if not isinstance(metadata.get("namespace") or "", str):
        return "its metadata.namespace is no text"
    try:
        codec.dumps(obj)
    except TypeError as error:
        return f"it holds what JSON cannot express: {error}"
    return ""


def _applicable(obj: Obj) -> Obj:
    metadata = {name: value for name, value in obj["metadata"].items() if name not in _OF_THE_SERVER}
    return {**obj, "metadata": metadata}


def _rank(kind: str) -> int:
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)
