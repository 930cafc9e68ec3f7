"""What a running service reads again when it is asked to (SIGHUP): each part by its name, with the function that does it."""

from __future__ import annotations

from collections.abc import Callable

from common.core.errors import BackhaulError
from common.runtime.logs.setup import get_logger

log = get_logger()

Reload = Callable[[], str]
"""Reads a part again and takes it into use; returns what holds now, in a few words. Raises BackhaulError and keeps the old."""


class Reloads:
    """The parts of one service. A part that cannot be read keeps what it has; the others are read all the same."""

    def __init__(self) -> None:
        self._parts: dict[str, Reload] = {}

    def add(self, name: str, reload: Reload) -> None:
        """`reload` must not block for long: it runs in the event loop."""
        assert name not in self._parts, name
        self._parts[name] = reload

    def run(self) -> None:
        """Read every part again; one line for what was taken, one for each part that was not."""
        taken: dict[str, str] = {}
        for name, reload in self._parts.items():
            try:
                taken[name] = reload()
            except BackhaulError as error:
                log.error("config.reload_failed", part=name, code=error.code, reason=error.message, hint=error.hint)
        log.info("config.reloaded", parts=taken)
