"""What the body of `POST /v1/events` may be, and what is said of one that is something else."""

from __future__ import annotations

import orjson
import pytest

from common.core.errors import BackhaulError
from common.runtime.http.append import parse_request

EVENT = {"entity_type": "Sensor", "entity_id": "t1", "event_type": "Read", "payload": 1}


@pytest.mark.parametrize(
    ("body", "header", "key"),
    [
        ({**EVENT, "idempotency_key": "k"}, "", "k"),
        ({"events": [EVENT], "idempotency_key": "k"}, "", "k"),
        (EVENT, "k", "k"),
        ({**EVENT, "idempotency_key": "inner"}, "outer", "inner"),
        (EVENT, "", ""),
    ],
)
def test_a_key_stands_beside_one_event_or_many_or_in_the_header(body: object, header: str, key: str) -> None:
    wanted = parse_request(orjson.dumps(body), header)
    assert (wanted.append_id, list(wanted.events.persistence_id)) == (key, ["Sensor|t1"])


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"idempotency_key": 5}, "body.idempotency_key must be a text, not int"),
        ({"metadata": {"unit": 1}}, "events[0].metadata.unit must be a text, not int"),
        ({"metadata": ["unit"]}, "events[0].metadata must be an object of texts, not list"),
        ({"codec": "protobuf"}, "events[0].codec must be json, or the payload must come as payload_base64"),
        ({"event_time": "yesterday"}, "events[0].event_time must be RFC 3339"),
    ],
)
def test_the_field_and_what_is_wrong_with_it_are_named(change: dict[str, object], answer: str) -> None:
    with pytest.raises(BackhaulError) as refused:
        parse_request(orjson.dumps({**EVENT, **change}))
    assert refused.value.code == "http.invalid_request"
    assert refused.value.message.startswith(answer)


def test_a_key_of_a_request_is_none_of_an_event_in_it() -> None:
    with pytest.raises(BackhaulError) as refused:
        parse_request(orjson.dumps({"events": [{**EVENT, "idempotency_key": "k"}]}))
    assert refused.value.details["field"] == "events[0].idempotency_key"
