"""How soon links come back that found the database away: a few at once, a fleet spread over time."""

from __future__ import annotations

import pytest

from common.core.flow.backoff import Backoff
from common.core.flow.return_hint import LINKS_MAX, RefusedLinks, return_hint_s


def delays(links: int) -> list[float]:
    """Of a link that has long been refused, by chance."""
    found = []
    for step in range(100):
        backoff = Backoff(0.5, 30.0)
        backoff.failures = 20
        found.append(backoff.next_delay(step / 100, at_least_s=return_hint_s(links)))
    return found


@pytest.mark.parametrize("links", [1, 20, 400])
def test_few_links_are_back_within_two_seconds(links: int) -> None:
    assert max(delays(links)) < 1.7


@pytest.mark.parametrize("links", [1_000, 3_000, 10_000])
def test_many_links_do_not_dial_more_often_than_a_node_bears(links: int) -> None:
    seconds = delays(links)
    assert links / (sum(seconds) / len(seconds)) < 700


def test_the_hint_grows_with_the_links_and_has_an_end() -> None:
    hints = [return_hint_s(links) for links in range(0, 3 * LINKS_MAX, 100)]
    assert hints == sorted(hints)
    assert hints[-1] == return_hint_s(LINKS_MAX) == 5.0


def test_a_link_counts_once_until_it_has_not_been_refused_for_a_minute() -> None:
    refused = RefusedLinks()
    for now_s in range(10):
        refused.add("edge-1", float(now_s))
        refused.add("edge-2", float(now_s))
    assert len(refused) == 2
    refused.add("edge-1", 50.0)
    refused.add("edge-3", 69.0)  # edge-2 has not been refused since 9
    assert len(refused) == 2
    refused.add("edge-3", 200.0)
    assert len(refused) == 1


def test_what_is_remembered_of_refused_links_is_bounded() -> None:
    refused = RefusedLinks()
    for number in range(LINKS_MAX + 50):
        refused.add(f"edge-{number}", 1.0)
    assert len(refused) == LINKS_MAX
