"""The identity of a journal's history: which log this is, and where two copies of it part.

A journal has a random id and a list of generations, each a random id with the first position written under it; a new
one begins whenever the log may have gone another way (as Kafka's leader epochs). Two sides that compare
their lists find the last position they share. Empty generations are dropped, so the list grows with forks that hold
events and not with restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from zlib import crc32

from common.core.events.ids import NAME_MAX_BYTES, text_problem

GENERATIONS_MAX = 1_000
SUPERSEDED_MAX = 1_000
# More than the epochs of one generation, and how many places, so far apart, an epoch may jump to.
_EPOCHS = 1_000_000
_JUMPS = 1 << 24


@dataclass(frozen=True, slots=True)
class Generation:
    """Positions from ``first_position`` on were written by this incarnation."""

    id: str
    first_position: int


@dataclass(frozen=True, slots=True)
class Offset:
    """A place in one journal's history and the last event at or below it (position 0 = before the first)."""

    journal_id: str
    generation_id: str
    position: int
    timestamp_us: int = 0
    persistence_id: str = ""
    seq_nr: int = 0


NOWHERE = Offset("", "", 0)


@dataclass(frozen=True, slots=True)
class History:
    """A journal's identity: its id, its generations (oldest first, at least one) and its last position."""

    journal_id: str
    generations: tuple[Generation, ...]
    head_position: int

    @property
    def generation_id(self) -> str:
        """The newest generation: what is written now belongs to it."""
        return self.generations[-1].id

    def generation_at(self, position: int) -> str:
        """Id of the generation that wrote ``position`` (the oldest kept one for older positions)."""
        found = self.generations[0].id
        for generation in self.generations:
            if generation.first_position > max(position, 1):
                break
            found = generation.id
        return found


def history_problem(history: History) -> str:
    """What makes a peer's history one that no journal has, or ''. It is stored as it comes, so it is looked at first."""
    generations, head = history.generations, history.head_position
    if not 1 <= len(generations) <= GENERATIONS_MAX:
        return f"has {len(generations)} generations"
    for name in (history.journal_id, *(generation.id for generation in generations)):
        if not name or text_problem(name, NAME_MAX_BYTES):
            return "has an id that is empty, too long or not plain text"
    firsts = [0, *(generation.first_position for generation in generations)]
    if head < 0 or firsts[-1] > head + 1 or not all(a < b for a, b in pairwise(firsts)):
        return "has generations that are not in the order of their positions"
    return ""


def begin_generation(generations: Sequence[Generation], new_id: str, head_position: int) -> tuple[Generation, ...]:
    """The list after a start: the newest entry is replaced when it holds no event; the oldest go beyond the bound."""
    kept = [generation for generation in generations if generation.first_position <= head_position]
    kept.append(Generation(new_id, head_position + 1))
    return tuple(kept[-GENERATIONS_MAX:])


def epoch_jump(generation_id: str) -> int:
    """What a new generation adds to every epoch: beyond all that can have been reached since the copy was made.

    The holder of a lease may be of an epoch that is gone. Copies of one moment have the same epochs, and know nothing of each
    other: if two take over one after the other, a jump of one length would lead both to the same epochs, and so give
    one epoch two holders. So the length comes from the generation's id, which is random; a count of generations would be the
    same in both copies.
    """
    return _EPOCHS * (1 + crc32(generation_id.encode()) % _JUMPS)


def has_gone_back(known: History, generations: Sequence[Generation], head_position: int) -> bool:
    """Whether a journal is older than it was when this side saw ``known`` of it: put back, or lost with a failover.

    A newest generation that is not known is another node's, begun since; what went back before it is in its list.
    """
    ids = [generation.id for generation in known.generations]
    if generations[-1].id not in ids:
        return False
    return generations[-1].id != ids[-1] or head_position < known.head_position


def common_prefix(
    ours: Sequence[Generation], our_position: int, theirs: Sequence[Generation], their_head: int
) -> int | None:
    """Last position that both copies of one journal share, or None when no generation is common.

    ``ours`` is what this side last knew of the other's journal, up to ``our_position``; ``theirs`` is what the other
    side says now.
    """
    their_ends = _ends(theirs, their_head)
    our_ends = _ends(ours, our_position)
    for generation in reversed(ours):
        if generation.id in their_ends:
            return min(our_ends[generation.id], their_ends[generation.id])
    return None


def _ends(generations: Sequence[Generation], last_position: int) -> dict[str, int]:
    ends = {a.id: min(b.first_position - 1, last_position) for a, b in pairwise(generations)}
    if generations:
        ends[generations[-1].id] = last_position
    return ends


