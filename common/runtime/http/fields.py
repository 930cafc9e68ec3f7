"""What a request's query, path and body say, as values; each refusal names the field (`http.invalid_request`)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from starlette.requests import Request

from common.core.errors import BackhaulError
from common.core.events.ids import split_persistence_id
from common.core.events.json_text import TOP_ONLY, Visits
from common.core.schedule import time_us
from common.runtime.http.app import read_json

NUMBER_MAX: Final = 2**63 - 1
_DIGITS: Final = re.compile(r"[0-9]{1,19}")


def invalid(field: str, what: str) -> BackhaulError:
    """The refusal of one field."""
    return BackhaulError("http.invalid_request", f"{field} {what}", "mend the request", details={"field": field})


def check_query(request: Request, known: Collection[str]) -> None:
    """Refuse parameters nobody reads (a misspelt one would be silently without effect) and those given twice."""
    for name in request.query_params:
        if name not in known:
            raise invalid(name[:80], f"is not a parameter here; {_listed(known)}")
        if len(request.query_params.getlist(name)) > 1:
            raise invalid(name, "is given twice")


def _listed(known: Collection[str]) -> str:
    return f"known are {', '.join(sorted(known))}" if known else "there are none"


def whole_number(field: str, text: str, minimum: int, maximum: int = NUMBER_MAX) -> int:
    """The number a text stands for."""
    if not _DIGITS.fullmatch(text) or not minimum <= int(text) <= maximum:
        bound = f"from {minimum}" if maximum == NUMBER_MAX else f"from {minimum} to {maximum}"
        raise invalid(field, f"must be a whole number {bound}")
    return int(text)


def query_number(
    request: Request, field: str, default: int | None, *, minimum: int = 0, maximum: int = NUMBER_MAX
) -> int:
    """A number in the query; `default` None makes it required."""
    text = request.query_params.get(field)
    if text is not None:
        return whole_number(field, text, minimum, maximum)
    if default is None:
        raise invalid(field, "is missing")
    return default


def query_time_us(request: Request, field: str) -> int | None:
    """A time in the query, in RFC 3339 with a zone or as microseconds; None where it is missing."""
    text = request.query_params.get(field)
    if text is None:
        return None
    if _DIGITS.fullmatch(text):
        return whole_number(field, text, 0)
    found = time_us(text)
    if found is None:
        raise invalid(field, "must be RFC 3339 with a zone (2026-05-04T03:02:01Z), or microseconds in UTC")
    return found


def entity(value: object) -> str:
    """The persistence id in the field `entity`; `entity.invalid_name` when it cannot be one."""
    if not isinstance(value, str) or not value:
        raise invalid("entity", "must be a text like EntityType|entityId")
    split_persistence_id(value)
    return value


async def check_bare(request: Request) -> None:
    """Refuse parameters, and a body with fields, of a request that has neither; an empty object is no field."""
    if await request.body():
        await json_object(request, ())
    else:
        check_query(request, ())


async def json_object(request: Request, known: Collection[str], visits: Visits = TOP_ONLY) -> dict[str, object]:
    """The JSON object in the body, which has no other keys than the known ones, of a request without parameters."""
    check_query(request, ())
    body = await read_json(request, visits)
    if not isinstance(body, dict):
        raise invalid("body", "must be a JSON object")
    for name in body:
        if name not in known:
            raise invalid(str(name)[:80], f"is not known here; {_listed(known)}")
    return body
