"""The story that lines tell, on lines as services write them."""

from __future__ import annotations

from itertools import count

import pytest

from common.core.log_analysis.link_story import OUTAGES_MAX, LinkStory
from common.core.log_analysis.log_story import LogStory, duration
from common.core.log_analysis.record import LogRecord
from common.core.log_analysis.report import Advice, accounting, as_values, report

SECOND = 1_000_000
NOTHING = Advice({}, {})


class Teller:
    """Feeds a story, a second a line."""

    def __init__(self, entity: str = "") -> None:
        self.story = LogStory(entity)
        self.clock = count(1)

    def edge(self, event: str, **fields: object) -> None:
        self.line("edge", "e1", event, fields)

    def cloud(self, event: str, node: str = "n1", **fields: object) -> None:
        self.line("cloud", node, event, {"origin_id": "e1"} | fields)

    def line(self, service: str, instance: str, event: str, fields: dict[str, object]) -> None:
        level = str(fields.get("level", "info"))
        self.story.take(LogRecord(next(self.clock) * SECOND, level, event, service, instance, fields))

    @property
    def link(self) -> LinkStory:
        return self.story.links["e1", ""]


@pytest.fixture
def teller() -> Teller:
    return Teller()


def test_an_outage_has_its_reason_its_tries_and_its_end(teller: Teller) -> None:
    teller.edge("link.connected", attempts=1, offline_s=0.5)
    teller.edge("link.disconnected", code="link.lost", reason="reset", position=7)
    teller.edge("link.unreachable", code="link.refused")
    teller.edge("link.unreachable", code="link.timeout")
    teller.edge("link.connected", attempts=9, offline_s=3)
    (before, outage) = teller.link.side.outages
    assert not before.was_up
    assert (outage.code, outage.failures, outage.tries) == ("link.lost", ["link.refused", "link.timeout"], 9)
    assert outage.seconds(0) == 3


def test_a_link_that_a_stopping_service_ended_is_down_for_that_reason(teller: Teller) -> None:
    teller.edge("link.connected", attempts=1, offline_s=0)
    teller.edge("link.left", position=7, acked_events=7)
    teller.edge("service.stopped")
    teller.edge("service.starting")
    teller.edge("link.connected", attempts=1, offline_s=0)
    [outage] = [one for one in teller.link.side.outages if one.was_up]
    assert (outage.code, outage.reason, outage.seconds(0)) == ("link.ended", "this end stops", 3)
    assert teller.link.stored == 7


def test_a_service_that_starts_without_an_end_was_killed(teller: Teller) -> None:
    teller.edge("service.starting")
    teller.edge("link.connected", attempts=1, offline_s=0)
    teller.edge("link.summary", state="connected", head=5, acked=5)
    teller.edge("service.starting")
    outage = teller.link.side.outages[-1]
    assert (outage.from_us, outage.until_us) == (3 * SECOND, None)
    assert "without a last line" in outage.reason
    assert teller.story.services["edge", "e1"].kills == 1


@pytest.mark.parametrize("end", ["service.stopped", "service.failed"])
def test_a_service_that_ends_is_not_killed(teller: Teller, end: str) -> None:
    teller.edge("service.starting")
    teller.edge("link.connected", attempts=1, offline_s=0)
    teller.edge(end)
    teller.edge("service.starting")
    assert teller.story.services["edge", "e1"].kills == 0
    assert teller.link.side.outages[-1].reason == end


def test_logs_that_begin_in_the_middle_claim_no_outage(teller: Teller) -> None:
    teller.edge("link.summary", state="connected", head=5, acked=5)
    teller.edge("link.disconnected", code="link.lost", position=5)
    assert [outage.was_up for outage in teller.link.side.outages] == [True]


def test_the_cloud_alone_tells_of_an_edge_and_of_a_node_that_was_killed(teller: Teller) -> None:
    teller.cloud("push.connected", session=1, resume="first", position=0, behind=4)
    teller.cloud("service.starting", origin_id="")
    teller.cloud("push.connected", session=2, resume="resume", position=4, behind=0)
    teller.cloud("push.disconnected", session=1, code="push.fenced", position=4)  # late news of the first one
    assert teller.link.side.is_up is True
    assert teller.link.side.connects == 2


def test_a_new_journal_leaves_what_was_not_stored_on_the_old_disk(teller: Teller) -> None:
    teller.edge("service.ready", journal_id="a", head=0)
    teller.edge("link.summary", state="connected", head=10, acked=7)
    teller.edge("service.ready", journal_id="b", head=0)
    teller.edge("push.started", resume="new_journal", position=0, behind=2)
    teller.edge("link.summary", state="connected", head=2, acked=2)
    assert accounting(teller.link) == {
        "head": 12,
        "stored": 9,
        "underway": 0,
        "parked": 0,
        "dropped": 0,
        "lost_by_cloud": 0,
        "gone_with_disk": 3,
    }


