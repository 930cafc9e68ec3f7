"""A `LogStory` as text for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from common.core.log_analysis.link_story import LinkStory
from common.core.log_analysis.log_story import Complaint, LogStory, TimelineNote, duration, link_name
from common.core.log_analysis.sparkline import sparkline

_WIDTH: Final = 60
_OUTAGES_SHOWN: Final = 12
_LINKS_SHOWN: Final = 50
_ORDER: Final = {"error": 0, "warning": 1}


@dataclass(frozen=True, slots=True)
class Advice:
    """What the catalogues say: for each event and each code its meaning and what to do."""

    events: Mapping[str, tuple[str, str]]
    codes: Mapping[str, tuple[str, str]]


def accounting(link: LinkStory) -> dict[str, int]:
    """Where the positions of an edge's log are, as far as the lines tell.

    `head` = `stored` + `underway` + `gone_with_disk`; `parked` and `dropped` are among those that are stored: the cloud
    has taken note of each of them.
    """
    gone = link.gone_with_disk
    stored = link.stored
    return {
        "head": stored + link.chapter.not_stored + gone,
        "stored": stored,
        "underway": link.chapter.not_stored,
        "parked": link.parked_events,
        "dropped": link.dropped,
        "lost_by_cloud": link.lost_by_cloud,
        "gone_with_disk": gone,
    }


def report(story: LogStory, advice: Advice, *, is_for_entity: bool = False) -> str:
    """The whole story: services, links, complaints with what to do."""
    if not story.records:
        return "no log lines of a Backhaul service (log_format=json writes lines that can be read)"
    until = story.last_us
    heading = (
        f"{story.records} lines, {_time(story.first_us)} to {_time(until)} ({duration((until - story.first_us) / 1e6)})"
    )
    sections = [heading]
    if is_for_entity:
        sections.append("\n".join(note_line(note) for note in story.notes) or "nothing is said of this entity")
    else:
        sections.append("\n".join(_service_lines(story)))
        worst_first = sorted(
            story.links.values(), key=lambda link: (-link.lag_now, link.side.is_up is not False, link.name)
        )
        sections += ["\n".join(_link_lines(link, story.first_us, until)) for link in worst_first[:_LINKS_SHOWN]]
        if len(worst_first) > _LINKS_SHOWN:
            sections.append(f"{len(worst_first) - _LINKS_SHOWN} more links, with no greater lag")
    sections += _complaint_sections(story.complaints.values(), advice)
    return "\n\n".join(section for section in sections if section)


def note_line(note: TimelineNote) -> str:
    """One line of a timeline."""
    return f"{_time(note.at_us)}  {note.subject}  {note.text}"


def as_values(story: LogStory, advice: Advice) -> dict[str, Any]:
    """The story as one JSON object."""
    return {
        "from": _time(story.first_us),
        "until": _time(story.last_us),
        "records": story.records,
        "services": [
            {
                "service": service.service,
                "instance": service.instance,
                "is_running": not service.has_ended,
                "starts": service.lives,
                "kills": service.kills,
                "ranges": service.ranges and service.ranges[0],
                "edges": story.edges_of(service),
                "used_bytes": service.journal.used,
                "cap_bytes": service.journal.cap,
                "full_in_s": service.journal.full_in_s,
            }
            for service in story.services.values()
        ],
        "links": [
            {
                "link": link_name(link),
                "state": _state(link),
                "down_s": round(link.side.down_s(story.last_us), 3),
                "connects": link.side.connects,
                "outages": [
                    {
                        "from": _time(outage.from_us),
                        "until": None if outage.until_us is None else _time(outage.until_us),
                        "seconds": round(outage.seconds(story.last_us), 3),
                        "code": outage.code,
                        "reason": outage.reason,
                        "tries": outage.tries,
                        "failures": outage.failures,
                    }
                    for outage in link.side.outages
                ],
                "lag_events": link.lag_now,
                "lag_events_highest": int(link.lag.highest),
                "events": accounting(link),
            }
            for link in story.links.values()
        ],
        "complaints": [
            {
                "event": one.event,
                "code": one.code,
                "count": one.count,
                "instances": sorted(one.instances),
                "reason": one.reason,
                "what_to_do": _what_to_do(one, advice)[1],
            }
            for one in _sorted(story.complaints.values())
        ],
    }


def _service_lines(story: LogStory) -> Iterator[str]:
    for service in sorted(story.services.values(), key=lambda one: (one.service, one.instance))[:_LINKS_SHOWN]:
        state = "ended" if service.has_ended else "running"
        kills = f", {service.kills} without a last line" if service.kills else ""
        yield f"{service.service} {service.instance}: {state}, {_counted(service.lives, 'start', 'starts')} seen{kills}"
        if service.ranges is not None:
            edges = story.edges_of(service)
            names = f": {', '.join(edges[:5])}{', …' if len(edges) > 5 else ''}" if edges else ""
            ranges, of = service.ranges
            yield f"  runs {ranges} of {of} ranges of projections; {_counted(len(edges), 'edge', 'edges')}{names}"
        if service.journal.cap:
            full_s = service.journal.full_in_s
            when = "does not grow" if full_s is None else f"full in {duration(full_s)} at this rate"
            yield f"  journal {service.journal.used / service.journal.cap:.0%} of {service.journal.cap:,} bytes, {when}"


def _state(link: LinkStory) -> str:
    return {True: "connected", False: "offline", None: "unknown"}[link.side.is_up]


def _link_lines(link: LinkStory, first_us: int, until_us: int) -> Iterator[str]:
    side = link.side
    down_s = side.down_s(until_us)
    span_s = max((until_us - (side.first_us or first_us)) / 1e6, 1e-6)
    share = max(0.0, 1 - down_s / span_s)
    whose = "" if link.dialling.last_us else ", as the serving end tells it"
    yield f"{link_name(link)}: {_state(link)}, {_counted(side.connects, 'connection', 'connections')}, up {share:.1%}{whose}"
    if link.needs_operator:
        yield f"  needs an operator: {link.needs_operator}"
    if side.outages_total > _OUTAGES_SHOWN:
        yield f"  {side.outages_total} outages; the last {_OUTAGES_SHOWN}:"
    for outage in list(side.outages)[-_OUTAGES_SHOWN:]:
        end = "until now" if outage.until_us is None else f"to {_clock(outage.until_us)}"
        failures = [code for code in outage.failures if code != outage.code]
        then = f", then {', '.join(failures)}" if failures else ""
        why = f"{outage.code} {outage.reason}".strip() or ("before the first connection" if not outage.was_up else "")
        tries = f", {_counted(outage.tries, 'try', 'tries')}" if outage.tries else ""
        took = duration(outage.seconds(until_us))
        yield f"  down  {_time(outage.from_us)} {end}  {took}{tries}: {why}{then}"
    if link.lag.samples:
        line = sparkline(link.lag.samples, first_us, until_us, _WIDTH)
        yield f"  lag   {line}  highest {int(link.lag.highest):,}, now {link.lag_now:,} events"
    if not link.subscription:
        counts = accounting(link)
        yield "  events  " + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
    yield from (f"  the cloud found the journal {rebase.replace('_', ' ')}" for rebase in link.rebases[-5:])


def _sorted(complaints: Iterable[Complaint]) -> list[Complaint]:
    return sorted(complaints, key=lambda one: (_ORDER.get(one.level, 2), -one.count, one.event))


def _what_to_do(complaint: Complaint, advice: Advice) -> tuple[str, str]:
    """Meaning and action: of the code where it has one, for it says more than the event does."""
    return advice.codes.get(complaint.code) or advice.events.get(complaint.event) or ("", "")


def _complaint_sections(complaints: Iterable[Complaint], advice: Advice) -> list[str]:
    sections = []
    for one in _sorted(complaints):
        meaning, action = _what_to_do(one, advice)
        name = f"{one.event} {one.code}".rstrip()
        where = ", ".join(sorted(one.instances)[:5])
        lines = [f"{one.level}  {name}  {_counted(one.count, 'time', 'times')}, last {_time(one.last_us)}, {where}"]
        lines += [
            f"  {name}: {text}" for name, text in (("reason", one.reason), ("means", meaning), ("do", action)) if text
        ]
        sections.append("\n".join(lines))
    return sections


def _time(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}" if at_us > 0 else "-"


def _clock(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%H:%M:%S}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
