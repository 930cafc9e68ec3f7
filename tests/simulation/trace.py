"""What happened in a run, in order: every message, commit, fault and log line, and one digest over all of it.

The digest tells whether two runs were the same; the last lines tell how a failure came about. This is also the one
place where trio is made to schedule by a seed, through names it keeps to itself: a test holds that this works.
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import structlog
import trio
from structlog.typing import WrappedLogger
from trio._core import _run as trio_run

from common.runtime.logs.fields import leaf_errors

_KEPT_LINES = 4_000
_OURS = frozenset({"common", "cloud_service", "edge_service"})
_LazyLogger: type = type(structlog.get_logger())
_FAILURES = frozenset({"call.failed", "service.failed"})
# What one of our own ends must never say of the other, whatever became of lines and disks.
_NEVER_TOLD = frozenset(
    {"link.protocol", "link.malformed", "push.history_mismatch", "push.out_of_step", "push.blocked", "internal"}
)


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Ready tasks run in an order that only ``seed`` decides while the block runs. Call it outside ``trio.run``."""
    scheduler: Any = trio_run
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before


class Trace:
    """The story of one run."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.errors: list[str] = []
        self.superseded: set[str] = set()
        """Services that have asked for an operator because another log has their place."""
        self._digest = blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """One number for everything that happened so far."""
        return self._digest.hexdigest()

    def add(self, who: str, what: str, content: bytes = b"") -> None:
        """Something happened now; ``content`` counts for the digest only."""
        line = f"{trio.current_time():9.4f} {who:12} {what}"
        self.lines.append(line)
        self._digest.update(line.encode())
        self._digest.update(content)

    @contextmanager
    def captured_logs(self) -> Iterator[None]:
        """The services' log lines go here, and nowhere else, while the block runs. They are not in the digest.

        Loggers that keep to an earlier configuration, of a service that ran in this process, forget it: the operator of a
        run acts on a line.
        """
        before = structlog.get_config()
        _forget_cached_loggers()
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, self._log],
            wrapper_class=structlog.make_filtering_bound_logger(10),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _log(self, _logger: WrappedLogger, method: str, fields: MutableMapping[str, Any]) -> str:
        who, event = str(fields.pop("service", "?")), str(fields.pop("event", ""))
        failure = fields.pop("exc_info", None)
        if isinstance(failure, BaseException):
            failure = ", ".join(repr(error) + _where(error) for error in leaf_errors(failure))
        answer = " ".join(f"{key}={value}" for key, value in fields.items() if key != "repeat_key")
        self.lines.append(f"{trio.current_time():9.4f} {who:12} [{method}] {event} {answer}")
        if event == "link.needs_operator" and fields.get("code") == "push.superseded":
            self.superseded.add(who)
        if event in _FAILURES or fields.get("code") in _NEVER_TOLD:
            self.errors.append(f"{who} {event} {fields.get('code', '')} {failure or fields.get('reason', '')}")
        raise structlog.DropEvent


def _forget_cached_loggers() -> None:
    """Undo ``cache_logger_on_first_use``, which structlog keeps as an attribute of each module's lazy logger."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS:
            for value in vars(module).values():
                if isinstance(value, _LazyLogger):
                    vars(value).pop("bind", None)


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return "".join(f" at {frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in last)
