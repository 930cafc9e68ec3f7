"""The judges of a run: each holds one promise against every commit, every ack and the end.

A checker reads what is durable and what was said, never what a service believes. Their names are what failures and
mutations are told by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from common.core.events.batch import Envelope
from common.core.journal.admission import GONE_REASONS
from common.core.journal.append import Appended
from tests.simulation.disks import Disk, State
from tests.simulation.facts import Facts, named

Complain = Callable[[str, str], None]


class Checker:
    """What a checker may want to hear of. ``complain`` ends the run."""

    def __init__(self, facts: Facts, complain: Complain) -> None:
        self.facts = facts
        self._complain = complain

    def complain(self, what: str) -> None:
        """The promise is broken."""
        self._complain(type(self).__name__, what)

    def edge_commit(self, disk: Disk, before: State, after: State, new: list[Envelope]) -> None:
        """An edge's log has grown by ``new`` (perhaps nothing)."""

    def edge_removed(self, disk: Disk, after: State, removed: list[Envelope]) -> None:
        """Retention has removed events."""

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        """The cloud's state has changed and its log has grown by ``new`` (perhaps nothing)."""

    def cloud_replaced(self, after: State) -> None:
        """The cloud has an older disk again."""

    def ack_said(self, disk: Disk, session: int, position: int) -> None:
        """The cloud hands an ack to the line, for the edge with ``disk``."""

    def ack_heard(self, disk: Disk, position: int) -> None:
        """The ack is there, and the cloud was not rewound since it was said."""

    def at_end(self, edges: list[Disk], cloud: Disk) -> None:
        """Everything has converged and stopped."""


class NothingInvented(Checker):
    """What is stored was handed in, and is what was handed in, byte for byte."""

    def edge_commit(self, disk: Disk, before: State, after: State, new: list[Envelope]) -> None:
        for event in new:
            self._compare(event, disk.name)
            if event.origin_seq_nr:
                self.complain(f"{disk.name} numbers its own {named(event.payload)} as somebody else's")

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        for event in new:
            self._compare(event, "the cloud")
            placed = self.facts.placed.get(event.payload)
            if self.facts.is_published(event):
                if event.origin_seq_nr:
                    self.complain(f"the cloud numbers its own {named(event.payload)} as an edge's")
            elif placed is None or placed[1] != event.origin_seq_nr:
                self.complain(
                    f"{named(event.payload)} is {event.origin_seq_nr} of {event.persistence_id}, not {placed}"
                )

    def _compare(self, event: Envelope, where: str) -> None:
        answer = self.facts.submissions.get(event.payload)
        if answer is None:
            self.complain(f"{where} has {named(event.payload)}, which nobody handed in")
            return
        found = (event.persistence_id, event.event_type, event.event_time_us, event.tags, dict(event.metadata))
        wanted = (answer.persistence_id, answer.event_type, answer.event_time_us, answer.tags, dict(answer.metadata))
        if found != wanted:
            self.complain(f"{where} has {named(event.payload)} as {found}, handed in as {wanted}")


class NothingTwice(Checker):
    """Each event is in a log once, unless an operator has let a log back in that was left behind."""

    def edge_commit(self, disk: Disk, before: State, after: State, new: list[Envelope]) -> None:
        for event in new:
            others = [position for position, payload in disk.payload_at.items() if payload == event.payload]
            if len(others) > 1:
                self.complain(f"{disk.name} has {named(event.payload)} at {others}")

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        for event in new:
            if self.facts.submissions[event.payload].edge in self.facts.readmitted:
                continue
            if self.facts.in_cloud[event.payload] > 1 or event.payload in self.facts.parked:
                self.complain(
                    f"the cloud has {named(event.payload)} of {event.persistence_id} again, at {event.position}"
                )


