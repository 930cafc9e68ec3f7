"""How long to wait before dialling again: exponential with full jitter, forgetting only after progress.

Resetting on a mere connect makes a peer that accepts and then refuses be dialled at full speed for ever; so
the caller says ``progressed`` when something was really achieved. Source of full jitter: M. Brooker,
"Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

_HINTS_MAX = 8


class Backoff:
    """Delays in seconds between ``min_s`` and ``max_s``; chance (0 <= c < 1) is passed in."""

    def __init__(self, min_s: float, max_s: float) -> None:
        assert 0 < min_s <= max_s, (min_s, max_s)
        self._min_s = min_s
        self._max_s = max_s
        self.failures = 0

    def next_delay(self, chance: float, *, at_least_s: float = 0.0) -> float:
        """The next delay; ``at_least_s`` honours a peer's hint, up to the longest of the long delays, spread by a quarter
        so that a fleet does not return as one. A short hint also bounds the delay: the peer answers and says that it will
        soon be of use again, so a long absence of its database is not followed by half a minute of nobody asking.
        """
        self.failures += 1  # the first delay is jittered too: a whole fleet may have been cut at once
        ceiling = min(self._max_s, self._min_s * 2.0 ** min(self.failures, 60))
        if at_least_s > 0:
            ceiling = max(self._min_s, min(ceiling, _HINTS_MAX * at_least_s))
        jittered = self._min_s + chance * (ceiling - self._min_s)
        return max(jittered, min(at_least_s, 10 * self._max_s) * (1 + chance / 4))

    def next_delay_within(self, chance: float, within_s: float) -> float:
        """The next delay after a peer has asked its links to dial again within so many seconds: they spread over them.

        Its other nodes serve meanwhile, so nobody has a reason to wait for the end. Not shorter than the shortest delay, and
        links that are sent away again and again get no further than that wait longer, as after failures.
        """
        self.failures += 1
        ceiling = min(self._max_s, self._min_s * 2.0 ** min(self.failures, 60), _HINTS_MAX * within_s)
        ceiling = max(self._min_s, ceiling, min(within_s, 10 * self._max_s))
        return self._min_s + chance * (ceiling - self._min_s)

    def next_long_delay(self, chance: float) -> float:
        """The delay after a fence or a refusal that only an operator lifts: ten times the longest, halved
        by chance.
        """
        self.failures += 1
        return 10 * self._max_s * (0.5 + chance / 2)

    def progressed(self) -> None:
        """The peer did useful work: the next failure starts small again."""
        self.failures = 0
