"""Metrics: counters with a closed set of labels, gauges read when asked, written as Prometheus text.

Every series exists from the start, with 0, so that rates and alerts work before the first event; a label
value that was not declared is a programming error, so the number of series is bounded. A registry belongs to
a service, not to the process. (Of `prometheus_client` only its text format is needed here; its locks, global
registry and HTTP server are not.)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")

LabelValues = tuple[str, ...]


class Counter:
    """A number that only grows, one for each combination of declared label values."""

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        self._label_names = tuple(labels)
        self._values: dict[LabelValues, float] = dict.fromkeys(itertools.product(*labels.values()), 0.0)

    def add(self, amount: float = 1, **labels: str) -> None:
        """Count `amount`; all labels must be given, with declared values (`KeyError` otherwise)."""
        assert amount >= 0, "counters only grow"
        assert len(labels) == len(self._label_names), f"labels are {self._label_names}"
        key = tuple(labels[name] for name in self._label_names)
        self._values[key] += amount  # a KeyError here is an undeclared value

    def value(self, **labels: str) -> float:
        """What has been counted under these labels."""
        return self._values[tuple(labels[name] for name in self._label_names)]

    def series(self) -> Iterator[tuple[dict[str, str], float]]:
        """Each combination of labels with its value."""
        for key, value in self._values.items():
            yield dict(zip(self._label_names, key, strict=True)), value


class MetricsRegistry:
    """The metrics of one service. `prefix` (`backhaul_edge`) starts every name."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._families: dict[str, tuple[str, str, Callable[[], Iterator[tuple[dict[str, str], float]]]]] = {}

    def counter(self, name: str, help_text: str, labels: Mapping[str, Sequence[str]] | None = None) -> Counter:
        """A new counter, called `…_total`. `labels` maps a label's name to all values it can have."""
        assert name.endswith("_total"), name
        counter = Counter(labels or {})
        self._add(name, "counter", help_text, counter.series)
        return counter

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A number that `read` gives when the metrics are asked for. It must not block."""
        self._add(name, "gauge", help_text, lambda: iter([({}, read())]))

    def gauges(
        self,
        name: str,
        help_text: str,
        label: str,
        values: Sequence[str],
        read: Callable[[], Mapping[str, float]],
    ) -> None:
        """One gauge for each of `values`; those that `read` leaves out are 0."""

        def series() -> Iterator[tuple[dict[str, str], float]]:
            now = read()
            for value in values:
                yield {label: value}, now.get(value, 0.0)

        self._add(name, "gauge", help_text, series)

    def _add(
        self,
        name: str,
        kind: str,
        help_text: str,
        series: Callable[[], Iterator[tuple[dict[str, str], float]]],
    ) -> None:
        full = f"{self._prefix}_{name}"
        assert _NAME.fullmatch(full), full
        assert full not in self._families, f"{full} exists already"
        self._families[full] = (kind, help_text, series)

    def exposition(self) -> str:
        """All series in Prometheus' text format 0.0.4."""
        lines = []
        for name, (kind, help_text, series) in self._families.items():
            escaped = help_text.replace("\\", "\\\\").replace("\n", "\\n")
            lines += [f"# HELP {name} {escaped}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in series()]
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value != value:  # noqa: PLR0124 - the one number that is not equal to itself
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
