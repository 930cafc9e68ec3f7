"""The command line both services have: their own commands, settings as flags, errors as `code: message`.

A service describes itself as a `Program`. `run` starts it and `check-config` shows its settings; every other command
asks the running service over HTTP (`cli.commands`) and so needs none of its packages: `run` and `migrate` load them.
Settings flags are accepted anywhere behind the command and go to `settings.load` as they are, known or not, so that
a misspelt one is answered with the nearest name.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from common import VERSION
from common.core.addresses import Address
from common.core.errors import BackhaulError, ConfigurationError
from common.core.policy.rights import Right
from common.runtime.cli.client import ServiceClient, WayIn
from common.runtime.cli.commands import Command, Question
from common.runtime.cli.contexts import ContextFile
from common.runtime.cli.output import complain, json_line, say, table
from common.runtime.settings.doors import read_token
from common.runtime.settings.loading import Loaded, defaults_of, describe, fields_of, load
from common.runtime.settings.service import ServiceSettings

if TYPE_CHECKING:
    from common.runtime.cli.run import Serve

S = TypeVar("S", bound=ServiceSettings)

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
_EXIT_INTERRUPTED: Final = 130
_FLAGS: Final = "setting_flags"

_EPILOG: Final = """\
exit status: 0 done; 1 failed or refused; 2 wrong settings or usage. Errors go to standard error as `code: message`,
and docs/errors.md has every code. Settings come from defaults < TOML file (--config) < environment < flags."""

# What each is for, and its usage where the flags of all settings would hide it.
_OWN_COMMANDS: Final = {
    "run": ("run the service until SIGTERM or SIGINT", "%(prog)s [--SETTING VALUE ...]"),
    "check-config": (
        "print every setting with its value and origin, secrets redacted",
        "%(prog)s [--json] [--SETTING VALUE ...]",
    ),
    "migrate": (
        "make or change the tables of `journal` and of the application, and end",
        "%(prog)s [--SETTING VALUE ...]",
    ),
    "completion": ("print a script that completes commands and flags in a shell", None),
}
_GROUPS: Final = {
    "context": "services that are asked from here, by name",
    "parked": "events that were set aside",
    "origins": "the edges whose journals are stored here",
    "nodes": "the nodes of this cloud",
    "entities": "decide about events that an entity of the application cannot take",
    "identities": "peers that are shut out",
    "policy": "what ids may do",
    "projections": "what is derived from the journal",
    "subscriptions": "streams of other services that are followed here",
    "snapshots": "states that stand for the events of their entities",
    "inbox": "what subscriptions brought for local programs",
}


@dataclass(frozen=True, kw_only=True)
class Program(Generic[S]):
    """A service as its command line sees it.

    `load_serve` imports the composition root. `stand_ins` are flags for settings that have no default and that a
    question to the running service needs no value for, so that `status` works without naming the cloud.
    `migrate` brings the journal's tables up, and is a command of a service whose tables another role may own.
    """

    name: str
    service: str
    about: str
    prefix: str
    settings_class: type[S]
    http_address: Callable[[S], tuple[str, int]]
    data_folder: Callable[[S], str]
    instance: Callable[[S], str]
    load_serve: Callable[[], Serve[S]]
    commands: Sequence[Command]
    stand_ins: Sequence[str] = ()
    migrate: Callable[[S], str] | None = None


def main(program: Program[S], words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command; returns the exit status."""
    try:
        return _dispatch(program, words, environ)
    except ConfigurationError as error:
        complain(error)
        return EXIT_USAGE
    except BackhaulError as error:
        complain(error)
        return EXIT_USAGE if error.code == "cli.usage" else EXIT_FAILED
    except BrokenPipeError:  # the reader of our output has closed it; nothing may be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _dispatch(program: Program[S], words: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = parser_of(program, words)
    args, unknown = parser.parse_known_args(words)
    if unknown and not unknown[0].startswith("-"):
        raise _usage(f"{unknown[0]!r} is one argument too many", program.name)
    flags = [*(getattr(args, _FLAGS, None) or ()), *unknown]
    load_from = partial(load, program.settings_class, program.prefix, environ=environ)
    if args.command == "run":
        gc.disable()  # until it serves: of what is imported and opened nothing is garbage, and looking takes a twelfth
        from common.runtime.cli.run import run_from  # noqa: PLC0415 - heavy, and only for `run`

        return run_from(program.service, partial(load_from, flags), program.instance, program.load_serve())
    if args.command == "check-config":
        loaded = load_from(flags)
        if loaded.settings.app:
            from common.runtime.app.application import load_application  # noqa: PLC0415 - an application may be heavy

            load_application(loaded.settings.app, data_folder=program.data_folder(loaded.settings))
        return _check_config(loaded, as_json=args.json)
    if args.command == "migrate" and program.migrate is not None:
        say(program.migrate(load_from(flags).settings))
        return 0
    if args.command == "completion":
        say(_completion(parser_of(program), args.shell))
        return 0
    command: Command = args.command
    if command.in_context and not command.needs_settings:
        chosen = ContextFile(program.service, environ).settings(args.context)
        variables = {f"{program.prefix}_{key.upper()}": value for key, value in chosen.items()}
        load_from = partial(load_from, environ={**environ, **variables})
    loaded = load_from([*(() if command.needs_settings else program.stand_ins), *flags])
    settings = loaded.settings
    host, port = program.http_address(settings)
    with closing(
        ServiceClient(host, port, command.timeout_s, partial(_way_in, settings, Address(host, port)))
    ) as client:
        return command.run(Question(args, loaded, client))


