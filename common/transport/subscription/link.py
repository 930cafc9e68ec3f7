"""A subscription for as long as a service runs: hold its lease, keep its link, begin anew where that was decided.

One node of a service at a time follows a subscription: the one that holds the lease dials, the others stand by.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.flow.backoff import Backoff
from common.core.flow.messages import Drain
from common.core.subscription.messages import SUBSCRIBE_PATH
from common.journal.stores.journal import Journal
from common.journal.stores.leases import Lease
from common.journal.stores.subscriptions import lease_name
from common.transport.link.call_status import first_refusal
from common.transport.link.keep import Dial, keep_link
from common.transport.stream import DialledStream
from common.transport.subscription.consumer import converse
from common.transport.subscription.sinks import Sink
from common.transport.subscription.state import SubscriptionSettings, SubscriptionState

_log = structlog.get_logger()

_ACQUIRE_DEADLINE_S = 3.0
_RELEASE_DEADLINE_S = 2.0
# What the source says when its history is not the one this consumer has followed.
_OTHER_HISTORY = frozenset({"subscription.diverged", "subscription.other_journal", "subscription.beyond_head"})


async def keep_subscription(
    dial: Dial,
    journal: Journal,
    sink: Sink,
    settings: SubscriptionSettings,
    state: SubscriptionState,
    *,
    owner: str,
    backoff: Backoff,
    chance: random.Random,
    now_us: Callable[[], int],
) -> None:
    """Follow the stream until cancelled, or until it has ended because the service stops. ``state`` always says how it is."""
    with structlog.contextvars.bound_contextvars(subscription=settings.name):
        while True:
            lease = await _acquire(journal, settings, state, owner)
            if lease is None:
                await trio.sleep(settings.lease_s / 3)
                continue
            try:
                await _while_held(
                    lease, dial, journal, sink, settings, state,
                    owner=owner, backoff=backoff, chance=chance, now_us=now_us,
                )  # fmt: skip
            finally:
                with trio.move_on_after(_RELEASE_DEADLINE_S, shield=True):
                    await _release(journal, lease)
            if state.departure.over.is_set():
                return


async def _while_held(
    lease: Lease,
    dial: Dial,
    journal: Journal,
    sink: Sink,
    settings: SubscriptionSettings,
    state: SubscriptionState,
    *,
    owner: str,
    backoff: Backoff,
    chance: random.Random,
    now_us: Callable[[], int],
) -> None:
    """Keep the link for as long as the lease can be renewed."""

    async def speak(
        stream: DialledStream, on_start: Callable[[], None], on_progress: Callable[[], None]
    ) -> Drain | None:
        try:
            async with sink.open():
                return await converse(
                    stream, journal, lease, sink, settings, state,
                    now_us=now_us, on_start=on_start, on_progress=on_progress,
                )  # fmt: skip
        except* BackhaulError as group:
            if await _begin_anew(first_refusal(group), journal, lease, settings):
                nursery.cancel_scope.cancel()  # take the lease again, and dial at once
            raise

    async with trio.open_nursery() as nursery:

        async def renew() -> None:
            while True:
                await trio.sleep(settings.lease_s / 3)
                held = await _acquire(journal, settings, state, owner)
                if held is None or held.epoch != lease.epoch:
                    nursery.cancel_scope.cancel()
                    return

        nursery.start_soon(renew)
        await keep_link(dial, SUBSCRIBE_PATH, speak, state, backoff=backoff, chance=chance, now_us=now_us)
        nursery.cancel_scope.cancel()


async def _begin_anew(error: BackhaulError, journal: Journal, lease: Lease, settings: SubscriptionSettings) -> bool:
    """The source's history is another one now: forget the place in the old one if the operator has said so.

    The inbox's rows of the old history stay until a program acknowledges them: nobody else has them any more.
    """
    if error.code not in _OTHER_HISTORY or settings.on_diverged != "restart":
        return False
    stored = await journal.subscriptions.get(settings.name)
    if stored is None:
        return False
    await journal.subscriptions.restart(settings.name, lease)
    _log.warning(
        "subscription.restarted",
        code=error.code,
        position=stored.place.live.position,
        inbox_rows=(await journal.subscriptions.inbox_stats(settings.name)).rows,
    )
    return True


async def _acquire(
    journal: Journal, settings: SubscriptionSettings, state: SubscriptionState, owner: str
) -> Lease | None:
    """Take or renew the lease; None while another node has it, or while the journal does not answer."""
    with trio.move_on_after(_ACQUIRE_DEADLINE_S, shield=True):
        try:
            lease = await journal.leases.acquire(lease_name(settings.name), owner, settings.lease_s)
        except BackhaulError as error:
            _log.warning("subscription.no_lease", code=error.code, reason=error.message, repeat_key=error.code)
            return None
        if lease is None:
            state.state = "standby"
        return lease
    return None


async def _release(journal: Journal, lease: Lease) -> None:
    try:
        await journal.leases.release(lease)
    except BackhaulError as error:
        _log.info("subscription.lease_kept", code=error.code, reason=error.message)
