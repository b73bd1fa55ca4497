"""Texts of the host that a tenant gets to see: host names in them become virtual ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from syncer.kube.types import Key, Obj
from syncer.naming import Names
from syncer.translate.references import references
from syncer.translate.token_secret import token_secret_key

_UNKNOWN = "(host)"


def host_names_hidden(text: str, *, names: Names, pairs: Iterable[tuple[str, Key]], replacements: Iterable[tuple[str, str]] = ()) -> str:
    """`text` with what it says of the host in virtual terms.

    `pairs` are host names and the virtual keys they stand for, the object that the text is about first: its namespace
    stands in for the bare host namespace too. `host-namespace/name` becomes `namespace/name`. `replacements` are more pairs
    of host text and virtual text (UIDs). Longer ones are replaced first. Only whole words are, so that nothing else is
    garbled, but for names that the host derived from ours by adding `-something`. Readable host names from the namespaces of
    `pairs` become virtual ones although they are not among them.
    """
    known = list(pairs)
    host_namespace = names.host_namespace
    words = {name: key.name for name, key in known if name in text} | {old: new for old, new in replacements if old and old in text}
    namespace_named = bool(host_namespace) and host_namespace in text
    if namespace_named:
        words |= {f"{host_namespace}/{name}": str(key) for name, key in known if name in words}
    tails = {tail for _, key in known if (tail := f"-x-{key.namespace}-x-{names.suffix}") in text}
    patterns = []
    if words:
        longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        patterns.append(rf"(?<![A-Za-z0-9-])(?:{longest_first})(?![A-Za-z0-9])")
    if namespace_named:
        words.setdefault(host_namespace, known[0][1].namespace or _UNKNOWN if known else _UNKNOWN)
        patterns.append(rf"(?<![A-Za-z0-9-]){re.escape(host_namespace)}(?![A-Za-z0-9-])")
    patterns += [rf"{re.escape(tail)}(?![A-Za-z0-9])" for tail in sorted(tails, key=len, reverse=True)]
    words |= dict.fromkeys(tails, "")
    return re.sub("|".join(patterns), lambda match: words[match[0]], text) if patterns else text


def names_of_pod(names: Names, key: Key, pod: Obj | None) -> Iterator[tuple[str, Key]]:
    """`pairs` for a text about a pod: the pod, its tokens, and what it refers to if the virtual `pod` is still there to be asked."""
    yield names.host_name(key.namespace, key.name), key
    yield token_secret_key(names, key).name, Key(key.namespace, f"{key.name}-token")
    if pod is not None:
        found = references(pod)
        for name in sorted(found.configmaps | found.secrets | found.claims | found.endpoints):
            yield names.host_name(key.namespace, name), Key(key.namespace, name)
