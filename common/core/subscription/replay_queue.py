"""The replays that a source owes one consumer: at most one an entity, served in turns of a page.

A replay is asked for by the consumer (it has seen a gap), or by a filter that wants an entity only from a stated number
on (a *start*): then it begins by stating the numbers below. A start serves an ask for the same entity too, because
it leads over every number of it.

A page looks at more numbers than it sends: those that the filter withholds at its end are stated only by the entity's
next event that is sent. So a replay keeps two numbers: the next to read, and the last that was sent or stated
(``covered``). When the filter changes it goes back to the latter, because the new filter may want what the old one withheld.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from common.core.errors import BackhaulError, ErrorKind
from common.core.subscription.messages import Replay
from common.core.subscription.replay import QueuedReplay

REPLAYS_MAX = 64


class ReplayQueue:
    """See the module. Asked replays are bounded by ``REPLAYS_MAX``, starts by the limits of a filter."""

    def __init__(self) -> None:
        self._queue: dict[str, QueuedReplay] = {}
        self._asked: dict[str, int] = {}
        self._starts: set[str] = set()

    @property
    def first(self) -> QueuedReplay | None:
        """The replay whose turn it is."""
        return next(iter(self._queue.values()), None)

    def next(self, count: int) -> list[QueuedReplay]:
        """The first so many, in their order."""
        return list(islice(self._queue.values(), count))

    @property
    def has_starts(self) -> bool:
        """Whether some start has not been stated yet."""
        return bool(self._starts)

    def is_start(self, queued: QueuedReplay) -> bool:
        """Whether the next page is to state the numbers below ``from_seq_nr``."""
        return queued.persistence_id in self._starts

    def ask(self, wanted: Replay) -> None:
        """The consumer asks for an entity from a number on.

        Raises:
            BackhaulError: ``subscription.too_many_replays`` beyond ``REPLAYS_MAX`` entities at a time.
        """
        name = wanted.persistence_id
        if name not in self._asked and len(self._asked) >= REPLAYS_MAX:
            raise BackhaulError(
                "subscription.too_many_replays",
                f"more than {REPLAYS_MAX} replays asked for at a time",
                "wait for replay_done before asking for more",
                kind=ErrorKind.FULL,
            )
        self._asked[name] = wanted.from_seq_nr
        if name not in self._starts:
            self._queue[name] = _from(name, wanted.from_seq_nr)

    def state_start(self, persistence_id: str, from_seq_nr: int) -> None:
        """The filter wants an entity from a number on."""
        queued = self._queue.get(persistence_id)
        if queued is not None and queued.covered >= from_seq_nr - 1:
            return
        if queued is not None and persistence_id in self._asked:
            self._asked[persistence_id] = queued.covered + 1
        self._starts.add(persistence_id)
        self._queue[persistence_id] = _from(persistence_id, from_seq_nr)

    def goes_on(self, rest: QueuedReplay) -> None:
        """A page of the first replay was sent; the rest of it follows after the others had a turn."""
        self._pop_first()
        self._queue[rest.persistence_id] = rest

    def ends(self) -> None:
        """The first replay was sent whole."""
        self._asked.pop(self._pop_first().persistence_id, None)

    def filter_changes(self) -> None:
        """Another filter decides from now on: numbers that were read and withheld are read again, starts of the old one lapse."""
        for name in self._starts:
            if name in self._asked:
                self._queue[name] = _from(name, self._asked[name])
            else:
                del self._queue[name]
        self._starts.clear()
        for name, queued in self._queue.items():
            self._queue[name] = replace(queued, from_seq_nr=queued.covered + 1, brings_through=0)

    def _pop_first(self) -> QueuedReplay:
        queued = self._queue.pop(next(iter(self._queue)))
        self._starts.discard(queued.persistence_id)
        return queued


def _from(persistence_id: str, from_seq_nr: int) -> QueuedReplay:
    return QueuedReplay(persistence_id, from_seq_nr, from_seq_nr - 1)
