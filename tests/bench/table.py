"""What a benchmark found out, as rows that are printed in one shape: figure, target, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``target`` is '' for what is only there for scale; ``is_met`` says nothing then."""

    what: str
    figure: str
    target: str = ""
    is_met: bool = True


class Table:
    """The figures of one benchmark, in the order they were found."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[Row] = []

    def add(self, what: str, figure: str) -> None:
        """A figure for scale."""
        self.rows.append(Row(what, figure))

    def judge(self, what: str, figure: str, target: str, is_met: bool) -> None:
        """A figure with a target."""
        self.rows.append(Row(what, figure, target, is_met))

    @property
    def missed(self) -> list[Row]:
        """Rows whose target is not met."""
        return [row for row in self.rows if row.target and not row.is_met]

    def __str__(self) -> str:
        wide = max((len(row.what) for row in self.rows), default=0)
        figures = max((len(row.figure) for row in self.rows), default=0)
        lines = ["", self.title, "-" * len(self.title)]
        for row in self.rows:
            verdict = f"  {row.target:<16} {'met' if row.is_met else 'MISSED'}" if row.target else ""
            lines.append(f"  {row.what:<{wide}}  {row.figure:>{figures}}{verdict}")
        return "\n".join(lines)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of all lie at or below: one that was measured, not a mean of two."""
    assert values, "nothing was measured"
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], unit: str) -> str:
    """The median, and lowest to highest when there are several."""
    middle = f"{median(values):,.0f} {unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.0f} to {max(values):,.0f})"


def milliseconds(values: Sequence[float]) -> str:
    """Percentiles of times in seconds."""
    shares = ((0.5, "p50"), (0.99, "p99"), (1.0, "max"))
    return ", ".join(f"{name} {percentile(values, share) * 1e3:.1f} ms" for share, name in shares)


def middle_ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """The median of ratios of neighbours in time: what slowed the machine down for a while slowed both."""
    return median(first / second for first, second in pairs)
