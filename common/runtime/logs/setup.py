"""Structured logs: one JSON object a line, or coloured text on a terminal.

Every line has `timestamp` (UTC, microseconds), `level`, `event`, `service`, `version`, `instance`, the
context bound with `structlog.contextvars`, and the call's own fields. Event names are literals, dotted lower
case, and documented in `docs/logs.md`. A call that may repeat fast passes `repeat_key="…"`: then that event
and key are written once in ten seconds, with a count. Other libraries' logs come in as `library.logged`.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Protocol, cast

import orjson
import structlog
from structlog import BoundLoggerBase
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from common.runtime.logs.fields import cleaned, described
from common.runtime.logs.rate_limit import RepeatLimiter

LogFormat = Literal["auto", "json", "pretty"]

REPEAT_WINDOW_S: Final = 10.0
AUDIT_WINDOW_S: Final = 60.0
# After these a process says nothing more: counts still held back are logged before them.
LAST_LINES: Final = frozenset(
    f"service.{end}" for end in ("stopped", "drain_timed_out", "failed", "refused", "killed", "stuck")
)
LEVELS: Final = MappingProxyType({"debug": 10, "info": 20, "warning": 30, "error": 40})


class RawStream(Protocol):
    """Where lines go: an unbuffered binary file. `write` may take less than all, or nothing (None)."""

    def write(self, data: bytes, /) -> int | None: ...


class _Logger(BoundLoggerBase):
    """The class of every logger. Its methods are those of one level's class, where what is below the level does nothing.

    structlog keeps a module's logger after its first use, with its class: so the level is changed on the class.
    """

    level: ClassVar[str] = "info"

    @classmethod
    def take(cls, level: str) -> None:
        source = structlog.make_filtering_bound_logger(LEVELS[level])
        for name, method in vars(source).items():
            if not name.startswith("__"):
                setattr(cls, name, method)
        cls.level = level


def log_level() -> str:
    """The least severe level that is written now."""
    return _Logger.level


def set_log_level(level: str, *, by: str) -> str:
    """Write from `level` on, in this process; returns the level before. `by` says in the log what asked for it."""
    before = _Logger.level
    is_chattier = LEVELS[level] < LEVELS[before]
    if is_chattier:
        _Logger.take(level)
    if level != before:
        get_logger().warning("log.level_changed", to=level, before=before, by=by)
    if not is_chattier:
        _Logger.take(level)
    return before


def get_logger() -> FilteringBoundLogger:
    """The logger of a module; one shared configuration stands behind it, also when that comes later."""
    return cast(FilteringBoundLogger, structlog.get_logger())


def configure_logging(
    *,
    service: str,
    version: str,
    instance: str,
    now_us: Callable[[], int],
    level: str = "info",
    log_format: LogFormat = "auto",
    stream: RawStream | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard output), once, at start.

    `now_us` gives UTC microseconds. A `service` or `instance` bound in the context wins over the ones given
    here: by it a simulation distinguishes its nodes.
    """
    _Logger.take(level)
    is_pretty = log_format == "pretty" or (log_format == "auto" and stream is None and sys.stdout.isatty())
    # Not sys.stdout: its buffer would keep a line that a closed pipe refused and fail again at exit.
    lines = _Lines(stream if stream is not None else open(1, "wb", buffering=0, closefd=False))  # noqa: SIM115
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _RepeatFilter(now_us),
            _Finish(service, version, instance, now_us, is_pretty=is_pretty),
            _render_pretty() if is_pretty else _render_json,
        ],
        wrapper_class=_Logger,
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    logging.captureWarnings(capture=True)
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()], force=True)


class _Lines:
    """Writes whole lines. A reader that went away costs lines, never the service."""

    def __init__(self, stream: RawStream) -> None:
        self._stream = stream
        self._is_torn = False  # the last line was only partly written

    def write(self, line: bytes) -> None:
        data = b"\n" + line + b"\n" if self._is_torn else line + b"\n"
        written = 0
        try:
            while written < len(data):
                count = self._stream.write(data[written:])
                if not count:
                    break
                written += count
        except (OSError, ValueError):  # EPIPE and its like; ValueError: the file is closed
            pass
        self._is_torn = 0 < written < len(data) or (self._is_torn and written == 0)

    debug = info = warning = error = critical = write


