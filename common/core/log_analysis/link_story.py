"""What the lines of both ends say of one link: when it was up, why it ended, how far the other end has the log.

A link is that of an edge to its cloud, or that of a subscription to its source. Each end tells its own story; the
dialling end knows more (why a try failed), so its story counts, and the other end's only where it is all there is.

| state | line | next |
| --- | --- | --- |
| unknown, down | connected | up; the outage is over |
| unknown | unreachable | down; when it began is not known |
| up | disconnected | down, with code and reason |
| up | the service starts, and has not said that it ended | down since its last line: it was killed |
| up | the service says that it ends | down |
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from common.core.log_analysis.record import LogRecord
from common.core.log_analysis.sparkline import ThinnedSeries

OUTAGES_MAX: Final = 500
PARKED_MAX: Final = 10_000
KILLED: Final = "ended without a last line (killed, or power lost)"


@dataclass(slots=True)
class Outage:
    """A time without the link. `until_us` is None while it lasts; `was_up` is false before the first connection."""

    from_us: int
    until_us: int | None
    code: str
    reason: str
    was_up: bool = True
    tries: int = 0
    failures: list[str] = field(default_factory=list)

    def seconds(self, now_us: int) -> float:
        """How long it was, or is until now."""
        return ((now_us if self.until_us is None else self.until_us) - self.from_us) / 1e6


class LinkSide:
    """One end's story."""

    def __init__(self) -> None:
        self.is_up: bool | None = None
        self.first_us = 0
        self.last_us = 0
        self.connects = 0
        self.outages: deque[Outage] = deque(maxlen=OUTAGES_MAX)
        self.outages_total = 0

    def heard(self, at_us: int) -> None:
        """Any line of this end."""
        self.first_us = self.first_us or at_us
        self.last_us = at_us

    def up(self, at_us: int, tries: int = 0, offline_s: float | None = None) -> Outage | None:
        """The link is there; returns the outage that is over."""
        self.heard(at_us)
        self.connects += 1
        was, self.is_up = self.is_up, True
        if was is None and offline_s is not None:  # the lines before this one are not here
            self._begin(Outage(max(at_us - round(offline_s * 1e6), 0), None, "", "", was_up=False))
        if was is True or not self.outages or self.outages[-1].until_us is not None:
            return None
        last = self.outages[-1]
        last.until_us, last.tries = at_us, max(tries, last.tries)
        return last

    def down(self, at_us: int, code: str, reason: str) -> Outage | None:
        """The link is gone; returns the outage that begins, None when it was known to be down."""
        self.heard(at_us)
        was, self.is_up = self.is_up, False
        if was is False:
            return None
        return self._begin(Outage(at_us, None, code, reason, was_up=was is True))

    def failed(self, at_us: int, code: str, reason: str) -> None:
        """A try to connect did not succeed."""
        self.down(at_us, code, reason)
        last = self.outages[-1] if self.outages else None
        if last and last.until_us is None:
            last.tries += 1
            if code not in last.failures and len(last.failures) < 8:
                last.failures.append(code)

    def _begin(self, outage: Outage) -> Outage:
        self.outages.append(outage)
        self.outages_total += 1
        return outage

    def down_s(self, now_us: int) -> float:
        """Seconds without the link, as far as the outages are kept."""
        return sum(outage.seconds(now_us) for outage in self.outages)


@dataclass(slots=True)
class JournalChapter:
    """One journal of an edge, as far as lines speak of it: a replaced or emptied disk begins another one."""

    journal_id: str = ""
    head: int = 0
    stored: int = 0

    @property
    def not_stored(self) -> int:
        """Positions that the other end has not acknowledged."""
        return max(self.head - self.stored, 0)


class LinkStory:
    """A link, and the events on it. `name` is the edge's id, `subscription` empty for the push to the cloud."""

    def __init__(self, name: str, subscription: str = "") -> None:
        self.name = name
        self.subscription = subscription
        self.dialling = LinkSide()
        self.serving = LinkSide()
        self.nodes: dict[str, int] = {}
        self.session = 0
        self.lag = ThinnedSeries()
        self.lag_now = 0
        self.lag_s = 0.0
        self.chapters = [JournalChapter()]
        self.parked: dict[tuple[str, int], str] = {}
        self._parked_lines = {"edge": 0, "cloud": 0}
        self.dropped = 0
        self.lost_by_cloud = 0
        self.rebases: list[str] = []
        self.needs_operator = ""

    @property
    def side(self) -> LinkSide:
        """The end whose story counts."""
        return self.dialling if self.dialling.last_us else self.serving

    @property
    def chapter(self) -> JournalChapter:
        """The journal of now."""
        return self.chapters[-1]

    @property
    def gone_with_disk(self) -> int:
        """Positions of earlier journals that were not acknowledged when another journal took their place."""
        return sum(chapter.not_stored for chapter in self.chapters[:-1])

    @property
    def stored(self) -> int:
        """Positions of all journals that the other end has taken, parked and dropped ones among them."""
        return sum(min(chapter.stored, max(chapter.head, chapter.stored)) for chapter in self.chapters)

    def journal_opened(self, journal_id: str, head: int) -> None:
        """The edge's service is ready with this journal."""
        if self.chapter.journal_id and self.chapter.journal_id != journal_id:
            self.chapters.append(JournalChapter())
        self.chapter.journal_id = journal_id
        self.chapter.head = max(self.chapter.head, head)

    def reached(self, at_us: int, *, head: int | None = None, stored: int | None = None) -> None:
        """A line names the end of the log, or how far the other end has it."""
        chapter = self.chapter
        chapter.stored = max(chapter.stored, stored or 0)
        chapter.head = max(chapter.head, head or 0, chapter.stored)
        if head is not None:
            self.lag_now = max(head - (chapter.stored if stored is None else stored), 0)
            self.lag.add(at_us, self.lag_now)
        elif self.lag_now > chapter.not_stored:
            self.lag_now = chapter.not_stored
            self.lag.add(at_us, self.lag_now)

    def resumed(self, at_us: int, resume: str, position: int, behind: int) -> None:
        """The cloud has answered how it found the edge's journal."""
        if resume in ("rewound", "new_journal"):
            if not self.rebases or self.rebases[-1] != f"{resume} at {position}":
                self.rebases.append(f"{resume} at {position}")
            if resume == "rewound":  # the same journal, shorter: its later positions are given a second time
                self.chapter.head = position + behind
                self.chapter.stored = position
        self.reached(at_us, head=position + behind, stored=position)

    @property
    def parked_events(self) -> int:
        """How many events were set aside: both ends say so, and each leaves out repeats of an entity with a count."""
        return max(len(self.parked), *self._parked_lines.values())

    def parked_again(self, service: str, count: int) -> None:
        """So many lines about parked events were left out by a service."""
        self._parked_lines[service] = self._parked_lines.get(service, 0) + count

    def park(self, record: LogRecord) -> bool:
        """An event was set aside; returns whether no other line has said so."""
        self.parked_again(record.service, 1 + record.count("repeats_suppressed"))
        key = (record.text("persistence_id"), record.count("seq_nr"))
        is_new = key not in self.parked
        if is_new and len(self.parked) < PARKED_MAX:
            self.parked[key] = record.text("code")
        return is_new
