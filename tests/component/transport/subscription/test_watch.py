"""When a consumer's stream counts as stalled: the time in which this process stood still is not the consumer's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from common.transport.subscription.watch import ConsumerWatch

TIMEOUT_S = 30.0


def watched(*, unsent_bytes: int) -> ConsumerWatch:
    """Two deliveries are owed an ack, from second 0 on; of the bytes so many are still here."""
    serving = SimpleNamespace(window=SimpleNamespace(is_empty=False), acked=1, deliveries=3)
    stream = SimpleNamespace(unsent_bytes=unsent_bytes, bytes_sent=100)
    sender = SimpleNamespace(is_sending=False)
    watch = ConsumerWatch(stream, serving, sender, TIMEOUT_S, 0.0)  # type: ignore[arg-type]
    assert watch.look(1.0, 0.0) is None
    return watch


@pytest.mark.parametrize(("unsent_bytes", "code"), [(0, "subscription.not_acked"), (10, "link.stalled")])
def test_a_consumer_is_left_when_nothing_moved_for_the_timeout(unsent_bytes: int, code: str) -> None:
    watch = watched(unsent_bytes=unsent_bytes)
    assert watch.look(30.9, 0.0) is None
    left = watch.look(31.0, 0.0)
    assert left is not None
    assert left.code == code


@pytest.mark.parametrize("unsent_bytes", [0, 10])
def test_the_own_pause_is_no_silence_of_the_consumer(unsent_bytes: int) -> None:
    watch = watched(unsent_bytes=unsent_bytes)
    assert watch.look(104.0, 100.0) is None
    assert watch.look(130.9, 0.0) is None
    assert watch.look(131.0, 0.0) is not None
