"""What is known to have happened, kept up at every commit: the common ground of the checkers.

Every event that is ever submitted has a payload of its own, so a payload stands for its event. What may be missing at
the end is decided here, exactly and by name: only what a lost or rewound disk held and no other disk had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.core.events.batch import Envelope, EventBatch
from tests.simulation.disks import Disk, State

CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class Submission:
    """One event as an application handed it in; ``append`` is shared by the ``size`` events of one request.

    ``edge`` is the cloud for what was published there.
    """

    edge: str
    append: str
    size: int
    persistence_id: str
    event_type: str
    event_time_us: int
    tags: tuple[str, ...]
    metadata: Mapping[str, str]


class Facts:
    """``disks`` are the edges' disks that are in use or may come back; ``cloud_disk`` is the cloud's."""

    def __init__(self, kept_s: float) -> None:
        self.kept_s = kept_s
        """Least time that edges keep what the cloud has; 0 where room may get short."""
        self.submissions: dict[bytes, Submission] = {}
        self.order: dict[bytes, int] = {}
        """When an event was first committed on an edge, as a running number."""
        self.placed: dict[bytes, tuple[int, int]] = {}
        """Position and number in its entity of each event, on its edge."""
        self.disks: list[Disk] = []
        self.cloud_disk: Disk
        self.in_cloud: Counter[bytes] = Counter()
        self.parked: set[bytes] = set()
        self.ever_in_cloud: set[bytes] = set()
        self.removed_unsent: set[bytes] = set()
        """Dropped at the cap, or trimmed before an edge could know that the cloud was rewound: must be stated."""
        self.lost: dict[bytes, str] = {}
        """Events that may be missing, with the reason."""
        self.cloned: set[str] = set()
        """Edges of which two ran at once: what each wrote stands in the order in which they had their turns."""
        self.readmitted: set[str] = set()
        """Edges that an operator let in although the cloud had left their log behind: that part is stored once more."""
        self.damaged: set[str] = set()
        """Entities of which a disk lost an event unsaid."""
        self.cloud_lives = 0
        """How often the cloud was rewound."""

    def is_published(self, event: Envelope) -> bool:
        """Whether it began in the cloud, and no edge has ever stored it."""
        answer = self.submissions.get(event.payload)
        return answer is not None and answer.edge == CLOUD

    def pushed(self, events: Iterable[Envelope]) -> list[Envelope]:
        """Those of a cloud's events that came from edges."""
        return [event for event in events if not self.is_published(event)]

    def edge_committed(self, disk: Disk, new: Iterable[Envelope]) -> None:
        """Events are on an edge's disk."""
        for event in new:
            disk.payload_at[event.position] = event.payload
            self.order.setdefault(event.payload, len(self.order))
            self.placed[event.payload] = (event.position, event.seq_nr)

    def cloud_committed(self, new: Iterable[Envelope], newly_parked: Iterable[bytes]) -> None:
        """Events are on the cloud's disk."""
        for event in new:
            self.in_cloud[event.payload] += 1
            self.ever_in_cloud.add(event.payload)
            if self.is_published(event):
                self.placed[event.payload] = (event.position, event.seq_nr)
        for payload in newly_parked:
            self.parked.add(payload)
            self.ever_in_cloud.add(payload)

    def has(self, payload: bytes) -> bool:
        """Whether the event is durable in the cloud now, in the log or set aside."""
        return payload in self.in_cloud or payload in self.parked

    def is_settled(self, payload: bytes) -> bool:
        """Whether nothing more is to come of the event: the cloud has it, or it is known as missing."""
        is_damaged = self.submissions[payload].persistence_id in self.damaged
        return self.has(payload) or payload in self.removed_unsent or payload in self.lost or is_damaged

    def is_missing(self, payload: bytes) -> bool:
        """Whether the cloud has neither the event nor the word that it was removed, though nothing excuses that."""
        entity = self.submissions[payload].persistence_id
        if payload in self.in_cloud or payload in self.lost or entity in self.damaged:
            return False
        return payload not in self.removed_unsent or not self._is_stated(entity, self.placed[payload][1])

    def _is_stated(self, entity: str, seq_nr: int) -> bool:
        ranges = (kept.stated for _, kept in self.cloud_disk.state.ranges)
        return any(one.persistence_id == entity and one.from_seq_nr <= seq_nr <= one.to_seq_nr for one in ranges)

    def edge_disk_gone(self, gone: Disk, instead: Disk | None) -> None:
        """An edge goes on with another disk, or (a clone) not at all."""
        self.disks.remove(gone)
        kept = set(instead.payload_at.values()) if instead else set()
        if instead and instead not in self.disks:
            self.disks.append(instead)
        # Also what was deleted there unsent: the word that it is gone is gone too.
        for payload in gone.payload_at.values():
            if payload not in kept and not self.has(payload):
                self.lost[payload] = f"only on a disk of {gone.name} that is gone"

    def cloud_replaced(self, after: State) -> None:
        """The cloud has an older disk again."""
        before = {*self.in_cloud, *self.parked}
        self.in_cloud = Counter(self.cloud_disk.history.payload)
        self.parked = {row.event.payload[0] for row in after.parked}
        self.cloud_lives += 1
        # An origin has one position: where two copies of a log are about, the one that dials first moves it past what it
        # has no more, and the other is not asked for that. So what any copy has removed may be missing.
        kept = {payload for disk in self.disks for payload in disk.state.log.payload}
        for disk in self.disks:
            kept -= set(disk.payload_at.values()).difference(disk.state.log.payload)
        for payload in before:
            if not self.has(payload) and payload not in kept:
                self.lost[payload] = "only on the disk of the cloud that is gone"
        for disk in self.disks:
            disk.verified = 0


def named(payload: bytes) -> str:
    """An event by application, append and index, without the padding."""
    return payload.rpartition(b":")[0].decode()


def envelopes_after(log: EventBatch, position: int) -> list[Envelope]:
    """The events of a log behind a position, as rows."""
    first = len(log)
    while first and log.position[first - 1] > position:
        first -= 1
    return [log.envelope(index) for index in range(first, len(log))]


def removed_between(before: EventBatch, after: EventBatch) -> list[Envelope]:
    """The events that are no longer in a log."""
    kept = set(after.position)
    return [before.envelope(index) for index in range(len(before)) if before.position[index] not in kept]
