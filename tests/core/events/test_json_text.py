"""JSON as text: slices that are byte for byte what came, refusals that name the place."""

from __future__ import annotations

from unittest.mock import patch

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.events import json_text
from common.core.events.json_text import (
    BODY_LEVELS_MAX,
    RawJson,
    UnfitJson,
    Visits,
    check_levels,
    is_readable,
    read,
    read_keeping,
)
from tests.support.json_texts import json_texts

VISITS = Visits(raw="payload", within=frozenset({"events"}), unique=frozenset({"metadata"}))


def kept(text: str) -> object:
    return read_keeping(text.encode(), VISITS)


@given(json_texts(), json_texts())
def test_a_payload_is_the_slice_it_came_in(payload: str, other: str) -> None:
    assert kept(f' {{"x":{other} ,"payload" : {payload} , "y":{other}}}\n') == {
        "x": orjson.loads(other),
        "payload": payload.encode(),
        "y": orjson.loads(other),
    }


@given(st.lists(json_texts(), max_size=4), json_texts(), st.booleans())
def test_so_is_each_payload_of_a_list(payloads: list[str], other: str, is_escaped: bool) -> None:
    key = '"p\\u0061yload"' if is_escaped else '"payload"'
    events = ",".join(f'{{"x":{other},{key}:{payload},"metadata":{{"payload":"kept"}}}}' for payload in payloads)
    assert kept(f'{{"x":{other},"events":[{events}],"z":{other}}}') == {
        "x": orjson.loads(other),
        "events": [
            {"x": orjson.loads(other), "payload": payload.encode(), "metadata": {"payload": "kept"}}
            for payload in payloads
        ],
        "z": orjson.loads(other),
    }


@pytest.mark.parametrize(
    "text",
    [
        # A name of the payload's, of the metadata's and of a value's own; one that is escaped; one that is not ASCII.
        '{"events":[{"a":1,"payload":{"payload":[2]}},{"payload":3}]}',
        '{"events":[{"payload":[[[[[[[1]]]]]]],"metadata":{"payload":"x"}},{"payload":3}]}',
        '{"events":[{"payload":[[[[[[[{"payload":1}]]]]]]]}]}',
        '{"events":[{"payload":"payload"},{"a":"payload","payload":3}]}',
        '{"payload":0,"events":[{"payload":1}]}',
        '{"events":[{"p\\u0061yload":1},{"payload":"a\\"payload\\":"}]}',
        '{"events":[{"größe":1,"payload":{"a":1,"a":1}}],"events2":[]}',
        '{"a":[[1]],"payload":[1 , 2]}',
        '{"p\\u0061yload":1,"metadata":{"payload":2}}',
        # Too deep for one search, so that only the other of the two is found.
        '{"payload":[[[[[[[1]]]]]]],"metadata":{"payload":1}}',
        '{"payload":[[[[[[[1]]]]]]],"x\\"payload":1}',
        '{"a\\\\":"\\\\\\"","payload":"\\"\\\\","b":"\\\\"}',
        '{"events":[]}',
        '{"events":[1]}',
        '{"payload":{}}',
        " [ 1 ] ",
    ],
)
def test_the_searches_keep_what_the_walk_keeps(text: str) -> None:
    with patch.object(json_text, "_keep_flat", return_value=False):
        walked = kept(text)
    assert kept(text) == walked
    assert repr(kept(text)) == repr(walked)  # bytes and texts are not equal, but say so


_MEMBERS = st.tuples(
    st.sampled_from(["payload", "tags", "metadata", "a", "events", 'x\\"payload', "\\\\"]),
    st.one_of(json_texts(), json_texts(), st.just('{"payload":1}'), st.just("[[[[[[[1]]]]]]]")),
)


@given(st.lists(st.lists(_MEMBERS, max_size=3), max_size=4), st.lists(_MEMBERS, max_size=2), st.booleans())
@settings(max_examples=200)
def test_so_they_do_whatever_stands_where_and_how_often(
    rows: list[list[tuple[str, str]]], top: list[tuple[str, str]], is_listed: bool
) -> None:
    def text_of(members: list[tuple[str, str]]) -> str:
        return "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"

    text = text_of([*top, ("events", "[" + ",".join(map(text_of, rows)) + "]")] if is_listed else top)
    with patch.object(json_text, "_keep_flat", return_value=False):
        try:
            walked = repr(kept(text))
        except UnfitJson as unfit:
            walked = f"{unfit.what} {unfit.place}"
    try:
        found = repr(kept(text))
    except UnfitJson as unfit:
        found = f"{unfit.what} {unfit.place}"
    assert found == walked