def _way_in(settings: ServiceSettings, http: Address, right: Right) -> WayIn | None:
    """Where a right is asked for, and its token; None at the HTTP port without one."""
    door, file = settings.doors.get(right), settings.token_files.get(right)
    if door is None and file is None:
        return None
    return WayIn(door or http, read_token(file) if file else "")


def _completion(parser: argparse.ArgumentParser, shell: str) -> str:
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ImportError:
        raise BackhaulError(
            "cli.extra_missing",
            "completion scripts are made by shtab, which is not installed",
            "pip install 'backhaul[cli]'",
        ) from None
    script: str = shtab.complete(parser, shell)
    return script


def _check_config(loaded: Loaded[S], *, as_json: bool) -> int:
    lines = describe(loaded)
    if as_json:
        say(json_line({line.key: {"value": line.value, "origin": line.origin} for line in lines}))
    else:
        say(table([{"setting": line.key, "value": line.value, "origin": line.origin} for line in lines]))
    return 0


# -- the parser ---------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse that raises its complaints as `cli.usage`."""

    def error(self, message: str) -> NoReturn:
        raise _usage(message, self.prog)


def _usage(message: str, prog: str) -> BackhaulError:
    return BackhaulError("cli.usage", message, f"{prog} --help")


def parser_of(program: Program[Any], words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """All commands of a program, for parsing and for what is made of them: completion, manuals.

    For ``words`` alone, only the command that they begin with is added, if there is such a one: each takes its time.
    """
    asked = _asked_command(program, words or ())
    parser = _Parser(
        prog=program.name,
        description=program.about,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{program.name} {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command_word")

    for own in _own_commands(program):
        if asked in (own, None):
            _add_own(commands, own, program, has_settings=words is None or asked == own)
    groups: dict[str, argparse._SubParsersAction[_Parser]] = {}
    for command in program.commands:
        *group, word = command.words
        if asked not in (command.words[0], None):
            continue
        level = commands
        if group:
            if group[0] not in groups:
                inner = _add(commands, group[0], _GROUPS[group[0]])
                groups[group[0]] = inner.add_subparsers(metavar="COMMAND", required=True, dest="subcommand_word")
            level = groups[group[0]]
        added = _add(level, word, command.help_text)
        command.add_arguments(added)
        if command.in_context and not command.needs_settings:
            added.add_argument("--context", metavar="NAME", help="ask this service, as `context add` has kept it")
        added.set_defaults(command=command)
        if words is None or word in words:
            _add_settings(added, program, are_shown=False)
    return parser


def _own_commands(program: Program[Any]) -> list[str]:
    return [word for word in _OWN_COMMANDS if word != "migrate" or program.migrate is not None]


def _asked_command(program: Program[Any], words: Sequence[str]) -> str | None:
    """The command, or group of commands, that the words begin with; None if they begin with none."""
    known = {*_own_commands(program), *(command.words[0] for command in program.commands)}
    return words[0] if words and words[0] in known else None


def _add_own(
    commands: argparse._SubParsersAction[_Parser], word: str, program: Program[Any], *, has_settings: bool
) -> None:
    """A command that is not a question to the running service."""
    help_text, usage = _OWN_COMMANDS[word]
    added = _add(commands, word, help_text)
    added.set_defaults(command=word)
    if word == "completion":
        added.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="for example: source <(… completion bash)")
        return
    if word == "check-config":
        added.add_argument("--json", action="store_true", help="print one line of JSON")
    added.usage = usage
    if has_settings:
        _add_settings(added, program, are_shown=True)


def _add(level: argparse._SubParsersAction[_Parser], word: str, help_text: str) -> _Parser:
    return level.add_parser(
        word,
        help=help_text,
        description=help_text,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_settings(parser: _Parser, program: Program[Any], *, are_shown: bool) -> None:
    """Let argparse know which flags take a value; what they mean is `settings.load`'s business."""
    group = parser.add_argument_group("settings", None if are_shown else f"all of `{program.name} run --help`")
    add = partial(group.add_argument, action=_SettingFlag, dest=_FLAGS, default=argparse.SUPPRESS)
    add("--config", metavar="FILE", help=f"TOML file (environment: {program.prefix}_CONFIG)")
    defaults = defaults_of(program.settings_class)
    for field in fields_of(program.settings_class):
        flag = "--" + field.name.replace("_", "-")
        text = f"{field.metadata['help']} ({defaults[field.name]})"
        about = text.replace("%", "%%") if are_shown else argparse.SUPPRESS
        is_boolean = field.type in ("bool", bool)
        add(flag, nargs="?" if is_boolean else None, metavar="VALUE", help=about)
        if is_boolean:
            add(f"--no-{flag[2:]}", nargs=0, help=argparse.SUPPRESS)
        if field.metadata["secrecy"] != "open":
            add(f"{flag}-file", metavar="FILE", help=argparse.SUPPRESS)


class _SettingFlag(argparse.Action):
    """Keeps a flag and its value as words, in order."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words = getattr(namespace, _FLAGS, None) or []
        words.append(f"{option_string}={values}" if isinstance(values, str) else str(option_string))
        setattr(namespace, _FLAGS, words)
