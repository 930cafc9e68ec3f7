"""What every journal promises of entities that are read together: what it says of each alone, in bounds."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from common.core.events.batch import EventBatch
from common.core.journal.snapshot import NewSnapshot
from common.journal.entity_history import TO_THE_LAST, HistoryRequest, read_histories, read_history
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.support.builders import local

ANY_SIZE = 10**9


async def read_alone(journal: Journal, name: str, first: int) -> EventBatch:
    return await journal.log.read_entity(name, first, TO_THE_LAST, max_events=10_000)


async def numbers(
    journal: Journal, first: dict[str, int], each_max: int, max_bytes: int = ANY_SIZE
) -> dict[str, list[int]]:
    found = await journal.log.read_histories(first, each_max=each_max, max_bytes=max_bytes)
    return {name: batch.seq_nr for name, batch in found.items()}


async def test_each_history_is_as_it_is_read_alone(journal: Journal) -> None:
    await journal.log.append_group([local(*[f"S|{name}" for name in "abcabcabd"], tags=["t:x", "t:y\x1fz", ""])])
    odd = 'S|"\\u00e4\u00e4'
    await journal.log.append_group([local(odd)])
    first = {"S|b": 2, "S|none": 1, odd: 1, "S|d": 1, "S|a": 1, "S|c": 3}
    found = await journal.log.read_histories(first, each_max=10, max_bytes=ANY_SIZE)
    assert found == {name: await read_alone(journal, name, number) for name, number in first.items()}
    assert list(found["S|c"].seq_nr) == []
    assert await numbers(journal, {}, 10) == {}


async def test_what_is_long_or_does_not_fit_is_left_out_whole(journal: Journal) -> None:
    await journal.log.append_group([local(*["S|long"] * 4, *["S|a"] * 3, *["S|b"] * 3, *["S|c"] * 3, "S|d")])
    first = {"S|long": 1, "S|a": 1, "S|b": 1, "S|c": 1, "S|none": 1, "S|d": 1}
    every = {"S|a": [1, 2, 3], "S|b": [1, 2, 3], "S|c": [1, 2, 3], "S|none": [], "S|d": [1]}
    assert await numbers(journal, first, 3) == every
    assert (await numbers(journal, {"S|long": 2}, 3)) == {"S|long": [2, 3, 4]}
    a, b, c = [(await read_alone(journal, f"S|{name}", 1)).byte_size() for name in "abc"]
    both = {"S|a": [1, 2, 3], "S|b": [1, 2, 3]}
    assert await numbers(journal, first, 3, a + b) == both, "in the order in which they are asked for"
    assert await numbers(journal, first, 3, a + b + c - 1) == both, "what is behind one that does not fit goes too"
    assert await numbers(journal, first, 3, a + b + c) == {**both, "S|c": [1, 2, 3], "S|none": []}
    assert await numbers(journal, first, 3, a - 1) == {}


async def test_a_payload_of_the_largest_size_is_left_to_be_read_alone(journal: Journal) -> None:
    await journal.log.append_group([local("S|large", payload=b"x" * 300_000), local("S|small")])
    assert await numbers(journal, {"S|small": 1, "S|large": 1}, 10, 200_000) == {"S|small": [1]}


async def test_heads_are_those_of_each_alone(journal: Journal) -> None:
    await journal.log.append_group([local(*["S|a"] * 3, "S|b", "S|c")])
    await journal.log.trim(TrimLimit(2, 10))
    names = ["S|c", "S|a", "S|none", "S|a"]
    heads = await journal.log.entity_heads(names)
    assert heads == {name: await journal.log.entity_head(name) for name in ("S|a", "S|c")}
    assert heads["S|a"].deleted_to == 2
    assert await journal.log.entity_heads([]) == {}


async def test_histories_that_are_read_together_are_those_that_are_read_one_by_one(journal: Journal) -> None:
    """By chance: deleted beginnings, snapshots in front of and behind them, of one size or another."""
    chance, names = Random(5), [f"S|{name}" for name in "abcdefgh"]
    for _ in range(15):
        some = [chance.choice(names[:-1]) for _ in range(chance.randint(1, 12))]
        await journal.log.append_group([local(*some, tags=[chance.choice(["t:x", "t:y", ""])])])
        if chance.random() < 0.4:
            await journal.log.trim(TrimLimit(chance.randint(0, journal.log.history.head_position), 6))
        for name in set(some):
            head = await journal.log.entity_head(name)
            assert head is not None
            if chance.random() < 0.3:
                says_last = chance.random() < 0.5
                snapshot = NewSnapshot(name, head.seq_nr, "State", "json", b"x" * 50, says_last_event=says_last)
                await journal.snapshots.put([snapshot])
        asked = [
            HistoryRequest(
                name,
                chance.randint(1, 6),
                TO_THE_LAST,
                chance.choice([4, 100]),
                wants_snapshot=chance.random() < 0.5,
                wants_tag_sets=chance.random() < 0.5,
            )
            for name in chance.sample(names, chance.randint(1, len(names)))
        ]
        each_max, max_bytes = chance.choice([2, 100]), chance.choice([500, 3_000, ANY_SIZE])
        found = await read_histories(journal, asked, each_max=each_max, max_bytes=max_bytes)
        for one, history in found.items():
            assert history == await read_history(journal, one)
            assert len(history.events) <= min(each_max, one.max_events - 1), "so that nothing can follow it"
        payloads = sum(len(history.snapshot.payload) for history in found.values() if history.snapshot)
        assert sum(history.events.byte_size() for history in found.values()) + payloads <= max_bytes
        if max_bytes == ANY_SIZE and each_max == 100:
            whole = {one for one in asked if len(await read_alone(journal, one.persistence_id, one.from_seq_nr)) < 4}
            assert whole <= found.keys()


async def test_what_is_not_asked_for_to_the_end_or_has_only_older_snapshots_is_read_alone(journal: Journal) -> None:
    await journal.log.append_group([local("S|a", "S|b")])
    plain = HistoryRequest("S|a", 1, TO_THE_LAST, 100, wants_snapshot=True, wants_tag_sets=False)
    other = replace(plain, persistence_id="S|b")
    for odd in (replace(other, to_seq_nr=1), replace(other, snapshots_to=1)):
        assert set(await read_histories(journal, [odd, plain], each_max=100, max_bytes=ANY_SIZE)) == {plain}
    assert await read_histories(journal, [], each_max=100, max_bytes=ANY_SIZE) == {}
