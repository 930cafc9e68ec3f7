"""What a seed decides about nodes that come and go. Plain data, printed when a run fails."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Event(StrEnum):
    """What happens to a node, or to the database."""

    JOIN = "join"  # a node that was down starts
    DRAIN = "drain"  # an operator gives the node no work for `for_s`
    LEAVE = "leave"  # what SIGTERM does; it starts again after `for_s`
    KILL = "kill"  # it starts again after `for_s`
    PAUSE = "pause"  # SIGSTOP, for `for_s`: what it has sent may take effect, and it hears of it afterwards
    FAILOVER = "failover"  # to what the database was `for_s` ago
    FAILOVER_AT_HAND_OVER = "failover at hand-over"  # the same, right after the next hand-over


PLANNED = (Event.JOIN, Event.DRAIN)
"""What repeats nothing, not even effects elsewhere."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One of them, ``at_s`` seconds after the start."""

    at_s: float
    event: Event
    node: str = ""
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SpreadPlan:
    """Everything a seed decides but the order in which ready tasks run and what is appended."""

    seed: int
    nodes: tuple[str, ...]
    late: tuple[str, ...]
    """Of these, the nodes that do not run at the start."""
    skews_s: tuple[float, ...]
    """By how much each node's own clock is wrong."""
    faults_s: float
    ranges: int
    stay_s: float
    commit_s: float
    effect_s: float
    lost_prompts: float
    """How many of a hundred prompts do not arrive, as a probability."""
    happenings: tuple[Happening, ...]

    @property
    def is_planned_only(self) -> bool:
        """Whether nothing happens that may repeat an effect elsewhere."""
        return all(one.event in PLANNED for one in self.happenings)


def draw_spread_plan(seed: int) -> SpreadPlan:
    """The plan of a seed."""
    chance = Random(f"spread {seed}")
    nodes = tuple(f"node-{n + 1}" for n in range(chance.choice((3, 4, 5))))
    late = tuple(chance.sample(nodes[1:], chance.choice((0, 1, 2))))
    faults_s = chance.choice((15.0, 30.0))
    kinds = PLANNED if chance.random() < 0.4 else tuple(Event)
    happenings = [Happening(_at(chance, faults_s), Event.JOIN, node) for node in late]
    for _ in range(chance.randint(2, 8)):
        event = chance.choice([kind for kind in kinds if kind is not Event.JOIN])
        node = "" if event in (Event.FAILOVER, Event.FAILOVER_AT_HAND_OVER) else chance.choice(nodes)
        for_s = round(chance.choice((chance.uniform(0.1, 1), chance.uniform(1, 8))), 3)
        happenings.append(Happening(_at(chance, faults_s), event, node, for_s))
    return SpreadPlan(
        seed=seed,
        nodes=nodes,
        late=late,
        skews_s=tuple(chance.choice((0.0, 0.0, -5.0, 5.0, 3_600.0, -3_600.0)) for _ in nodes),
        faults_s=faults_s,
        ranges=chance.choice((4, 8, 16)),
        stay_s=chance.choice((0.0, 1.0, 5.0)),
        commit_s=chance.choice((0.001, 0.01, 0.05)),
        effect_s=chance.choice((0.0, 0.01)),
        lost_prompts=chance.choice((0.0, 0.3, 1.0)),
        happenings=tuple(sorted(happenings, key=lambda one: one.at_s)),
    )


def _at(chance: Random, faults_s: float) -> float:
    return round(chance.uniform(0.5, faults_s), 3)
