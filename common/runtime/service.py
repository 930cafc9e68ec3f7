"""The life of a service process: signals, draining, exit status.

SIGHUP reloads. SIGTERM or SIGINT asks `main` to drain; it has `drain_s`, then it is cancelled. A second signal ends the
process at once: what was acknowledged is on disk, so that costs nothing but other people's reconnects.
Exit status 0: drained; 2: the operator must change something first; 1: anything else. Each ends in one line.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.runtime.logs.fields import leaf_errors
from common.runtime.logs.setup import get_logger

log = get_logger()

EXIT_CLEAN: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 2

_AFTER_CANCEL_S: Final = 1.0


def run_service(
    main: Callable[[trio.Event], Awaitable[None]],
    *,
    drain_s: float,
    reload: Callable[[], object] = lambda: None,
    end_process: Callable[[int], object] = os._exit,
) -> int:
    """Run `main` until it returns or fails; returns the exit status. Logging must be configured.

    `main` gets the event that is set when it is to drain. `reload`
    is called at SIGHUP and must not raise. `end_process` is called when draining is cut short by
    a second signal, or when `main` does not end within a second after it was cancelled.
    """
    try:
        is_drained = trio.run(_run_until_stopped, main, drain_s, reload, end_process)
    except BaseException as error:  # noqa: BLE001 - the one place where everything ends in a line and a status
        return _log_end(error)
    if not is_drained:
        log.warning("service.drain_timed_out", drain_s=drain_s)
        return EXIT_FAILED
    log.info("service.stopped")
    return EXIT_CLEAN


async def _run_until_stopped(
    main: Callable[[trio.Event], Awaitable[None]],
    drain_s: float,
    reload: Callable[[], object],
    end_process: Callable[[int], object],
) -> bool:
    stop = trio.Event()
    running = trio.CancelScope()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as watching:

            async def watch_signals() -> None:
                async for number in signals:
                    if number == signal.SIGHUP:
                        reload()
                        continue
                    if stop.is_set():
                        log.warning("service.killed", signal=signal.Signals(number).name)
                        end_process(EXIT_FAILED)
                    log.info("service.stopping", signal=signal.Signals(number).name, drain_s=drain_s)
                    stop.set()

            async def watch_drain() -> None:
                await stop.wait()
                await trio.sleep(drain_s)
                running.cancel()
                await trio.sleep(_AFTER_CANCEL_S)
                log.error("service.stuck", waited_s=drain_s + _AFTER_CANCEL_S)
                end_process(EXIT_FAILED)

            watching.start_soon(watch_signals)
            watching.start_soon(watch_drain)
            with running:
                await main(stop)
            watching.cancel_scope.cancel()
    return not running.cancelled_caught


def _log_end(error: BaseException) -> int:
    """One line for the reason of the end, and its exit status."""
    leaves = leaf_errors(error)
    if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):  # before the signal receiver was there
        log.warning("service.killed", signal="SIGINT")
        return EXIT_FAILED
    for leaf in leaves:
        if isinstance(leaf, ConfigurationError):
            log.error("service.refused", code=leaf.code, reason=leaf.message, hint=leaf.hint, details=leaf.details)
            return EXIT_CONFIGURATION
    if len(leaves) == 1 and isinstance(leaves[0], BackhaulError):
        found = leaves[0]
        # An error with a code says what to do; a traceback is for our own faults.
        trace = error if found.kind is ErrorKind.INTERNAL else None
        log.error("service.failed", code=found.code, reason=found.message, hint=found.hint, exc_info=trace)
    else:
        log.error("service.failed", code="internal", reason=repr(leaves[0])[:500], hint="", exc_info=error)
    return EXIT_FAILED
