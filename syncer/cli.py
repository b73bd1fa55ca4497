"""`syncer`: arguments to settings to exit code. The only module that prints, and the only one that exits.

Exit codes: 0 done, 1 something unexpected or out of our hands, 2 the configuration is wrong and a person has to mend it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from syncer import classic, log, settings
from syncer.errors import NETWORK_ERRORS, ConfigError, SyncerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncer.settings import Flag

_RELEASE_FLAGS = ("name", "target-namespace", "host-kube-config")
_RIGHTS_FLAGS = (*_RELEASE_FLAGS, "sync", "disable-sync-resources", "leader-elect", "proxy-metrics-server")
_EPILOG = """\
Write --flag=value or --flag value; a list with commas, or by repeating the flag; a switch without a value means true.
Durations are 15s, 1m30s, or a number of seconds. The environment variable in brackets does the same as its flag, which
wins over it. An empty value means the default.

The flags of the vcluster syncer that are not listed here are known: each is answered with what this version does instead.

Outside of the host cluster, for example:
  syncer start --name=blue --target-namespace=team-blue --kube-config=blue.kubeconfig --host-kube-config=host.kubeconfig
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> NoReturn:
    """Run one command and exit; by default that of the process's arguments and environment."""
    environ = os.environ if environ is None else environ
    arguments = vars(_parser().parse_args(join_negations(sys.argv[1:] if argv is None else argv)))
    try:
        code = _run(arguments.pop("command"), arguments, environ)
    except ConfigError as error:
        code = _complain(error, 2)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _complain(error: BaseException, code: int) -> int:
    for line in str(error).splitlines() or [type(error).__name__]:
        print(f"syncer: {line}", file=sys.stderr)
    return code


def _run(command: str, given: Mapping[str, Sequence[str] | None], environ: Mapping[str, str]) -> int:
    if command == "version":
        print(f"syncer {version('syncer')}")
        return 0
    only_yaml = bool(given.get("yaml"))
    chosen, warnings = settings.load({name.replace("_", "-"): parts for name, parts in given.items() if parts and name != "yaml"}, environ)
    if command in ("release-deletions", "rights"):
        from syncer import commands

        try:
            if command == "release-deletions":
                text, good = asyncio.run(commands.release_deletions(chosen)), True
            else:
                text, good = (commands.roles(chosen), True) if only_yaml else asyncio.run(commands.rights(chosen))
        except ConfigError:
            raise
        except (SyncerError, *NETWORK_ERRORS) as error:
            return _complain(error, 1)
        print(text)
        return 0 if good else 1
    log.configure(chosen.log_format, chosen.log_level)
    logger = structlog.get_logger("syncer.cli")
    for warning in warnings:
        logger.warning("settings.needless", flag=warning.partition(":")[0], message=warning)
    for name in settings.unknown_variables(environ):
        logger.warning("settings.unknown_variable", variable=name, message="nothing reads it; see syncer start --help")

    from syncer import app  # only now, so that --help and mistakes are answered at once

    asyncio.run(app.run(chosen))
    return 0


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviated flags, and tells a mistake in one line."""

    def __init__(self, **options: Any) -> None:
        width = min(shutil.get_terminal_size((120, 24)).columns, 140)
        super().__init__(
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=44, width=width),
            **options,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"syncer: {message}; see --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="syncer", description="Turns one namespace of a Kubernetes cluster into a whole virtual cluster.")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    start = commands.add_parser(
        "start", help="run the syncer", usage="syncer start [FLAG…]", description="Run the syncer until it is stopped.", epilog=_EPILOG
    )
    _add_flags(start, settings.flags())
    for name in classic.FLAGS:
        start.add_argument(f"--{name}", action="append", nargs="?", const="true", help=argparse.SUPPRESS)

    release = commands.add_parser(
        "release-deletions",
        help="let deletions go ahead that are being held",
        usage="syncer release-deletions [FLAG…]",
        description="Let the deletions go ahead that the syncer holds because nobody was seen asking for so many of them.\n"
        "Look first why both sides differ: /readyz?verbose and the log name them.",
    )
    _add_flags(release, {name: flag for name, flag in settings.flags().items() if name in _RELEASE_FLAGS})

    rights = commands.add_parser(
        "rights",
        help="what the host grants, what is on and off, and the RBAC rules that the flags need",
        usage="syncer rights [FLAG…]",
        description="Ask the host what it grants and serves, and print what that leaves on and off. With --yaml, print the Role and the\n"
        "ClusterRole that the given flags need, without asking anybody: kubectl apply takes them.",
    )
    rights.add_argument("--yaml", action="store_true", help="print the RBAC rules, and nothing else")
    _add_flags(rights, {name: flag for name, flag in settings.flags().items() if name in _RIGHTS_FLAGS})

    commands.add_parser("version", help="print the version", description="Print the version.")
    return parser


def _add_flags(parser: argparse.ArgumentParser, flags: Mapping[str, Flag]) -> None:
    fields = settings.Settings.model_fields
    groups: dict[str, Any] = {}
    for name, flag in flags.items():
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        default = flag.default or flag.shown(fields[name.replace("-", "_")].default)
        words = f"{flag.words} {f'(default: {default}) ' if default else ''}[{settings.variable(name)}]"
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if flag.metavar == "BOOL" else {}
        groups[flag.group].add_argument(f"--{name}", action="append", metavar=flag.metavar, help=words.replace("%", "%%"), **switch)


def join_negations(argv: Sequence[str]) -> list[str]:
    """`--sync -pods` as `--sync=-pods`: argparse would take the value for a flag of its own."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--sync" and argument.startswith("-") and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
