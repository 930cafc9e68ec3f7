"""Random requests against the memory journal and another storage at once: answers and all that is stored must be equal.

The memory journal judges with ``common.core``, which has its own tests; PostgreSQL judges in SQL, in sets. This is
what holds the two to one rule. ``BACKHAUL_MODEL_EXAMPLES`` says how many random scripts are run (default: a few).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.events.stated_range import StatedRange
from common.core.filters.selection import Selection
from common.core.journal.append import NOT_ALLOWED, AppendRequest, LocalAppend, Pushed, PushedAppend
from common.journal.group_commit import CommitGroup
from common.journal.postgres.appends import group
from common.journal.postgres.appends.plain import PlainCall
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from tests.contract.journals import Storage, open_storage
from tests.support.builders import Origin, local, whole_log

EXAMPLES = int(os.environ.get("BACKHAUL_MODEL_EXAMPLES", "10"))
# Everybody has entities of its own, and all try their luck with one that only the first of them will own.
SHARED = "S|1"
OWN = {"": ["L|1", "L|2"], "edge-1": ["A|1", "A|2"], "edge-2": ["B|1", "B|2"]}
ENTITIES = [*OWN[""], *OWN["edge-1"], *OWN["edge-2"], SHARED]
ORIGINS = ["edge-1", "edge-2"]
EVERYTHING = 10**9

T = TypeVar("T")


@dataclass(frozen=True)
class Append:
    """A local append; ``off`` says how wrong its expectations about its first entities are."""

    names: list[str]
    off: list[int]
    looks_at: str | None
    append_id: str
    tags: list[str]


@dataclass(frozen=True)
class Push:
    """The next batch of an origin: each event as far as it goes by the origin's own numbers, mostly right."""

    origin: str
    events: list[tuple[str, str]]
    loose_range: tuple[str, int, int] | None
    begins_off: int
    session_off: int
    parked_max: int
    withheld: int
    tags: list[str]


@dataclass(frozen=True)
class Dial:
    """An origin dials, after something may have happened to its disk."""

    origin: str
    disk: str
    back: int


@dataclass(frozen=True)
class Clock:
    """The clock jumps."""

    seconds: int


@dataclass(frozen=True)
class Retry:
    """An operator retries an entity's parked events."""

    name: str
    accept_gap: bool


@dataclass(frozen=True)
class Discard:
    """An operator discards a parked event."""

    index: int


@dataclass(frozen=True)
class Trim:
    """Retention removes a chunk."""

    max_events: int
    types: frozenset[str]


Step = Append | Push | Dial | Clock | Retry | Discard | Trim

entities = st.sampled_from(ENTITIES)
# Joined tags, used in turn by the events of a request: none, some, the same in another order, one twice.
TAGS = ["", "t:a", "t:b", "t:a\x1ft:b", "t:b\x1ft:a", "t:a\x1ft:a"]
tags = st.just([""]) | st.lists(st.sampled_from(TAGS), min_size=1, max_size=4)
SELECTIONS = [
    Selection(frozenset({"A", "S"})),
    Selection(tags=frozenset({"t:a"})),
    Selection(frozenset({"B"}), tag_prefixes=frozenset({"t:"}), persistence_ids=frozenset({"B|1", "S|1"})),
]


def names_for(writer: str) -> st.SearchStrategy[str]:
    return st.sampled_from([*OWN[writer] * 4, SHARED])


local_appends = st.builds(
    Append,
    names=st.lists(names_for(""), min_size=1, max_size=5),
    off=st.lists(st.sampled_from([0, 0, 0, 0, -1, 1]), max_size=2),
    looks_at=st.none() | st.none() | entities,
    append_id=st.sampled_from(["", "", "", "k1", "k2", "k3"]),
    tags=tags,
)


def pushes(origin: str) -> st.SearchStrategy[Push]:
    odd = ["gap", "again", "odd", "withhold", "withhold", "ahead", "ahead", "poison", "not allowed"]
    return st.builds(
        Push,
        origin=st.just(origin),
        events=st.lists(
            st.tuples(names_for(origin), st.sampled_from(["next"] * 24) | st.sampled_from(["next"] * 24 + odd)),
            max_size=8,
        ),
        loose_range=st.sampled_from([None] * 6) | st.tuples(names_for(origin), st.integers(1, 9), st.integers(0, 4)),
        begins_off=st.sampled_from([0] * 12 + [-1, 2]),
        session_off=st.sampled_from([0] * 12 + [-1]),
        parked_max=st.sampled_from([100, 100, 100, 2]),
        withheld=st.sampled_from([0, 0, 3]),
        tags=tags,
    )


