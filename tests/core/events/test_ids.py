"""Persistence ids and slices: other systems' vectors, and what is refused as a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.ids import (
    ALL_SLICES,
    NAME_MAX_BYTES,
    SLICES,
    SliceRange,
    entity_type_of,
    java_string_hash,
    persistence_id,
    persistence_id_problem,
    slice_of,
    slice_ranges,
    split_persistence_id,
)

# Persistence id, its hash in Java, its slice.
VECTORS = [
    ("pid-1", 106659951, 111),
    ("pid-2", 106659952, 112),
    ("pid-6712", -768995420, 92),
    ("test-entity|_hb-26498e81-66ad-4aa9-b985-b34602c5f32d-1", -1168559463, 359),
    ("Drone|drone1", 1187111325, 413),
    ("ShoppingCart|cart-1", -1444431240, 392),
    ("TestEntity|a", -1223437990, 678),
    ("polygenelubricants", -2147483648, 0),
    ("Drone|日本", -368390805, 661),
    ("Drone|😀", -367452953, 793),
]


@pytest.mark.parametrize(("text", "java_hash", "slice_"), VECTORS)
def test_slices_are_those_of_other_systems(text: str, java_hash: int, slice_: int) -> None:
    assert java_string_hash(text) == java_hash
    assert slice_of(text) == slice_


def hash_by_powers(text: str) -> int:
    """The same hash, said another way: s[0] * 31^(n-1) + … + s[n-1] over UTF-16 units, as a signed 32 bit number."""
    units: list[int] = []
    for character in text:
        code = ord(character)
        if code >= 0x10000:
            units += [0xD800 + ((code - 0x10000) >> 10), 0xDC00 + ((code - 0x10000) & 0x3FF)]
        else:
            units.append(code)
    total = sum(unit * pow(31, len(units) - 1 - index, 2**32) for index, unit in enumerate(units))
    return (total + 2**31) % 2**32 - 2**31


@given(st.text(max_size=60))
def test_the_hash_agrees_with_a_second_formulation(text: str) -> None:
    wanted = hash_by_powers(text)
    assert java_string_hash(text) == wanted
    # Java: Math.abs(hash % 1024), the remainder cut toward zero.
    remainder = wanted % SLICES if wanted >= 0 else -(-wanted % SLICES)
    assert slice_of(text) == abs(remainder)
    assert 0 <= slice_of(text) < SLICES


@pytest.mark.parametrize("count", [2**power for power in range(11)])
def test_slice_ranges_cover_every_slice_once(count: int) -> None:
    ranges = slice_ranges(count)
    assert len(ranges) == count
    assert [slice_ for each in ranges for slice_ in range(each.first, each.last + 1)] == list(range(SLICES))
    assert {each.last - each.first for each in ranges} == {SLICES // count - 1}


@pytest.mark.parametrize("count", [-1, 0, 3, 1000, 1025, 2048])
def test_other_numbers_of_ranges_are_refused(count: int) -> None:
    with pytest.raises(BackhaulError) as refused:
        slice_ranges(count)
    assert refused.value.code == "slices.invalid_range"


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (0, 1024), (6, 5)])
def test_a_range_outside_the_slices_is_refused(first: int, last: int) -> None:
    with pytest.raises(BackhaulError) as refused:
        SliceRange(first, last)
    assert refused.value.code == "slices.invalid_range"


def test_a_range_contains_its_ends() -> None:
    slices = SliceRange(3, 5)
    assert [slice_ in slices for slice_ in (2, 3, 5, 6)] == [False, True, True, False]
    assert (str(slices), slices.is_all, ALL_SLICES.is_all) == ("3-5", False, True)


@given(st.text(min_size=1, max_size=100), st.text(min_size=1, max_size=100))
def test_what_can_be_joined_can_be_split(entity_type: str, entity_id: str) -> None:
    if persistence_id_problem(f"{entity_type}|{entity_id}"):
        with pytest.raises(BackhaulError) as refused:
            persistence_id(entity_type, entity_id)
        assert refused.value.code == "entity.invalid_name"
        return
    joined = persistence_id(entity_type, entity_id)
    assert split_persistence_id(joined) == (entity_type, entity_id)
    assert entity_type_of(joined) == entity_type
    assert persistence_id_problem(joined) == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a|b",
        "a\x00",
        "a\nb",
        "\x1f",
        "\x7f",
        "\x85",
        "\u2028",
        "lone \ud83d surrogate",
        "x" * (NAME_MAX_BYTES + 1),
        "ä" * (NAME_MAX_BYTES // 2 + 1),
    ],
)
def test_unfit_names_are_refused_in_both_halves(name: str) -> None:
    for halves in ((name, "id"), ("Type", name)):
        with pytest.raises(BackhaulError) as refused:
            persistence_id(*halves)
        assert refused.value.code == "entity.invalid_name"
        assert persistence_id_problem("|".join(halves))


@pytest.mark.parametrize("text", ["no separator", "|id", "Type|", "a|b|c", "a|\x00", ""])
def test_unfit_persistence_ids_are_refused_whole(text: str) -> None:
    with pytest.raises(BackhaulError) as refused:
        split_persistence_id(text)
    assert refused.value.code == "entity.invalid_name"
    assert persistence_id_problem(text)


@pytest.mark.parametrize(
    "name", ["x", " ", "ü", "日本 😀", "x" * NAME_MAX_BYTES, "ä" * (NAME_MAX_BYTES // 2), "%_'\"\\"]
)
def test_other_names_are_fine(name: str) -> None:
    assert split_persistence_id(persistence_id(name, name)) == (name, name)


def test_a_prefix_makes_no_id_of_an_empty_one() -> None:
    assert persistence_id("Sensor", "t1", "edge-1/") == "Sensor|edge-1/t1"
    with pytest.raises(BackhaulError):
        persistence_id("Sensor", "", "edge-1/")
    with pytest.raises(BackhaulError):
        persistence_id("Sensor", "x" * 250, "edge-1/")
