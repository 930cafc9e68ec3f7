"""Types by stable names: two codecs, versions, and what is not known is handed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import betterproto
import pytest

from common.core.errors import BackhaulError
from common.core.events.batch import new_events
from common.core.events.types import EventTypes, StoredAs, Unknown, named


@dataclass(frozen=True)
class Measured:
    celsius: float


def _kelvin(old: dict[str, Any]) -> dict[str, Any]:
    return {"kelvin": old["celsius"] + 273.15}


def _with_place(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "place": "unknown"}


@named("Measured", version=3, formerly=["Reading"], upcasters={1: _kelvin, 2: _with_place})
@dataclass(frozen=True, slots=True)
class MeasuredLater:
    kelvin: float
    place: str


@dataclass
class Position(betterproto.Message):
    lat: float = betterproto.double_field(1)
    lon: float = betterproto.double_field(2)


def test_a_dataclass_is_json_and_a_message_protobuf_each_under_its_name() -> None:
    registry = EventTypes([Measured, StoredAs(Position, "drone.position")])
    assert registry.encode(Measured(20.5)) == ("Measured", "json", b'{"celsius":20.5}', "")
    name, codec, payload, metadata = registry.encode(Position(1.0, 2.0))
    assert (name, codec, metadata) == ("drone.position", "protobuf", "")
    assert registry.decode(name, codec, payload) == Position(1.0, 2.0)
    assert registry.decode("Measured", "json", b'{"celsius":1}') == Measured(1.0)


def test_old_versions_and_old_names_become_the_present_class() -> None:
    registry = EventTypes([MeasuredLater])
    present = MeasuredLater(300.0, "roof")
    encoded = registry.encode(present)
    assert encoded[3] == "version\x1f3"
    assert registry.decode(*encoded) == present
    assert registry.decode("Measured", "json", b'{"celsius":0}') == MeasuredLater(273.15, "unknown")
    assert registry.decode("Reading", "json", b'{"celsius":0}') == MeasuredLater(273.15, "unknown")
    assert registry.decode("Measured", "json", b'{"kelvin":1}', "a\x1fb\x1fversion\x1f2") == MeasuredLater(1, "unknown")


def test_what_is_not_registered_is_handed_on_untouched() -> None:
    registry = EventTypes([Measured])
    stored = ("Other", "msgpack", b"\x00\x01", "k\x1fv")
    assert registry.decode(*stored) == Unknown(*stored)
    assert registry.encode(registry.decode(*stored)) == stored


def test_a_batch_is_decoded_in_order() -> None:
    events = new_events(["S|1"] * 2, ["Measured", "Other"], [b'{"celsius":1}', b"x"], codec=["json", "raw"])
    assert EventTypes([Measured]).decode_all(events) == [Measured(1.0), Unknown("Other", "raw", b"x")]


def test_a_name_registered_twice_names_both_places() -> None:
    registry = EventTypes([Measured])
    registry.add(Measured)
    with pytest.raises(BackhaulError) as raised:
        registry.add(MeasuredLater)
    assert raised.value.code == "types.registered_twice"
    assert "test_types.Measured (" in raised.value.message
    assert "test_types.MeasuredLater (" in raised.value.message
    assert raised.value.message.count("test_types.py:") == 2


@pytest.mark.parametrize(
    ("stored", "code", "why"),
    [
        (("Measured", "json", b"{"), "types.unreadable", "JSONDecodeError"),
        (("Measured", "json", b'{"celsius":"hot"}'), "types.unreadable", "field 'celsius' must be a number"),
        (("Measured", "protobuf", b""), "types.unreadable", "its codec is 'protobuf'"),
        (("Measured", "json", b"{}", "version\x1f2"), "types.newer_version", "version 2"),
    ],
)
def test_what_cannot_be_read_says_why_and_which_class(stored: Any, code: str, why: str) -> None:  # noqa: ANN401
    with pytest.raises(BackhaulError) as raised:
        EventTypes([Measured]).decode(*stored)
    assert raised.value.code == code
    assert why in raised.value.message
    assert "test_types.Measured (" in raised.value.message


def test_an_upcaster_that_raises_is_told_as_unreadable() -> None:
    with pytest.raises(BackhaulError, match="KeyError") as raised:
        EventTypes([MeasuredLater]).decode("Measured", "json", b"{}")
    assert raised.value.code == "types.unreadable"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (StoredAs(Measured, ""), "is empty"),
        (StoredAs(Measured, "a\nb"), "control character"),
        (StoredAs(Measured, "m", version=3, upcasters={2: _kelvin}), "no upcaster from 1"),
        (StoredAs(int, "int"), "neither a dataclass nor"),
    ],
)
def test_what_cannot_be_stored_is_refused_when_it_is_registered(given: StoredAs, why: str) -> None:
    with pytest.raises(BackhaulError, match=why) as raised:
        EventTypes([given])
    assert raised.value.code == "types.unfit"


@pytest.mark.parametrize("celsius", [object(), "20", float("inf"), None])
def test_what_could_not_be_read_back_is_not_written(celsius: Any) -> None:  # noqa: ANN401
    with pytest.raises(BackhaulError) as raised:
        EventTypes([Measured]).encode_checked(Measured(celsius))
    assert raised.value.code == "types.unfit"


def test_what_is_written_comes_with_what_will_be_read() -> None:
    assert EventTypes([Measured]).encode_checked(Measured(2)) == (
        ("Measured", "json", b'{"celsius":2}', ""),
        Measured(2.0),
    )
