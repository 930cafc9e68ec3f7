"""Reading a part of the log by type, tag and entity, and the predecessor's tags that make a leaving entity findable.

Whatever was appended, pushed, parked, retried and trimmed: a read with a selection gives what a look through the whole
log would, on every storage, at every page size and up to every bound.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.core.events.batch import LEFT_TAGS, NO_TAGS, EventBatch, predecessor_tags, split_tags
from common.core.filters import selection as core_selection
from common.core.filters.permission import match_batch
from common.core.filters.predicates import parse_filter
from common.core.filters.selection import Selection
from common.journal.memory.log import MemoryLog
from common.journal.sqlite import selected as sqlite_selected
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage, open_storage
from tests.support.builders import Origin, appended, local, whole_log

ENTITIES = ["Order|1", "Order|2", "Orders|1", "Sensor|ü", "Alarm|1"]
TAGS = [
    "",
    "t:site/7",
    "t:site/7/a",
    "t:site/70",
    "t:site/7\x1fhot",
    "hot\x1ft:site/7",
    "hot",
    "t:\U0010ffff",
    LEFT_TAGS,
]


class TestPredecessorsTags:
    """Each event is stored with the tags its entity had before, where they differ."""

    async def test_they_are_those_of_the_previous_event_where_they_differ_as_a_set(self, journal: Journal) -> None:
        await appended(journal, local("A|1", "A|1", "A|2", tags=["t:a", "t:b", "t:a"]))
        await appended(journal, local("A|1", "A|2", tags=["t:b", "t:a\x1ft:c"]))
        await appended(journal, local("A|1", "A|2", tags=["", "t:c\x1ft:a"]))
        await appended(journal, local("A|1", tags=["t:b"]))
        log = await whole_log(journal)
        assert log.prev_tags == ["", "t:a", "", "", "t:a", "t:b", "", NO_TAGS]
        before = [predecessor_tags(*tags) for tags in zip(log.tags, log.prev_tags, strict=True)]
        assert before == ["t:a", "t:a", "t:a", "t:b", "t:a", "t:b", "t:c\x1ft:a", ""]
        assert (await journal.log.read_entity("A|1", 2, 4, max_events=9)).prev_tags == ["t:a", "", "t:b"]

    async def test_a_leaving_mark_has_none_and_is_not_like_an_event_without(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        rows = [("A|1", number) for number in range(1, 7)]
        await edge.push(journal, *rows, tags=["", LEFT_TAGS, "", "t:a", LEFT_TAGS, "t:a"])
        await edge.push(journal, ("A|1", 7), tags=[LEFT_TAGS])
        await edge.push(journal, ("A|1", 8), tags=[""])
        log = await whole_log(journal)
        assert log.prev_tags == ["", NO_TAGS, LEFT_TAGS, NO_TAGS, "t:a", LEFT_TAGS, "t:a", LEFT_TAGS]

    async def test_a_first_event_has_none_also_when_its_entity_was_only_parked_before(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), tags=["t:a"], poison={0: "events.too_large"})
        await journal.parked.discard((await journal.parked.rows())[0].id)
        await edge.push(journal, ("A|1", 2), tags=["t:b"])
        log = await whole_log(journal)
        assert (log.tags, log.prev_tags) == (["t:b"], [""])

    async def test_what_was_refused_or_parked_is_nobodys_predecessor(self, journal: Journal) -> None:
        edge = Origin()
        await edge.dial(journal)
        await edge.push(journal, ("A|1", 1), ("A|1", 3), ("A|2", 1), tags=["t:a", "t:x", ""])
        await edge.push(journal, ("A|1", 4), ("A|2", 2), tags=["t:c", "t:a"])
        assert await journal.parked.retry("A|1", accept_gap=True) == (2, "")
        await edge.push(journal, ("A|1", 5), tags=["t:d"])
        log = await whole_log(journal)
        answer = list(zip(log.persistence_id, log.tags, log.prev_tags, strict=True))
        assert answer == [
            ("A|1", "t:a", ""),
            ("A|2", "", ""),
            ("A|2", "t:a", NO_TAGS),
            ("A|1", "t:x", "t:a"),
            ("A|1", "t:c", "t:x"),
            ("A|1", "t:d", "t:c"),
        ]
        found = await whole_log(journal, selection=Selection(tags=frozenset({"t:x"})))
        assert found.position == [4, 5]

    async def test_they_are_known_after_the_previous_event_was_deleted_and_the_journal_reopened(
        self, storage: Storage
    ) -> None:
        async with storage.open() as journal:
            await appended(journal, local("A|1", tags=["t:a"]))
            await journal.log.trim(TrimLimit(10, 10))
        async with storage.open() as journal:
            await appended(journal, local("A|1", tags=["t:b"]))
            assert (await whole_log(journal)).prev_tags == ["t:a"]
            found = await whole_log(journal, selection=Selection(tags=frozenset({"t:a"})))
            assert found.position == [2]


class TestSelections:
    """What is read is what a look through the whole log would choose."""

    async def test_a_bound_ends_a_read_and_what_was_looked_through(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1", "B|1"] * 5, tags=["t:a", ""]))
        for selection in (Selection(), Selection(frozenset({"A"})), Selection(tags=frozenset({"t:a"}))):
            page = await journal.log.read(2, through=6, max_events=9, max_bytes=10**6, selection=selection)
            assert (page.events.position[-1], page.through, page.head) == (
                5 if selection.has_keys or selection.entity_types else 6,
                6,
                10,
            )
            page = await journal.log.read(6, through=6, max_events=9, max_bytes=10**6, selection=selection)
            assert (len(page.events), page.through) == (0, 6)
            page = await journal.log.read(8, through=99, max_events=9, max_bytes=10**6, selection=selection)
            assert (len(page.events), page.through) == (2 if selection.is_all else 1, 10)

    async def test_a_page_is_bounded_in_bytes_but_never_without_its_first_event(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1"] * 4, payload=b"x" * 1_000, tags=["t:a"]))
        wanted = Selection(tags=frozenset({"t:a"}))
        for max_bytes, n in ((1, 1), (2_500, 2), (10_000, 4)):
            page = await journal.log.read(0, max_events=9, max_bytes=max_bytes, selection=wanted)
            assert (len(page.events), page.through) == (n, n)

    async def test_an_unknown_tag_prefix_or_entity_leads_to_the_head_at_once(self, journal: Journal) -> None:
        await appended(journal, local("A|1", tags=["t:a"]))
        for selection in (
            Selection(tags=frozenset({"t:b"})),
            Selection(tag_prefixes=frozenset({"u:"})),
            Selection(persistence_ids=frozenset({"B|1"})),
            Selection(entity_types=frozenset({"B"})),
        ):
            page = await journal.log.read(0, max_events=9, max_bytes=1_000, selection=selection)
            assert (len(page.events), page.through, page.head) == (0, 1, 1)

    @pytest.mark.parametrize(
        ("expression", "found"),
        [
            ("#", ["S|site", "S|empty"]),
            ("+/7", ["S|site", "S|empty"]),
            ("/#", ["S|empty"]),
            ("$SYS/#", ["S|sys", "S|sys-door"]),
            ("$SYS/+/7", ["S|sys-door"]),
            ("+/+/7", []),
        ],
    )
    async def test_a_leading_wildcard_matches_no_topic_that_begins_with_a_dollar_sign(
        self, journal: Journal, expression: str, found: list[str]
    ) -> None:
        topics = {"site": "t:site/7", "empty": "t:/7", "sys": "t:$SYS/7", "sys-door": "t:$SYS/door/7", "none": "hot"}
        await appended(journal, local(*(f"S|{name}" for name in topics), tags=list(topics.values())))
        wanted = parse_filter(f'[{{"exclude_all":true}},{{"include_topics":["{expression}"]}}]')
        log = await whole_log(journal, selection=wanted.selection(frozenset()))
        chosen = [log.persistence_id[index] for index in match_batch(wanted, log).indexes]
        assert chosen == found

    async def test_more_keys_than_are_looked_up_are_found_in_the_log_itself(self, journal: Journal) -> None:
        names = [f"A|{number}" for number in range(8)]
        await appended(journal, local(*names, "B|1", tags=[f"t:{name}" for name in names]))
        wanted = Selection(persistence_ids=frozenset(f"A|{n}" for n in range(2, core_selection.KEYS_MAX + 9)))
        assert (await whole_log(journal, selection=wanted, page=2)).position == list(range(3, 9))

    async def test_many_keys_over_a_long_log_are_read_in_short_looks(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_selected, "POSITIONS_PER_LOOK", 100)
        n = 400
        await appended(journal, local(*(f"A|{i}" for i in range(n)), tags=[f"t:{i}" for i in range(n)]))
        wanted = Selection(tag_prefixes=frozenset({"t:3"}), persistence_ids=frozenset({"A|1"}))
        expected = [i + 1 for i in range(n) if i == 1 or str(i).startswith("3")]
        for page in (1, 7, 200):
            assert (await whole_log(journal, selection=wanted, page=page)).position == expected

    async def test_types_are_found_wherever_groups_and_blocks_of_positions_begin(self, journal: Journal) -> None:
        groups = [
            ["A"],
            ["B"],
            ["A"] * 60,
            ["A"],
            ["B"],
            ["A"],
            ["B", "A"],
            ["B"],
            ["C"],
            ["A"] * 130,
            ["A"] * 70,
            ["C"],
        ]
        for types in groups:
            await appended(journal, local(*(f"{name}|1" for name in types)))
        types = [name for group in groups for name in group]
        for wanted in ("A", "B", "C"):
            expected = [position for position, name in enumerate(types, start=1) if name == wanted]
            for page in (3, 1_000):
                found = await whole_log(journal, selection=Selection(frozenset({wanted})), page=page)
                assert found.position == expected

    async def test_a_plain_read_does_not_wait_for_the_many_that_search(self, journal: Journal) -> None:
        await appended(journal, local(*["A|1"] * 200, tags=["t:a", "t:b"]))
        found: list[int] = []

        async def search() -> None:
            wanted = Selection(tags=frozenset({"t:a"}))
            page = await journal.log.read(0, max_events=100, max_bytes=10**6, selection=wanted)
            found.append(len(page.events))

        async with trio.open_nursery() as consumers:
            for _ in range(300):
                consumers.start_soon(search)
            while not found:
                await trio.lowlevel.checkpoint()
            before = len(found)
            await journal.log.read(0, max_events=1, max_bytes=1)
            meanwhile = len(found) - before
        assert found == [100] * 300
        assert journal.log.read_counts["selected"] == 300
        assert meanwhile < 100 or isinstance(journal.log, MemoryLog)

    @pytest.mark.parametrize("types", [frozenset[str](), frozenset({"A"})])
    async def test_trimming_leaves_nothing_in_the_indexes(
        self, storage_name: str, journal: Journal, types: frozenset[str]
    ) -> None:
        if storage_name == "memory":
            return  # it has none
        for _ in range(3):
            await appended(journal, local(*["A|1", "A|2"] * 50, tags=["t:a", "t:b\x1ft:a", "t:c"]))
            await appended(journal, local("B|1", tags=["t:b"]))
        while await journal.log.trim(TrimLimit(10**9, 70, entity_types=types)):
            pass
        left = await journal.projections.query("SELECT DISTINCT tag FROM event_tag ORDER BY tag")
        assert left == ([("t:b",)] if types else [])
        # Only the block of the head is kept for what is appended next.
        [(blocks,)] = await journal.projections.query(
            "SELECT count(*) FROM type_block WHERE block < 303 / 64 AND entity_type = 'A'"
        )
        assert blocks == 0
        await appended(journal, local("A|1", tags=["t:new"]))
        found = await whole_log(journal, selection=Selection(frozenset({"A"})))
        assert found.position == [304]


steps = st.one_of(
    st.tuples(
        st.just("append"),
        st.lists(st.sampled_from(ENTITIES), min_size=1, max_size=30),
        st.lists(st.sampled_from(TAGS), min_size=1, max_size=7),
    ),
    st.tuples(st.just("trim"), st.integers(1, 40), st.sampled_from([frozenset[str](), frozenset({"Order"})])),
)
some = frozenset[str]
selections = st.builds(
    Selection,
    entity_types=st.sampled_from([some(), some({"Order"}), some({"Orders", "Sensor"}), some({"Nothing"})]),
    tags=st.sampled_from([some(), some(), some({"hot"}), some({"t:site/7", "t:no"})]),
    tag_prefixes=st.sampled_from([some(), some(), some({"t:site/7/"}), some({"t:site/", "h"}), some({"t:\U0010ffff"})]),
    persistence_ids=st.sampled_from([some(), some(), some({"Sensor|ü"}), some({"Order|1", "Order|9"})]),
)


def naively(log: EventBatch, wanted: Selection) -> list[int]:
    """Positions of what is wanted, each predecessor looked up in the log of everything that was ever stored."""
    chosen, last = [], dict[str, tuple[str, ...]]()
    for position, name, joined in zip(log.position, log.persistence_id, log.tags, strict=True):
        tags = split_tags(joined)
        either = {*tags, *last.get(name, ())}
        last[name] = tags
        if wanted.entity_types and name.split("|")[0] not in wanted.entity_types:
            continue
        if not (wanted.tags or wanted.tag_prefixes or wanted.persistence_ids) or (
            either & wanted.tags
            or name in wanted.persistence_ids
            or any(tag.startswith(prefix) for tag in either for prefix in wanted.tag_prefixes)
        ):
            chosen.append(position)
    return chosen


async def play(
    name: str,
    directory: Path,
    url: str,
    script: list[tuple[str, object, object]],
    asked: list[tuple[Selection, int, int]],
) -> None:
    async with open_storage(name, directory, url) as storage, storage.open() as journal:
        ever = EventBatch()
        for what, first, second in script:
            if what == "append":
                await appended(journal, local(*first, tags=second))  # type: ignore[misc,arg-type]
                ever.extend((await journal.log.read(len(ever), max_events=1_000, max_bytes=10**9)).events)
            else:
                await journal.log.trim(TrimLimit(10**9, first, entity_types=second))  # type: ignore[arg-type]
        stored = set((await whole_log(journal)).position)
        assert ever.position == list(range(1, len(ever) + 1))
        for wanted, page, through in asked:
            expected = [p for p in naively(ever, wanted) if p in stored and p <= through]
            assert (await whole_log(journal, selection=wanted, page=page, through=through)).position == expected


few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
scripts = st.lists(steps, min_size=1, max_size=12)
questions = st.lists(
    st.tuples(selections, st.sampled_from([1, 2, 5, 1_000]), st.sampled_from([10**9, 10**9, 30, 64])),
    min_size=4,
    max_size=8,
)


@few
@given(script=scripts, asked=questions)
def test_memory_reads_what_a_look_through_everything_chooses(
    script: list[tuple[str, object, object]], asked: list[tuple[Selection, int, int]]
) -> None:
    trio.run(play, "memory", Path(), "", script, asked)


@few
@given(script=scripts, asked=questions)
def test_sqlite_reads_what_a_look_through_everything_chooses(
    script: list[tuple[str, object, object]], asked: list[tuple[Selection, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trio.run(play, "sqlite", Path(directory), "", script, asked)


@few
@given(script=scripts, asked=questions)
def test_postgres_reads_what_a_look_through_everything_chooses(
    emptied_postgres: Callable[[], str],
    script: list[tuple[str, object, object]],
    asked: list[tuple[Selection, int, int]],
) -> None:
    trio.run(play, "postgres", Path(), emptied_postgres(), script, asked)
