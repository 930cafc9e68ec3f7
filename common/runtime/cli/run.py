"""`run`: the service itself, with its logs, until it is asked to stop.

Loaded by that command alone: everything heavy is imported from here on. What goes wrong is logged
(`service.refused`, `service.failed`), also wrong settings, so that collected logs say why nothing runs.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import platform
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import trio

from common import VERSION
from common.core.errors import ConfigurationError
from common.runtime.environment import Environment, real_environment, tls_files, utc_now_us
from common.runtime.logs.setup import configure_logging, get_logger, set_log_level
from common.runtime.reload import Reloads
from common.runtime.service import EXIT_CONFIGURATION, run_service
from common.runtime.settings.loading import Loaded, describe
from common.runtime.settings.service import ServiceSettings
from common.transport.grpc.tls import TlsFiles, client_context

S = TypeVar("S", bound=ServiceSettings)

Serve = Callable[[S, Environment, trio.Event], Awaitable[None]]

_DEFAULT_ORIGIN: Final = "default"

# New objects that may belong to a cycle, before Python looks for those that nobody holds any more.
_COLLECT_AFTER = 10_000

log = get_logger()


def run_from(service: str, load: Callable[[], Loaded[S]], instance: Callable[[S], str], serve: Serve[S]) -> int:
    """Load the settings, log where they came from, and serve; returns the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the service takes it: there is nothing to reload yet
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
    log.info("service.starting", python=platform.python_version(), system=_system(), process=os.getpid())
    chosen = {line.key: f"{line.value} ({line.origin})" for line in describe(loaded) if line.origin != _DEFAULT_ORIGIN}
    log.info("config.loaded", settings=chosen)

    if loaded.ignored:
        log.debug("config.variables_ignored", names=list(loaded.ignored))
    reloads = Reloads()
    reloads.add("settings", partial(_reload_settings, load, loaded.settings))
    if (tls := tls_files(settings)) is not None:
        reloads.add("certificates", partial(_reload_certificates, tls))

    async def main(stop: trio.Event) -> None:
        async with real_environment(reloads) as environment:
            # What is loaded now stays: a collection that looked through it all would hold everybody up for 20 ms.
            gc.collect()
            gc.freeze()
            gc.enable()
            # What a thousand consumers have under way is made and gone in its time; looking through it again and again took a
            # tenth of what they cost, and a tenth of a second at once.
            gc.set_threshold(_COLLECT_AFTER)
            await serve(settings, environment, stop)

    return run_service(main, drain_s=settings.drain_s, reload=reloads.run)


def _system() -> str:
    """Kernel, its release, machine and C library: as `platform.platform`, which runs a program to find out more."""
    found = os.uname()
    return "-".join((found.sysname, found.release, found.machine, *filter(None, platform.libc_ver())))


def _reload_settings(load: Callable[[], Loaded[S]], running: S) -> str:
    """Takes the log level; names what else is different now and holds only from the next start on."""
    found = load().settings
    set_log_level(found.log_level, by="reload")
    changed = [
        field.name
        for field in dataclasses.fields(found)
        if field.name != "log_level" and getattr(found, field.name) != getattr(running, field.name)
    ]
    return f"log_level = {found.log_level}" + (f"; needs a restart: {', '.join(changed)}" if changed else "")


def _reload_certificates(files: TlsFiles) -> str:
    """Each dial and accept reads the files when they have changed: this says whether they can be used."""
    client_context(files)
    return f"{files.certificate} is used from the next dial and accept on"