class InOrder(Checker):
    """An entity's events stand in the cloud in the order in which its edge stored them."""

    def __init__(self, facts: Facts, complain: Complain) -> None:
        super().__init__(facts, complain)
        self._last: dict[str, int] = {}

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        for event in self.facts.pushed(new):
            order = self.facts.order[event.payload]
            is_cloned = self.facts.submissions[event.payload].edge in self.facts.cloned
            if order <= self._last.get(event.persistence_id, -1) and not is_cloned:
                self.complain(f"{named(event.payload)} of {event.persistence_id} comes after a later one")
            self._last[event.persistence_id] = order

    def cloud_replaced(self, after: State) -> None:
        log = self.facts.cloud_disk.history
        self._last = {
            name: self.facts.order[payload]
            for name, payload in zip(log.persistence_id, log.payload, strict=True)
            if payload in self.facts.order
        }


class DenseNumbers(Checker):
    """Positions, and each entity's numbers, go on by one; the head row says the same."""

    def edge_commit(self, disk: Disk, before: State, after: State, new: list[Envelope]) -> None:
        self._check(disk.name, before, after, new)

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        self._check("the cloud", before, after, new)

    def _check(self, where: str, before: State, after: State, new: list[Envelope]) -> None:
        last: dict[str, int] = {}
        for index, event in enumerate(new):
            name = event.persistence_id
            known = before.heads.get(name)
            previous = last.get(name, known.seq_nr if known else 0)
            if (event.seq_nr, event.prev_seq_nr) != (previous + 1, previous):
                self.complain(f"{where} numbers {name} {event.prev_seq_nr} → {event.seq_nr} after {previous}")
            if event.position != before.head_position + 1 + index:
                self.complain(f"{where} stores at {event.position} after {before.head_position + index}")
            last[name] = event.seq_nr
        for name, seq_nr in last.items():
            if after.heads[name].seq_nr != seq_nr:
                self.complain(f"{where} keeps {after.heads[name].seq_nr} as head of {name}, which is at {seq_nr}")
        if after.head_position != before.head_position + len(new):
            self.complain(f"{where} moved its head from {before.head_position} to {after.head_position}")


class TimeMovesOn(Checker):
    """Timestamps grow strictly along a log, whatever the clock does."""

    def edge_commit(self, disk: Disk, before: State, after: State, new: list[Envelope]) -> None:
        self._check(disk.name, before, new)

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        self._check("the cloud", before, new)

    def _check(self, where: str, before: State, new: list[Envelope]) -> None:
        last_us = before.head_timestamp_us
        for event in new:
            if event.timestamp_us <= last_us:
                self.complain(f"{where} has {event.timestamp_us} after {last_us} at {event.position}")
            last_us = event.timestamp_us


class NoSilentGap(Checker):
    """Within a branch of an edge's history an entity's numbers go on by one, or a stated range says why not."""

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        known: dict[str, int] = {}
        for event in self.facts.pushed(new):
            name, seq_nr = event.persistence_id, event.origin_seq_nr
            if name not in known:
                head, branch = before.heads.get(name), after.heads[name].branch
                known[name] = head.origin_seq_nr if head else 0
                if head and head.branch != branch:  # rebased: at or below what is known
                    known[name] = min(known[name], seq_nr - 1)
            if seq_nr <= known[name] and self._is_back(before, event, known[name]):
                known[name] = seq_nr - 1
            missing = set(range(known[name] + 1, seq_nr))
            for _, kept in after.ranges if missing else ():
                if kept.stated.persistence_id == name:
                    missing -= set(range(kept.stated.from_seq_nr, kept.stated.to_seq_nr + 1))
            if missing or seq_nr <= known[name]:
                self.complain(f"{name} goes from {known[name]} to {seq_nr}, and nothing says why")
            known[name] = seq_nr

    def _is_back(self, before: State, event: Envelope, known: int) -> bool:
        """Whether the event, and all known after it, had been stated as gone: another copy of the log has it still."""
        said = {
            number
            for _, kept in before.ranges
            if kept.stated.persistence_id == event.persistence_id and kept.stated.reason in ("trimmed", "dropped")
            for number in range(kept.stated.from_seq_nr, kept.stated.to_seq_nr + 1)
        }
        return said.issuperset(range(event.origin_seq_nr, known + 1))


