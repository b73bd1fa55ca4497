"""Applies files of YAML to the virtual cluster: at start, and again when they change.

By server-side apply: the fields that a file names get its values, whoever has changed them; all others stay as the tenant has them. What
a file no longer names is not deleted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from syncer.errors import NETWORK_ERRORS, ApiError, FenceClosed, SyncerError
from syncer.kube.backoff import Backoff
from syncer.kube.discovery import Discovery
from syncer.kube.types import Key, Obj, key_of
from syncer.manifests.documents import Document, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from syncer.kube.client import Client

log = structlog.get_logger("syncer.manifests")

FIELD_MANAGER = "syncer-manifests"
_SUFFIXES = (".yaml", ".yml", ".json")
_LOOK_AGAIN = 5.0
_FIRST_RETRY, _LONGEST_RETRY = 0.5, 60.0


class Manifests:
    """Applies what is in `directory`, while `run` runs; only in the replica that leads.

    `require` raises FenceClosed when nothing may be written. `announce` is told, as reason and message, what cannot be applied.
    """

    def __init__(
        self,
        virtual: Client,
        directory: Path,
        *,
        require: Callable[[], None],
        announce: Callable[[str, str], None],
        every: float = _LOOK_AGAIN,
    ) -> None:
        self._virtual = virtual
        self._directory = directory
        self._require = require
        self._announce = announce
        self._every = every
        self._discovery = Discovery(virtual)
        self._files: Mapping[str, str] | None = None
        self._missing = ""
        """Why the files cannot be read now."""
        self._unreadable: list[str] = []
        self._waiting: list[Document] = []
        self._refused: dict[str, str] = {}
        """By the titles of documents that wait, why they did not get through the last time."""
        self._told: set[str] = set()
        self._applied = 0

    @property
    def applied(self) -> int:
        """How many documents are."""
        return self._applied

    @property
    def waiting(self) -> int:
        """How many are not, or cannot even be read."""
        return len(self._waiting) + len(self._unreadable) + bool(self._missing)

    @property
    def problem(self) -> str:
        """What is not applied, and why; "" when all is, or nothing was tried yet."""
        lines = [line for line in (self._missing, *self._unreadable, *map(": ".join, self._refused.items())) if line]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        return f"{lines[0]}{more}" if lines else ""

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        clock = asyncio.get_running_loop().time
        due = 0.0
        while True:
            if await self._look():
                backoff.reset()
                due = clock()
            if self._waiting and clock() >= due:
                await self._apply()
                due = clock() + backoff.next()
            await asyncio.sleep(min(self._every, max(due - clock(), 0.0)) if self._waiting else self._every)

    async def _look(self) -> bool:
        """Whether the files are others than before; then all of their documents wait."""
        try:
            files = await asyncio.to_thread(_read, self._directory)
        except (OSError, UnicodeDecodeError) as error:
            self._missing = f"--init-manifests: {self._directory} cannot be read: {error}"
            self._tell(self._missing)
            return False
        self._missing = ""
        if files == self._files:
            return False
        self._files = files
        self._waiting, self._unreadable = await asyncio.to_thread(parse, files)
        self._applied, self._refused, self._told = 0, {}, set()
        for line in self._unreadable:
            self._tell(line)
        return True

    async def _apply(self) -> None:
        """Each document that waits, once; those that fail go on waiting."""
        waiting, refused = [], {}
        cut_off = ""
        for document in self._waiting:
            words = cut_off
            try:
                if not cut_off:
                    words = await self._apply_one(document.obj)
            except FenceClosed:
                return  # told by the fence itself
            except NETWORK_ERRORS as error:
                words = cut_off = f"the virtual API server cannot be reached: {str(error) or type(error).__name__}"
            if words:
                waiting.append(document)
                refused[document.title] = words
        self._applied += len(self._waiting) - len(waiting)
        self._waiting = waiting
        self._tell_refused(refused)
        if not waiting:
            log.info("manifests.applied", documents=self._applied)

    async def _apply_one(self, obj: Obj) -> str:
        """Why it cannot be, "" once it is. Raises FenceClosed or a network error."""
        self._require()
        try:
            resource = await self._discovery.find(obj["apiVersion"], obj["kind"])
            if resource is None:
                return f"the virtual API server serves no {obj['kind']} in {obj['apiVersion']}"
            key = Key((key_of(obj).namespace or "default") if resource.namespaced else "", key_of(obj).name)
            place = {"namespace": key.namespace} if key.namespace else {}
            body = {**obj, "metadata": {**obj["metadata"], **place}}
            await self._virtual.patch(resource, key, body, strategy="apply", field_manager=FIELD_MANAGER, force=True)
        except FenceClosed:
            raise
        except ApiError as error:
            return f"{error.status} {error.reason}" if obj["kind"] == "Secret" else str(error)  # no word of what it holds
        except SyncerError as error:
            return str(error)
        return ""

    def _tell_refused(self, refused: dict[str, str]) -> None:
        for title, words in refused.items():
            if self._refused.get(title) == words:  # the second time too, so it is more than a matter of order
                self._tell(f"{title}: {words}")
        self._refused = refused

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            log.warning("manifests.not_applied", error=problem)
            self._announce("ManifestNotApplied", problem)
        self._told.add(problem)


def _read(directory: Path) -> dict[str, str]:
    """The text of each file by its name. Names that begin with a dot are those by which a mounted ConfigMap is replaced at once."""
    return {
        path.name: path.read_text("utf-8")
        for path in directory.iterdir()
        if path.suffix in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    }
