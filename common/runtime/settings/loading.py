"""Settings: one frozen dataclass per service, filled from defaults < TOML file < environment < flags.

A field `journal_max_bytes` of a service with the prefix `EDGE` is the key `journal_max_bytes` in the file,
the variable `EDGE_JOURNAL_MAX_BYTES` and the flag `--journal-max-bytes`. Secrets can also be named by a file
that holds them (`…_FILE`). What nobody knows is an error that names the nearest known key; a wrong value is
an error that names key, value, origin and expectation. Nothing is read after start.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from common.core.errors import ConfigurationError
from common.core.journal.url import REDACTED
from common.runtime.settings.values import Secrecy, Shape, parse, shape_of, shown

S = TypeVar("S")

_SECRET_FILE_MAX_BYTES: Final = 64 * 1024
_DEFAULT: Final = "default"

# Variables with our prefix that others set must not keep us from starting. Kubernetes puts such ones into every
# container for each Service it knows, `edge`, `edge-7` or `cloud-postgres` among them; images with Google's tools have
# CLOUD_SDK_VERSION.
_SET_BY_OTHERS: Final = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)|SDK_VERSION"
)
# `…_PORT` is also how settings are called: a Kubernetes Service's is known by its value.
_PORT_OF_A_SERVICE: Final = re.compile(r"(?:tcp|udp|sctp)://[^/\s]+:\d+")


def about(
    help_text: str,
    *,
    secrecy: Secrecy = "open",
    minimum: float | None = None,
    maximum: float | None = None,
    pattern: str | None = None,
    may_be_empty: bool = False,
    default_port: int | None = None,
) -> dict[str, object]:
    """The metadata of one settings field: `field(default=…, metadata=about("What it does.", minimum=1))`.

    `secrecy` "secret" hides the value everywhere, "url" the password in it; both allow `…_FILE`.
    """
    bounds = {
        "minimum": minimum,
        "maximum": maximum,
        "pattern": pattern,
        "may_be_empty": may_be_empty,
        "default_port": default_port,
    }
    return {"help": help_text, "secrecy": secrecy, "bounds": bounds}


class SettingsConflict(ConfigurationError):
    """Settings that are each fine and do not fit together; raised by a settings class's `check`."""

    def __init__(self, code: str, message: str, hint: str, *, keys: Sequence[str]) -> None:
        super().__init__(code, message, hint, details={"settings": " ".join(keys)})
        self.keys = tuple(keys)

    def name_origins(self, origins: Mapping[str, str]) -> None:
        """Add where each value came from to the message."""
        self.message += " (" + ", ".join(f"{key} from {origins[key]}" for key in self.keys) + ")"


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Settings with the place each value came from, such as `environment EDGE_ID` or `default`."""

    settings: S
    origins: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    """Environment variables with the service's prefix that others set."""


@dataclass(frozen=True, slots=True)
class Described:
    """One line of `check-config`: the effective value as text, redacted."""

    key: str
    value: str
    origin: str
    help_text: str


@dataclass(frozen=True, slots=True)
class _Known:
    """One key of a settings class."""

    key: str
    shape: Shape
    secrecy: Secrecy
    help_text: str
    required: bool

    @property
    def takes_file(self) -> bool:
        return self.secrecy != "open"


@dataclass(frozen=True, slots=True)
class _Given:
    """A raw value, a text or what TOML holds, and where it came from."""

    raw: object
    origin: str


