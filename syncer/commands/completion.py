"""`syncer completion`: scripts that make a shell complete commands, flags, and names of virtual clusters.

The scripts only ask back, `syncer completion words -- WORD…`: a candidate and its description a line, nothing where files are as good.
kubectl asks the same of a plugin, so one answer serves all.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncer.commands import SUMMARIES, command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncer.releases.release import Release
    from syncer.terminal import Terminal

USAGE = "syncer completion bash|zsh|fish"
TAKES_PROGRAM = True
DESCRIPTION = """\
Print a script that makes a shell complete commands, flags, and the names of virtual clusters, which the host is asked for."""
EPILOG = """\
For example:
  source <(syncer completion bash)                                      in ~/.bashrc
  syncer completion zsh > "${fpath[1]}/_syncer"                         once
  syncer completion fish > ~/.config/fish/completions/syncer.fish       once
kubectl completes `kubectl syncer` by itself if kubectl_complete-syncer is on PATH.
"""

BASH = """\
_syncer() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\\t'*}")
    done < <(syncer completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _syncer syncer
"""
ZSH = """\
#compdef syncer
_syncer() {
    local line
    local -a found shown
    while IFS= read -r line; do
        found+=("${line%%$'\\t'*}")
        shown+=("${line/$'\\t'/  -- }")
    done < <(syncer completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#found} )); then
        compadd -l -d shown -a found
    else
        _files
    fi
}
if [ "${funcstack[1]}" = _syncer ]; then
    _syncer "$@"
else
    compdef _syncer syncer
fi
"""
FISH = """\
function __syncer_words
    set -l words (commandline -opc) (commandline -ct)
    set -l found (syncer completion words -- $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c syncer -f -a '(__syncer_words)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

_NO_FILES = ":4"
"""What kubectl wants in the end: its own directive for "nothing but these"."""
_SECONDS = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=(*SCRIPTS, "words", "kubectl"), metavar="SHELL", help=f"one of {', '.join(SCRIPTS)}")


async def run(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    """Never fails once it is asked for words."""
    if arguments.shell in SCRIPTS:
        terminal.print(SCRIPTS[arguments.shell].rstrip())
        return 0
    wanted = wanted_for(arguments.program)
    found = dict(wanted.known)
    if wanted.asked:
        found |= await _ask(wanted, environ)
    lines = [f"{word}\t{about}" if about else word for word, about in sorted(found.items()) if word.startswith(wanted.begun)]
    lines = [wanted.before + line for line in lines]
    if arguments.shell == "kubectl":
        lines.append(_NO_FILES)
    if lines:
        terminal.print("\n".join(lines))
    return 0


@dataclass(frozen=True)
class Wanted:
    """What could stand where the cursor is: `known` words and what they mean, or what has to be `asked`: name, namespace or context.

    All begin with `begun`; `before` is what stands before it in the same word. `given` are values of flags that were typed.
    """

    known: Mapping[str, str] = field(default_factory=dict)
    asked: str = ""
    begun: str = ""
    before: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def wanted_for(words: Sequence[str]) -> Wanted:
    """By the words behind the program's name, of which the last is being typed."""
    *done, begun = words or [""]
    if not done:
        known = dict(SUMMARIES) | {"--help": "show the help"}
        return Wanted({word: about for word, about in known.items() if begun.startswith("-") == word.startswith("-")}, begun=begun)
    name, *done = done
    if name not in SUMMARIES or "--" in done:
        return Wanted()
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False)
    command(name).add_arguments(parser)
    return _wanted_by(parser, name, done, begun)


def _wanted_by(parser: argparse.ArgumentParser, name: str, done: Sequence[str], begun: str) -> Wanted:
    actions = parser._actions  # noqa: SLF001  (argparse tells in no other way what it has)
    flags = {text: action for action in actions for text in action.option_strings}
    positional = [action for action in actions if not action.option_strings]
    given: dict[str, str] = {}
    waiting: argparse.Action | None = None
    for word in done:
        if word == "=":  # bash takes it for a word
            continue
        if waiting is not None:
            given[waiting.dest] = word
            waiting = None
        elif word.startswith("-") and len(word) > 1:
            text, equals, value = word.partition("=")
            action = flags.get(text)
            if action is not None and equals:
                given[action.dest] = value
            elif action is not None and action.nargs is None:
                waiting = action
        elif positional:
            given[positional.pop(0).dest] = word
    if waiting is not None:
        return _value(waiting, "" if begun == "=" else begun, "", given, name)
    text, equals, value = begun.partition("=")
    if equals and text in flags:
        return _value(flags[text], value, f"{text}=", given, name)
    if begun == "=" and done and done[-1] in flags:
        return _value(flags[done[-1]], "", "", given, name)
    if begun.startswith("-"):
        long = {text: action for text, action in flags.items() if text.startswith("--") and action.help is not argparse.SUPPRESS}
        return Wanted({text: _summary(action) for text, action in long.items()}, begun=begun)
    return _value(positional[0], begun, "", given, name) if positional else Wanted()


def _value(action: argparse.Action, begun: str, before: str, given: Mapping[str, str], name: str) -> Wanted:
    if action.choices:
        choices = SCRIPTS if action.dest == "shell" else action.choices
        return Wanted({str(choice): "" for choice in choices}, begun=begun, before=before)
    if action.metavar == "BOOL":
        return Wanted({"true": "", "false": ""}, begun=begun, before=before)
    if action.dest in ("name", "namespace", "context") and name not in ("create", "start"):
        return Wanted(asked=action.dest, begun=begun, before=before, given=given, command=name)
    return Wanted()


def _summary(action: argparse.Action) -> str:
    return " ".join(((action.help or "") % {"default": action.default, "prog": ""}).split()) if action.help else ""


async def _ask(wanted: Wanted, environ: Mapping[str, str]) -> dict[str, str]:
    """What there is; nothing if it cannot be found out quickly."""
    import asyncio

    from syncer import log
    from syncer.errors import NETWORK_ERRORS, SyncerError

    log.configure("console", "error")  # standard output is the shell's
    try:
        async with asyncio.timeout(_SECONDS):
            if wanted.asked == "context" or wanted.command == "use":
                return await asyncio.to_thread(_contexts, wanted, environ)
            return _named(wanted, await _releases(wanted, environ))
    except (SyncerError, *NETWORK_ERRORS):
        return {}


def _contexts(wanted: Wanted, environ: Mapping[str, str]) -> dict[str, str]:
    from syncer.releases import contexts, kubeconfigs
    from syncer.releases.hosts import kubeconfig_files

    names = contexts.names(kubeconfigs.read(kubeconfig_files(environ, wanted.given.get("kubeconfig"))))
    if wanted.asked == "context":
        return dict.fromkeys(names, "")
    known = [origin for name in names if (origin := contexts.origin(name)) is not None]
    if wanted.asked == "namespace":
        return {origin.namespace: "" for origin in known if origin.name == wanted.given.get("name", origin.name)}
    return {origin.name: f"in namespace {origin.namespace} of {origin.host}" for origin in known}


def _named(wanted: Wanted, found: Sequence[Release]) -> dict[str, str]:
    if wanted.asked == "namespace":
        return {release.namespace: "" for release in found if release.name == wanted.given.get("name", release.name)}
    return {release.name: f"in namespace {release.namespace}" for release in found}


async def _releases(wanted: Wanted, environ: Mapping[str, str]) -> list[Release]:
    from syncer.releases.hosts import host_of
    from syncer.releases.release import SELECTOR, STATEFUL_SETS, releases

    chosen = argparse.Namespace(kubeconfig=wanted.given.get("kubeconfig"), context=wanted.given.get("context"))
    host = await host_of(chosen, environ)
    namespace = "" if wanted.asked == "namespace" else wanted.given.get("namespace", "")
    async with await host.connect() as client:
        return releases(await client.list_all(STATEFUL_SETS, namespace, label_selector=SELECTOR, metadata_only=True), ())
