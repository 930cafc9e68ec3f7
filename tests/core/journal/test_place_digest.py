"""The digest of a place in a log."""

from __future__ import annotations

from common.core.journal.place_digest import place_digest


def test_digest_is_the_same_in_every_version() -> None:
    assert place_digest("journal-1", 1_700_000_000_000_001, "Pump|ü1", 7) == "f67c0deed3b1b751"


def test_digest_depends_on_every_part() -> None:
    base = ("journal-1", 1, "Pump|1", 11)
    others = [("journal-2", 1, "Pump|1", 11), ("journal-1", 2, "Pump|1", 11), ("journal-1", 1, "Pump|2", 11),
              ("journal-1", 1, "Pump|1", 12), ("journal-1", 11, "Pump|1", 1)]  # fmt: skip

    assert len({place_digest(*place) for place in (base, *others)}) == 1 + len(others)
