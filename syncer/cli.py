"""`syncer`: arguments to a command to its exit code. The only module that exits.

Exit codes: 0 done; 1 something unexpected or out of our hands; 2 the command line or the configuration is wrong and a person has to
mend it; 3 there is no such virtual cluster; 4 what was waited for did not come in time; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from syncer.commands import SUMMARIES, command
from syncer.errors import NETWORK_ERRORS, ConfigError, NoSuchCluster, SyncerError, TooLate, told
from syncer.flags import join_negations
from syncer.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PLUGIN = "kubectl-syncer"
_PLUGIN_COMPLETION = "kubectl_complete-syncer"
"""What kubectl runs to complete the words behind `kubectl syncer`, with these as arguments."""
_EPILOG = f"""\
Exit codes: {" ".join((__doc__ or "").partition("Exit codes: ")[2].split())}
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> NoReturn:
    """Run one command and exit; by default that of the process's arguments and environment.

    Whoever gives arguments of his own is a program of his own, whose logging stays as it is.
    """
    whole = argv is None
    if argv is None:
        asked = ["completion", "kubectl", "--"] if os.path.basename(sys.argv[0]) == _PLUGIN_COMPLETION else []
        argv = [*asked, *sys.argv[1:]]
    given, separator, program = _split(argv)
    given = join_negations(given)
    parser = _parser(given)
    arguments = parser.parse_args(given)
    if separator and not getattr(command(arguments.command), "TAKES_PROGRAM", False):
        parser.error(f"{arguments.command} takes no command after --")
    arguments.program = program
    terminal = Terminal(sys.stdout, sys.stderr)
    if whole:
        from syncer import log  # only now, so that --help and mistakes are answered at once

        log.configure("console", "warning")  # on standard error: standard output is the user's
    try:
        code = asyncio.run(command(arguments.command).run(arguments, os.environ if environ is None else environ, terminal))
    except NoSuchCluster as error:
        code = _complain(terminal, error, 3)
    except ConfigError as error:
        code = _complain(terminal, error, 2)
    except TooLate as error:
        code = _complain(terminal, error, 4)
    except (SyncerError, *NETWORK_ERRORS) as error:
        if arguments.command == "start":
            raise  # nobody expected it: the traceback tells where it comes from
        code = _complain(terminal, error, 1)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """What is before `--`, whether it is there, and what follows. argparse itself takes it for the end of flags only."""
    words = list(argv)
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]


def _complain(terminal: Terminal, error: BaseException, code: int) -> int:
    terminal.complain(told(error))
    return code


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


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Knows all commands, and what the one that is meant takes."""
    program = "kubectl syncer" if os.path.basename(sys.argv[0]) == _PLUGIN else "syncer"
    parser = _Parser(prog=program, description="Turns one namespace of a Kubernetes cluster into a whole virtual cluster.", epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, summary in SUMMARIES.items():
        if name not in argv[:1]:
            commands.add_parser(name, help=summary)
            continue
        module = command(name)
        options = {key.lower(): getattr(module, key) for key in ("USAGE", "DESCRIPTION", "EPILOG") if hasattr(module, key)}
        if "usage" in options:
            options["usage"] = f"{program}{options['usage'].removeprefix('syncer')}"
        module.add_arguments(commands.add_parser(name, help=summary, **options))
    return parser
