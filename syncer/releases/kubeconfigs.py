"""Kubeconfig files that are changed: all of a change or nothing, and nobody else's change is lost.

They are locked as kubectl does (`FILE.lock`), replaced as a whole, and keep their mode; new ones are for their owner only. Functions
here block: call them in a thread.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from syncer.errors import ConfigError, TooLate
from syncer.releases.contexts import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from syncer.kube.types import Obj

LOCK_SECONDS = 10.0
"""How long another program may keep a kubeconfig locked."""
_LOOK_AGAIN = 0.05


class _Verbatim(str):
    """What stands without quotes where Go may read something else than Python: it is written as it was."""

    __slots__ = ()


_INTEGER, _VERBATIM = "tag:yaml.org,2002:int", "!verbatim"
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("int", "float", "timestamp", "value")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first in "+-.0123456789yYnN":
    # To Go 1e3, 08 and 0o17 are numbers and y is true, but 1:30 is a text; and kubectl refuses a kubeconfig with a number for a name.
    _RESOLVERS.setdefault(_first, []).extend(
        (
            (_INTEGER, re.compile(r"-?(0|[1-9][0-9]*)\Z")),
            (_VERBATIM, re.compile(r"[-+]?\.?[0-9]|[-+]?\.(inf|nan)\Z|[yn]\Z", re.IGNORECASE)),
        )
    )
_Loader: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {"yaml_implicit_resolvers": _RESOLVERS})
_Dumper: Any = type("_Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {"yaml_implicit_resolvers": _RESOLVERS})
_Loader.add_constructor(_VERBATIM, lambda loader, node: _Verbatim(loader.construct_scalar(node)))
_Dumper.add_representer(_Verbatim, lambda dumper, text: dumper.represent_scalar(_VERBATIM, str(text)))


def to_write(files: Sequence[Path]) -> Path:
    """Which of KUBECONFIG's files kubectl writes to: the first that exists, else the last."""
    return next((file for file in files if file.exists()), files[-1])


def load(content: str, place: str) -> Obj:
    """The document of a kubeconfig. Raises ConfigError."""
    try:
        document = yaml.load(content, Loader=_Loader)  # noqa: S506  (a safe loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise ConfigError(f"{place}: is not YAML{line}, so nothing is changed; correct it first") from None
    return checked(document, place)


def dump(document: Obj) -> str:
    """As YAML, in the document's order."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1 << 20)
    return text


def read(files: Sequence[Path]) -> list[Obj]:
    """The documents of those files that exist. Raises ConfigError."""
    return [load(_text(file), str(file)) for file in files if file.exists()]


def change(file: Path, edit: Callable[[Obj], Obj]) -> Obj:
    """Write what `edit` makes of the document, and return that; a file that does not exist is an empty one.

    Raises ConfigError for a file that cannot be read or written, TooLate if another program keeps it locked.
    """
    # The file, not the link to it, is replaced; others may lock it by either name. Of a directory's names one is enough.
    given, file = file.parent.resolve() / file.name, file.resolve()
    with _complaining(file, "written"):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as locks:
        for name in dict.fromkeys((given, file)):
            locks.enter_context(_locked(name))
        before = load(_text(file) if file.exists() else "", str(file))
        after = edit(before)
        if after != before:
            write(file, after)
    return after


def write(file: Path, document: Obj) -> None:
    """Replace the file, or make it for its owner only. Raises ConfigError."""
    file = file.resolve()
    with _complaining(file, "written"):
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as stream:
                stream.write(dump(document))
                stream.flush()
                os.fsync(stream.fileno())
                if file.exists():
                    had = file.stat()
                    os.fchmod(stream.fileno(), had.st_mode & 0o777)
                    if (had.st_uid, had.st_gid) != (os.geteuid(), os.getegid()):
                        with suppress(PermissionError):
                            os.fchown(stream.fileno(), had.st_uid, had.st_gid)
            os.replace(name, file)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise


@contextmanager
def temporary(document: Obj) -> Iterator[Path]:
    """A kubeconfig that only its owner can read, in memory where that is possible, and gone afterwards."""
    memory = Path("/dev/shm")  # noqa: S108  (the name is random and the mode 0600)
    with tempfile.TemporaryDirectory(prefix="syncer-", dir=memory if os.access(memory, os.W_OK) else None) as directory:
        file = Path(directory) / "kubeconfig"
        write(file, document)
        yield file


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = file.with_name(f"{file.name}.lock")
    until = time.monotonic() + LOCK_SECONDS
    while True:
        with _complaining(lock, "made"):
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0))
                break
            except FileExistsError:
                pass
        if time.monotonic() > until:
            raise TooLate(f"{lock} is there, as while another program changes {file.name}; delete it if none does")
        time.sleep(_LOOK_AGAIN)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


@contextmanager
def _complaining(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "give another file by --kube-config, or take the kubeconfig from --print"
        raise ConfigError(f"{file}: cannot be {what} ({error.strerror}); {remedy}") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); correct its permissions") from None
    except UnicodeError:
        raise ConfigError(f"{file}: is not text; write a kubeconfig") from None
