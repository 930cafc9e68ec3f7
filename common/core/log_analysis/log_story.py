"""All that the lines of one or several services say, put together line by line, in bounded memory.

`LogStory.take` wants records in the order of their time and gives back what a reader of the timeline should see of
each: most lines say nothing new.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from common.core.log_analysis.link_story import KILLED, LinkSide, LinkStory
from common.core.log_analysis.record import LogRecord

LINKS_MAX: Final = 10_000
NOTES_MAX: Final = 2_000
LAST_LINES: Final = frozenset(
    f"service.{end}" for end in ("stopped", "drain_timed_out", "failed", "refused", "killed", "stuck")
)
_NO_COMPLAINTS: Final = frozenset({"link.disconnected", "link.unreachable", "push.disconnected", "link.summary"})


@dataclass(frozen=True, slots=True)
class TimelineNote:
    """Something a reader should see: when, which link or service, what."""

    at_us: int
    subject: str
    text: str


@dataclass(slots=True)
class Complaint:
    """Lines of one event and code: how many, from when to when, of which services, and one reason."""

    event: str
    code: str
    level: str
    first_us: int
    last_us: int
    count: int = 0
    instances: set[str] = field(default_factory=set)
    reason: str = ""


@dataclass(slots=True)
class JournalSize:
    """What a journal holds, in bytes, and when it held least; ``cap`` is 0 where there is none."""

    used: int = 0
    cap: int = 0
    at_us: int = 0
    least: int = 0
    least_us: int = 0

    def heard(self, at_us: int, used: int, cap: int) -> None:
        """A summary's figures. Growth is measured from the least: a write-ahead log comes and goes above it."""
        if not self.at_us or used < self.least:
            self.least, self.least_us = used, at_us
        self.used, self.cap, self.at_us = used, cap, at_us

    @property
    def full_in_s(self) -> float | None:
        """Seconds until the cap is reached as it has grown; None where it does not grow or has none."""
        grown, took_us = self.used - self.least, self.at_us - self.least_us
        if not self.cap or grown <= 0 or took_us <= 0:
            return None
        return max(0, self.cap - self.used) / (grown / (took_us / 1e6))


@dataclass(slots=True)
class ServiceStory:
    """A service's lives, its journal's size, and for a node the ranges of projections that it runs: of how many."""

    service: str
    instance: str
    first_us: int
    last_us: int
    version: str = ""
    lives: int = 0
    kills: int = 0
    has_ended: bool = True
    journal: JournalSize = field(default_factory=JournalSize)
    ranges: tuple[int, int] | None = None


