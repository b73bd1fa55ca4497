"""Settings as flags of a command: declared for argparse, and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncer import settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from syncer.settings import Settings

OF_A_RELEASE = ("name", "target-namespace", "host-kube-config")
"""What says which virtual cluster is meant, and how to reach its host."""


def add_flags(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Declare these settings, by default all of them, in their groups."""
    fields = settings.Settings.model_fields
    groups: dict[str, Any] = {}
    for name, flag in settings.flags().items():
        if names is not None and name not in names:
            continue
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        default = flag.default or flag.shown(fields[name.replace("-", "_")].default)
        words = f"{flag.words} {f'(default: {default}) ' if default else ''}[{settings.variable(name)}]"
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if flag.metavar == "BOOL" else {}
        groups[flag.group].add_argument(f"--{name}", action="append", metavar=flag.metavar, help=words.replace("%", "%%"), **switch)


def read_flags(arguments: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings that were given, and warnings about flags that can be dropped. Raises ConfigError with a line for each mistake."""
    given = {name.replace("_", "-"): parts for name, parts in vars(arguments).items() if isinstance(parts, list)}
    return settings.load(given, environ)


def join_negations(argv: Sequence[str]) -> list[str]:
    """`--sync -pods` as `--sync=-pods`: argparse would take the value for a flag of its own."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--sync" and argument.startswith("-") and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
