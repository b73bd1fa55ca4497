"""Texts of the host that a tenant gets to see: host names in them become virtual ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from string import ascii_letters, digits
from typing import NamedTuple

from syncer.kube.types import Key, Obj
from syncer.naming import Names
from syncer.translate.references import references
from syncer.translate.token_secret import token_secret_key

_UNKNOWN = "(host)"
_NAME_AFTER = ascii_letters + digits
_NAME_BEFORE = _NAME_AFTER + "-"


def host_names_hidden(text: str, *, names: Names, pairs: Iterable[tuple[str, Key]], replacements: Iterable[tuple[str, str]] = ()) -> str:
    """`text` with what it says of the host in virtual terms.

    `pairs` are host names and the virtual keys they stand for, the object that the text is about first: its namespace
    stands in for the bare host namespace too. `host-namespace/name` becomes `namespace/name`. `replacements` are more pairs
    of host text and virtual text (UIDs). Longer ones are replaced first. Only whole words are, so that nothing else is
    garbled, but for names that the host derived from ours by adding `-something`. Readable host names become virtual ones
    although they are not among `pairs`.
    """
    known = list(pairs)
    host_namespace = names.host_namespace
    words = {name: key.name for name, key in known if name in text} | {old: new for old, new in replacements if old and old in text}
    namespace_named = bool(host_namespace) and host_namespace in text
    if namespace_named:
        words |= {f"{host_namespace}/{name}": str(key) for name, key in known if name in words}
    found = [_Word(old, new, _NAME_BEFORE, _NAME_AFTER) for old, new in words.items()]
    if namespace_named and host_namespace not in words:
        stands_for = known[0][1].namespace or _UNKNOWN if known else _UNKNOWN
        found.append(_Word(host_namespace, stands_for, _NAME_BEFORE, _NAME_BEFORE))
    if found:
        text = _replaced(text, found)
    return _tail(names.suffix).sub("", text) if f"-x-{names.suffix}" in text else text


@lru_cache(maxsize=8)
def _tail(suffix: str) -> re.Pattern[str]:
    """What a readable host name has after the virtual one."""
    return re.compile(rf"-x-[a-z0-9-]+?-x-{re.escape(suffix)}(?![A-Za-z0-9])")


class _Word(NamedTuple):
    """What to replace by what, unless one of the characters of `before` precedes it or one of `after` follows."""

    old: str
    new: str
    before: str
    after: str

    def find(self, text: str, start: int) -> int:
        """Where it is next, -1 for nowhere."""
        while (at := text.find(self.old, start)) >= 0:
            end = at + len(self.old)
            if not (at and text[at - 1] in self.before) and not (end < len(text) and text[end] in self.after):
                return at
            start = at + 1
        return -1


def _replaced(text: str, words: Sequence[_Word]) -> str:
    """Each word replaced, the first in the text first and of several in one place the longest.

    A regular expression would have to be compiled for each text, which takes longer than all else that happens to an event.
    """
    parts: list[str] = []
    start = 0
    while True:
        places = [(at, -len(word.old), number) for number, word in enumerate(words) if (at := word.find(text, start)) >= 0]
        if not places:
            return "".join([*parts, text[start:]])
        at, _, number = min(places)
        parts += [text[start:at], words[number].new]
        start = at + len(words[number].old)


def names_of_pod(names: Names, key: Key, pod: Obj | None) -> Iterator[tuple[str, Key]]:
    """`pairs` for a text about a pod: the pod, its tokens, and what it refers to if the virtual `pod` is still there to be asked."""
    yield names.host_name(key.namespace, key.name), key
    yield token_secret_key(names, key).name, Key(key.namespace, f"{key.name}-token")
    if pod is not None:
        found = references(pod)
        for name in sorted(found.configmaps | found.secrets | found.claims | found.endpoints):
            yield names.host_name(key.namespace, name), Key(key.namespace, name)
