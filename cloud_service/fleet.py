"""Keeps what this node knows of its edges in the journal, in one batch every few seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Final, NoReturn

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.fleet.facts import (
    CONNECTED,
    EdgeFacts,
    StreamLook,
    connected,
    ended,
    from_json,
    is_worth_writing,
    looked_at,
    summary_due,
    to_json,
)
from common.journal.stores.fleet import FleetNote, FleetRow, FleetStore
from common.transport.push.endpoint import PushEndpoint
from common.transport.push.endpoint_stream import OriginStream

_log = structlog.get_logger()

LOOK_S: Final = 2.0
_IDLE_US: Final = 60 * 1_000_000
_EDGES_AT_ONCE: Final = 200
_ALIVE_S: Final = 10.0
ENDS_MAX: Final = 10_000
NOTES_WAITING_MAX: Final = 10_000


@dataclass(slots=True)
class _Known:
    """An edge of this node: its facts, and what was written of them when."""

    session: int
    facts: EdgeFacts
    written: EdgeFacts
    written_us: int
    seen: tuple[int, ...] = ()
    seen_us: int = 0

    def is_news(self, state: OriginStream, now_us: int) -> bool:
        """Whether its log has moved, or what else it says of itself is due. Cheap: asked of every edge at every look."""
        moved = (state.session, state.head_position, state.stored_position, state.parked)
        if moved == self.seen and now_us - self.seen_us < _IDLE_US:
            return False
        self.seen, self.seen_us = moved, now_us
        return True


class FleetKeeper:
    """One a node; `run` is started by its owner. ``is_alone``: no other node has to see that this one is alive."""

    def __init__(
        self,
        fleet: FleetStore,
        endpoint: PushEndpoint,
        now_us: Callable[[], int],
        *,
        node: str,
        is_alone: bool = False,
    ) -> None:
        self._fleet = fleet
        self._endpoint = endpoint
        self._now_us = now_us
        self._node = node
        self._alive_us = inf if is_alone else _ALIVE_S * 1e6
        self._known: dict[str, _Known] = {}
        self._ends: dict[str, tuple[OriginStream, str, str, int]] = {}
        """By edge: its last stream that is over, why, and since when."""
        self._notes: list[FleetNote] = []
        self._wrote_us = 0
        self._touched: set[str] = set()
        endpoint.on_end = self._ended

    def _ended(self, state: OriginStream, code: str, reason: str) -> None:
        if len(self._ends) < ENDS_MAX:
            self._ends[state.origin_id] = (state, code, reason, self._now_us())

    async def run(self) -> NoReturn:
        """Look and write again and again; what could not be written is written with the next look."""
        is_failing = False
        while True:
            await trio.sleep(LOOK_S)
            try:
                await self.look()
                is_failing = False
            except BackhaulError as error:
                if not is_failing:
                    _log.warning("fleet.not_recorded", code=error.code, reason=error.message)
                is_failing = True

    async def look(self) -> None:
        """Compare the streams with what is known, and write what is due. Raises what the journal raises."""
        now_us, streams = self._now_us(), {state.origin_id: state for state in self._endpoint.streams}
        ends, self._ends = self._ends, {}
        begun = [name for name, state in streams.items() if self._session(name) != state.session]
        begun += [name for name in ends if name not in self._known and name not in begun]
        try:
            stored = {row.origin_id: from_json(row.facts) for row in await self._fleet.rows(begun)} if begun else {}
        except BackhaulError:
            self._ends = ends | self._ends
            raise
        for name, (state, code, reason, at_us) in ends.items():
            self._end(name, state, code, reason, stored, at_us)
        for number, (name, state) in enumerate(streams.items(), 1):
            self._go_on(name, state, stored, now_us)
            if number % _EDGES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        await self._write(now_us)
        for name in [name for name, known in self._known.items() if known.facts.state != CONNECTED]:
            del self._known[name]

    def _session(self, name: str) -> int:
        known = self._known.get(name)
        return known.session if known else 0

    def _go_on(self, name: str, state: OriginStream, stored: dict[str, EdgeFacts], now_us: int) -> None:
        known = self._known.get(name)
        if known is not None and not known.is_news(state, now_us):
            return
        look = _look_at(state)
        self._touched.add(name)
        if known is None or known.session != state.session:
            before = known.facts if known else stored.get(name, EdgeFacts())
            self._known[name] = known = _Known(state.session, connected(before, look), EdgeFacts(), 0)
            self._note(name, state.since_us, CONNECTED, known.facts)
        else:
            known.facts = looked_at(known.facts, look, now_us)
        if kind := summary_due(known.facts.noted_us, known.facts, now_us):
            known.facts = replace(known.facts, noted_us=now_us)
            self._note(name, now_us, kind, known.facts)

    def _end(
        self, name: str, state: OriginStream, code: str, reason: str, stored: dict[str, EdgeFacts], at_us: int
    ) -> None:
        known = self._known.get(name)
        if known is None or known.session < state.session:  # it came and went between two looks
            before = known.facts if known else stored.get(name, EdgeFacts())
            known = self._known[name] = _Known(state.session, connected(before, _look_at(state)), EdgeFacts(), 0)
            self._note(name, state.since_us, CONNECTED, known.facts)
        self._touched.add(name)
        if known.session == state.session:
            known.facts = ended(looked_at(known.facts, _look_at(state), at_us), code, reason, at_us)
            self._note(name, at_us, "disconnected", known.facts)

    def _note(self, name: str, at_us: int, kind: str, facts: EdgeFacts) -> None:
        if len(self._notes) < NOTES_WAITING_MAX:
            self._notes.append(FleetNote(name, at_us, kind, to_json(facts)))

    async def _write(self, now_us: int) -> None:
        touched = [(name, self._known[name]) for name in sorted(self._touched)]
        due = [
            (name, known)
            for name, known in touched
            if is_worth_writing(known.written, known.facts, known.written_us, now_us)
        ]
        rows = [FleetRow(name, known.session, self._node, now_us, to_json(known.facts)) for name, known in due]
        notes = list(self._notes)
        if not rows and not notes and now_us - self._wrote_us < self._alive_us:
            self._touched.clear()
            return
        await self._fleet.record(self._node, now_us, rows, notes)
        self._wrote_us = now_us
        self._touched.clear()
        del self._notes[: len(notes)]
        for _, known in due:
            known.written, known.written_us = known.facts, now_us


def _look_at(state: OriginStream) -> StreamLook:
    return StreamLook(
        state.session,
        state.since_us,
        state.resume,
        state.journal_id,
        state.head_position,
        state.received_position,
        state.stored_position,
        state.parked,
        state.clock_skew_s,
        state.health,
    )
