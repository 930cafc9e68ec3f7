"""What an application does by itself: again and again (``every``), once a day (``at``), or all the time (``background``).

Each is an async function of the running application. In a cloud of several nodes one node at a time runs a task, the holder of
a lease of the task's name; with ``on_each_node`` all of them do. On an edge there is one process, so there is no lease.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from common.core.errors import BackhaulError, ConfigurationError
from common.core.events.ids import text_problem
from common.core.schedule import time_of_day_us
from common.runtime.app.context import Running

TaskFunction = Callable[[Running], Awaitable[None]]
_NAME_MAX_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Made by ``every``, ``at`` and ``background``; without ``every_s`` and ``at_us``, a time of day, it runs all the time."""

    name: str
    function: TaskFunction
    every_s: float | None = None
    at_us: int | None = None
    on_each_node: bool = False
    deadline_s: float = math.inf

    def __post_init__(self) -> None:
        problem = text_problem(self.name, _NAME_MAX_BYTES) if self.name else "is empty"
        if problem:
            raise _invalid(self.name, f"has a name that {problem}")
        if not inspect.iscoroutinefunction(self.function):
            raise _invalid(self.name, "has no async function")
        if not self.deadline_s > 0 or not (self.every_s is None or 0 < self.every_s < math.inf):
            raise _invalid(self.name, "has a time that is not above 0")

    @property
    def schedule(self) -> str:
        """When it runs, in words."""
        if self.every_s is not None:
            return f"every {self.every_s:g} s"
        return "daily" if self.at_us is not None else "all the time"


@dataclass(slots=True)
class TaskProgress:
    """A task as this process knows it. ``state`` is waiting (another node runs it), running, failing or done."""

    name: str
    schedule: str
    on_each_node: bool
    state: str = "waiting"
    runs: int = 0
    failures: int = 0
    """In a row."""
    error: BackhaulError | None = None

    def as_json(self) -> dict[str, Any]:
        """For ``/status``."""
        return {
            "name": self.name,
            "schedule": self.schedule,
            "on_each_node": self.on_each_node,
            "state": self.state,
            "runs": self.runs,
            "failures": self.failures,
            "error": f"{self.error.message} [{self.error.code}]" if self.error else "",
        }


def every(
    seconds: float, function: TaskFunction, *, name: str = "", on_each_node: bool = False, deadline_s: float = 60.0
) -> Task:
    """Run ``function`` when the service starts, and then every so many seconds, from begin to begin; never twice at once.

    One that raises, or takes longer than ``deadline_s``, is tried again with backoff (0.5 to 30 s).

    Raises:
        ConfigurationError: ``application.invalid_task``.
    """
    return Task(
        name=name or _name_of(function),
        function=function,
        every_s=seconds,
        on_each_node=on_each_node,
        deadline_s=deadline_s,
    )


def at(time_of_day: str, function: TaskFunction, *, name: str = "", deadline_s: float = 3_600.0) -> Task:
    """Run ``function`` once a day at ``HH:MM`` or ``HH:MM:SS`` UTC, on one node.

    The journal keeps the last time that was done: what was due while nothing ran is made up for once, as soon as something does,
    and a run that was cut off is repeated. So it is at least once a day.

    Raises:
        ConfigurationError: ``application.invalid_task``.
    """
    name = name or _name_of(function)
    at_us = time_of_day_us(time_of_day)
    if at_us is None:
        raise _invalid(name, f"is to run at {time_of_day!r}, which is no time of day")
    return Task(name=name, function=function, at_us=at_us, deadline_s=deadline_s)


def background(function: TaskFunction, *, name: str = "", on_each_node: bool = False) -> Task:
    """Run ``function`` while the service does; one that raises begins again with backoff (0.5 to 30 s), one that returns is done.

    Raises:
        ConfigurationError: ``application.invalid_task``.
    """
    return Task(name=name or _name_of(function), function=function, on_each_node=on_each_node)


def _name_of(function: object) -> str:
    return str(getattr(function, "__name__", "")) or type(function).__name__


def _invalid(name: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        "application.invalid_task",
        f"the task {name!r} {what}",
        "write every(60, function), at('02:30', function) or background(function) with an async function of one argument",
    )
