"""Lines as tools carry them, and times as operators write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.core.log_analysis.record import LINE_MAX_CHARS, parse_line, parse_since

LINE = '{"timestamp":"2026-01-31T03:00:00.250000Z","level":"info","event":"link.connected","service":"edge","instance":"e1"}'
AT_US = 1_769_828_400_250_000


@pytest.mark.parametrize(
    "carried",
    [
        LINE,
        f"edge-1  | {LINE}\n",
        f"[pod/edge-0/edge] {LINE}",
        f"Jan 31 03:00:00 gateway edge-service[12]: {LINE}",
        f"2026-01-31T03:00:00.3Z stdout F {LINE}",
        json.dumps({"log": LINE + "\n", "stream": "stdout", "time": "2026-01-31T03:00:00.3Z"}),
    ],
)
def test_a_line_is_found_behind_what_tools_put_before_it(carried: str) -> None:
    record = parse_line(carried)
    assert record is not None
    assert (record.at_us, record.event, record.service, record.instance) == (AT_US, "link.connected", "edge", "e1")


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "ready",
        "{",
        "{}",
        '{"event":"x.y"}',
        '{"event":"x.y","timestamp":"now"}',
        '{"event":1,"timestamp":"2026-01-31"}',
        "[1]",
        '{"log":"text"}',
        LINE + "x" * LINE_MAX_CHARS,
    ],
)
def test_what_no_service_has_written_is_none(foreign: str) -> None:
    assert parse_line(foreign) is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    parse_line(text)
    parse_line("{" + text)


def test_fields_of_another_kind_are_not_there() -> None:
    record = parse_line(LINE.replace('"level":"info"', '"level":"info","lag_s":"much","head":true,"n":7'))
    assert record is not None
    assert (record.number("lag_s"), record.count("head"), record.count("n"), record.text("none")) == (None, 0, 7, "")


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [
        ("90s", AT_US - 90_000_000),
        ("2h", AT_US - 7_200_000_000),
        ("3d", AT_US - 3 * 86_400_000_000),
        ("2026-01-31T03:00:00.25", AT_US),
        ("2026-01-31T04:00:00.25+01:00", AT_US),
        ("soon", None),
        ("", None),
        ("-5m", None),
    ],
)
def test_since_is_before_now_or_a_time(text: str, expected_us: int | None) -> None:
    assert parse_since(text, AT_US) == expected_us