def load(
    settings_class: type[S],
    prefix: str,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Loaded[S]:
    """Fill `settings_class`, a frozen keyword-only dataclass whose fields have `about` metadata.

    `prefix` is upper case without underscore (`EDGE`). `flags` are command-line words such as `--insecure` or
    `--cloud host:7443`. The file is `--config`, else `{prefix}_CONFIG`, else `file`. If the class has a
    method `check()`, it is called last and raises `SettingsConflict` for what does not fit together.
    Raises `ConfigurationError` for everything an operator must change.
    """
    known = {entry.key: entry for entry in _known_keys(settings_class)}
    by_flag, config_flag = _read_flags(known, flags)
    ignored = tuple(name for name in sorted(environ or {}) if _is_of_others(name, prefix, (environ or {})[name]))
    ours = {name: value for name, value in (environ or {}).items() if name not in ignored}
    by_environment, config_variable = _read_environment(known, prefix, ours)
    path = Path(config_flag or config_variable or file or "")
    given: dict[str, _Given] = {}
    if config_flag or config_variable or file:
        given.update(_read_file(known, path))
    given.update(by_environment)
    given.update(by_flag)

    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, _DEFAULT)
    for key, entry in known.items():
        if key in given:
            values[key] = _value(entry, given[key])
            origins[key] = given[key].origin
        elif entry.required:
            raise ConfigurationError(
                "settings.missing",
                f"{key} is not set: {entry.help_text}",
                f"set the environment variable {_variable(prefix, key)} or the flag {_flag(key)}",
                details={"setting": key},
            )
    settings = settings_class(**values)
    check = getattr(settings, "check", None)
    if check is not None:
        try:
            check()
        except SettingsConflict as conflict:
            conflict.name_origins(origins)
            raise
    return Loaded(settings, origins, ignored)


def with_values(settings: S, values: Mapping[str, object], origin: str) -> S:
    """``settings`` with other values for some keys, each a text or what a file holds; ``origin`` is for errors.

    Raises:
        ConfigurationError: ``settings.unknown_key``, ``settings.invalid_value``, what ``check`` raises.
    """
    known = {entry.key: entry for entry in _known_keys(type(settings))}
    for key in values.keys() - known.keys():
        raise _unknown(key, origin, list(known))
    changed = {key: _value(known[key], _Given(raw, origin)) for key, raw in values.items()}
    made: S = dataclasses.replace(settings, **changed)  # type: ignore[type-var]
    check = getattr(made, "check", None)
    if check is not None:
        check()
    return made


def describe(loaded: Loaded[Any]) -> list[Described]:
    """Every key with its effective value and origin, the service's own ones first, fit to be printed."""
    return [
        Described(
            key=entry.key,
            value=shown(entry.shape, getattr(loaded.settings, entry.key), entry.secrecy),
            origin=loaded.origins[entry.key],
            help_text=entry.help_text,
        )
        for entry in _known_keys(type(loaded.settings))
    ]


def fields_of(settings_class: type[Any]) -> list[dataclasses.Field[Any]]:
    """Its settings in the order of declaration, but those that services share behind its own."""
    return sorted(
        dataclasses.fields(settings_class), key=lambda field: field.name not in settings_class.__annotations__
    )


def defaults_of(settings_class: type[Any]) -> dict[str, str]:
    """What holds for each setting when nothing is given, as a help text says it."""
    defaults = {field.name: field.default for field in fields_of(settings_class)}
    return {
        entry.key: "must be set"
        if entry.required
        else f"default: {shown(entry.shape, defaults[entry.key], 'open').strip('()') or 'none'}"
        for entry in _known_keys(settings_class)
    }


def _known_keys(settings_class: type[Any]) -> Iterator[_Known]:
    annotations = typing.get_type_hints(settings_class)
    for field in fields_of(settings_class):
        shape = dataclasses.replace(shape_of(field.name, annotations[field.name]), **field.metadata["bounds"])
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        yield _Known(field.name, shape, field.metadata["secrecy"], field.metadata["help"], required)


def _variable(prefix: str, key: str) -> str:
    return f"{prefix}_{key.upper()}"


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _value(entry: _Known, given: _Given) -> object:
    try:
        return parse(entry.shape, given.raw)
    except ValueError as expectation:
        shown = REDACTED if entry.secrecy != "open" else repr(given.raw)[:200]
        raise ConfigurationError(
            "settings.invalid_value",
            f"{entry.key} = {shown} (from {given.origin}) is not acceptable",
            f"expected {expectation}",
            details={"setting": entry.key, "origin": given.origin},
        ) from None


def _unknown(name: str, origin: str, candidates: Sequence[str]) -> ConfigurationError:
    nearest = difflib.get_close_matches(name, candidates, n=1, cutoff=0.0)
    return ConfigurationError(
        "settings.unknown_key",
        f"{name} (from {origin}) is not a setting",
        f"did you mean {nearest[0]}? `check-config` lists all settings",
        details={"setting": name, "origin": origin},
    )


