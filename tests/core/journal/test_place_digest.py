"""The digest of a place in a log."""

from __future__ import annotations

from common.core.journal.place_digest import are_different, place_digest


def test_digest_is_the_same_in_every_version() -> None:
    assert place_digest("key-1", 1_700_000_000_000_001, "Pump|ü1", 7) == "k47bc936924e450d3"


def test_digest_depends_on_every_part() -> None:
    base = ("key-1", 1, "Pump|1", 11)
    others = [("key-2", 1, "Pump|1", 11), ("key-1", 2, "Pump|1", 11), ("key-1", 1, "Pump|2", 11),
              ("key-1", 1, "Pump|1", 12), ("key-1", 11, "Pump|1", 1)]  # fmt: skip

    assert len({place_digest(*place) for place in (base, *others)}) == 1 + len(others)


def test_a_guess_without_the_key_is_not_confirmed() -> None:
    """Nor is it refused: a digest of before there were keys says nothing either way."""
    here = place_digest("key-1", 1, "Pump|1", 11)
    guess = place_digest("another", 1, "Pump|1", 11)
    assert guess != here
    assert are_different(here, guess)
    for unkeyed in ("", "f67c0deed3b1b751", here[1:]):
        assert not are_different(here, unkeyed)
        assert not are_different(unkeyed, here)
    assert not are_different(here, here)
