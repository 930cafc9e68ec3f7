"""A link that is kept: dial, converse, notice the end, wait, dial again. It never gives up and never floods.

One owner of all reconnecting, for the edge's push and for every subscription; what is said on the stream is the
caller's. The backoff starts small again only after the conversation got something done (or stood for a minute), and is
long after a fence or a refusal that only an operator lifts. Offline is a normal state: one line when it begins, one when
it ends, and summaries between. A link is connected when the peer has taken it: one that refuses is reported once, with what
to do, and again after an hour.

    state      on                                        does                                       goes to
    ---------  ----------------------------------------  -----------------------------------------  ---------
    dialling   peer took the link                        log connected, outage over                 connected
    dialling   unreachable, refused for now              log once, wait a backoff                   dialling
    dialling   fenced, or refused until an operator acts log once and hourly, wait long             dialling
    connected  progress, or a minute without an end      backoff starts small again                 connected
    connected  no progress within the timeout            abort the connection                       dialling
    connected  Drain with a hint                         finish, wait as hinted                     dialling
    connected  ended or broken                           log with the reason, wait a backoff        dialling
    connected  the own service stops                     finish, end the stream, log that           over
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import structlog
import trio

from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.core.flow.backoff import Backoff
from common.core.flow.measures import CODES_MAX, CodeCounts
from common.core.flow.messages import Drain
from common.transport.link.call_status import first_refusal
from common.transport.link.departure import Departure
from common.transport.stream import Channel, DialledStream

_log = structlog.get_logger()

Dial = Callable[[], AbstractAsyncContextManager[Channel]]
Converse = Callable[[DialledStream, Callable[[], None], Callable[[], None]], Awaitable[Drain | None]]
"""Speak on an open stream until the peer asks to leave (its Drain) or ends it well (None); given a function to call when
the peer has taken it, and one to call whenever something useful was done."""


class LinkRecord(Protocol):
    """What is known of a link now; the keeper writes the first seven. `last_…` are those of how it ended last.

    `ends` counts links that are over and tries that failed, by code.
    """

    state: str
    since_us: int
    connects: int
    last_code: str
    last_reason: str
    last_hint: str
    ends: CodeCounts

    @property
    def departure(self) -> Departure:
        """How the service asks the link to end for good."""

    @property
    def position(self) -> int:
        """How far the log on this link has come."""

    @property
    def moved(self) -> int:
        """What the present try, or the last one, has got done."""

    def begins(self) -> None:
        """A try begins."""


_STABLE_S = 60.0
# How often an unchanged refusal is reported to operators again.
_REMIND_S = 3600.0
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
# What an operator lifts without this edge being notified: reported as such, and tried again after an ordinary wait.
_NEEDS_ROOM = frozenset(
    {
        "push.blocked",
        "link.message_too_large",
        "subscription.blocked",
        "inbox.full",
        "journal.full",
        "journal.disk_full",
    }
)
# Not a line that is down: something answers, and it is not ours or does not trust us.
_SUSPICIOUS = frozenset({"link.tls_failed", "link.wrong_key_usage", "link.not_backhaul"})


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
    """Keep a conversation on the stream ``path`` going until cancelled, or until it has ended because the service stops.

    ``record`` always says how the link is.
    """
    offline_since_us = now_us()
    reported = _ReportedRefusal()
    while True:
        began_s = trio.current_time()
        record.begins()
        _enter(record, "dialling", now_us())
        drain: Drain | None = None
        error: BackhaulError | None = None
        try:
            async with dial() as channel, channel.open_stream(path) as stream:
                connected = partial(
                    _connected, record, channel.peer.address, offline_since_us, backoff.failures + 1, now_us
                )
                drain = await converse(stream, connected, backoff.progressed)
        except* BackhaulError as group:
            error = first_refusal(group)
        if error is None and record.departure.asked.is_set():
            _enter(record, "offline", now_us())
            _log.info("link.left", acked_events=record.moved, position=record.position)
            record.departure.over.set()
            return
        was_connected = record.state == "connected"
        if was_connected:
            reported.forget()
            offline_since_us = now_us()
            if trio.current_time() - began_s >= _STABLE_S:
                backoff.progressed()
        delay_s = _delay(backoff, chance.random(), error, drain)
        record.last_code = error.code if error else ("link.drained" if drain else "link.ended")
        record.ends.add(record.last_code)
        record.last_reason = error.message if error else drain.reason if drain else "the peer ended the stream"
        record.last_hint = error.hint if error else ""
        _enter(record, "offline", now_us())
        needs_operator = error is not None and _needs_operator(error)
        if was_connected:
            _tell_end(record, delay_s)
        elif not needs_operator:
            _tell_failure(record, reported, delay_s)
        if needs_operator and reported.is_due(record.last_code):
            _tell_operator(record, reported.tries, delay_s)
        await trio.sleep(delay_s)


class _ReportedRefusal:
    """What was reported of this link since it was connected last."""

    def __init__(self) -> None:
        self.tries = 0
        """How many in a row have ended with the refusal that was reported last."""
        self._failures: set[str] = set()
        self._refusal = ""
        self._at_s = 0.0

    def forget(self) -> None:
        """The peer has taken the link."""
        self._failures.clear()
        self._refusal = ""

    def is_new_failure(self, code: str) -> bool:
        """Whether a try to reach a peer that is away has not ended so before."""
        is_new = code not in self._failures and len(self._failures) < CODES_MAX  # the codes are the peer's words
        if is_new:
            self._failures.add(code)
        return is_new

    def is_due(self, refusal: str) -> bool:
        """Whether to tell an operator of the refusal with which another try has ended."""
        now_s = trio.current_time()
        self.tries = self.tries + 1 if refusal == self._refusal else 1
        if refusal == self._refusal and now_s - self._at_s < _REMIND_S:
            return False
        self._refusal, self._at_s = refusal, now_s
        return True


def _connected(
    record: LinkRecord, address: str, offline_since_us: int, attempts: int, now_us: Callable[[], int]
) -> None:
    """The peer has taken it."""
    offline_s = round((now_us() - offline_since_us) / 1e6, 3)
    _log.info("link.connected", address=address, offline_s=offline_s, attempts=attempts)
    record.connects += 1
    _enter(record, "connected", now_us())


def _enter(record: LinkRecord, name: str, now_us: int) -> None:
    record.state, record.since_us = name, now_us


def _delay(backoff: Backoff, chance: float, error: BackhaulError | None, drain: Drain | None) -> float:
    if drain:
        return backoff.next_delay_within(chance, drain.redial_within_s)
    if error is None:
        return backoff.next_delay(chance)
    if error.code in _LONG_WAIT or error.kind is ErrorKind.FORBIDDEN:
        return backoff.next_long_delay(chance)
    # Certificate files that cannot be used may be in the middle of being replaced: an ordinary wait.
    return backoff.next_delay(chance, at_least_s=error.retry_after_s or 0.0)


def _needs_operator(error: BackhaulError) -> bool:
    is_refusal = error.code in _LONG_WAIT | _NEEDS_ROOM or error.kind is ErrorKind.FORBIDDEN
    return is_refusal or isinstance(error, ConfigurationError)


def _tell_end(record: LinkRecord, delay_s: float) -> None:
    _log.info(
        "link.disconnected",
        code=record.last_code,
        reason=record.last_reason,
        hint=record.last_hint,
        acked_events=record.moved,
        position=record.position,
        next_try_s=round(delay_s, 3),
    )


def _tell_failure(record: LinkRecord, reported: _ReportedRefusal, delay_s: float) -> None:
    """Of failed tries while the link is down, the first of each code."""
    if record.last_code in _SUSPICIOUS:
        _log.warning(
            "link.unreachable",
            code=record.last_code,
            reason=record.last_reason,
            hint=record.last_hint,
            next_try_s=round(delay_s, 3),
            repeat_key=record.last_reason,
        )
    elif reported.is_new_failure(record.last_code):
        _log.info(
            "link.unreachable",
            code=record.last_code,
            reason=record.last_reason,
            hint=record.last_hint,
            next_try_s=round(delay_s, 3),
        )


def _tell_operator(record: LinkRecord, tries: int, delay_s: float) -> None:
    _log.error(
        "link.needs_operator",
        code=record.last_code,
        reason=record.last_reason,
        hint=record.last_hint,
        tries=tries,
        next_try_s=round(delay_s, 1),
    )