class AckIsDurable(Checker):
    """When an ack leaves the cloud, and when it comes to the edge, everything up to it is on the cloud's disk."""

    def ack_said(self, disk: Disk, session: int, position: int) -> None:
        self._check(disk, position, "leaves")

    def ack_heard(self, disk: Disk, position: int) -> None:
        self._check(disk, position, "comes")

    def _check(self, disk: Disk, position: int, what: str) -> None:
        for place in range(disk.verified + 1, position + 1):
            payload = disk.payload_at[place]
            if not (self.facts.has(payload) or payload in self.facts.removed_unsent or payload in self.facts.lost):
                self.complain(f"an ack of {position} {what} for {disk.name}; {named(payload)} at {place} is not stored")
        disk.verified = max(disk.verified, position)


class FencedAreSilent(Checker):
    """Only the newest session of an edge stores anything and is told so."""

    def __init__(self, facts: Facts, complain: Complain) -> None:
        super().__init__(facts, complain)
        self._stored_in: dict[tuple[str, str, int], int] = {}

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        for name, origin in after.origins.items():
            known = before.origins.get(name)
            if known is None or known.session != origin.session or known.stored == origin.stored:
                continue
            self._stored_in[name, origin.stored.journal_id, origin.stored.position] = origin.session

    def ack_said(self, disk: Disk, session: int, position: int) -> None:
        stored_in = self._stored_in.get((disk.name, disk.state.journal_id, position))
        if stored_in is not None and stored_in != session:
            self.complain(f"session {session} of {disk.name} is told {position}, stored when {stored_in} was newest")

    def cloud_replaced(self, after: State) -> None:
        self._stored_in.clear()


class TrimmedIsStored(Checker):
    """Retention takes only what the cloud has, or states that it does not."""

    def edge_removed(self, disk: Disk, after: State, removed: list[Envelope]) -> None:
        for event in removed:
            if self.facts.has(event.payload):
                continue
            reason = after.heads[event.persistence_id].deleted_reason
            # Another copy of this disk may have dropped it, and told the cloud.
            is_known = event.payload in self.facts.ever_in_cloud or event.payload in self.facts.removed_unsent
            if reason == "trimmed" and not is_known:
                self.complain(
                    f"{disk.name} trimmed {named(event.payload)} at {event.position}, which the cloud never had"
                )
            self.facts.removed_unsent.add(event.payload)


class AgesAreElapsed(Checker):
    """Nothing goes because it is old before that much time has passed, whatever the clocks are set to."""

    def __init__(self, facts: Facts, complain: Complain) -> None:
        super().__init__(facts, complain)
        self._stored_at: dict[bytes, float] = {}

    def edge_commit(self, disk: Disk, before: State, after: State, new: list[Envelope]) -> None:
        for event in new:
            self._stored_at.setdefault(event.payload, trio.current_time())

    def edge_removed(self, disk: Disk, after: State, removed: list[Envelope]) -> None:
        for event in removed:
            age_s = trio.current_time() - self._stored_at[event.payload]
            if round(age_s, 6) < self.facts.kept_s:  # services count whole microseconds
                self.complain(f"{disk.name} removed {named(event.payload)} {age_s:.6f} s after it was stored")


class OldestGoFirst(Checker):
    """What is removed of an entity is always its oldest events, so that one number says what is gone."""

    def edge_removed(self, disk: Disk, after: State, removed: list[Envelope]) -> None:
        kept = set(zip(after.log.persistence_id, after.log.seq_nr, strict=True))
        for event in removed:
            older = [seq_nr for name, seq_nr in kept if name == event.persistence_id and seq_nr < event.seq_nr]
            if older:
                self.complain(f"{disk.name} removed {event.seq_nr} of {event.persistence_id} and kept {min(older)}")


class NothingParked(Checker):
    """Nothing is set aside unless a disk lost an event of that entity unsaid."""

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        for row in after.parked:
            if row.id > before.last_parked_id and row.persistence_id not in self.facts.damaged:
                event = row.event
                self.complain(f"{row.code}: {row.persistence_id} {event.seq_nr[0]}, {named(event.payload[0])}")