def test_levels_beside_a_payload_are_counted_too() -> None:
    with pytest.raises(UnfitJson) as refused:
        kept('{"payload":1,"tags":' + 200 * "[" + 200 * "]" + "}")
    assert refused.value.too_deep


def test_a_usual_request_is_searched_and_not_walked() -> None:
    text = (
        '{"events":[{"event_type":"Read","payload":{"celsius":21.5},"tags":["a"],"metadata":{"by":"x"}},{"payload":1}]}'
    )
    with patch.object(json_text, "_visit", side_effect=AssertionError):
        kept(text)
        kept('{"event_type":"Read","payload":{"celsius":21.5}}')
        kept('{"event_type":"\\\\Re\\"ad\\\\","payload":{"by":"\\"\\\\"},"metadata":{"größe":"\\n"}}')


@given(json_texts())
def test_what_is_not_looked_into_is_as_orjson_reads_it(text: str) -> None:
    whole = f'{{"v":{text}}}'.encode()
    assert read_keeping(whole, Visits()) == orjson.loads(whole)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"payload":1,"payload":2}', "payload"),
        ('{"payload":1,"p\\u0061yload":2}', "payload"),
        ('{"events":[],"events":[]}', "events"),
        ('{"events":[{"x":null}],"events":[{},{}]}', "events"),
        ('{"metadata":[1],"metadata":{"a":"1"}}', "metadata"),
        ('{"events":[{},{"a":1,"a":1}]}', "events[1].a"),
        ('{"events":[{"metadata":{"a":"1","a":"2"}}]}', "events[0].metadata.a"),
        ('{"metadata":{"a":"1","a":"2"}}', "metadata.a"),
        ('{"payload":1,"metadata":{"ö":"1","\\u00f6":"2"}}', "metadata.ö"),
    ],
)
def test_a_member_that_is_given_twice_is_refused_where_one_would_be_dropped(text: str, place: str) -> None:
    with pytest.raises(UnfitJson, match="is given twice") as refused:
        kept(text)
    assert refused.value.place == place


def test_repeated_keys_of_a_payload_are_the_payloads_own() -> None:
    assert kept('{"payload":{"a":1,"a":2}}') == {"payload": b'{"a":1,"a":2}'}


@given(st.integers(1, 1_100), st.sampled_from(["[{}]", '{{"a":{}}}', '[1,"[[[",{}]']), st.integers(1, 200))
def test_levels_are_counted_exactly(levels: int, around: str, levels_max: int) -> None:
    text = "1"
    for _ in range(levels):
        text = around.format(text)
    if levels <= levels_max:
        check_levels(text.encode(), levels_max)
        return
    with pytest.raises(UnfitJson) as refused:
        check_levels(text.encode(), levels_max)
    assert refused.value.too_deep


def test_the_place_of_a_value_too_deep_is_a_path() -> None:
    deep = b'{"events":[{"a":1,"b":[1,2]},{"payload":{"x":[{},' + b"[" * 500 + b"]" * 500 + b"]}}]}"
    with pytest.raises(UnfitJson) as refused:
        read(deep)
    assert refused.value.place == "events[1].payload.x[1][0]"


@pytest.mark.parametrize("levels", [BODY_LEVELS_MAX + 1, 254, 255, 1_023, 1_024, 1_025, 100_000])
def test_too_deep_is_told_whatever_orjson_says(levels: int) -> None:
    for text in (b"[" * levels + b"]" * levels, b"[" * levels):
        with pytest.raises(UnfitJson) as refused:
            read(text)
        assert refused.value.too_deep
        assert not is_readable(text)


@pytest.mark.parametrize(
    "text", [b"", b"NaN", b"[1,]", b"\xef\xbb\xbf{}", b'"\\ud800"', b'"\x00"', b"\xff", b"1 2", b'{"a":1}{']
)
def test_what_orjson_refuses_is_no_json(text: bytes) -> None:
    with pytest.raises(UnfitJson, match="is not JSON") as refused:
        read(text)
    assert not refused.value.too_deep


@given(json_texts())
def test_one_line_is_the_same_value(text: str) -> None:
    line = RawJson(text.encode()).on_one_line()
    assert b"\n" not in line
    assert b"\r" not in line
    assert orjson.loads(line) == orjson.loads(text)
