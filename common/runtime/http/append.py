"""``POST /v1/events``: one event or many, as JSON.

    {"entity_type": "Sensor", "entity_id": "temp1", "event_type": "Read", "payload": {"celsius": 21.5}}
    {"events": [ … ], "idempotency_key": "…"}

Optional in an event: ``event_time`` (RFC 3339 with zone), ``tags``, ``metadata``, ``expected_seq_nr`` (the number the
entity must have before this request), and ``codec`` with ``payload_base64`` instead of ``payload``. The key may also
stand beside the fields of one event, or come as the header ``Idempotency-Key``. All events of a request are stored or
none; the answer comes after the commit.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import outcome
from starlette.requests import Request
from starlette.responses import Response

from common.core.errors import BackhaulError
from common.core.events.batch import join_metadata, join_tags, new_events
from common.core.events.ids import persistence_id
from common.core.events.json_text import PAYLOAD_LEVELS_MAX, RawJson, UnfitJson, Visits, check_levels
from common.core.journal.append import Appended, AppendOutcome, LocalAppend
from common.core.schedule import time_us
from common.runtime.http.app import json_response, parse_json, unfit_json
from common.runtime.http.fields import check_query
from common.runtime.http.promptly import PromptRoute, Reply
from common.runtime.intake import Intake, appended

_EVENT_KEYS = frozenset(
    {
        "entity_type",
        "entity_id",
        "event_type",
        "payload",
        "payload_base64",
        "codec",
        "event_time",
        "tags",
        "metadata",
        "expected_seq_nr",
    }
)
_REQUEST_KEYS = frozenset({"events", "idempotency_key"})
EVENT_VISITS = Visits(raw="payload", within=frozenset({"events"}), unique=frozenset({"metadata"}))


def events_route(intake: Intake) -> PromptRoute:
    """The route that takes events in. An append that has a place in the queue at once is answered by the committing task."""

    async def append(request: Request) -> Response:
        check_query(request, ())
        wanted = parse_request(await request.body(), request.headers.get("idempotency-key", ""))
        names = list(wanted.events.persistence_id)
        return _stored(names, await intake.append(wanted))

    def append_promptly(headers: Mapping[bytes, bytes], body: bytes, reply: Reply) -> bool:
        wanted = parse_request(body, headers.get(b"idempotency-key", b"").decode("latin-1"))
        names = list(wanted.events.persistence_id)

        def settled(result: outcome.Outcome[AppendOutcome]) -> None:
            reply(lambda: _stored(names, appended(result.unwrap())))

        return intake.submit_nowait(wanted, settled)

    return PromptRoute("/v1/events", append, append_promptly)


def _stored(names: Sequence[str], stored: Appended) -> Response:
    """The answer to an append of events of these entities, named as in the request."""
    return json_response(
        {
            "first_position": stored.first_position,
            "repeated": stored.repeated,
            "events": [
                {"entity_type": name.partition("|")[0], "entity_id": name.partition("|")[2], "seq_nr": seq_nr}
                for name, seq_nr in zip(names, stored.seq_nr, strict=True)
            ],
        },
        status=200 if stored.repeated else 201,
    )


def parse_request(text: bytes, key: str = "") -> LocalAppend:
    """A JSON body as an append, payloads as the bytes they came as; the intake checks sizes and names.

    Raises:
        BackhaulError: ``http.invalid_request`` or ``http.json_too_deep`` naming the field; ``http.malformed_json``;
            ``entity.invalid_name``.
    """
    return parse_body(parse_json(text, EVENT_VISITS), key)


def parse_body(body: object, key: str = "") -> LocalAppend:
    """As ``parse_request``, of a body that was read: its payloads are RawJson."""
    if not isinstance(body, dict):
        raise _invalid("body", "must be a JSON object", body)
    key = _text(body, "idempotency_key", "body", key)
    if "events" not in body:
        rows = [{name: value for name, value in body.items() if name != "idempotency_key"}]
    else:
        _refuse_unknown("body", body, _REQUEST_KEYS)
        rows = body["events"]
        if not isinstance(rows, list):
            raise _invalid("events", "must be a list", rows)
    return _columns(rows, key)


def _columns(rows: list[Any], key: str) -> LocalAppend:
    names, types, payloads, codecs, times, tags, metadata = [], [], [], [], [], [], []
    expected: dict[str, int] = {}
    for index, row in enumerate(rows):
        place = f"events[{index}]"
        if not isinstance(row, dict):
            raise _invalid(place, "must be an object", row)
        if not row.keys() <= _EVENT_KEYS:
            _refuse_unknown(place, row, _EVENT_KEYS)
        name = persistence_id(_required(row, "entity_type", place), _required(row, "entity_id", place))
        names.append(name)
        types.append(_required(row, "event_type", place))
        payload, codec = _payload(row, place)
        payloads.append(payload)
        codecs.append(codec)
        times.append(_event_time_us(row["event_time"], place) if "event_time" in row else 0)
        tags.append(join_tags(_texts(row["tags"], place)) if "tags" in row else "")
        metadata.append(_metadata(row["metadata"], place) if "metadata" in row else "")
        if "expected_seq_nr" in row:
            number = row["expected_seq_nr"]
            if type(number) is not int or number < 0:
                raise _invalid(f"{place}.expected_seq_nr", "must be a whole number from 0", number)
            expected.setdefault(name, number)
    events = new_events(names, types, payloads, codec=codecs, event_time_us=times, tags=tags, metadata=metadata)
    return LocalAppend(events, expected, key)


def _payload(row: dict[str, Any], place: str) -> tuple[bytes, str]:
    codec = _text(row, "codec", place, "")
    if "payload_base64" in row:
        if "payload" in row:
            raise _invalid(f"{place}.payload_base64", "excludes payload", None)
        try:
            return base64.b64decode(_required(row, "payload_base64", place), validate=True), codec or "bytes"
        except binascii.Error:
            raise _invalid(f"{place}.payload_base64", "must be base64", None) from None
    if "payload" not in row:
        raise _invalid(f"{place}.payload", "is missing", None)
    if codec not in ("", "json"):
        raise _invalid(f"{place}.codec", "must be json, or the payload must come as payload_base64", None)
    payload: RawJson = row["payload"]
    try:
        check_levels(payload, PAYLOAD_LEVELS_MAX)
    except UnfitJson as unfit:
        within = f".{unfit.place}" if unfit.place[:1] not in ("", "[") else unfit.place
        raise unfit_json(UnfitJson(unfit.what, f"{place}.payload{within}", too_deep=True)) from None
    return bytes(payload), "json"


def _event_time_us(value: object, place: str) -> int:
    found = time_us(value)
    if found is None:
        got = None if isinstance(value, str) else value
        raise _invalid(f"{place}.event_time", "must be RFC 3339 with a zone, like 2026-05-04T03:02:01Z", got)
    return found


def _metadata(value: object, place: str) -> str:
    if not isinstance(value, dict):
        raise _invalid(f"{place}.metadata", "must be an object of texts", value)
    for name, entry in value.items():
        if not isinstance(entry, str):
            raise _invalid(f"{place}.metadata.{name[:80]}", "must be a text", entry)
    _refuse_separators([part for item in value.items() for part in item], f"{place}.metadata")
    return join_metadata(dict(sorted(value.items())))


def _texts(value: object, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise _invalid(f"{place}.tags", "must be a list of texts that are not empty", value)
    _refuse_separators(value, f"{place}.tags")
    return value


def _refuse_separators(parts: list[str], place: str) -> None:
    if any("\x1f" in part for part in parts):
        raise _invalid(place, "contains a control character", None)


def _required(row: dict[str, Any], field: str, place: str) -> str:
    if field not in row:
        raise _invalid(f"{place}.{field}", "is missing", None)
    return _text(row, field, place, "")


def _text(row: dict[str, Any], field: str, place: str, default: str) -> str:
    value = row.get(field, default)
    if not isinstance(value, str):
        raise _invalid(f"{place}.{field}", "must be a text", value)
    return value


def _refuse_unknown(place: str, row: dict[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(row.keys() - known)
    if unknown:
        raise _invalid(f"{place}.{unknown[0]}", f"is not known; known are {', '.join(sorted(known))}", None)


def _invalid(field: str, what: str, value: object) -> BackhaulError:
    got = "" if value is None else f", not {type(value).__name__}"
    return BackhaulError(
        "http.invalid_request",
        f"{field} {what}{got}",
        "nothing was stored: mend the request and send it again",
        details={"field": field},
    )
