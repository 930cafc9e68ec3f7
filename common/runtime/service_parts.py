"""What both composition roots make of their settings in the same way: the door for events, limits, readiness, ports.

What differs between an edge and a cloud node stands in their own ``service`` modules; so does who owns whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from common.core.policy.doors import Door
from common.core.push.messages import PushLimits
from common.journal.feeds import RangeFeeds
from common.journal.group_commit import GroupCommit
from common.projection.handlers import Handler
from common.projection.progress import ProjectionSettings
from common.projection.projection import run_projections
from common.projection.range_holder import RangeHolder
from common.runtime.app.application import Application
from common.runtime.app.running import RunningApplication
from common.runtime.environment import Environment
from common.runtime.http.health import Readiness
from common.runtime.intake import Intake
from common.runtime.journal_watch import JournalWatch
from common.runtime.settings.service import ServiceSettings
from common.transport.subscription.state import SubscriptionState

# When those that a stopping service sent on are to dial again.
REDIAL_S: Final = 1.0
# What is in flight on a line that moves is acknowledged within it; on one that stands still nothing is gained by waiting.
LEAVE_S: Final = 2.0
_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::", ""})


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a started service listens, and its doors for code in the same process."""

    grpc: int
    http: int
    running: RunningApplication
    subscriptions: Mapping[str, SubscriptionState]

    @property
    def intake(self) -> Intake:
        """The door for events."""
        return self.running.intake


def new_intake(
    settings: ServiceSettings, commit: GroupCommit, application: Application, *, entity_prefix: str = ""
) -> Intake:
    """The door for events of local programs."""
    return Intake(
        commit,
        entity_prefix=entity_prefix,
        event_max_bytes=settings.event_max_bytes,
        request_max_events=settings.batch_max_events,
        request_max_bytes=settings.request_max_bytes,
        admitted=application.admitted,
    )


def new_door(settings: ServiceSettings, http_host: str) -> Door:
    """What the HTTP port lets in. The address it listens on, unless it is every one, is a name it is asked under too."""
    return Door.under([*settings.http_hosts, *({http_host} - _EVERY_ADDRESS)])


def push_limits(settings: ServiceSettings) -> PushLimits:
    """What either end of a push stream offers; the smaller of both holds."""
    return PushLimits(
        window_events=settings.window_max_batches * settings.batch_max_events,
        window_bytes=settings.window_max_bytes,
        batch_bytes=settings.batch_max_bytes,
        event_bytes=settings.event_max_bytes,
    )


def new_readiness(watch: JournalWatch, stop: trio.Event) -> Readiness:
    """Ready while the journal can be read and written and nobody has asked the service to stop."""
    readiness = Readiness()
    readiness.add("journal", watch.unreadable)
    readiness.add("appends", watch.unwritable)
    readiness.add("draining", lambda: "the service is stopping" if stop.is_set() else None)
    return readiness


async def project(
    running: RunningApplication,
    feeds: RangeFeeds,
    handlers: Sequence[Handler],
    environment: Environment,
    *,
    owner: str,
    settings: ProjectionSettings,
    holder: RangeHolder | None = None,
) -> None:
    """Run the service's projections until cancelled."""
    await run_projections(
        running.journal,
        feeds,
        handlers,
        owner=owner,
        holder=holder,
        settings=settings,
        now_us=environment.now_us,
        random=environment.chance,
        on_commit=environment.on_projected,
        decode=running.decode,
        plain_calls=environment.plain_calls,
        watchdog=running.watchdog,
        shown=running.progress,
    )
