"""Metrics for Prometheus: what the service's parts count and know, read when the page is asked for.

A registry belongs to a service, not to the process. The parts count for themselves (`core/flow/measures`); a family is
a name, a help text and a function that reads. Label values are bounded by what is read: names of projections and
subscriptions, codes, at most `metrics_edges` edges.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from common.core.flow.measures import LATENCY_BOUNDS_S, LatencyHistogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")
_BOUNDS: Final = [*(str(bound) for bound in LATENCY_BOUNDS_S), "+Inf"]

Number = int | float
Values = Mapping[str, Number]
"""A number for each value of the family's label."""


class MetricsRegistry(Collector):
    """The metrics of one service. `prefix` (`backhaul_edge`) starts every name but those of the process."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._families: dict[str, Callable[[], Metric]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def build(self, version: str) -> None:
        """`…_build_info`: 1, with the versions as labels."""
        labels = {"version": version, "python": platform.python_version()}

        def read() -> Metric:
            family = GaugeMetricFamily(
                f"{self._prefix}_build_info", "1, with the versions as labels.", labels=list(labels)
            )
            family.add_metric(list(labels.values()), 1.0)
            return family

        self._add("build_info", read)

    def counter(self, name: str, help_text: str, read: Callable[[], Number]) -> None:
        """What only grows while the process lives; called `…_total`. `read` must not block."""
        assert name.endswith("_total"), name
        self._add(name, lambda: CounterMetricFamily(f"{self._prefix}_{name}", help_text, value=read()))

    def counters(self, name: str, help_text: str, label: str, read: Callable[[], Values]) -> None:
        """One counter for each value of a label."""
        assert name.endswith("_total"), name

        def collected() -> Metric:
            family = CounterMetricFamily(f"{self._prefix}_{name}", help_text, labels=[label])
            for value, number in read().items():
                family.add_metric([value], number)
            return family

        self._add(name, collected)

    def gauge(self, name: str, help_text: str, read: Callable[[], Number | None]) -> None:
        """A number that `read` gives when the metrics are asked for; None: there is none now. It must not block."""

        def collected() -> Metric:
            return GaugeMetricFamily(f"{self._prefix}_{name}", help_text, value=read())

        self._add(name, collected)

    def gauges(self, name: str, help_text: str, label: str, read: Callable[[], Values]) -> None:
        """One gauge for each value of a label; what `read` does not give any more is gone from the page."""

        def collected() -> Metric:
            family = GaugeMetricFamily(f"{self._prefix}_{name}", help_text, labels=[label])
            for value, number in read().items():
                family.add_metric([value], number)
            return family

        self._add(name, collected)

    def histogram(self, name: str, help_text: str, read: Callable[[], LatencyHistogram]) -> None:
        """Latencies in seconds; called `…_seconds`."""
        self._histograms(name, help_text, [], lambda: [([], read())])

    def histograms(
        self, name: str, help_text: str, label: str, read: Callable[[], Mapping[str, LatencyHistogram]]
    ) -> None:
        """One histogram for each value of a label."""
        self._histograms(name, help_text, [label], lambda: [([value], found) for value, found in read().items()])

    def _histograms(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str],
        read: Callable[[], Sequence[tuple[list[str], LatencyHistogram]]],
    ) -> None:
        assert name.endswith("_seconds"), name

        def collected() -> Metric:
            family = HistogramMetricFamily(f"{self._prefix}_{name}", help_text, labels=labels)
            for values, found in read():
                buckets = list(zip(_BOUNDS, accumulate(found.counts, initial=None), strict=True))
                family.add_metric(values, buckets, found.total_s)
            return family

        self._add(name, collected)

    def _add(self, name: str, read: Callable[[], Metric]) -> None:
        assert _NAME.fullmatch(name), name
        assert name not in self._families, f"{name} exists already"
        self._families[name] = read

    def collect(self) -> Iterator[Metric]:
        """Every family with its numbers of now."""
        for read in self._families.values():
            yield read()

    def exposition(self) -> str:
        """All series in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry).decode()