steps: st.SearchStrategy[Step] = st.one_of(
    local_appends,
    pushes("edge-1"),
    pushes("edge-1"),
    pushes("edge-2"),
    st.builds(
        Dial,
        st.sampled_from(ORIGINS),
        st.sampled_from(["same", "same", "rewound", "rewound", "new", "old"]),
        st.integers(0, 6),
    ),
    st.one_of(
        st.builds(Clock, st.sampled_from([-3_600, -1, 1, 86_400])),
        st.builds(Retry, entities, st.booleans()),
        st.builds(Discard, st.integers(0, 5)),
        st.builds(Trim, st.integers(1, 5), st.sampled_from([frozenset[str](), frozenset({"A"})])),
    ),
)


@dataclass
class Peer(Origin):
    """An origin with numbers and a disk of its own."""

    numbers: dict[str, int] = field(default_factory=dict)
    generations: tuple[tuple[str, int], ...] = ()
    serial: int = 0

    def next_batch(self, step: Push) -> PushedAppend:
        rows: list[tuple[str, int, int]] = []
        ranges: list[StatedRange] = []
        poison: dict[int, str] = {}
        for name, what in step.events:
            known = self.numbers.get(name, 0)
            match what:
                case "gap":
                    rows.append((name, known + 3, known + 2))
                case "again":
                    rows.append((name, max(known, 1), max(known, 1) - 1))
                case "odd":
                    rows.append((name, known + 2, known))
                case "ahead":  # from a log that has lost them; this one has not
                    ranges.append(StatedRange(name, known + 1, known + 3, "dropped"))
                case "withhold":
                    ranges.append(StatedRange(name, known + 1, known + 2, "withheld"))
                    self.numbers[name] = known + 2
                case _:
                    if what == "poison":
                        poison[len(rows)] = "events.too_large"
                    elif what == "not allowed":
                        poison[len(rows)] = NOT_ALLOWED
                    rows.append((name, known + 1, known))
                    self.numbers[name] = known + 1
        if step.loose_range:
            name, first, more = step.loose_range
            ranges.append(StatedRange(name, first, first + more, "trimmed"))
        batch = self.batch(
            *rows,
            ranges=ranges,
            poison=poison,
            parked_max=step.parked_max,
            withheld=step.withheld,
            tags=step.tags,
        )
        return replace(
            batch,
            session=batch.session + step.session_off,
            after_position=max(0, batch.after_position + step.begins_off),
        )

    def change_disk(self, step: Dial) -> None:
        self.serial += 1
        fresh = f"{self.origin_id}-g{self.serial}"
        match step.disk:
            case "rewound":
                fork = max(0, self.position - step.back)
                self.generations = (*(pair for pair in self.generations if pair[1] <= fork), (fresh, fork + 1))
                self.numbers = {name: max(0, number - step.back) for name, number in self.numbers.items()}
            case "new":
                self.journal_id = f"{self.origin_id}-journal-{self.serial}"
                self.generations, self.numbers = ((fresh, 1),), {}
            case "old":
                self.journal_id = f"{self.origin_id}-journal-0"


