"""One run: an edge and a cloud over a memory line, whose filters, entities, snapshots, retention and faults a seed decides.

Both ends are the services' own code over memory journals. Entities move between sites; the cloud asks for some sites, or for
all; the edge may have a wall. The line is cut, either side dies, and the edge's retention takes what it may. From seed 1,000 on
the edge also drops what the cloud does not have, and may begin with snapshots when it is behind. In the end all
come together, and the checkers compare both logs. Run one again: ``python -m tests.simulation.up --seed 4711``.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch, new_events
from common.core.events.replacing import replacing
from common.core.events.stated_range import REPLACED
from common.core.filters.past import Past
from common.core.filters.permission import match_batch
from common.core.filters.predicates import parse_filter
from common.core.journal.admission import GONE_REASONS
from common.core.journal.append import LocalAppend
from common.core.journal.snapshot import NewSnapshot
from common.core.push.filter_transition import EVERYTHING, PushFilter
from common.journal.stores.journal import Journal
from common.journal.stores.log import TrimLimit
from common.transport.push.endpoint import PushEndpoint
from common.transport.push.link_state import LinkState
from edge_service.retention import EdgeRetention, EdgeRetentionSettings
from tests.simulation.up.mutations import MUTATIONS
from tests.support.builders import pass_age
from tests.support.push import PushWorld, whole_log

EDGE = "edge-1"
SITES = ("site-1", "site-2", "site-3")
SECRET = "secret"
NO_SECRETS = parse_filter('[{"exclude_tags":["secret"]}]').criteria
_ONLY = '[{{"exclude_all":true}},{{"include_tags":[{}]}}]'
FILTERS = tuple(
    parse_filter(criteria).criteria
    for criteria in (
        _ONLY.format('"site-1"'),
        _ONLY.format('"site-2"'),
        _ONLY.format('"site-1","site-3"'),
        '[{"exclude_all":true},{"include_ids":["a","c"]}]',
        '[{"exclude_all":true}]',
        "[]",
    )
)
_SETTLES_S = 3_600.0
LOSING_SEEDS = 1_000
"""From there on events are dropped."""


@dataclass
class UpOutcome:
    """What became of a run. ``complaints`` are checkers and what they saw; ``brought`` counts what came as a past."""

    seed: int
    complaints: list[tuple[str, str]] = field(default_factory=list)
    events: int = 0
    trimmed: int = 0
    stated: int = 0
    cuts: int = 0
    deaths: int = 0
    dropped: int = 0
    stood_in: int = 0

    def told(self) -> str:
        """For a failed test."""
        lines = [f"{checker}: {what}" for checker, what in self.complaints[:5]]
        return "\n".join([f"seed {self.seed}: {self}", *lines])


@dataclass
class _Run:
    seed: int
    world: PushWorld = field(init=False)
    chance: random.Random = field(init=False)
    outcome: UpOutcome = field(init=False)
    submitted: dict[bytes, tuple[str, int, str]] = field(default_factory=dict)
    """By payload: entity, number and tags of what the edge stored."""
    folds: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    """By payload of a snapshot: entity and number."""
    history: EventBatch = field(default_factory=EventBatch)
    """All that the edge ever stored."""
    place: dict[str, str] = field(default_factory=dict)
    asked: str = EVERYTHING
    covered: dict[str, bool] = field(default_factory=dict)
    """Entities that lost events to the cap: whether each time a snapshot stood for them."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.outcome = UpOutcome(self.seed)
        self.world = PushWorld(batch_events=self.chance.randint(1, 12), commit_s=self.chance.choice([0.001, 0.02]))
        self.own = self.chance.choice([EVERYTHING, NO_SECRETS])
        self.past = self.chance.choice([Past.SNAPSHOT, Past.FULL])
        self.names = [f"S|{letter}" for letter in "abcdef"[: self.chance.randint(2, 6)]]
        self.loses = self.seed >= LOSING_SEEDS
        self.behind = self.chance.choice([0, 0, 8, 20]) if self.loses else 0
        self.is_asked = not self.loses or self.chance.random() < 0.5

    def complain(self, checker: str, what: str) -> None:
        self.outcome.complaints.append((checker, what))

    # -- the story -----------------------------------------------------------------------------------------------------
    async def play(self) -> None:
        for _ in range(self.chance.randint(2, 5)):
            async with AsyncExitStack() as stack:
                cloud, endpoint = await stack.enter_async_context(self.world.cloud())
                edge, link = await stack.enter_async_context(self._edge())
                retention = self._retention(edge, link)
                for _ in range(self.chance.randint(4, 14)):
                    await self._step(edge, link, retention, cloud, endpoint)
            self.outcome.deaths += 1
            if self.chance.random() < 0.5:  # one of the two is away for a while
                async with self._edge() as (edge, _):
                    await self._grow(edge)
                    if self.loses:
                        await self._lose(edge)
                    await trio.sleep(self.chance.random())
        async with self.world.cloud() as (cloud, endpoint), self._edge() as (edge, _):
            await self._ask(cloud, endpoint)
            await self._grow(edge)
            if await self._settled(edge, cloud):
                await self._judge(edge, cloud)

    def _edge(self) -> AbstractAsyncContextManager[tuple[Journal, LinkState]]:
        return self.world.edge(own_filter=self.own, snapshots_if_behind=self.behind)

    def _retention(self, edge: Journal, link: LinkState) -> EdgeRetention:
        return EdgeRetention(edge, link, EdgeRetentionSettings(1.0, 0.0, 1e9, None, frozenset()))

    async def _step(
        self, edge: Journal, link: LinkState, retention: EdgeRetention, cloud: Journal, endpoint: PushEndpoint
    ) -> None:
        steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, lambda: self._grow(edge)),
            (2, lambda: self._ask(cloud, endpoint)),
            (2, lambda: self._snapshot(edge)),
            (2, lambda: self._trim(edge, link, retention)),
            (2, self._cut),
        ]
        if self.loses:
            steps.append((3, lambda: self._lose(edge)))
        weights, acts = zip(*steps, strict=True)
        [act] = self.chance.choices(acts, weights)
        await act()
        await trio.sleep(self.chance.choice([0.0, 0.002, 0.01, 0.1, 2.0]))

    async def _grow(self, edge: Journal) -> None:
        """Some events of some entities, which stay where they are or move."""
        for _ in range(self.chance.randint(1, 12)):
            name = self.chance.choice(self.names)
            if name not in self.place or self.chance.random() < 0.3:
                self.place[name] = self.chance.choice([*SITES, SECRET])
            payload = b"%d" % len(self.submitted)
            head = await edge.log.entity_head(name)
            self.submitted[payload] = (name, (head.seq_nr if head else 0) + 1, self.place[name])
            await edge.log.append_group(
                [LocalAppend(new_events([name], ["Moved"], [payload], tags=[self.place[name]]))]
            )
            page = await edge.log.read(edge.log.history.head_position - 1, max_events=1, max_bytes=1)
            self.history.extend(page.events)

    async def _lose(self, edge: Journal) -> None:
        """More comes while the disk is full: the oldest goes though the cloud may lack it, covered by a snapshot or not."""
        await self._grow(edge)
        for _ in range(self.chance.randint(0, 3)):
            await self._snapshot(edge)
        before = await whole_log(edge)
        covered = self.chance.choice([frozenset({"S"}), frozenset[str]()])
        count = self.chance.randint(1, 12)
        self.outcome.dropped += await edge.log.trim(TrimLimit(2**62, count, "dropped", covered_types=covered))
        kept = set((await whole_log(edge)).position)
        gone = {
            name for position, name in zip(before.position, before.persistence_id, strict=True) if position not in kept
        }
        for name in gone:
            head, snapshot = await edge.log.entity_head(name), await edge.snapshots.get(name)
            stands = head is not None and snapshot is not None and snapshot.seq_nr >= head.deleted_to
            self.covered[name] = self.covered.get(name, True) and stands

    async def _ask(self, cloud: Journal, endpoint: PushEndpoint) -> None:
        if not self.is_asked:
            return
        self.asked = self.chance.choice(FILTERS)
        await cloud.push_filters.ask(EDGE, self.asked, self.past)
        await endpoint.refresh_filters()

    async def _snapshot(self, edge: Journal) -> None:
        name = self.chance.choice(self.names)
        head = await edge.log.entity_head(name)
        if head is None:
            return
        seq_nr = self.chance.randint(max(1, head.deleted_to), head.seq_nr)
        payload = b"state of %s at %d, %d" % (name.encode(), seq_nr, len(self.folds))
        await edge.snapshots.put([NewSnapshot(name, seq_nr, "State", "json", payload)])
        self.folds[payload] = (name, seq_nr)

    async def _trim(self, edge: Journal, link: LinkState, retention: EdgeRetention) -> None:
        """What is acknowledged may go, but not the past of what is about to come in."""
        await pass_age(edge, 1)
        before, lanes = await whole_log(edge), link.lanes
        place = lanes.place if lanes else None
        await retention.round()
        kept, acked = set((await whole_log(edge)).position), link.acked_position
        is_same = lanes is not None and lanes is link.lanes and lanes.place == place
        owed = self._owed(acked, lanes.place.new) if lanes and is_same and lanes.place.is_settled else set()
        for position, name in zip(before.position, before.persistence_id, strict=True):
            if position not in kept:
                self.outcome.trimmed += 1
                if name in owed:
                    self.complain("OwedIsKept", f"{position} of {name} went, which comes in after {acked}")

    def _owed(self, acked: int, by: PushFilter) -> set[str]:
        """Entities of which the next event that is sent, and not acknowledged, is one with which they come in."""
        events, first = self.history, sum(position <= acked for position in self.history.position)
        waiting = events.slice(first, len(events))
        matched = match_batch(by.predicate(), waiting)
        next_of = {waiting.persistence_id[index]: index for index in reversed(matched.indexes)}
        return {name for name, index in next_of.items() if index in matched.entering}

    async def _cut(self) -> None:
        if self.world.network.connections:
            direction = self.chance.choice(["up", "down"])
            self.world.network.connections[-1].cut_after(direction, messages=self.chance.randint(1, 6))  # type: ignore[arg-type]
            self.outcome.cuts += 1

    async def _settled(self, edge: Journal, cloud: Journal) -> bool:
        """Everything is acknowledged and the last filter in force; said if it does not come to that."""
        head = edge.log.history.head_position
        with trio.move_on_after(_SETTLES_S):
            while True:
                origins = await cloud.origins.rows()
                place = await cloud.push_filters.state(EDGE)
                asked = (place.new.criteria, place.new.producer) == (self.asked, self.own)
                if origins and origins[0].stored.position >= head and place.is_settled and asked:
                    return True
                await trio.sleep(1.0)
        self.complain("Converges", f"the cloud does not have {head} after {_SETTLES_S:g} s")
        return False

    # -- the judges ----------------------------------------------------------------------------------------------------
    async def _judge(self, edge: Journal, cloud: Journal) -> None:
        there = await whole_log(cloud)
        self.outcome.events = len(there)
        numbers: dict[str, list[int]] = {}
        for name, origin_seq_nr in zip(there.persistence_id, there.origin_seq_nr, strict=True):
            numbers.setdefault(name, []).append(origin_seq_nr)
        if await cloud.parked.rows():
            self.complain("NothingParked", str(await cloud.parked.rows()))
        self._judge_walls(there)
        kept = set(zip(self.history.persistence_id, self.history.seq_nr, strict=True))
        tags = {(name, seq_nr): own for name, seq_nr, own in self.submitted.values()}
        known: dict[str, int] = {}
        for name, stored in numbers.items():
            if stored != sorted(set(stored)):
                self.complain("OnceInOrder", f"{name} has {stored}")
            stated = {}
            for one in await cloud.origins.stored_ranges(name):
                self.outcome.stated += 1
                stated.update(dict.fromkeys(range(one.stated.from_seq_nr, one.stated.to_seq_nr + 1), one.stated.reason))
            missing = set(range(1, stored[-1] + 1)) - set(stored) - set(stated)
            if missing:
                self.complain("NoSilentGap", f"{name} lacks {sorted(missing)}, and nothing says why")
            head = await edge.log.entity_head(name)
            assert head is not None
            for seq_nr, reason in stated.items():
                if (name, seq_nr) not in kept:
                    self.complain("SaidTruly", f"{name} {seq_nr} is said to be {reason}, and never was")
                if reason == "withheld" and not (self.own == NO_SECRETS and tags[name, seq_nr] == SECRET):
                    self.complain("PastIsWhole", f"{name} {seq_nr}, which may be seen, is said to be withheld")
                if reason in GONE_REASONS and seq_nr > head.deleted_to:
                    self.complain("SaidTruly", f"{name} {seq_nr} is said to be {reason}, and is there")
                if reason == "dropped" and self.covered.get(name) and not self.is_asked and self.own == EVERYTHING:
                    self.complain("NotLost", f"{name} {seq_nr} is said to be dropped, and a snapshot stood for it")
            self._judge_replaced(name, stated, there)
            known[name] = max(stored[-1], *stated, 0)
        await self._judge_selected(edge, known)

    def _judge_replaced(self, name: str, stated: Mapping[int, str], there: EventBatch) -> None:
        """What is said to be replaced is: the next that came of its entity is a snapshot, which says that it is one.

        Where a filter changes, a wall comes to forbid what is folded, or more is lost than it stands for, it may not come.
        """
        rows = zip(there.persistence_id, there.origin_seq_nr, there.payload, there.metadata, strict=True)
        snapshots = {number: payload in self.folds for who, number, payload, _ in rows if who == name}
        marks = {there.origin_seq_nr[index] for index in replacing(there) if there.persistence_id[index] == name}
        if marks != {number for number, is_one in snapshots.items() if is_one}:
            self.complain("SaidTruly", f"{name} has the marks {sorted(marks)}")
        self.outcome.stood_in += len(marks)
        if self.is_asked or self.own != EVERYTHING or not self.covered.get(name, True):
            return
        for seq_nr, reason in stated.items():
            following = min((number for number in snapshots if number > seq_nr), default=None)
            if reason == REPLACED and not (following and snapshots[following]):
                self.complain(
                    "ReplacedTruly", f"{name} {seq_nr} is said to be replaced, and {following} is no snapshot"
                )

    def _judge_walls(self, there: EventBatch) -> None:
        if self.own != NO_SECRETS:
            return
        secrets = {(name, seq_nr) for name, seq_nr, tags in self.submitted.values() if tags == SECRET}
        for payload in there.payload:
            name, seq_nr, tags = self.submitted.get(payload, ("", 0, ""))
            if tags == SECRET:
                self.complain("WallHolds", f"{name} {seq_nr} is in the cloud")
            if payload in self.folds:
                name, seq_nr = self.folds[payload]
                folded = sorted(number for who, number in secrets if who == name and number <= seq_nr)
                if folded:
                    self.complain("WallHolds", f"a snapshot of {name} at {seq_nr} folds {folded}")

    async def _judge_selected(self, edge: Journal, known: dict[str, int]) -> None:
        """What the last filter selects is there, or said not to come, or was deleted with the rest of an entity that left."""
        for index in match_batch(PushFilter(0, self.asked, self.own).predicate(), self.history).indexes:
            name, seq_nr = self.history.persistence_id[index], self.history.seq_nr[index]
            head = await edge.log.entity_head(name)
            if seq_nr > known.get(name, 0) and head and seq_nr > head.deleted_to:
                self.complain("SelectedIsThere", f"{name} {seq_nr} is not in the cloud, which knows {known.get(name)}")


def simulate_up(seed: int, mutation: str = "") -> UpOutcome:
    """Run a seed, with a protection removed if one is named."""
    run = _Run(seed)

    async def story() -> None:
        try:
            await run.play()
        except BackhaulError as error:
            run.complain("Runs", str(error))

    with MUTATIONS[mutation].applied() if mutation else nullcontext():
        trio.run(story, clock=MockClock(autojump_threshold=0))
    return run.outcome
