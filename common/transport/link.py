"""A link that is kept: dial, converse, notice the end, wait, dial again. It never gives up and never floods.

One owner of all reconnecting, for the edge's push and for every subscription; what is said on the stream is the
caller's. The backoff starts small again only after the conversation got something done (or stood for a minute), and is
long after a fence or a refusal that only an operator lifts. Offline is a normal state: one line when it begins, one when
it ends, and summaries between.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
import trio

from common.core.backoff import Backoff
from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.core.push_messages import Drain
from common.transport.outcome import first_refusal
from common.transport.stream import Channel, DialledStream

_log = structlog.get_logger()

Dial = Callable[[], AbstractAsyncContextManager[Channel]]
Converse = Callable[[DialledStream, Callable[[], None]], Awaitable[Drain | None]]
"""Speak on an open stream until the peer asks to leave (its Drain) or ends it well (None); told a function to call
whenever something useful was done."""


class LinkRecord(Protocol):
    """What is known of a link now; the keeper writes the first four."""

    state: str
    since_us: int
    connects: int
    last_code: str

    @property
    def position(self) -> int:
        """How far the log on this link has come."""

    @property
    def moved(self) -> int:
        """What the present try, or the last one, has got done."""

    def begins(self) -> None:
        """A try begins."""


_STABLE_S = 60.0
# What dialling again soon cannot mend, and what would only fan a fight between two services with one id.
_LONG_WAIT = frozenset(
    {
        "push.fenced",
        "push.superseded",
        "push.history_mismatch",
        "push.version",
        "push.invalid_origin",
        "subscription.replaced",
        "subscription.version",
        "subscription.invalid_consumer",
        "subscription.no_such_stream",
        "subscription.trimmed",
        "subscription.diverged",
        "subscription.other_journal",
        "subscription.beyond_head",
        "filter.invalid",
        "filter.too_large",
        "filter.bad_regex",
        "filter.bad_topic",
    }
)
# What an operator lifts without this edge hearing of it: told as such, and tried again after an ordinary wait.
_NEEDS_ROOM = frozenset(
    {"push.blocked", "link.message_too_large", "subscription.blocked", "inbox.full", "journal.full"}
)
# Not a line that is down: something answers, and it is not ours or does not trust us.
_SUSPICIOUS = frozenset({"link.tls_failed", "link.not_backhaul"})


async def keep_link(
    dial: Dial,
    path: str,
    converse: Converse,
    record: LinkRecord,
    *,
    backoff: Backoff,
    chance: random.Random,
    now_us: Callable[[], int],
) -> None:
    """Keep a conversation on the stream ``path`` going until cancelled. ``record`` always says how the link is."""
    offline_since_us = now_us()
    told: set[str] = set()
    while True:
        began_s = trio.current_time()
        record.begins()
        _enter(record, "dialling", now_us())
        drain: Drain | None = None
        error: BackhaulError | None = None
        try:
            async with dial() as channel, channel.open_stream(path) as stream:
                _log.info(
                    "link.connected",
                    address=channel.peer.address,
                    offline_s=round((now_us() - offline_since_us) / 1e6, 3),
                    attempts=backoff.failures + 1,
                )
                record.connects += 1
                told.clear()
                _enter(record, "connected", now_us())
                drain = await converse(stream, backoff.progressed)
        except* BackhaulError as group:
            error = first_refusal(group)
        was_connected = record.state == "connected"
        if was_connected:
            offline_since_us = now_us()
            if trio.current_time() - began_s >= _STABLE_S:
                backoff.progressed()
        delay_s = _delay(backoff, chance.random(), error, drain)
        record.last_code = error.code if error else ("link.drained" if drain else "link.ended")
        _enter(record, "offline", now_us())
        reason = error.message if error else drain.reason if drain else "the peer ended the stream"
        _tell(record, error, reason, was_connected, delay_s, told)
        await trio.sleep(delay_s)


def _enter(record: LinkRecord, name: str, now_us: int) -> None:
    record.state, record.since_us = name, now_us


def _delay(backoff: Backoff, chance: float, error: BackhaulError | None, drain: Drain | None) -> float:
    if drain:
        return backoff.next_delay(chance, at_least_s=drain.retry_after_s)
    if error is None:
        return backoff.next_delay(chance)
    if error.code in _LONG_WAIT or error.kind is ErrorKind.FORBIDDEN:
        return backoff.next_long_delay(chance)
    # Certificate files that cannot be used may be in the middle of being replaced: an ordinary wait.
    return backoff.next_delay(chance, at_least_s=error.retry_after_s or 0.0)


def _tell(
    record: LinkRecord, error: BackhaulError | None, reason: str, was_connected: bool, delay_s: float, told: set[str]
) -> None:
    """One line for each end of a link; of failed tries while it is down, the first of each code (``told``)."""
    if was_connected:
        _log.info(
            "link.disconnected",
            code=record.last_code,
            reason=reason,
            acked_events=record.moved,
            position=record.position,
            next_try_s=round(delay_s, 3),
        )
    elif record.last_code in _SUSPICIOUS:
        _log.warning(
            "link.unreachable",
            code=record.last_code,
            reason=reason,
            hint=error.hint if error else "",
            next_try_s=round(delay_s, 3),
            repeat_key=reason,
        )
    elif record.last_code not in told:
        told.add(record.last_code)
        _log.info(
            "link.unreachable",
            code=record.last_code,
            reason=reason,
            hint=error.hint if error else "",
            next_try_s=round(delay_s, 3),
        )
    if error and (
        error.code in _LONG_WAIT | _NEEDS_ROOM
        or error.kind is ErrorKind.FORBIDDEN
        or isinstance(error, ConfigurationError)
    ):
        _log.error(
            "link.needs_operator",
            code=error.code,
            reason=error.message,
            hint=error.hint,
            next_try_s=round(delay_s, 1),
            repeat_key=error.code,
        )