def _is_of_others(name: str, prefix: str, value: str) -> bool:
    """Whether Kubernetes or an image has set it; a Service named `cloud-http` sets CLOUD_HTTP_PORT."""
    rest = name.removeprefix(f"{prefix}_")
    if rest == name:
        return False
    is_port = rest == "PORT" or rest.endswith("_PORT")
    return bool(_SET_BY_OTHERS.fullmatch(rest) or (is_port and _PORT_OF_A_SERVICE.fullmatch(value)))


def _read_environment(
    known: Mapping[str, _Known], prefix: str, environ: Mapping[str, str]
) -> tuple[dict[str, _Given], str | None]:
    keys = {_variable(prefix, key): key for key in known}
    file_keys = {f"{_variable(prefix, key)}_FILE": key for key, entry in known.items() if entry.takes_file}
    config_variable = f"{prefix}_CONFIG"
    given: dict[str, _Given] = {}
    for name in sorted(environ):
        origin = f"environment {name}"
        if name in keys:
            _set_once(given, keys[name], _Given(environ[name], origin))
        elif name in file_keys:
            _set_once(given, file_keys[name], _from_secret_file(environ[name], origin))
        elif name.startswith(f"{prefix}_") and name != config_variable:
            raise _unknown(name, "environment", [*keys, *file_keys, config_variable])
    return given, environ.get(config_variable)


def _read_flags(known: Mapping[str, _Known], flags: Sequence[str]) -> tuple[dict[str, _Given], str | None]:
    keys = {_flag(key): key for key in known}
    file_keys = {f"{_flag(key)}-file": key for key, entry in known.items() if entry.takes_file}
    negated = {f"--no-{_flag(key)[2:]}": key for key, e in known.items() if e.shape.kind == "boolean"}
    given: dict[str, _Given] = {}
    config: str | None = None
    words = list(flags)
    while words:
        word = words.pop(0)
        name, equals, text = word.partition("=")
        origin = f"flag {name}"
        if name in negated and not equals:
            given[negated[name]] = _Given(False, origin)
            continue
        if name not in keys and name not in file_keys and name != "--config":
            raise _unknown(name, "flags", [*keys, *file_keys, *negated, "--config"])
        is_boolean = name in keys and known[keys[name]].shape.kind == "boolean"
        if not equals and is_boolean:
            follows = bool(words) and not words[0].startswith("-")
            text = words.pop(0) if follows else "true"
        elif not equals:
            if not words:
                raise ConfigurationError("settings.invalid_value", f"{name} has no value", f"{name} VALUE")
            text = words.pop(0)
        if name == "--config":
            config = text
        elif name in file_keys:
            _set_once(given, file_keys[name], _from_secret_file(text, origin))
        else:
            given[keys[name]] = _Given(text, origin)
    return given, config


def _read_file(known: Mapping[str, _Known], path: Path) -> dict[str, _Given]:
    origin = f"file {path}"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            "settings.file_unreadable",
            f"{path}: {error}",
            "give a readable TOML file in UTF-8, or none",
            details={"origin": origin},
        ) from error
    file_keys = {f"{key}_file": key for key, entry in known.items() if entry.takes_file}
    given: dict[str, _Given] = {}
    for name, raw in table.items():
        if name in known:
            _set_once(given, name, _Given(raw, origin))
        elif name in file_keys:
            _set_once(given, file_keys[name], _from_secret_file(str(raw), origin))
        else:
            raise _unknown(name, origin, [*known, *file_keys])
    return given


def _set_once(given: dict[str, _Given], key: str, value: _Given) -> None:
    """A secret given both as a value and as a file would be decided by chance: refuse it."""
    if key in given:
        raise ConfigurationError(
            "settings.given_twice",
            f"{key} is given twice (from {given[key].origin} and from {value.origin})",
            "give the value or the file that holds it, not both",
            details={"setting": key},
        )
    given[key] = value


def _from_secret_file(path_text: str, origin: str) -> _Given:
    path = Path(path_text)
    try:
        with path.open("rb") as file:
            content = file.read(_SECRET_FILE_MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigurationError(
            "settings.file_unreadable",
            f"{path} (from {origin}): {error}",
            "give a readable text file that holds the value and nothing else",
            details={"origin": origin},
        ) from error
    return _Given(content.rstrip("\r\n"), f"{origin} ({path})")
