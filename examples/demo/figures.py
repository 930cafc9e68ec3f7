"""How the closing tables write numbers."""

from __future__ import annotations

from examples.demo.timing import Latency


def count(number: int, style: str) -> str:
    """A number that should be zero: in ``style`` when it is not."""
    return f"[{style}]{number:,}[/]" if number else "[green]0[/]"


def ms(seconds: float | None) -> str:
    """A short time."""
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def percentiles(time: Latency) -> str:
    """A latency in one line."""
    parts = ("p50", time.p50_s), ("p90", time.p90_s), ("p99", time.p99_s), ("max", time.max_s)
    return ", ".join(f"{name} {ms(seconds)}" for name, seconds in parts)