class Resume(StrEnum):
    """What a comparison of histories says about a dialling peer."""

    FIRST = "first"
    RESUME = "resume"
    REWOUND = "rewound"
    NEW_JOURNAL = "new_journal"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class OriginState:
    """What the receiving side has stored of one origin. ``branch`` counts the forks of its history seen so far.

    ``superseded`` holds the ids of journals that were replaced. ``left_behind`` is what forks turned away from: each
    generation with the first of its positions that are stored here and are not in the log that goes on.
    """

    origin_id: str
    session: int
    instance: str
    branch: int
    stored: Offset
    generations: tuple[Generation, ...]
    superseded: tuple[str, ...] = ()
    left_behind: tuple[Generation, ...] = ()
    last_seen_us: int = 0
    fenced_instance: str = ""


@dataclass(frozen=True, slots=True)
class ResumeDecision:
    """The origin's state after a Hello, and why.

    ``cloned`` is set when the dialling process had itself been fenced by the one it now fences: two live processes
    take turns with one identity.
    """

    resume: Resume
    state: OriginState
    cloned: bool = False


def decide_resume(
    known: OriginState | None, origin_id: str, instance: str, history: History, now_us: int
) -> ResumeDecision:
    """What to do with an origin that dials with ``history``.

    * unknown origin: begin at 0.
    * same journal, stored position inside the common prefix: resume there.
    * same journal, but the peer's log parts below the stored position: a new branch begins at the fork.
    * another journal id: the disk was lost. The old journal is superseded and a new branch begins at 0.
    * what was superseded comes back, be it a replaced journal or a log that holds what a fork left behind (the original,
      after a backup or a clone of it took its place): refused, the state is unchanged. Letting it in by itself would
      store again what its branch had stored before.
    """
    first = OriginState(
        origin_id, 1, instance, 1, Offset(history.journal_id, "", 0), history.generations, last_seen_us=now_us
    )
    if known is None:
        return ResumeDecision(Resume.FIRST, first)
    # Earlier versions kept here, beside journals, the ids of generations that a fork left behind.
    gone = {history.journal_id, *(generation.id for generation in history.generations)}.intersection(known.superseded)
    if gone or _holds(history, known.left_behind):
        return ResumeDecision(Resume.SUPERSEDED, known)
    following = replace(
        known,
        session=known.session + 1,
        instance=instance,
        generations=history.generations,
        last_seen_us=now_us,
        fenced_instance=known.instance if known.instance != instance else known.fenced_instance,
    )
    cloned = instance != known.instance and instance == known.fenced_instance
    old_journal = known.stored.journal_id
    if history.journal_id != old_journal:
        following = replace(
            following,
            branch=known.branch + 1,
            stored=first.stored,
            superseded=(*known.superseded, old_journal)[-SUPERSEDED_MAX:],
        )
        return ResumeDecision(Resume.NEW_JOURNAL, following, cloned)
    position = known.stored.position
    shared = common_prefix(known.generations, position, history.generations, history.head_position)
    # Without a common generation (lists are pruned) nothing above 0 is assumed shared: repeats are rebased, not lost.
    fork = 0 if shared is None else min(shared, position)
    if fork == position:
        return ResumeDecision(Resume.RESUME, following, cloned)
    left_behind = _left_behind(known.generations, position, history.generations, fork)
    following = replace(
        following,
        branch=known.branch + 1,
        stored=Offset(old_journal, history.generation_at(fork), fork),
        left_behind=(*known.left_behind, *left_behind)[-SUPERSEDED_MAX:],
    )
    return ResumeDecision(Resume.REWOUND, following, cloned)


def _left_behind(
    ours: Sequence[Generation], our_position: int, theirs: Sequence[Generation], fork: int
) -> list[Generation]:
    """What of ``ours`` a peer that parts from it after ``fork`` does not have."""
    ended = {generation.id for generation in theirs[:-1]}
    # The other log wrote on in a generation that both have: its process was not restarted since the copy was made. Where
    # that is the peer's newest one too, the peer will write the same positions in it: they do not tell the two apart.
    gone = [Generation(id_, fork + 1) for id_, end in _ends(ours, our_position).items() if id_ in ended and end > fork]
    known = {generation.id for generation in theirs}
    return gone + [generation for generation in ours if generation.id not in known]


def _holds(history: History, left_behind: Sequence[Generation]) -> bool:
    ends = _ends(history.generations, history.head_position)
    return any(ends.get(generation.id, -1) >= generation.first_position for generation in left_behind)
