"""`run`: the service itself, with its logs, until it is asked to stop.

Loaded by that command alone: everything heavy is imported from here on. What goes wrong is told in the log
(`service.refused`, `service.failed`), also wrong settings, so that whoever collects logs sees why nothing runs.
"""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from common import VERSION
from common.core.errors import ConfigurationError
from common.runtime.environment import Environment, real_environment, utc_now_us
from common.runtime.logs.setup import configure_logging, get_logger
from common.runtime.service import EXIT_CONFIGURATION, run_service
from common.runtime.settings.loading import Loaded, describe
from common.runtime.settings.service import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)

Serve = Callable[[S, Environment, trio.Event], Awaitable[None]]

_DEFAULT_ORIGIN: Final = "default"

# New objects that may belong to a cycle, before Python looks for those that nobody holds any more.
_COLLECT_AFTER = 10_000

log = get_logger()


def run_from(service: str, load: Callable[[], Loaded[S]], instance: Callable[[S], str], serve: Serve[S]) -> int:
    """Load the settings, log where they came from, and serve; returns the exit status."""
    configure_logging(service=service, version=VERSION, instance="", now_us=utc_now_us)
    try:
        loaded = load()
    except ConfigurationError as error:
        log.error("service.refused", code=error.code, reason=error.message, hint=error.hint, details=error.details)
        return EXIT_CONFIGURATION
    settings = loaded.settings
    configure_logging(
        service=service,
        version=VERSION,
        instance=instance(settings),
        now_us=utc_now_us,
        level=settings.log_level,
        log_format=settings.log_format,
    )
    log.info("service.starting", python=platform.python_version(), system=platform.platform(), process=os.getpid())
    told = {line.key: f"{line.value} ({line.origin})" for line in describe(loaded) if line.origin != _DEFAULT_ORIGIN}
    log.info("config.loaded", settings=told)

    async def main(stop: trio.Event) -> None:
        async with real_environment() as environment:
            # What is loaded now stays: a collection that looked through it all would hold everybody up for 20 ms.
            gc.collect()
            gc.freeze()
            # What a thousand consumers have under way is made and gone in its time; looking through it again and again took a
            # tenth of what they cost, and a tenth of a second at once.
            gc.set_threshold(_COLLECT_AFTER)
            await serve(settings, environment, stop)

    return run_service(main, drain_s=settings.drain_s)
