"""What `top` shows at one moment, out of the service's answer and those before it; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from common.core.log_analysis.sparkline import sparkline
from common.runtime.cli.fleet import span

SAMPLES: Final = 60
_TREND_WIDTH: Final = 20

# Shown also while they are 0: a 0 is what an operator looks for.
_ALWAYS: Final = frozenset(
    {"journal head", "link sent", "link acked", "lag events", "lag seconds", "lag bytes_estimated"}
)

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Frame:
    """A title, rows with the same keys, and lines below. ``marked`` are the indexes of rows that want a look."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    marked: frozenset[int] = frozenset()


class Course:
    """The last samples of a number, one a frame."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=SAMPLES)

    def add(self, at_us: int, value: float) -> None:
        """A sample; one of the same moment takes the place of the last."""
        if self._samples and self._samples[-1][0] >= at_us:
            self._samples.pop()
        self._samples.append((at_us, value))

    @property
    def per_s(self) -> float | None:
        """How fast it grew between the last two samples; None while there are not two."""
        if len(self._samples) < 2:
            return None
        (from_us, before), (until_us, now) = self._samples[-2], self._samples[-1]
        return max(0.0, now - before) * 1e6 / max(1, until_us - from_us)

    @property
    def trend(self) -> str:
        """The samples as bars."""
        if len(self._samples) < 2:
            return ""
        return sparkline(
            list(self._samples), self._samples[0][0], self._samples[-1][0], min(_TREND_WIDTH, len(self._samples))
        )


class Courses:
    """A course for each name; those that are not asked for in a frame are forgotten at its end."""

    def __init__(self) -> None:
        self._courses: dict[str, Course] = {}
        self._used: set[str] = set()

    def of(self, name: str, at_us: int, value: float) -> Course:
        """The course of a name, with one more sample."""
        course = self._courses.setdefault(name, Course())
        course.add(at_us, value)
        self._used.add(name)
        return course

    def sweep(self) -> None:
        """A frame is over."""
        self._courses = {name: course for name, course in self._courses.items() if name in self._used}
        self._used.clear()


def fleet_frame(answer: Mapping[str, Any], courses: Courses, at_us: int) -> Frame:
    """Of `GET /v1/fleet`."""
    totals, edges = answer["totals"], answer["edges"]
    rows: list[Row] = []
    for edge in edges:
        name, cap = edge["id"], edge["cap_bytes"]
        lag = courses.of(f"lag {name}", at_us, edge["lag_events"])
        rows.append(
            {
                "id": name,
                "state": edge["state"],
                "node": edge["node"],
                "lag_events": edge["lag_events"],
                "lag_s": edge["lag_s"],
                "events/s": _rate(courses.of(f"stored {name}", at_us, edge["stored"]).per_s),
                "lag_trend": lag.trend,
                "disk": f"{edge['used_bytes'] / cap:.0%}" if cap else "",
                "full_in": span(edge["full_in_s"]),
                "last_end": "" if edge["state"] == "connected" else edge["last_end_code"],
            }
        )
    whole = courses.of("fleet", at_us, totals["lag_events"])
    courses.sweep()
    title = (
        f"{totals['edges']} edges, {totals['connected']} connected, {totals['behind']} behind by"
        f" {totals['lag_events']} events  {whole.trend}"
    )
    notes = [f"as last known: {answer['stale']}"] if answer["stale"] else []
    if answer["next"] is not None:
        notes.append(f"{answer['fitting'] - len(rows)} more edges (--max)")
    marked = frozenset(index for index, edge in enumerate(edges) if edge["state"] != "connected")
    return Frame(title.rstrip(), rows, notes, marked)


def fleet_edge_frame(edge: Mapping[str, Any], courses: Courses, at_us: int) -> Frame:
    """Of `GET /v1/fleet/{id}`."""
    end = f", the last end was {edge['last_end_code']}" if edge["last_end_code"] else ""
    title = f"{edge['id']} is {edge['state']} at {edge['node'] or 'no node'}, {edge['connects']} times until now{end}"
    figures = {name: edge[name] for name in ("head", "received", "stored", "lag_events", "lag_bytes", "lag_s")}
    figures |= {"used_bytes": edge["used_bytes"], "cap_bytes": edge["cap_bytes"]} | edge.get("parts", {})
    notes = [f"as last known: {edge['stale']}"] if edge.get("stale") else []
    if edge["full_in_s"] is not None:
        notes.append(f"at this rate its journal is full in {span(edge['full_in_s'])}")
    return _figures(title, figures, courses, at_us, notes)


def service_frame(status: Mapping[str, Any], courses: Courses, at_us: int) -> Frame:
    """Of `/status`, whatever service answers: its figures, one a line."""
    link = status.get("link")
    title = f"{status['service']} {status.get('id') or status.get('node', '')}".rstrip()
    notes = [f"as last known: {status['stale']}"] if status.get("stale") else []
    if isinstance(link, Mapping):
        title += f", link {link['state']} for {link['for_s']:.0f} s"
        if link["last_code"] and link["state"] != "connected":
            notes.append(f"{link['last_code']}: {link['last_reason']} {link['last_hint']}".rstrip())
    journal = status.get("journal", {})
    if cap_bytes := journal.get("cap_bytes"):
        notes.append(f"the journal has {journal['used_bytes'] / cap_bytes:.0%} of its cap")
    found = _numbers("", {key: value for key, value in status.items() if key not in ("as_of", "age_s")})
    figures = {name: value for name, value in found if value or name in _ALWAYS}
    return _figures(title, figures, courses, at_us, notes)


def _figures(title: str, figures: Mapping[str, float], courses: Courses, at_us: int, notes: list[str]) -> Frame:
    rows: list[Row] = []
    for name, value in figures.items():
        course = courses.of(name, at_us, value)
        rows.append({"figure": name, "now": value, "grows_per_s": _rate(course.per_s), "trend": course.trend})
    courses.sweep()
    return Frame(title, rows, notes)


def _numbers(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers in an object and in objects within it; lists of named objects by their names."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool) or name.endswith("_us"):
            continue
        if isinstance(value, int | float):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _numbers(f"{name} ", value)
        elif isinstance(value, list):
            for one in value:
                if isinstance(one, Mapping) and isinstance(label := one.get("name") or one.get("id"), str):
                    yield from _numbers(f"{name} {label} ", one)


def _rate(per_s: float | None) -> str:
    if per_s is None:
        return ""
    return f"{per_s:.0f}" if per_s >= 10 or per_s == 0 else f"{per_s:.1f}"
