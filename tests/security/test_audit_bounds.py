"""An audit line is bounded, whatever a request's body says."""

from __future__ import annotations

import orjson

from common.runtime.http.audited import Record


def asked(body: bytes) -> dict[str, object]:
    record = Record()
    record.take(body)
    return record.asked()


def test_a_member_is_cut_and_its_nesting_is_not_followed() -> None:
    deep = b"[" * 1_000 + b"]" * 1_000
    shown = asked(b'{"entity": "' + b"x" * 5_000 + b'", "criteria": ' + deep + b', "n": 7, "list": [1, "two"]}')
    assert shown == {"entity": "x" * 300, "criteria": "nested too deep", "n": 7, "list": '[1,"two"]'}


def test_members_are_few_and_contents_are_left_out() -> None:
    shown = asked(orjson.dumps({"payload": "secret", **{f"member-{n}": n for n in range(100)}}))
    assert len(shown) == 20
    assert "payload" not in shown