class _RepeatFilter:
    """Drops a repeat, or adds how many were dropped."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._limiter = RepeatLimiter(window_s=REPEAT_WINDOW_S)
        self._audit_limiter = RepeatLimiter(window_s=AUDIT_WINDOW_S)
        self._log = get_logger()

    def __call__(self, _logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
        now_s = self._now_us() / 1e6
        key = fields.pop("repeat_key", None)
        limiter = self._audit_limiter if fields["event"].startswith("audit.") else self._limiter
        suppressed = limiter.admit(fields["event"], str(key), now_s) if key is not None else 0
        due_s = math.inf if fields["event"] in LAST_LINES else now_s
        for over in (*self._limiter.due(due_s), *self._audit_limiter.due(due_s)):
            self._log.info("repeat.suppressed", repeated=over.event, key=over.key, count=over.count)
        if suppressed is None:
            raise structlog.DropEvent
        if suppressed:
            fields["repeats_suppressed"] = suppressed
        return fields


class _Finish:
    """Puts the fixed fields first, cleans the others, and turns `exc_info` into data."""

    def __init__(
        self, service: str, version: str, instance: str, now_us: Callable[[], int], *, is_pretty: bool
    ) -> None:
        self._service = service
        self._version = version
        self._instance = instance
        self._now_us = now_us
        self._is_pretty = is_pretty
        self._second = (-1, "")

    def __call__(self, _logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
        error = _exception_in(fields.pop("exc_info", None))
        line: EventDict = {"timestamp": self._timestamp(), "level": method, "event": fields.pop("event")}
        service = fields.pop("service", self._service)
        instance = fields.pop("instance", self._instance)
        if not self._is_pretty:
            line.update(service=service, version=self._version, instance=instance)
        for key, value in fields.items():
            line[key] = cleaned(key, value)
        if error is not None:
            line["exceptions"] = described(error)
        if self._is_pretty:
            line = {key: _printable(value) for key, value in line.items()}
        return line

    def _timestamp(self) -> str:
        seconds, fraction = divmod(self._now_us(), 1_000_000)
        if seconds != self._second[0]:
            self._second = (seconds, datetime.fromtimestamp(seconds, UTC).isoformat()[:19])
        return f"{self._second[1]}.{fraction:06d}Z"


def _exception_in(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        found = cast(Sequence[object], exc_info)[1]
        return found if isinstance(found, BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _printable(value: object) -> object:
    """Control characters in a value must not reach a terminal."""
    if isinstance(value, str) and not value.isprintable():
        return value.encode("unicode_escape").decode()
    return value


def _render_json(_logger: WrappedLogger, _method: str, line: EventDict) -> bytes:
    try:
        return orjson.dumps(line)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits: slower, but every line is written
        return json.dumps(line, default=str, ensure_ascii=False).encode(errors="replace")


def _render_pretty() -> Callable[[WrappedLogger, str, EventDict], bytes]:
    console = structlog.dev.ConsoleRenderer(sort_keys=False, exception_formatter=_no_traceback)

    def render(logger: WrappedLogger, method: str, line: EventDict) -> bytes:
        exceptions = line.pop("exceptions", ())
        text = [console(logger, method, line)]
        for entry in exceptions:
            text.append(f"    {entry.get('relation', 'raised')}: {entry['type']}: {entry['message']}")
            text += [f"        {frame}" for frame in entry["frames"]]
        return "\n".join(text).encode(errors="backslashreplace")

    return render


def _no_traceback(_stream: object, _exc_info: object) -> None:
    """Exceptions are data by now (`exceptions`), printed by `_render_pretty`."""


class _LibraryHandler(logging.Handler):
    """Hands the records of other libraries to structlog."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log = get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's broken format string is not our failure
            message = str(record.msg)
        exc: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        if record.levelno >= logging.ERROR:
            self._log.error("library.logged", library=record.name, message=message, repeat_key=record.name, **exc)
        else:
            self._log.warning("library.logged", library=record.name, message=message, repeat_key=record.name, **exc)
