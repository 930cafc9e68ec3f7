"""Contexts: names for services that are asked from here, in `~/.config/backhaul/contexts.toml`.

A context holds the settings that say where one service is asked and with which token's file; it stands above the
environment and below flags, for commands that ask a running service. Those that read the settings of this machine (`run`,
`check-config`, `doctor`, `support-bundle`) know no contexts. The file names token files and holds no secret itself.

    current.cloud = "plant"

    [cloud.plant]
    http_host = "10.0.0.5"
    operators_token = "/home/ada/plant.token"
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from common.core.errors import BackhaulError
from common.runtime.cli.commands import Command, Question
from common.runtime.cli.output import say, table

KEYS: Final = (
    "http_host",
    "http_port",
    "programs_door",
    "operators_door",
    "programs_token",
    "operators_token",
    "insecure_local",
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Settings = dict[str, str]
"""Settings of one context, by key."""


class ContextFile:
    """The contexts of one kind of service (`edge`, `cloud`) in the file of this user."""

    def __init__(self, service: str, environ: Mapping[str, str]) -> None:
        folder = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or "/nonexistent", ".config")
        self.path = Path(folder) / "backhaul" / "contexts.toml"
        self._service = service
        self._content = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            content = tomllib.loads(self.path.read_text())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return {}  # also a service user's home that is not its own: a health check needs no contexts
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise self._unusable(str(error)) from None
        tables = [content.get("current", {}), *(content.get(kind, {}) for kind in ("edge", "cloud"))]
        if set(content) - {"current", "edge", "cloud"} or not all(isinstance(one, dict) for one in tables):
            raise self._unusable("it has other tables than current, edge and cloud")
        for table_ in tables[1:]:
            for name, settings in table_.items():
                if not isinstance(settings, dict) or not _NAME.fullmatch(name):
                    raise self._unusable(f"{name!r} is no context")
                if unknown := sorted(set(settings) - set(KEYS)):
                    raise self._unusable(f"{name} has {unknown[0]!r}; known are {', '.join(KEYS)}")
        return content

    @property
    def all(self) -> dict[str, Settings]:
        """Every context by name."""
        contexts = self._content.get(self._service, {})
        return {
            name: {key: _text(value) for key, value in settings.items()} for name, settings in sorted(contexts.items())
        }

    @property
    def current(self) -> str:
        """The name of the one in use; empty for none."""
        return str(self._content.get("current", {}).get(self._service, ""))

    def settings(self, name: str | None) -> Settings:
        """Of a context, or of the current one; none where there is none. Raises `cli.no_such_context`."""
        chosen = name or self.current
        if not chosen:
            return {}
        if chosen not in self.all:
            known = ", ".join(self.all) or "none"
            raise BackhaulError(
                "cli.no_such_context",
                f"there is no context {chosen!r} in {self.path}; known are: {known}",
                "context list",
            )
        return self.all[chosen]

    def put(self, name: str, settings: Settings | None) -> None:
        """Keep a context, or with None remove it."""
        contexts = self._content.setdefault(self._service, {})
        if settings is not None:
            contexts[name] = dict(settings)
        else:
            contexts.pop(name, None)
            if self.current == name:
                self._content["current"].pop(self._service)
        self._write()

    def use(self, name: str) -> None:
        """Make a context the current one; an empty name: none."""
        current = self._content.setdefault("current", {})
        if name:
            current[self._service] = name
        else:
            current.pop(self._service, None)
        self._write()

    def _write(self) -> None:
        """As a whole, so that another command reads the old file or the new one."""
        lines = ["[current]", *_lines(self._content.get("current", {})), ""]
        for kind in ("cloud", "edge"):
            for name, settings in sorted(self._content.get(kind, {}).items()):
                lines += [f"[{kind}.{json.dumps(name)}]", *_lines(settings), ""]
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text("\n".join(lines))
            new.replace(self.path)
        except OSError as error:
            raise BackhaulError(
                "cli.file_unwritable", f"{self.path}: {error.strerror}", "look at its folder"
            ) from error

    def _unusable(self, what: str) -> BackhaulError:
        return BackhaulError(
            "cli.bad_contexts", f"{self.path} cannot be used: {what}", "correct the file, or remove it"
        )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(settings: Mapping[str, object]) -> list[str]:
    """Texts of JSON are texts of TOML."""
    return [f"{key} = {json.dumps(_text(value), ensure_ascii=False)}" for key, value in settings.items()]


def context_commands(service: str) -> tuple[Command, ...]:
    """`context list`, `add`, `use` and `remove` of one kind of service."""

    def listed(_: Question) -> int:
        file = ContextFile(service, os.environ)
        rows = [
            {"current": "*" if name == file.current else "", "name": name, "settings": " ".join(_words(settings))}
            for name, settings in file.all.items()
        ]
        say(table(rows))
        return 0

    def add(question: Question) -> int:
        name = question.args.name
        if not _NAME.fullmatch(name):
            raise BackhaulError("cli.usage", f"{name!r} is no name", "letters, digits, - _ and . are")
        ContextFile(service, os.environ).put(name, _settings_of(getattr(question.args, "setting_flags", None) or ()))
        say(f"context {name} is kept; `context use {name}` or --context {name} takes it")
        return 0

    def use(question: Question) -> int:
        file = ContextFile(service, os.environ)
        name = "" if question.args.name == "-" else question.args.name
        if name:
            file.settings(name)
        file.use(name)
        say(f"{service}: {name or 'no context'} from now on")
        return 0

    def remove(question: Question) -> int:
        file = ContextFile(service, os.environ)
        file.settings(question.args.name)
        file.put(question.args.name, None)
        say(f"context {question.args.name} is gone")
        return 0

    def name_argument(parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the context")

    def use_argument(parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the context; - for none")

    return (
        Command(("context", "list"), "list the services that are asked from here by name", listed, in_context=False),
        Command(
            ("context", "add"), "keep where a service is asked, by settings flags", add, name_argument, in_context=False
        ),
        Command(("context", "use"), "ask this service from now on", use, use_argument, in_context=False),
        Command(("context", "remove"), "forget a context", remove, name_argument, in_context=False),
    )


def _words(settings: Settings) -> list[str]:
    return [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]


def _settings_of(flags: Sequence[str]) -> Settings:
    found: Settings = {}
    for flag in flags:
        name, equals, value = flag.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if key not in KEYS:
            known = ", ".join(f"--{one.replace('_', '-')}" for one in KEYS)
            raise BackhaulError(
                "cli.usage", f"{name} says nothing about where a service is asked", f"known are {known}"
            )
        found[key] = value if equals else "true"
    if not found:
        raise BackhaulError("cli.usage", "the context has no settings", "for example --http-host 10.0.0.5")
    for key in ("programs_token", "operators_token"):
        if key in found:
            found[key] = os.path.abspath(found[key])
    return found
