"""How many edges a node sends away, so that they spread again after nodes have come and gone.

A node that has far more than its share for a while drains the surplus, slowly: those it asks dial again, and a balancer puts
most of them elsewhere. So does each node above its share while another has far less than its own: of three nodes two can
have a little too much, and the third hardly anything. A drained node asks all of its edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from common.core.members.member import Member

FAR_ABOVE: Final = 1.3
FAR_BELOW: Final = 0.75
PATIENCE_S: Final = 15.0
_SHARE_A_SECOND: Final = 0.02
_MOST_A_SECOND: Final = 50.0
_DRAIN_IN_S: Final = 30.0


class EdgeBalance:
    """One node's. ``due`` is asked about once a second."""

    def __init__(self) -> None:
        self._above_since_s: float | None = None
        self._last_s: float | None = None
        self._owed = 0.0

    def due(self, instance: str, own: int, members: Sequence[Member], now_s: float) -> int:
        """How many of this node's ``own`` edges to send away now; ``members`` as last seen, times in seconds."""
        live = [one for one in members if one.is_live]
        me = next((one for one in live if one.instance == instance), None)
        others = [one for one in live if one.instance != instance and not one.is_drained]
        elapsed_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        surplus = own - self._wanted(me, own, others)
        if me is None or not others or surplus <= 0:
            self._above_since_s, self._owed = None, 0.0
            return 0
        if self._above_since_s is None:
            self._above_since_s = now_s
        if not me.is_drained and now_s - self._above_since_s < PATIENCE_S:
            return 0
        rate = max(1.0, own * (1 / _DRAIN_IN_S if me.is_drained else _SHARE_A_SECOND))
        self._owed += min(rate, _MOST_A_SECOND) * elapsed_s
        count = min(int(self._owed), surplus)
        self._owed -= count
        return count

    def _wanted(self, me: Member | None, own: int, others: Sequence[Member]) -> int:
        """What the node is to keep; all it has while that is not far above its share, and nobody is far below theirs."""
        if me is None or me.is_drained:
            return 0
        per_weight = (own + sum(one.report.edges for one in others)) / (_weight(me) + sum(map(_weight, others)))
        share = per_weight * _weight(me)
        is_draining = self._above_since_s is not None
        is_other_short = any(one.report.edges < FAR_BELOW * per_weight * _weight(one) for one in others)
        return ceil(share) if own > (share if is_draining or is_other_short else FAR_ABOVE * share) else own


def _weight(member: Member) -> int:
    """One that runs no ranges serves edges all the same."""
    return max(1, member.report.weight)
