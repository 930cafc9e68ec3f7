"""Ranges are spread fairly, every node computes the same, and a change of members moves no more than it must."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from common.core.events.ids import slice_ranges
from common.core.members.assignment import Candidate, RangeKey, assign

NAMES = ("latest", "tally")
GROUPS = st.sampled_from([1, 2, 4, 8, 16, 32])
NODES = st.lists(st.sampled_from([f"n{number}/{number * 7919:x}" for number in range(9)]), min_size=1, unique=True)


def members(instances: Collection[str], weight: int = 1) -> list[Candidate]:
    return [Candidate(instance, weight, frozenset(NAMES)) for instance in instances]


def free(groups: int) -> dict[RangeKey, str]:
    return {(name, slices): "" for name in NAMES for slices in slice_ranges(groups)}


def groups_of(assigned: Mapping[RangeKey, str]) -> Counter[str]:
    return Counter(instance for (name, _), instance in assigned.items() if name == "tally")


@given(GROUPS, NODES, st.randoms(use_true_random=False))
def test_each_member_has_its_fair_share_and_all_projections_of_its_slices(
    groups: int, nodes: list[str], random: Random
) -> None:
    owners = {key: random.choice(["", *nodes, "gone/1"]) for key in free(groups)}
    assigned = assign(owners, members(nodes))
    assert assigned.keys() == owners.keys()
    counts = groups_of(assigned)
    for node in nodes:
        assert groups // len(nodes) <= counts[node] <= -(-groups // len(nodes))
    assert all(assigned["latest", slices] == assigned["tally", slices] for _, slices in owners)


@given(GROUPS, NODES, st.randoms(use_true_random=False))
def test_every_node_computes_the_same_whatever_order_it_reads_in(groups: int, nodes: list[str], random: Random) -> None:
    owners = {key: random.choice(["", *nodes]) for key in free(groups)}
    shuffled, again = list(owners.items()), list(nodes)
    random.shuffle(shuffled)
    random.shuffle(again)
    assert assign(dict(shuffled), members(again)) == assign(owners, members(nodes))


@given(GROUPS, NODES)
def test_what_was_assigned_stays(groups: int, nodes: list[str]) -> None:
    assigned = assign(free(groups), members(nodes))
    assert assign(assigned, members(nodes)) == assigned


@given(GROUPS, NODES, st.integers(0, 8))
def test_a_member_that_goes_leaves_the_others_what_they_have(groups: int, nodes: list[str], which: int) -> None:
    before = assign(free(groups), members(nodes))
    gone = nodes[which % len(nodes)]
    rest = [node for node in nodes if node != gone]
    after = assign(before, members(rest))
    assert {key: after[key] for key in after if before[key] != gone} == {
        key: before[key] for key in after if before[key] != gone
    }


@given(GROUPS, NODES)
def test_a_member_that_comes_takes_its_share_and_nothing_else_moves(groups: int, nodes: list[str]) -> None:
    before = assign(free(groups), members(nodes))
    after = assign(before, members([*nodes, "new/1"]))
    moved = {key[1]: after[key] for key in after if after[key] != before[key]}
    assert set(moved.values()) <= {"new/1"}
    assert groups // (len(nodes) + 1) <= len(moved) <= -(-groups // (len(nodes) + 1))


@given(GROUPS, NODES, st.randoms(use_true_random=False))
def test_moves_one_at_a_time_arrive_and_move_nothing_twice(groups: int, nodes: list[str], random: Random) -> None:
    holders = {slices: random.choice(nodes) for slices in slice_ranges(groups)}
    owners = {key: holders[key[1]] for key in free(groups)}
    moved: Counter[RangeKey] = Counter()
    while differing := [key for key, node in assign(owners, members(nodes)).items() if owners[key] != node]:
        key = random.choice(sorted(differing))
        owners[key] = assign(owners, members(nodes))[key]
        moved[key] += 1
        assert moved[key] == 1
    counts = groups_of(owners)
    assert all(groups // len(nodes) <= counts[node] <= -(-groups // len(nodes)) for node in nodes)


def test_weights_are_shares_and_none_is_no_work() -> None:
    able = [*members(["a", "b"]), *members(["big"], 2), *members(["drained"], 0)]
    assert groups_of(assign(free(16), able)) == {"a": 4, "b": 4, "big": 8}
    assert groups_of(assign(free(2), members(["a", "b"], 0))) == {"a": 1, "b": 1}


def test_a_projection_goes_to_members_that_have_its_handler() -> None:
    able = [Candidate("old", 1, frozenset({"tally"})), Candidate("new", 1, frozenset(NAMES))]
    assigned = assign(free(4), able)
    assert {node for (name, _), node in assigned.items() if name == "latest"} == {"new"}
    assert groups_of(assigned) == {"old": 2, "new": 2}
    assert assign(free(4), [Candidate("other", 1, frozenset({"other"}))]) == {}