class Both:
    """The model and the storage under test, asked the same."""

    def __init__(self, model: tuple[Storage, Journal], tested: tuple[Storage, Journal]) -> None:
        self.model, self.tested = model, tested
        self.peers = {
            name: Peer(name, journal_id=f"{name}-journal-0", generations=((f"{name}-g0", 1),)) for name in ORIGINS
        }
        self.group = CommitGroup()
        self.requests: list[AppendRequest] = []
        self.pushers: list[Peer | None] = []
        self.seq_nr: dict[str, int] = {}

    async def same(self, ask: Callable[[Journal], Awaitable[T]]) -> T:
        """The answer, which must be the same from both."""
        wanted = await ask(self.model[1])
        got = await ask(self.tested[1])
        assert got == wanted
        return wanted

    async def play(self, script: list[Step]) -> None:
        for step in [*(Dial(name, "same", 0) for name in ORIGINS), *script]:
            match step:
                case Append():
                    await self.queue(self.local_append(step), None)
                case Push():
                    peer = self.peers[step.origin]
                    if peer in self.pushers:  # what it sends next depends on what becomes of this
                        await self.flush()
                    await self.queue(peer.next_batch(step), peer)
                case _:
                    await self.flush()
                    await self.do(step)
        await self.flush()
        await self.same(all_that_is_stored)

    async def do(self, step: Dial | Clock | Retry | Discard | Trim) -> None:
        match step:
            case Dial():
                peer = self.peers[step.origin]
                peer.change_disk(step)
                await self.same(lambda journal: peer.dial(journal, *peer.generations))
            case Clock():
                for storage, _ in (self.model, self.tested):
                    storage.clock.advance(step.seconds)
            case Retry():
                await self.same(lambda journal: journal.parked.retry(step.name, accept_gap=step.accept_gap))
            case Discard():
                await self.same(lambda journal: discard(journal, step.index))
            case Trim():
                limit = TrimLimit(EVERYTHING, step.max_events, entity_types=step.types)
                await self.same(lambda journal: journal.log.trim(limit))

    def local_append(self, step: Append) -> LocalAppend:
        expected = {
            name: max(0, self.seq_nr.get(name, 0) + off)
            for name, off in zip(dict.fromkeys(step.names), step.off, strict=False)
        }
        if step.looks_at:
            expected.setdefault(step.looks_at, self.seq_nr.get(step.looks_at, 0))
        return local(*step.names, expected=expected, append_id=step.append_id, tags=step.tags)

    async def queue(self, request: AppendRequest, pusher: Peer | None) -> None:
        if not self.group.admit(request, request.events.byte_size()):
            await self.flush()
            assert self.group.admit(request, request.events.byte_size())
        self.requests.append(request)
        self.pushers.append(pusher)

    async def flush(self) -> None:
        """Commit the group, and let everybody know."""
        if not self.requests:
            return
        outcomes = await self.same(lambda journal: journal.log.append_group(self.requests))
        for outcome, pusher in zip(outcomes, self.pushers, strict=True):
            if pusher and isinstance(outcome, Pushed):
                pusher.position = outcome.position
        self.group, self.requests, self.pushers = CommitGroup(), [], []
        for name in ENTITIES:
            head = await self.model[1].log.entity_head(name)
            self.seq_nr[name] = head.seq_nr if head else 0


async def discard(journal: Journal, index: int) -> bool | str:
    rows = await journal.parked.rows()
    try:
        return index < len(rows) and await journal.parked.discard(rows[index].id)
    except BackhaulError as error:
        return error.code


async def all_that_is_stored(journal: Journal) -> list[object]:
    """What readers can see, but the ids of parked rows, which may have holes."""
    stats = await journal.log.stats()
    return [
        (await whole_log(journal)).columns(),
        [await journal.log.entity_head(name) for name in ENTITIES],
        [await journal.origins.stored_ranges(name) for name in ENTITIES],
        await journal.origins.rows(),
        [replace(row, id=0) for row in await journal.parked.rows()],
        await journal.log.deleted_ranges(0, EVERYTHING),
        (stats.head_position, stats.head_timestamp_us, stats.deleted_through, stats.first_position, stats.parked),
        [(await whole_log(journal, selection=wanted, page=2)).position for wanted in SELECTIONS],
    ]


async def play_on(name: str, directory: Path, url: str, script: list[Step]) -> None:
    async with (
        open_storage("memory", directory, "") as model,
        open_storage(name, directory, url) as tested,
        model.open() as model_journal,
        tested.open() as tested_journal,
    ):
        await Both((model, model_journal), (tested, tested_journal)).play(script)


few = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@few
@given(script=st.lists(steps, min_size=25, max_size=50))
def test_sqlite_answers_like_the_model(script: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trio.run(play_on, "sqlite", Path(directory), "", script)


@few
@given(script=st.lists(steps, min_size=25, max_size=50))
def test_postgres_answers_like_the_model(emptied_postgres: Callable[[], str], script: list[Step]) -> None:
    trio.run(play_on, "postgres", Path(), emptied_postgres(), script)


@pytest.mark.parametrize("tries_plain", [True, False])
@few
@given(script=st.lists(steps, min_size=25, max_size=50))
def test_both_ways_to_append_on_postgres_answer_like_the_model(
    emptied_postgres: Callable[[], str], tries_plain: bool, script: list[Step]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if tries_plain:
            patch.setattr(group, "GROUPS_AFTER_FAILURE", 0)
        else:
            patch.setattr(PlainCall, "of", lambda *_, **__: None)
        trio.run(play_on, "postgres", Path(), emptied_postgres(), script)