def test_parked_events_are_counted_once_though_both_ends_tell(teller: Teller) -> None:
    parked = {"persistence_id": "Sensor|e1/t", "code": "parked.gap"}
    teller.cloud("event.parked", seq_nr=3, level="warning", **parked)
    teller.edge("push.parked", seq_nr=3, level="warning", **parked)
    teller.edge("push.parked", seq_nr=9, repeats_suppressed=4, level="warning", **parked)
    teller.edge("repeat.suppressed", repeated="push.parked", key="x", count=2)
    assert accounting(teller.link)["parked"] == 8
    text = report(teller.story, Advice({}, {"parked.gap": ("A number is missing.", "Look at the edge.")}))
    assert "do: Look at the edge." in text


@pytest.mark.parametrize("asked", ["Sensor|e1/t", "e1/t", "t"])
def test_an_entity_is_found_by_each_of_its_names(asked: str) -> None:
    teller = Teller(asked)
    teller.cloud("event.parked", persistence_id="Sensor|e1/t", seq_nr=3, code="parked.gap", level="warning")
    teller.cloud("event.parked", persistence_id="Sensor|e1/other", seq_nr=3, code="parked.gap", level="warning")
    assert [note.text for note in teller.story.notes] == ["event.parked seq_nr=3 code=parked.gap origin_id=e1"]
    assert sum(one.count for one in teller.story.complaints.values()) == 1


def test_a_flapping_link_takes_bounded_memory(teller: Teller) -> None:
    for _ in range(2 * OUTAGES_MAX):
        teller.edge("link.connected", attempts=1, offline_s=1)
        teller.edge("link.disconnected", code="link.lost", position=1)
    assert len(teller.link.side.outages) == OUTAGES_MAX
    assert teller.link.side.outages_total >= 2 * OUTAGES_MAX


def test_a_subscription_is_a_link_of_its_own(teller: Teller) -> None:
    teller.edge("link.connected", subscription="orders", attempts=1, offline_s=0)
    teller.edge("subscription.summary", subscription="orders", position=5, source_head=9, lag_s=1.5)
    (link,) = as_values(teller.story, NOTHING)["links"]
    assert (link["link"], link["lag_events"], link["state"]) == ("e1 ← orders", 4, "connected")


def test_a_journal_that_grows_is_said_to_be_full_at_a_time(teller: Teller) -> None:
    teller.edge("service.ready")
    for used in (500, 100, 300, 500):  # retention has freed room in between
        teller.edge("journal.summary", used_bytes=used, cap_bytes=1000)
    (told,) = as_values(teller.story, NOTHING)["services"]
    assert (told["used_bytes"], told["cap_bytes"], told["full_in_s"]) == (500, 1000, 2.5)
    assert "journal 50% of 1,000 bytes, full in 2.5 s at this rate" in report(teller.story, NOTHING)
    teller.edge("journal.summary", used_bytes=400, cap_bytes=1000)
    assert "40% of 1,000 bytes, full in 6.0 s at this rate" in report(teller.story, NOTHING)
    teller.edge("journal.summary", used_bytes=90, cap_bytes=1000)
    assert "9% of 1,000 bytes, does not grow" in report(teller.story, NOTHING)


def test_a_node_runs_what_its_last_assignment_and_its_links_say(teller: Teller) -> None:
    for node, ranges in (("n1", 4), ("n2", 2), ("n1", 2)):
        teller.line("cloud", node, "projection.assigned", {"ranges": ranges, "of": 4})
    teller.cloud("push.connected", node="n1", session=1)
    teller.cloud("push.connected", node="n2", session=2)
    services = {one["instance"]: one for one in as_values(teller.story, NOTHING)["services"]}
    assert [(services[node]["ranges"], services[node]["edges"]) for node in ("n1", "n2")] == [(2, []), (2, ["e1"])]
    assert "runs 2 of 4 ranges of projections; 1 edge: e1" in report(teller.story, NOTHING)
    teller.line("cloud", "n2", "service.stopped", {})
    services = {one["instance"]: one for one in as_values(teller.story, NOTHING)["services"]}
    assert (services["n2"]["ranges"], services["n2"]["edges"]) == (None, [])


def test_no_lines_are_an_answer() -> None:
    assert "no log lines" in report(LogStory(), NOTHING)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (110, "1 min 50 s"), (11_100, "3 h 5 min"), (187_200, "2 d 4 h")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_nodes_lines_about_its_journal_are_no_link(teller: Teller) -> None:
    for event in ("journal.unreadable", "journal.server_changed", "journal.readable"):
        teller.line("cloud", "n1", event, {})
    assert not teller.story.links
    teller.line("cloud", "n1", "subscription.started", {"subscription": "orders"})
    assert list(teller.story.links) == [("n1", "orders")]


def test_what_was_stored_by_the_end_of_a_link_lags_no_more(teller: Teller) -> None:
    teller.cloud("push.connected", session=1, resume="resume", position=12, behind=3)
    assert teller.link.lag_now == 3
    teller.cloud("push.disconnected", session=1, code="link.ended", position=15)
    assert (teller.link.lag_now, teller.link.lag.highest) == (0, 3)
