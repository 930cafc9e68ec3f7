"""Histories against a world that simulates disks: restarts, lost tails, backups put back, clones, new disks.

The model keeps whole logs and compares them event by event; ``decide_resume`` must come to the same answer from ids
and positions alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.core.journal.history import (
    GENERATIONS_MAX,
    SUPERSEDED_MAX,
    Generation,
    History,
    Offset,
    OriginState,
    Resume,
    begin_generation,
    common_prefix,
    decide_resume,
    epoch_jump,
    history_problem,
)


def generations(*pairs: tuple[str, int]) -> tuple[Generation, ...]:
    return tuple(Generation(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("peer", "is_one"),
    [
        (History("j", generations(("a", 1)), 0), True),
        (History("j", generations(("a", 7), ("b", 9)), 8), True),
        (History("j", generations(("a", 1)), -1), False),
        (History("j", generations(("a", 0)), 5), False),
        (History("j", generations(("a", 3), ("b", 3)), 5), False),
        (History("j", generations(("a", 7)), 5), False),
        (History("j", generations(*((f"g{n}", n) for n in range(1, GENERATIONS_MAX + 2))), 5_000), False),
        (History("", generations(("a", 1)), 5), False),
        (History("j\0", generations(("a", 1)), 5), False),
        (History("j", generations(("a" * 257, 1)), 5), False),
    ],
)
def test_a_history_that_no_journal_has_is_told_from_one_that_may_be(peer: History, is_one: bool) -> None:
    assert (history_problem(peer) == "") is is_one


class TestGenerations:
    """A list that grows with forks that hold events, not with restarts."""

    def test_an_empty_generation_is_replaced(self) -> None:
        first = begin_generation((), "a", 0)
        assert first == generations(("a", 1))
        assert begin_generation(first, "b", 0) == generations(("b", 1))
        assert begin_generation(first, "b", 5) == generations(("a", 1), ("b", 6))
        assert begin_generation(generations(("a", 1), ("b", 6)), "c", 5) == generations(("a", 1), ("c", 6))

    def test_a_head_that_went_back_drops_the_generations_above_it(self) -> None:
        assert begin_generation(generations(("a", 1), ("b", 6)), "c", 3) == generations(("a", 1), ("c", 4))

    def test_the_list_is_bounded_and_loses_its_oldest(self) -> None:
        kept: tuple[Generation, ...] = ()
        for position in range(GENERATIONS_MAX + 10):
            kept = begin_generation(kept, f"g{position}", position)
        assert len(kept) == GENERATIONS_MAX
        assert kept[-1] == Generation(f"g{GENERATIONS_MAX + 9}", GENERATIONS_MAX + 10)

    def test_the_epochs_of_two_generations_that_begin_at_one_place_lie_far_apart(self) -> None:
        jumps = sorted(epoch_jump(f"{number:032x}") for number in range(200))
        assert jumps[0] >= 1_000_000
        assert min(b - a for a, b in pairwise(jumps)) >= 1_000_000
        assert jumps[-1] < 2**63 // 100_000, "so many generations fit into a bigint"

    def test_every_position_belongs_to_the_generation_that_wrote_it(self) -> None:
        history = History("j", generations(("a", 1), ("b", 6), ("c", 9)), 9)
        assert "".join(history.generation_at(position) for position in range(10)) == "aaaaaabbbc"
        assert history.generation_id == "c"
        pruned = History("j", generations(("b", 6)), 9)
        assert pruned.generation_at(2) == "b"


@pytest.mark.parametrize(
    ("ours", "our_position", "theirs", "their_head", "wanted"),
    [
        ([("a", 1)], 5, [("a", 1)], 9, 5),
        ([("a", 1)], 5, [("a", 1)], 3, 3),
        ([("a", 1)], 5, [("a", 1), ("b", 4)], 9, 3),
        ([("a", 1)], 5, [("a", 1), ("b", 6)], 9, 5),
        ([("a", 1), ("b", 6)], 5, [("a", 1), ("c", 6)], 5, 5),
        ([("a", 1), ("b", 6)], 9, [("a", 1), ("b", 6), ("c", 8)], 12, 7),
        ([("a", 1), ("b", 6)], 9, [("a", 1), ("c", 4)], 20, 3),
        ([("a", 1), ("b", 6)], 3, [("a", 1), ("b", 6)], 9, 3),
        ([("b", 6)], 9, [("b", 6), ("c", 11)], 12, 9),
        ([("a", 1)], 5, [("b", 1)], 5, None),
        ([], 0, [("b", 1)], 5, None),
    ],
)
def test_the_common_prefix_ends_where_the_lists_part(
    ours: list[tuple[str, int]],
    our_position: int,
    theirs: list[tuple[str, int]],
    their_head: int,
    wanted: int | None,
) -> None:
    assert common_prefix(generations(*ours), our_position, generations(*theirs), their_head) == wanted


class TestDecisions:
    """The fields of a decision that the model below does not look at."""

    def test_a_clone_is_told_when_it_comes_back_after_it_was_fenced(self) -> None:
        history = History("j", generations(("a", 1)), 3)
        answer = []
        known: OriginState | None = None
        for instance in ("p1", "p1", "p2", "p2", "p1", "p2", "p3", "p4"):
            decision = decide_resume(known, "edge", instance, history, 7)
            known = decision.state
            answer.append(decision.cloned)
        # A restart (p3, p4) is a new process that was never fenced.
        assert answer == [False, False, False, False, True, True, False, False]
        assert known is not None
        assert (known.session, known.last_seen_us) == (8, 7)

    def test_the_superseded_are_remembered_up_to_a_bound(self) -> None:
        known: OriginState | None = None
        for number in range(SUPERSEDED_MAX + 5):
            history = History(f"j{number}", generations((f"g{number}", 1)), 0)
            known = decide_resume(known, "edge", f"p{number}", history, 0).state
        assert known is not None
        assert len(known.superseded) == SUPERSEDED_MAX
        assert known.superseded[-1] == f"j{SUPERSEDED_MAX + 3}"

    def test_the_original_is_refused_once_its_backup_has_gone_on(self) -> None:
        original = History("j", generations(("a", 1), ("b", 6)), 9)
        known = decide_resume(None, "edge", "p1", original, 0).state
        known = replace(known, stored=Offset("j", "b", 9))
        backup = History("j", generations(("a", 1), ("c", 6)), 7)
        rewound = decide_resume(known, "edge", "p2", backup, 0)
        assert (rewound.resume, rewound.state.stored.position) == (Resume.REWOUND, 5)
        decision = decide_resume(rewound.state, "edge", "p1", original, 0)
        assert decision.resume is Resume.SUPERSEDED
        assert decision.state == rewound.state

    def test_a_generation_that_an_earlier_version_superseded_stays_out(self) -> None:
        """It kept no first position with it, and put it beside the journals."""
        backup = History("j", generations(("a", 1), ("c", 6)), 7)
        known = replace(decide_resume(None, "edge", "p2", backup, 0).state, superseded=("b",))
        original = History("j", generations(("a", 1), ("b", 6)), 9)
        assert decide_resume(known, "edge", "p1", original, 0).resume is Resume.SUPERSEDED

    def test_the_original_is_refused_also_when_it_went_on_without_a_restart(self) -> None:
        """What is left behind then is a part of a generation that both have."""
        known = decide_resume(None, "edge", "p1", History("j", generations(("a", 1)), 3), 0).state
        known = replace(known, stored=Offset("j", "a", 5))
        clone = History("j", generations(("a", 1), ("c", 4)), 3)
        rewound = decide_resume(known, "edge", "p2", clone, 0)
        assert (rewound.resume, rewound.state.stored.position) == (Resume.REWOUND, 3)
        original = History("j", generations(("a", 1)), 7)
        assert decide_resume(rewound.state, "edge", "p1", original, 0).resume is Resume.SUPERSEDED
        restarted = History("j", generations(("a", 1), ("d", 8)), 7)
        assert decide_resume(rewound.state, "edge", "p3", restarted, 0).resume is Resume.SUPERSEDED
        gone_on = History("j", generations(("a", 1), ("c", 4), ("e", 6)), 5)
        assert decide_resume(rewound.state, "edge", "p4", gone_on, 0).resume is Resume.RESUME

    def test_a_log_put_back_under_its_running_process_may_write_on(self) -> None:
        """It has no generation of its own that would tell its events from those that are gone."""
        known = decide_resume(None, "edge", "p", History("j", generations(("a", 1)), 5), 0).state
        known = replace(known, stored=Offset("j", "a", 5))
        for head, wanted in ((3, Resume.REWOUND), (4, Resume.RESUME)):
            decision = decide_resume(known, "edge", "p", History("j", generations(("a", 1)), head), 0)
            assert decision.resume is wanted
            known = decision.state

    def test_pruned_lists_without_a_common_generation_assume_nothing_shared(self) -> None:
        known = decide_resume(None, "edge", "p", History("j", generations(("a", 1)), 9), 0).state
        known = replace(known, stored=Offset("j", "a", 9))
        decision = decide_resume(known, "edge", "p", History("j", generations(("b", 12)), 20), 0)
        assert decision.resume is Resume.REWOUND
        assert decision.state.stored == Offset("j", "b", 0)


@dataclass
class Disk:
    """One journal file: its log is a list of event ids, which are unique in the world."""

    journal_id: str
    log: list[int] = field(default_factory=list)
    generations: tuple[Generation, ...] = ()

    def copy(self) -> Disk:
        return Disk(self.journal_id, list(self.log), self.generations)


class DisksAndACloud(RuleBasedStateMachine):
    """One edge identity over any number of disks; a cloud that knows what ``OriginState`` holds and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.serial = 0
        self.disks: list[Disk] = [self.new_disk()]
        self.running = -1
        """Which disk the process that dialled last runs on, -1 when it must dial again before it may push."""
        self.known: OriginState | None = None
        self.view: list[int] = []
        """What the cloud holds of the branch it is on: event ids by position, from 1."""
        self.branches: dict[int, list[int]] = {}
        """What was stored on each branch, in order."""
        self.left_behind: set[int] = set()
        """Events that are stored, of logs from which the cloud has turned away at a fork."""
        self.is_tail_lost = False

    def unique(self) -> int:
        self.serial += 1
        return self.serial

    def new_disk(self) -> Disk:
        disk = Disk(f"journal-{self.unique()}")
        self.open(disk)
        return disk

    def was_left_behind(self, disk: Disk) -> bool:
        return not self.left_behind.isdisjoint(disk.log)

    def open(self, disk: Disk) -> None:
        disk.generations = begin_generation(disk.generations, f"g{self.unique()}", len(disk.log))

    @rule(which=st.integers(0, 9), n=st.integers(1, 4))
    def write(self, which: int, n: int) -> None:
        self.disks[which % len(self.disks)].log.extend(self.unique() for _ in range(n))

    @rule(which=st.integers(0, 9), lost=st.sampled_from([0, 0, 0, 1, 3]))
    def restart(self, which: int, lost: int) -> None:
        """A restart; a disk that lies about syncs loses the tail."""
        disk = self.disks[which % len(self.disks)]
        self.is_tail_lost = self.is_tail_lost or lost > 0
        del disk.log[max(0, len(disk.log) - lost) :]
        self.open(disk)
        self.running = -1

    @precondition(lambda self: len(self.disks) < 5)
    @rule(which=st.integers(0, 9))
    def copy_and_start(self, which: int) -> None:
        """A backup put back, or a clone that is started beside the original."""
        copy = self.disks[which % len(self.disks)].copy()
        self.open(copy)
        self.disks.append(copy)
        self.running = -1

    @precondition(lambda self: len(self.disks) < 5)
    @rule()
    def replace_disk(self) -> None:
        self.disks.append(self.new_disk())
        self.running = -1

    @rule(which=st.integers(0, 9))
    def dial(self, which: int) -> None:
        which %= len(self.disks)
        disk, before = self.disks[which], self.known
        history = History(disk.journal_id, disk.generations, len(disk.log))
        decision = decide_resume(before, "edge", f"p{which}", history, 0)
        state = decision.state

        if before is None:
            wanted, shared = Resume.FIRST, 0
        elif disk.journal_id in before.superseded or self.was_left_behind(disk):
            assert decision.resume is Resume.SUPERSEDED
            assert state == before
            return
        elif disk.journal_id != before.stored.journal_id:
            wanted, shared = Resume.NEW_JOURNAL, 0
        else:
            shared = 0
            for ours, theirs in zip(self.view, disk.log, strict=False):
                if ours != theirs:
                    break
                shared += 1
            wanted = Resume.RESUME if shared == len(self.view) else Resume.REWOUND

        assert (decision.resume, state.stored.position) == (wanted, shared)
        assert state.session == (before.session + 1 if before else 1)
        is_fork = wanted in {Resume.REWOUND, Resume.NEW_JOURNAL}
        assert state.branch == (before.branch + is_fork if before else 1)
        assert state.stored.journal_id == disk.journal_id
        if wanted is Resume.REWOUND:
            self.left_behind.update(self.view[shared:])
        if shared:
            assert state.stored.generation_id == history.generation_at(shared)
        del self.view[shared:]
        self.known, self.running = state, which

    @precondition(lambda self: self.running >= 0)
    @rule(n=st.integers(1, 5))
    def push(self, n: int) -> None:
        assert self.known is not None
        disk = self.disks[self.running]
        position = self.known.stored.position
        sent = disk.log[position : position + n]
        self.view += sent
        self.branches.setdefault(self.known.branch, []).extend(sent)
        history = History(disk.journal_id, disk.generations, len(disk.log))
        through = position + len(sent)
        self.known = replace(self.known, stored=Offset(disk.journal_id, history.generation_at(through), through))

    @invariant()
    def nothing_is_stored_twice_on_one_branch(self) -> None:
        for stored in self.branches.values():
            assert len(set(stored)) == len(stored)

    @invariant()
    def nothing_is_stored_twice_at_all(self) -> None:
        """A disk that lies about syncs is the exception: an older copy of it may bring back what the cloud has."""
        if not self.is_tail_lost:
            stored = [event for branch in self.branches.values() for event in branch]
            assert len(set(stored)) == len(stored)

    @invariant()
    def nothing_is_skipped(self) -> None:
        if self.running >= 0:
            assert self.view == self.disks[self.running].log[: len(self.view)]


TestDisksAndACloud = DisksAndACloud.TestCase
TestDisksAndACloud.settings = settings(max_examples=100, stateful_step_count=30)
