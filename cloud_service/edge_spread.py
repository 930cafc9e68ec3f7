"""Edges spread over nodes: the task that sends a node's surplus away, and those that have been connected for too long.

It also sends all away when the journal has another history. A failover may have lost what was acknowledged, and an edge that has
nothing to push would not hear of it: it compares histories when it connects.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final, NoReturn

import structlog
import trio

from common.core.members.edge_balance import EdgeBalance
from common.journal.membership import Membership
from common.transport.push.endpoint import PushEndpoint

_log = structlog.get_logger()

_LOOK_EVERY_S: Final = 1.0
# Those that came in one moment need not go in one.
_SHARE_A_LOOK: Final = 0.02
_RECONNECT_SHARE: Final = 0.1
_RECONNECT_LEAST: Final = 50


class EdgeSpread:
    """One node's. ``run`` is its task."""

    def __init__(
        self,
        endpoint: PushEndpoint,
        membership: Membership,
        *,
        redial_s: float,
        age_max_s: float | None,
        now_us: Callable[[], int],
        generation: Callable[[], str],
    ) -> None:
        """``generation`` is the journal's newest, as this node knows it."""
        self._endpoint = endpoint
        self._membership = membership
        self._redial_s = redial_s
        self._age_max_s = age_max_s
        self._now_us = now_us
        self._balance = EdgeBalance()
        self._newest = generation
        self._generation = generation()
        self._to_reconnect = 0

    async def run(self) -> NoReturn:
        """Until cancelled."""
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            self._send_all_to_the_new_history()
            self._send_surplus_away()
            self._send_old_away()

    def _send_all_to_the_new_history(self) -> None:
        generation, staying = self._newest(), self._endpoint.staying
        if generation != self._generation:
            self._generation, self._to_reconnect = generation, staying
        count = min(self._to_reconnect, staying, max(_RECONNECT_LEAST, ceil(staying * _RECONNECT_SHARE)))
        self._to_reconnect = min(self._to_reconnect, staying) - count
        if count:
            self._drain(count, "the journal has another history")

    def _send_surplus_away(self) -> None:
        own, members = self._endpoint.staying, self._membership.seen.members
        count = self._balance.due(self._membership.instance, own, members, trio.current_time())
        if count:
            self._drain(count, "this node has more edges than its share")

    def _send_old_away(self) -> None:
        if self._age_max_s is None:
            return
        before_us = self._now_us() - round(self._age_max_s * 1e6)
        old = sum(stream.since_us < before_us for stream in self._endpoint.streams)
        count = min(old, max(1, round(self._endpoint.staying * _SHARE_A_LOOK)))
        if old:
            self._drain(count, "the connection has reached its greatest age")

    def _drain(self, count: int, reason: str) -> None:
        sent = self._endpoint.drain_some(count, self._redial_s, reason)
        if sent:
            _log.info("push.sent_away", edges=sent, reason=reason, left=self._endpoint.staying, repeat_key=reason)
