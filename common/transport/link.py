"""The edge's one link to the cloud: dial, push, notice the end, wait, dial again. It never gives up and never floods.

One owner of all reconnecting. The backoff starts small again only after the cloud acknowledged something new (or took
a link that then stood for a minute), and is long after a fence or a refusal that only an operator lifts. Offline is a
normal state: one line when it begins, one when it ends, and summaries between.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog
import trio

from common.core.backoff import Backoff
from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.core.push_messages import PUSH_PATH, Drain
from common.journal.interface import Journal
from common.transport.outcome import first_refusal
from common.transport.push_producer import LinkState, PushSettings, push
from common.transport.stream import Channel

_log = structlog.get_logger()

Dial = Callable[[], AbstractAsyncContextManager[Channel]]

_STABLE_S = 60.0
# What dialling again soon cannot mend, and what would only fan a fight between two services with one id.
_LONG_WAIT = frozenset(
    {"push.fenced", "push.superseded", "push.history_mismatch", "push.version", "push.invalid_origin"}
)
# What an operator lifts without this edge hearing of it: told as such, and tried again after an ordinary wait.
_NEEDS_ROOM = frozenset({"push.blocked", "link.message_too_large"})
# Not a line that is down: something answers, and it is not ours or does not trust us.
_SUSPICIOUS = frozenset({"link.tls_failed", "link.not_backhaul"})


async def keep_link(
    dial: Dial,
    journal: Journal,
    settings: PushSettings,
    state: LinkState,
    *,
    backoff: Backoff,
    chance: random.Random,
    now_us: Callable[[], int],
) -> None:
    """Keep the journal flowing to the cloud until cancelled. ``state`` always says how the link is."""
    offline_since_us = now_us()
    while True:
        began_s = trio.current_time()
        state.resumed_position = state.acked_position
        _enter(state, "dialling", now_us())
        drain: Drain | None = None
        error: BackhaulError | None = None
        try:
            async with dial() as channel, channel.open_stream(PUSH_PATH) as stream:
                _log.info(
                    "link.connected",
                    address=channel.peer.address,
                    offline_s=round((now_us() - offline_since_us) / 1e6, 3),
                    attempts=backoff.failures + 1,
                )
                state.connects += 1
                _enter(state, "connected", now_us())
                drain = await push(stream, journal, settings, state, now_us=now_us, on_progress=backoff.progressed)
        except* BackhaulError as group:
            error = first_refusal(group)
        was_connected = state.state == "connected"
        if was_connected:
            offline_since_us = now_us()
            if trio.current_time() - began_s >= _STABLE_S:
                backoff.progressed()
        delay_s = _delay(backoff, chance.random(), error, drain)
        state.last_code = error.code if error else ("link.drained" if drain else "link.ended")
        _enter(state, "offline", now_us())
        reason = error.message if error else drain.reason if drain else "the cloud ended the stream"
        _tell(state, error, reason, was_connected, state.acked_position - state.resumed_position, delay_s)
        await trio.sleep(delay_s)


def _enter(state: LinkState, name: str, now_us: int) -> None:
    state.state, state.since_us = name, now_us


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
    state: LinkState, error: BackhaulError | None, reason: str, was_connected: bool, acked: int, delay_s: float
) -> None:
    """One line for each end of a link; failed tries to reach a cloud that is away are rate limited."""
    if was_connected:
        _log.info(
            "link.disconnected",
            code=state.last_code,
            reason=reason,
            acked_events=acked,
            position=state.acked_position,
            next_try_s=round(delay_s, 3),
        )
    elif state.last_code in _SUSPICIOUS:
        _log.warning(
            "link.unreachable",
            code=state.last_code,
            reason=reason,
            hint=error.hint if error else "",
            next_try_s=round(delay_s, 3),
            repeat_key=reason,
        )
    else:
        _log.info(
            "link.unreachable",
            code=state.last_code,
            reason=reason,
            hint=error.hint if error else "",
            next_try_s=round(delay_s, 3),
            repeat_key=state.last_code,
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
