"""Metrics: everything is there from the start, nothing undeclared gets in, the text is Prometheus'."""

from __future__ import annotations

import pytest

from common.runtime.metrics import MetricsRegistry


def test_every_series_exists_from_the_start() -> None:
    registry = MetricsRegistry("backhaul_edge")
    registry.counter("dropped_total", "Events dropped.", {"reason": ("full", "policy"), "lane": ("live",)})
    registry.gauge("lag_seconds", "Lag.", lambda: 1.5)
    registry.gauges("state", "State.", "state", ("up", "down"), lambda: {"up": 1})
    assert registry.exposition() == (
        "# HELP backhaul_edge_dropped_total Events dropped.\n"
        "# TYPE backhaul_edge_dropped_total counter\n"
        'backhaul_edge_dropped_total{reason="full",lane="live"} 0\n'
        'backhaul_edge_dropped_total{reason="policy",lane="live"} 0\n'
        "# HELP backhaul_edge_lag_seconds Lag.\n"
        "# TYPE backhaul_edge_lag_seconds gauge\n"
        "backhaul_edge_lag_seconds 1.5\n"
        "# HELP backhaul_edge_state State.\n"
        "# TYPE backhaul_edge_state gauge\n"
        'backhaul_edge_state{state="up"} 1\n'
        'backhaul_edge_state{state="down"} 0\n'
    )


def test_a_counter_counts_what_was_declared_only() -> None:
    counter = MetricsRegistry("b").counter("x_total", "X.", {"reason": ("a", "b")})
    counter.add(reason="a")
    counter.add(2, reason="a")
    assert (counter.value(reason="a"), counter.value(reason="b")) == (3, 0)
    with pytest.raises(KeyError):
        counter.add(reason="c")
    with pytest.raises(AssertionError):
        counter.add(-1, reason="a")


def test_a_name_is_taken_once() -> None:
    registry = MetricsRegistry("b")
    registry.gauge("x", "X.", lambda: 0)
    with pytest.raises(AssertionError):
        registry.gauge("x", "X.", lambda: 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.0, "3"), (0.25, "0.25"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN")],
)
def test_numbers(value: float, text: str) -> None:
    registry = MetricsRegistry("b")
    registry.gauge("x", "X.", lambda: value)
    assert registry.exposition().splitlines()[-1] == f"b_x {text}"


def test_label_values_and_help_are_escaped() -> None:
    registry = MetricsRegistry("b")
    registry.gauges("x", "A\nB\\", "l", ('q"\\\n',), dict)
    assert registry.exposition() == '# HELP b_x A\\nB\\\\\n# TYPE b_x gauge\nb_x{l="q\\"\\\\\\n"} 0\n'
