"""Feeds the checkers with what happens and ends the run at the first complaint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from common.core.push.messages import Ack, Hello, PushBatch, Start
from common.transport.codec import push as codec
from tests.simulation.checkers import CHECKERS, AppendsHonoured, Checker
from tests.simulation.disks import Disk, State
from tests.simulation.down.orders_folded import check_folded
from tests.simulation.down.plan import DownPlan
from tests.simulation.down.referee import DownReferee
from tests.simulation.facts import CLOUD, Facts, envelopes_after, removed_between
from tests.simulation.plan import Sizes
from tests.simulation.read_models import check_read_models
from tests.simulation.taps import Told
from tests.simulation.trace import Trace


@dataclass(frozen=True, slots=True)
class Complaint:
    """A promise that was broken, and when (seconds since the start)."""

    checker: str
    what: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.checker} at {self.at_s:.4f} s: {self.what}"


class Referee:
    """``stop`` is called at the first complaint."""

    def __init__(self, trace: Trace, sizes: Sizes, down: DownPlan | None, stop: Callable[[], None]) -> None:
        self.facts = Facts(0.0 if sizes.drop_at_bytes else sizes.keep_acked_s)
        self.complaints: list[Complaint] = []
        self.on_edge_commit: list[Callable[[Disk], None]] = []
        self.on_cloud_commit: list[Callable[[State, State], None]] = []
        self._trace = trace
        self._sizes = sizes
        self._down_plan = down
        self._stop = stop
        self._checkers: list[Checker] = [made(self.facts, self.complain) for made in CHECKERS]
        self.down = DownReferee(down, sizes, self.facts, trace, self.complain)

    @property
    def appends(self) -> AppendsHonoured:
        """Who hears what applications are told."""
        return next(checker for checker in self._checkers if isinstance(checker, AppendsHonoured))

    def complain(self, checker: str, what: str) -> None:
        """A promise is broken."""
        self._trace.add(checker, f"COMPLAINS: {what}")
        self.complaints.append(Complaint(checker, what, trio.current_time()))
        self._stop()

    # -- disks -----------------------------------------------------------------------------------------------------
    def committed(self, disk: Disk, before: State, after: State) -> None:
        """A disk has taken a commit."""
        new = envelopes_after(after.log, before.head_position)
        self._trace.add(disk.name, f"commit, head {after.head_position}, {len(after.log)} kept")
        disk.keep_history(before, after)
        if disk.name == CLOUD:
            parked = [row.event.payload[0] for row in after.parked if row.id > before.last_parked_id]
            self.facts.cloud_committed(new, parked)
            for checker in self._checkers:
                checker.cloud_commit(before, after, new)
            for listener in list(self.on_cloud_commit):
                listener(before, after)
            return
        self.facts.edge_committed(disk, new)
        for checker in self._checkers:
            checker.edge_commit(disk, before, after, new)
        if len(after.log) != len(before.log) + len(new):
            removed = removed_between(before.log, after.log)
            for checker in self._checkers:
                checker.edge_removed(disk, after, removed)
        self.down.committed(disk, before, after)
        for tell in list(self.on_edge_commit):
            tell(disk)

    def cloud_replaced(self, after: State) -> None:
        """The cloud's disk is another one now."""
        self.facts.cloud_replaced(after)
        for checker in self._checkers:
            checker.cloud_replaced(after)
        self.down.cloud_replaced()

    def check_read_models(self) -> None:
        """Compare what projections wrote with the log; no transaction may be under way."""
        fold = self._down_plan.fold if self._down_plan else None
        for checker, what in (
            *check_read_models(self.facts.cloud_disk),
            *check_folded(self.facts.cloud_disk, fold),
        ):
            self.complain(checker, what)

    def at_end(self, edges: list[Disk]) -> None:
        """Everything has converged and stopped."""
        for checker in self._checkers:
            checker.at_end(edges, self.facts.cloud_disk)
        self.check_read_models()

    # -- lines -----------------------------------------------------------------------------------------------------
    def dialled_ears(self, disk: Disk) -> tuple[Told, Told]:
        """What listens at the edge's end of a new stream."""
        cloud_life = self.facts.cloud_lives
        in_flight: dict[int, int] = {}

        def said(message: bytes) -> None:
            self._trace.add(disk.name, f"→ {len(message)} bytes", message)
            answer = codec.decode_from_edge(message)
            if isinstance(answer, PushBatch):
                in_flight[answer.through_position] = len(message)
                self._check_bounds(disk.name, answer, in_flight)

        def heard(message: bytes) -> None:
            answer = codec.decode_from_cloud(message)
            self._trace.add(disk.name, f"← {type(answer).__name__}", message)
            if isinstance(answer, Ack):
                for through in [through for through in in_flight if through <= answer.position]:
                    del in_flight[through]
                if self.facts.cloud_lives == cloud_life:
                    for checker in self._checkers:
                        checker.ack_heard(disk, answer.position)

        return said, heard

    def _check_bounds(self, edge: str, batch: PushBatch, in_flight: dict[int, int]) -> None:
        sizes = self._sizes
        if len(in_flight) > sizes.window_batches:
            self.complain("BoundsHeld", f"{edge} has {len(in_flight)} batches in flight")
        if len(batch.events) > sizes.batch_events:
            self.complain("BoundsHeld", f"{edge} sends {len(batch.events)} events in one batch")
        # The last one may weigh more than was counted for it: names and tags are not in the count.
        waiting_bytes = sum(in_flight.values()) - in_flight[batch.through_position]
        if waiting_bytes > sizes.window_bytes:
            self.complain("BoundsHeld", f"{edge} sends with {waiting_bytes} bytes in flight")

    def served_ears(self, disk: Disk) -> tuple[Told, Told]:
        """What listens at the cloud's end of a new stream; ``disk`` is the one of the edge that dialled."""
        session = 0
        is_new = True

        def said(message: bytes) -> None:
            nonlocal session
            answer = codec.decode_from_cloud(message)
            if isinstance(answer, Start):
                session = answer.session
            if isinstance(answer, Ack):
                self._trace.add(CLOUD, f"acks {answer.position} to {disk.name}, session {session}")
                for checker in self._checkers:
                    checker.ack_said(disk, session, answer.position)

        def heard(message: bytes) -> None:
            nonlocal is_new
            answer = codec.decode_from_edge(message) if is_new else None
            is_new = False
            if isinstance(answer, Hello):
                self._trace.add(CLOUD, f"hello of {answer.origin_id} from {disk.name}")

        return said, heard
