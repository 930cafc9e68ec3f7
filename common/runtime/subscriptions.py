"""The streams of other services that a service follows: one connection each, for as long as the service runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

import structlog
import trio

from common.core.addresses import PeerAddress
from common.core.errors import BackhaulError, ConfigurationError
from common.core.filters.past import Past
from common.core.flow.backoff import Backoff
from common.core.subscription.messages import Begin
from common.journal.kept_lease import lease_length_s
from common.journal.stores.journal import Journal
from common.journal.stores.subscriptions import InboxStats
from common.runtime.app.application import Follow
from common.runtime.environment import Environment, peer_dialler
from common.runtime.metrics import MetricsRegistry, Values
from common.runtime.settings.streams import Followed, StreamSettings
from common.transport.subscription.link import keep_subscription
from common.transport.subscription.sinks import InboxSink, JournalSink, Sink
from common.transport.subscription.state import SubscriptionSettings, SubscriptionState

_log = structlog.get_logger()

NO_SINKS: Final[Mapping[str, Sink]] = MappingProxyType({})


def all_followed(settings: StreamSettings, follows: Sequence[Follow], default: PeerAddress | None) -> list[Followed]:
    """What the settings and an application follow; ``default`` is where a stream is that names no address.

    Raises:
        ConfigurationError: ``application.name_taken`` when both have one name, ``application.no_source``, and what the
            settings refuse.
    """
    found = settings.followed(default)
    for follow in follows:
        name, address = follow.subscription, follow.address(default)
        if any(one.name == name for one in found):
            raise ConfigurationError(
                "application.name_taken",
                f"the subscription {name} is in the settings and in the application",
                "take it out of `subscriptions`, or give the application's another name",
                details={"name": name},
            )
        if address is None:
            raise ConfigurationError(
                "application.no_source",
                f"the application follows {name}, and does not say where",
                "give Follow a source=host:port: only an edge has a cloud to follow",
            )
        settings.check_reachable(address)
        found.append(Followed(name, follow.stream, address))
    return found


class Subscriptions:
    """All subscriptions of one service. ``run`` is started by its owner."""

    def __init__(
        self,
        journal: Journal,
        settings: StreamSettings,
        environment: Environment,
        *,
        consumer_id: str,
        owner: str,
        default: PeerAddress | None,
        follows: Sequence[Follow] = (),
        sinks: Mapping[str, Sink] = NO_SINKS,
        parked_max: int = 10_000,
    ) -> None:
        """``follows`` are what an application adds to those of the settings, ``sinks`` where they take effect.

        Raises as ``all_followed``.
        """
        self._journal = journal
        self._settings = settings
        self._environment = environment
        self._consumer_id = consumer_id
        self._owner = owner
        self._parked_max = parked_max
        self._sinks = sinks
        self._followed = all_followed(settings, follows, default)
        self._filters = settings.first_filters()
        self._pasts = settings.pasts() | {follow.subscription: follow.past for follow in follows}
        self._filters.update({follow.subscription: follow.first_filter(consumer_id) for follow in follows})
        self._inboxes: dict[str, InboxStats] = {}
        self.states = {one.name: SubscriptionState(one.name, one.stream_id) for one in self._followed}
        for name, state in self.states.items():
            state.takes_restarts = self._sink(name).takes_restarts

    def filter_changed(self, name: str) -> None:
        """Another filter was stored: the open stream asks for it at once."""
        if name in self.states:
            self.states[name].filter_changed()

    async def run(self) -> None:
        """Follow all of them until cancelled, or until they were asked to leave."""
        async with trio.open_nursery() as nursery:
            for one in self._followed:
                nursery.start_soon(self._follow, one)
            if self._followed:
                nursery.start_soon(self._summarise)

    async def _follow(self, one: Followed) -> None:
        settings, environment = self._settings, self._environment
        await keep_subscription(
            peer_dialler(settings, environment, one.address),
            self._journal,
            self._sink(one.name),
            self._settings_of(one),
            self.states[one.name],
            owner=self._owner,
            backoff=Backoff(settings.backoff_min_s, settings.backoff_max_s),
            chance=environment.chance,
            now_us=environment.now_us,
        )

    def _sink(self, name: str) -> Sink:
        if name in self._sinks:
            return self._sinks[name]
        if name not in self._settings.into_journal:
            return InboxSink()
        return JournalSink(name, event_max_bytes=self._settings.event_max_bytes, parked_max=self._parked_max)

    def _settings_of(self, one: Followed) -> SubscriptionSettings:
        settings = self._settings
        return SubscriptionSettings(
            one.name,
            one.stream_id,
            self._consumer_id,
            settings.stream_limits,
            start=settings.start(),
            on_trimmed=Begin(settings.on_trimmed),
            on_diverged=settings.on_diverged,
            snapshots_if_behind=settings.snapshots_if_behind,
            past=self._pasts.get(one.name, Past.SNAPSHOT),
            criteria=self._filters.get(one.name, ""),
            inbox_max_bytes=settings.inbox_max_bytes,
            heartbeat_s=settings.heartbeat_s,
            progress_timeout_s=settings.progress_timeout_s,
            lease_s=lease_length_s(self._journal.members, settings.lease_s),
        )

    async def refresh(self) -> None:
        """Look at the inboxes."""
        for name in self.states:
            self._inboxes[name] = await self._journal.subscriptions.inbox_stats(name)

    def register(self, metrics: MetricsRegistry) -> None:
        """Offer the numbers to Prometheus; those of inboxes are as of the last summary or look at the status."""
        names, states = list(self.states), self.states
        if not names:
            return

        def of_each(read: Callable[[str], float]) -> Callable[[], Values]:
            return lambda: {name: read(name) for name in names}

        for name, help_text, read in (
            (
                "subscription_connected",
                "1 while the source is connected.",
                lambda one: states[one].state == "connected",
            ),
            ("subscription_position", "Place in the source's log.", lambda one: states[one].position),
            ("subscription_source_head", "End of the source's log.", lambda one: states[one].head_position),
            ("subscription_lag_seconds", "Age of what was received last.", lambda one: self._lag_s(states[one])),
            ("subscription_awaiting_entities", "Entities that wait for a replay.", lambda one: states[one].awaiting),
            ("inbox_rows", "Events that wait for a local program.", lambda one: self._inbox(one).rows),
            ("inbox_bytes", "Bytes that wait for a local program.", lambda one: self._inbox(one).bytes),
        ):
            metrics.gauges(name, help_text, "subscription", of_each(read))
        for name, help_text, read in (
            ("subscription_received_events_total", "Events received.", lambda one: states[one].received),
            (
                "subscription_deleted_events_total",
                "Events the source had deleted before they came.",
                lambda one: states[one].deleted,
            ),
            ("subscription_connects_total", "Links made.", lambda one: states[one].connects),
            ("subscription_ends_total", "Links that ended and tries that failed.", lambda one: states[one].ends.total),
        ):
            metrics.counters(name, help_text, "subscription", of_each(read))

    def _inbox(self, name: str) -> InboxStats:
        return self._inboxes.get(name, InboxStats(0, 0, 0, 0, 0))

    def status(self) -> list[dict[str, Any]]:
        """How they are, for ``/status``; positions are those of the source's journal."""
        return [
            {
                "name": state.name,
                "stream": state.stream_id,
                "state": state.state,
                "position": state.position,
                "source_head": state.head_position,
                "lag_s": self._lag_s(state),
                "received": state.received,
                "repeated": state.repeated,
                "deleted": state.deleted,
                "awaiting_replay": state.awaiting,
                "filter": {"applied": state.applied_version, "requested": state.requested_version},
                "backfill": state.backfill_position if state.backfill_position >= 0 else None,
                "inbox_rows": self._inbox(state.name).rows,
                "inbox_bytes": self._inbox(state.name).bytes,
                "connects": state.connects,
                "last_code": state.last_code,
                "last_reason": state.last_reason,
                "last_hint": state.last_hint,
            }
            for state in self.states.values()
        ]

    def _lag_s(self, state: SubscriptionState) -> float:
        if state.position >= state.head_position or not state.timestamp_us:
            return 0.0
        return round(max(0.0, (self._environment.now_us() - state.timestamp_us) / 1e6), 3)

    async def _summarise(self) -> None:
        while True:
            await trio.sleep(self._settings.summary_interval_s)
            with suppress(BackhaulError):  # the journal's watch reports it
                await self.refresh()
            for state in self.states.values():
                _log.info(
                    "subscription.summary",
                    subscription=state.name,
                    state=state.state,
                    position=state.position,
                    source_head=state.head_position,
                    lag_s=self._lag_s(state),
                    received=state.received,
                    awaiting=state.awaiting,
                    inbox_rows=self._inbox(state.name).rows,
                    applied=state.applied_version,
                    requested=state.requested_version,
                    connects=state.connects,
                    last_code=state.last_code,
                )
