"""What a campaign over one way of events came to, and its closing table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.crash.campaign import Plan, seconds, title
from tests.crash.orders import Published


@dataclass(slots=True)
class FlowOutcome:
    """What came of it."""

    plan: Plan
    kills: Counter[str] = field(default_factory=Counter)
    points: Counter[tuple[str, str]] = field(default_factory=Counter)
    recovered_s: list[float] = field(default_factory=list)
    alarms: dict[str, int] = field(default_factory=dict)
    published: Published = field(default_factory=Published)
    figures: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether everything was proved."""
        return bool(self.figures) and not self.problems


def flow_summary(outcomes: Sequence[FlowOutcome]) -> list[str]:
    """The closing table."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.figures)
    rows = [
        ("", [title(outcome.plan) for outcome in outcomes]),
        ("kills", [", ".join(f"{name} {n}" for name, n in sorted(one.kills.items())) for one in outcomes]),
        ("recovered in, median / longest", [seconds(outcome.recovered_s) for outcome in outcomes]),
        *((name, [f"{outcome.figures.get(name, 0):,}" for outcome in outcomes]) for name in names),
        ("result", ["holds" if outcome.holds else "DOES NOT HOLD" for outcome in outcomes]),
    ]
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(outcomes))]
    return [
        f"  {name:<34}" + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]