class NothingLost(Checker):
    """In the end the cloud has every event that any edge ever stored, but for those named as lost or stated as gone."""

    def at_end(self, edges: list[Disk], cloud: Disk) -> None:
        facts = self.facts
        for payload in filter(facts.is_missing, facts.order):
            why = "was removed, and nothing says so" if payload in facts.removed_unsent else "is not in the cloud"
            entity = facts.submissions[payload].persistence_id
            self.complain(f"{named(payload)}, {facts.placed[payload][1]} of {entity}, {why}")


class GoneIsGone(Checker):
    """What the cloud keeps as stated to be gone was removed from a disk of that edge, and is not in the log as well."""

    def __init__(self, facts: Facts, complain: Complain) -> None:
        super().__init__(facts, complain)
        self._removed: dict[tuple[str, int], set[bytes]] = {}
        self._stored: dict[tuple[str, int, int], bytes] = {}

    def edge_removed(self, disk: Disk, after: State, removed: list[Envelope]) -> None:
        for event in removed:
            self._removed.setdefault((event.persistence_id, event.seq_nr), set()).add(event.payload)

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        for event in self.facts.pushed(new):
            branch = after.heads[event.persistence_id].branch
            self._stored[event.persistence_id, branch, event.origin_seq_nr] = event.payload

    def cloud_replaced(self, after: State) -> None:
        self._stored = {key: payload for key, payload in self._stored.items() if payload in self.facts.in_cloud}

    def at_end(self, edges: list[Disk], cloud: Disk) -> None:
        for branch, kept in cloud.state.ranges:
            stated = kept.stated
            if stated.reason not in GONE_REASONS or stated.persistence_id in self.facts.damaged:
                continue
            for number in range(stated.from_seq_nr, stated.to_seq_nr + 1):
                if (stored := self._stored.get((stated.persistence_id, branch, number))) is not None:
                    self.complain(f"{stated} is kept of {kept.origin_id}, and {named(stored)} is in the cloud")
                if (stated.persistence_id, number) not in self._removed:
                    self.complain(f"{stated} is kept of {kept.origin_id}, which never removed number {number}")


class AppendsHonoured(Checker):
    """An append is stored whole or not at all, where its caller was told, and once for one key."""

    def edge_commit(self, disk: Disk, before: State, after: State, new: list[Envelope]) -> None:
        self._check_whole(disk.name, new)

    def cloud_commit(self, before: State, after: State, new: list[Envelope]) -> None:
        self._check_whole("the cloud", [event for event in new if self.facts.is_published(event)])

    def _check_whole(self, where: str, new: list[Envelope]) -> None:
        appends = [self.facts.submissions[event.payload] for event in new if event.payload in self.facts.submissions]
        at = 0
        while at < len(appends):
            whole = appends[at : at + appends[at].size]
            if len(whole) != appends[at].size or any(part.append != appends[at].append for part in whole):
                self.complain(f"{where} stored a part of append {appends[at].append}")
                return
            at += appends[at].size

    def told_stored(self, payloads: list[bytes], answer: Appended) -> None:
        """An application was told that its events are stored."""
        for index, payload in enumerate(payloads):
            wanted = (answer.first_position + index, answer.seq_nr[index])
            if self.facts.placed.get(payload) != wanted:
                self.complain(f"{named(payload)} was told to be at {wanted}, it is at {self.facts.placed.get(payload)}")

    def told_refused(self, payloads: list[bytes], code: str) -> None:
        """An application was told that nothing was stored."""
        for payload in payloads:
            if payload in self.facts.placed:
                self.complain(f"{named(payload)} was refused with {code} and is stored")


CHECKERS: Final[tuple[type[Checker], ...]] = (
    NothingInvented,
    NothingTwice,
    InOrder,
    DenseNumbers,
    TimeMovesOn,
    NoSilentGap,
    AckIsDurable,
    FencedAreSilent,
    TrimmedIsStored,
    AgesAreElapsed,
    OldestGoFirst,
    NothingParked,
    NothingLost,
    GoneIsGone,
    AppendsHonoured,
)
