"""JSON of dataclasses: what is written is read back the same, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events.typed_json import Misfit, NoShape, reader_of, write_json


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Price:
    amount: int
    currency: Literal["EUR", "USD"] = "EUR"


@dataclass(frozen=True)
class Item:
    name: str
    price: Price
    weight: float = 0.0


@dataclass(frozen=True)
class Order:
    id: UUID
    at: datetime
    items: tuple[Item, ...]
    colour: Colour
    note: str | None = None
    labels: frozenset[str] = frozenset()
    photo: bytes = b""
    total: Decimal = Decimal(0)
    by_name: Mapping[str, Item] = field(default_factory=dict)
    is_paid: bool = False
    place: tuple[float, float] = (0.0, 0.0)
    anything: Any = None
    parent: Order | None = None


floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=8)
items = st.builds(Item, texts, st.builds(Price, st.integers(-(2**53), 2**53)), floats)
orders = st.builds(
    Order,
    st.uuids(),
    st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  a bound is naive
    st.lists(items, max_size=3).map(tuple),
    st.sampled_from(Colour),
    st.none() | texts,
    st.frozensets(texts, max_size=3),
    st.binary(max_size=8),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.dictionaries(texts, items, max_size=2),
    st.booleans(),
    st.tuples(floats, floats),
)


@settings(max_examples=50)
@given(orders, orders)
def test_what_is_written_is_read_back_the_same(order: Order, parent: Order) -> None:
    whole = Order(**{**vars(order), "parent": parent})
    assert reader_of(Order)(orjson.loads(write_json(whole))) == whole


GOOD: dict[str, Any] = {
    "id": "00000000-0000-0000-0000-000000000001",
    "at": "2026-01-01T00:00:00+00:00",
    "items": [{"name": "a", "price": {"amount": 1}}],
    "colour": "red",
}


@pytest.mark.parametrize(
    ("change", "place", "what"),
    [
        ({"id": 1}, "id", "must be a UUID"),
        ({"at": "yesterday"}, "at", "must be a time in ISO 8601"),
        ({"items": {}}, "items", "must be a list"),
        ({"items": [GOOD["items"][0], {"name": 1, "price": {"amount": 1}}]}, "items.1.name", "must be a text"),
        ({"items": [{"name": "", "price": {"amount": True}}]}, "items.0.price.amount", "must be a whole number"),
        ({"items": [{"name": "", "price": {"amount": 1, "currency": "FR"}}]}, "items.0.price.currency", "one of"),
        ({"items": [{"name": ""}]}, "items.0.price", "is missing"),
        ({"colour": "green"}, "colour", "must be one of 'red', 'blue'"),
        ({"note": 1}, "note", "must be a text"),
        ({"labels": ["a", 1]}, "labels.1", "must be a text"),
        ({"photo": "%"}, "photo", "base64"),
        ({"total": 1.5}, "total", "must be a decimal number as text"),
        ({"by_name": {"a": 1}}, "by_name.a", "must be an object"),
        ({"is_paid": 1}, "is_paid", "must be true or false"),
        ({"place": [1.0]}, "place", "must be a list of 2"),
        ({"parent": {}}, "parent.at", "is missing"),
        ({"extra": 1}, "extra", "is not known here"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], place: str, what: str) -> None:
    with pytest.raises(Misfit) as raised:
        reader_of(Order, strict=True)({**GOOD, **change})
    assert raised.value.field == place
    assert what in raised.value.what


def test_a_tolerant_reader_leaves_out_what_it_does_not_know() -> None:
    assert reader_of(Order)({**GOOD, "extra": 1}) == reader_of(Order, strict=True)(GOOD)


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    [weight] = [item.weight for item in reader_of(Order)({**GOOD, "items": [{**GOOD["items"][0], "weight": 2}]}).items]
    assert (weight, type(weight)) == (2.0, float)


@dataclass
class Positive:
    n: int

    def __post_init__(self) -> None:
        if self.n <= 0:
            raise ValueError("n must be above 0")


def test_a_class_may_have_rules_of_its_own() -> None:
    with pytest.raises(Misfit, match="n must be above 0"):
        reader_of(Positive)({"n": 0})


@dataclass
class Bare:
    rows: list  # type: ignore[type-arg]


@dataclass
class Numbered:
    rows: dict[int, str]


@dataclass
class Hidden:
    _n: int


@dataclass
class Foreign:
    journal: Sequence[complex]


@pytest.mark.parametrize(
    ("cls", "why"), [(Bare, "does not say"), (Numbered, "keys"), (Hidden, "begins with _"), (Foreign, "no JSON form")]
)
def test_a_class_without_a_json_form_is_refused_when_it_is_registered(cls: type, why: str) -> None:
    with pytest.raises(NoShape, match=why):
        reader_of(cls)
