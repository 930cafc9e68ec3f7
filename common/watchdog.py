"""Names user code that holds the event loop: a plain function cannot be interrupted, but it can be named.

Code that calls an application's function on the loop says so (``over``); a thread of the watchdog looks a few times a
second whether the same call still runs, and after about ``limit_s`` names the function and the line it is at. One line a
call: what hangs is named while it hangs, not afterwards.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

_log = structlog.get_logger()

LIMIT_S: Final = 1.0
_LOOKS: Final = 4
_FRAMES: Final = 3


class Watchdog:
    """What runs now on the loop. Made without a thread; ``watching`` starts one."""

    def __init__(self) -> None:
        self._running: tuple[str] | None = None

    @contextmanager
    def over(self, place: str) -> Iterator[None]:
        """The block calls the user's code that stands at ``place``."""
        self._running = (place,)
        try:
            yield
        finally:
            self._running = None

    def begin(self, place: str) -> None:
        """As ``over``, for paths where a context manager is felt; ``end`` must follow."""
        self._running = (place,)

    def end(self) -> None:
        """The user's code has returned."""
        self._running = None

    @contextmanager
    def watching(self, limit_s: float = LIMIT_S) -> Iterator[None]:
        """Watch this thread while the block runs."""
        over = threading.Event()
        thread = threading.Thread(
            target=self._look, args=(threading.get_ident(), limit_s, over), name="watchdog", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self, watched: int, limit_s: float, over: threading.Event) -> None:
        seen, read_counts = None, 0
        while not over.wait(limit_s / _LOOKS):
            running = self._running
            # Identity: each call is a tuple of its own, also of the same function.
            read_counts = read_counts + 1 if running is not None and running is seen else 0
            seen = running
            if running is not None and read_counts == _LOOKS:
                frame = sys._current_frames().get(watched)
                at = [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_stack(frame)[-_FRAMES:]]
                _log.warning("code.slow", place=running[0], held_s=limit_s, at=at)
