"""Which of the services' own log lines are part of the story, and how they read there. The catalogue is docs/logs.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class ServiceLine(NamedTuple):
    """A log line as the story tells it; alarms are warnings and errors."""

    text: str
    is_alarm: bool


def answer(fields: Mapping[str, Any], *, with_nodes: bool) -> ServiceLine | None:
    """The line's place in the story, or None. ``with_nodes`` tells which cloud node took an edge."""
    event, is_alarm = str(fields["event"]), fields.get("level") in ("warning", "error", "critical")
    match event:
        case "link.disconnected":
            text = f"{fields.get('code')}: {fields.get('reason')}"
        case "push.started":
            text = (
                f"{fields.get('resume')} behind position {fields.get('position')}, {fields.get('behind')} events behind"
            )
        case "projection.assigned" if with_nodes:
            text = f"runs {fields.get('ranges')} of {fields.get('of')} ranges; {fields.get('members')} nodes are alive"
        case "push.connected" if with_nodes:
            text = f"took {fields.get('origin_id')}, session {fields.get('session')}"
        case "push.rebased":
            text = f"{fields.get('origin_id')} has a new journal: its entities go on where they were"
        case "audit.action" | "policy.streams_open":
            return None  # what the demo's own programs ask for, and that anybody on loopback may
        case _ if is_alarm:
            text = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _EVERYWHERE)
        case _:
            return None
    return ServiceLine(f"{event}  {text}", is_alarm)


_EVERYWHERE = frozenset({"timestamp", "level", "event", "service", "version", "instance"})
