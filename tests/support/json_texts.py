"""JSON texts for property tests: what parsers round, merge, reorder or reformat is all in them."""

from __future__ import annotations

import orjson
from hypothesis import strategies as st

_SPACE = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n", "  "])
_NUMBERS = st.one_of(
    st.integers().map(str),
    st.sampled_from(["18446744073709551616", "-9223372036854775809", "1e400", "-0", "-0.0", "1E+2", "0.10", "9" * 400]),
    st.from_regex(r"-?(0|[1-9][0-9]{0,40})\.[0-9]{1,40}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
_STRINGS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(lambda text: orjson.dumps(text).decode()),
    st.sampled_from(['"\\u0041"', '"\\/"', '"\\\\"', '"\\""', '"[{\\"]}"', '"payload"', '"a,b:c"', '"\\ud83d\\ude00"']),
)
_KEYS = st.one_of(_STRINGS, st.sampled_from(['"a"', '"b"', '"payload"', '"p\\u0061yload"', '"events"', '""']))
_ATOMS = st.one_of(st.sampled_from(["null", "true", "false"]), _NUMBERS, _STRINGS)


@st.composite
def _spaced(draw: st.DrawFn, opening: str, parts: list[str], closing: str) -> str:
    inside = ",".join(f"{draw(_SPACE)}{part}{draw(_SPACE)}" for part in parts)
    return f"{opening}{inside or draw(_SPACE)}{closing}"


@st.composite
def _member(draw: st.DrawFn, value: str) -> str:
    return f"{draw(_KEYS)}{draw(_SPACE)}:{draw(_SPACE)}{value}"


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.lists(inner, max_size=4)
    members = st.lists(inner.flatmap(_member), max_size=4)
    return st.one_of(
        items.flatmap(lambda parts: _spaced("[", parts, "]")), members.flatmap(lambda parts: _spaced("{", parts, "}"))
    )


def _deepened(text: str) -> st.SearchStrategy[str]:
    return st.integers(0, 12).map(lambda levels: '[{"x":' * levels + text + "}]" * levels)


def is_json(text: str) -> bool:
    """Whether orjson reads it: it refuses numbers like 1e400."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def json_texts() -> st.SearchStrategy[str]:
    """Texts of one JSON value, without space around it."""
    return st.recursive(_ATOMS, _containers, max_leaves=12).flatmap(_deepened).filter(is_json)