class LogStory:
    """Takes records, answers with links, services and complaints. `entity` narrows the notes to one entity."""

    def __init__(self, entity: str = "") -> None:
        self._entity = entity
        self.links: dict[tuple[str, str], LinkStory] = {}
        self.services: dict[tuple[str, str], ServiceStory] = {}
        self.complaints: dict[tuple[str, str], Complaint] = {}
        self.notes: deque[TimelineNote] = deque(maxlen=NOTES_MAX)
        self.first_us = 0
        self.last_us = 0
        self.records = 0

    def take(self, record: LogRecord) -> list[TimelineNote]:
        """The next record; returns what is new."""
        self.records += 1
        self.first_us = self.first_us or record.at_us
        self.last_us = max(self.last_us, record.at_us)
        notes = self._of_entity(record) if self._entity else [*self._of_service(record), *self._of_link(record)]
        self._complain(record)
        self.notes += notes
        return notes

    # -- services -------------------------------------------------------------------------------------------------

    def _of_service(self, record: LogRecord) -> list[TimelineNote]:
        key = (record.service, record.instance)
        found = self.services.get(key)
        if found is None:
            found = self.services[key] = ServiceStory(*key, record.at_us, record.at_us)
            found.has_ended = record.event == "service.starting"
        notes = []
        if record.event == "service.starting":
            if not found.has_ended:
                found.kills += 1
                notes.append(TimelineNote(found.last_us, record.instance, KILLED))
                self._links_end(key, found.last_us, "", KILLED)
            found.lives += 1
            found.has_ended = False
            found.version = record.text("version")
            notes.append(TimelineNote(record.at_us, record.instance, f"starts (version {found.version or '?'})"))
        elif record.event in LAST_LINES:
            found.has_ended = True
            end = " ".join(part for part in (record.event, record.text("code"), record.text("reason")) if part)
            notes.append(TimelineNote(record.at_us, record.instance, end))
            self._links_end(key, record.at_us, "", record.event)
            found.ranges = None
        elif record.event == "journal.summary":
            found.journal.heard(record.at_us, record.count("used_bytes"), record.count("cap_bytes"))
        elif record.event == "projection.assigned":
            found.ranges = (record.count("ranges"), record.count("of"))
        elif record.event == "service.ready" and record.service == "edge":
            self._link(record.instance, "").journal_opened(record.text("journal_id"), record.count("head"))
        found.last_us = record.at_us
        return notes

    def _links_end(self, service: tuple[str, str], at_us: int, code: str, reason: str) -> None:
        kind, instance = service
        for link in self.links.values():
            if link.name == instance and kind == "edge":
                link.dialling.down(at_us, code, reason)
            elif link.serving.is_up and link.nodes and next(reversed(link.nodes)) == instance:
                link.serving.down(at_us, code, reason)

    def edges_of(self, service: ServiceStory) -> list[str]:
        """The edges that are connected to a node, as far as the lines tell."""
        return sorted(
            link.name
            for link in self.links.values()
            if not link.subscription
            and link.serving.is_up
            and link.nodes
            and next(reversed(link.nodes)) == service.instance
            and service.service == "cloud"
        )

    # -- links ----------------------------------------------------------------------------------------------------

    def _link(self, name: str, subscription: str) -> LinkStory:
        key = (name, subscription)
        if key not in self.links and len(self.links) >= LINKS_MAX:
            return LinkStory(name, subscription)  # counted nowhere; 10,000 are more than a screen shows
        return self.links.setdefault(key, LinkStory(name, subscription))

    def _of_link(self, record: LogRecord) -> list[TimelineNote]:
        if record.event == "repeat.suppressed":
            self._suppressed(record)
        if record.event.startswith("consumer.") and record.fields.get("consumer_id"):
            link = self._link(record.text("consumer_id"), record.text("subscription"))
            return self._serving_end(link, record)
        if record.fields.get("origin_id") and record.service == "cloud":
            return self._serving_end(self._link(record.text("origin_id"), ""), record)
        is_dialling = record.service != "cloud" or bool(record.text("subscription"))  # a node's journal is no link's
        if is_dialling and record.event.startswith(("link.", "push.", "subscription.", "journal.")):
            return self._dialling_end(self._link(record.instance, record.text("subscription")), record)
        return []

    def _dialling_end(self, link: LinkStory, record: LogRecord) -> list[TimelineNote]:
        side, at_us = link.dialling, record.at_us
        code, reason = record.text("code"), record.text("reason")
        match record.event:
            case "link.connected":
                link.needs_operator = ""
                over = side.up(at_us, record.count("attempts"), record.number("offline_s"))
                return _note(
                    link, at_us, _connected(side, over.seconds(at_us) if over else None, over.tries if over else None)
                )
            case "link.disconnected":
                link.reached(at_us, stored=record.count("position"))
                side.down(at_us, code, reason)
                return _note(link, at_us, f"lost: {_because(code, reason)}")
            case "link.left":
                link.reached(at_us, stored=record.count("position"))
                side.down(at_us, "link.ended", "this end stops")
                return _note(link, at_us, "left: this end stops")
            case "link.unreachable":
                side.failed(at_us, code, reason)
                return _note(link, at_us, f"cannot be reached: {_because(code, reason)}")
            case "link.needs_operator":
                side.failed(at_us, code, reason)
                link.needs_operator = _because(code, reason)
                return _note(link, at_us, f"needs an operator: {link.needs_operator}; {record.text('hint')}")
            case "link.summary":
                side.heard(at_us)
                link.lag_s = record.number("lag_s") or 0.0
                if record.text("state") == "connected" and side.is_up is None:
                    side.is_up = True
                link.reached(at_us, head=record.count("head"), stored=record.count("acked"))
            case "push.started":
                link.resumed(at_us, record.text("resume"), record.count("position"), record.count("behind"))
            case "subscription.summary":
                side.heard(at_us)
                link.lag_s = record.number("lag_s") or 0.0
                link.reached(at_us, head=record.count("source_head"), stored=record.count("position"))
            case "push.parked":
                link.park(record)
                return _note(link, at_us, f"parked {record.text('persistence_id')} {record.count('seq_nr')}: {code}")
            case "push.peer_lost_history":
                link.lost_by_cloud += record.count("lost")
                return _note(
                    link, at_us, f"the cloud went back to {record.count('stored')}, {record.count('lost')} lost"
                )
            case "journal.dropping_ended":
                link.dropped += record.count("dropped")
                return _note(link, at_us, f"dropped {record.count('dropped')} events to make room")
            case "journal.summary":
                link.reached(at_us, head=record.count("head"))
            case _:
                pass
        return []

    def _suppressed(self, record: LogRecord) -> None:
        """Lines about parked events that were left out, and not followed by one that counts them."""
        if record.text("repeated") == "push.parked":
            self._link(record.instance, "").parked_again(record.service, record.count("count"))

    def _serving_end(self, link: LinkStory, record: LogRecord) -> list[TimelineNote]:
        side, at_us = link.serving, record.at_us
        is_shown = not link.dialling.last_us
        notes: list[TimelineNote] = []
        match record.event:
            case "push.connected" | "consumer.connected":
                link.nodes.pop(record.instance, None)
                link.nodes[record.instance] = at_us
                link.session = max(link.session, record.count("session"))
                link.resumed(at_us, record.text("resume"), record.count("position"), record.count("behind"))
                over = side.up(at_us)
                text = _connected(side, over.seconds(at_us) if over else None, None)
                notes = _note(link, at_us, f"{text}, at node {record.instance}")
            case "push.disconnected" | "consumer.disconnected":
                link.reached(at_us, stored=record.count("position"))
                if record.count("session") < link.session:  # a later one has replaced it
                    return []
                code, reason = record.text("code"), record.text("reason")
                side.down(at_us, code, reason)
                notes = _note(link, at_us, f"lost: {_because(code, reason)}")
            case "event.parked":
                text = f"parked {record.text('persistence_id')} {record.count('seq_nr')}: {record.text('code')}"
                return _note(link, at_us, text) if link.park(record) and is_shown else []
            case "push.rebased" | "push.cloned":
                return _note(link, at_us, f"{record.event}: {record.text('resume') or 'two services use this id'}")
            case _:
                pass
        return notes if is_shown else []

    # -- complaints and entities ----------------------------------------------------------------------------------

    def _complain(self, record: LogRecord) -> None:
        code = record.text("code")
        if record.level not in ("warning", "error") and (not code or record.event in _NO_COMPLAINTS):
            return
        if self._entity and not self._names_entity(record):
            return
        key = (record.event, code)
        if key not in self.complaints and len(self.complaints) >= NOTES_MAX:
            return
        new = Complaint(record.event, code, record.level, record.at_us, record.at_us)
        found = self.complaints.setdefault(key, new)
        found.count += 1 + record.count("repeats_suppressed")
        found.last_us = record.at_us
        found.reason = record.text("reason") or found.reason
        if len(found.instances) < 20:
            found.instances.add(record.instance)

    def _names_entity(self, record: LogRecord) -> bool:
        """A line about the entity: named whole (`Sensor|g1/t1`), by its id (`g1/t1`), or by the id without prefix."""
        name = record.text("persistence_id") or record.text("entity")
        entity_id = name.partition("|")[2]
        return bool(name) and self._entity in (name, entity_id, entity_id.partition("/")[2])

    def _of_entity(self, record: LogRecord) -> list[TimelineNote]:
        if not self._names_entity(record):
            return []
        names = ("seq_nr", "position", "code", "reason", "known", "events", "projection", "origin_id", "stored", "left")
        said = " ".join(f"{name}={record.text(name)}" for name in names if record.fields.get(name) not in (None, ""))
        return [TimelineNote(record.at_us, record.instance, f"{record.event} {said}".rstrip())]


def _note(link: LinkStory, at_us: int, text: str) -> list[TimelineNote]:
    return [TimelineNote(at_us, link_name(link), text)]


def link_name(link: LinkStory) -> str:
    """How a link is called: `g1 → cloud`, or `g1 ← orders` for a subscription."""
    return f"{link.name} ← {link.subscription}" if link.subscription else f"{link.name} → cloud"


def _because(code: str, reason: str) -> str:
    return f"{code} ({reason})" if reason else code or "no reason given"


def _connected(side: LinkSide, after_s: float | None, tries: int | None) -> str:
    attempts = f", {tries} tries" if tries and tries > 1 else ""
    if after_s is None:
        return "connected"
    was_up = side.outages[-1].was_up
    return f"{'back' if was_up else 'connected'} after {duration(after_s)}{attempts}"


def duration(seconds: float) -> str:
    """Seconds as people write them: `0.4 s`, `1 min 50 s`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, inner, inner_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // inner} {inner_unit}"
    return f"{whole} s"
