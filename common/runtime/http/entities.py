"""Commands to entities and durable state over HTTP; which there are is the application's affair.

    POST   /v1/entities/{type}/{id}/{command}    the command's fields as JSON; header Idempotency-Key
    GET    /v1/entities/{type}/{id}              the state
    GET    /v1/states/{type}/{id}                the value with its revision
    PUT    /v1/states/{type}/{id}?expected=3     the value as JSON
    DELETE /v1/states/{type}/{id}?expected=3
    GET    /v1/states/{type}?tag=…&column=…      values by entity id; after, max

Bodies are read strictly: a field that is unknown, missing or of the wrong type is named (``http.invalid_request``). An answer
comes after the synced commit. Ids may have slashes, as an edge's have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import text_problem
from common.core.events.rules import KEY_MAX_BYTES
from common.core.events.typed_json import Misfit, reader_of, write_json
from common.core.events.types import PROTOBUF, is_message
from common.entity import refusals
from common.entity.decisions import Accepted
from common.entity.durable_state import StateDefinition, Versioned, Where
from common.entity.runtime import Entities
from common.entity.states import ROWS_MAX, States
from common.runtime.http.app import parse_json
from common.runtime.http.fields import check_query, invalid, query_number, whole_number

_log = structlog.get_logger()

_ROWS_DEFAULT: Final = 100


def entity_routes(entities: Entities) -> list[BaseRoute]:
    """Commands to event-sourced entities, and their states."""

    async def command(request: Request) -> Response:
        check_query(request, set())
        entity_type, entity_id = request.path_params["entity_type"], request.path_params["entity_id"]
        definition = entities.definitions.get(entity_type)
        if definition is None:
            raise refusals.unknown_type(entity_type, entities.definitions)
        cls = definition.commands.class_of(request.path_params["command"])
        if cls is None:
            raise refusals.unknown_command(request.path_params["command"], entity_type, definition.commands.names)
        answer = await entities.ask(entity_type, entity_id, await _body(request, cls), key=_key(request))
        if isinstance(answer, Accepted):
            return _answered(
                request,
                {
                    "reply": answer.reply,
                    "seq_nr": answer.seq_nr,
                    "events": answer.events,
                    "repeated": answer.repeated,
                },
            )
        raise refusals.rejected(answer)

    async def state(request: Request) -> Response:
        check_query(request, set())
        found = await entities.look(request.path_params["entity_type"], request.path_params["entity_id"])
        return _answered(request, {"state": found.state, "seq_nr": found.seq_nr})

    return [
        Route("/v1/entities/{entity_type}/{entity_id:path}/{command}", command, methods=["POST"]),
        Route("/v1/entities/{entity_type}/{entity_id:path}", state, methods=["GET"]),
    ]


def state_routes(states: States) -> list[BaseRoute]:
    """Durable state: read, replace, delete, ask."""

    async def one(request: Request) -> Response:
        entity_type, entity_id = request.path_params["entity_type"], request.path_params["entity_id"]
        if request.method == "GET":
            check_query(request, set())
            found = await states.get(entity_type, entity_id)
            if found.value is None:
                raise BackhaulError(
                    "state.not_found",
                    f"there is no {entity_type} {entity_id[:80]!r}",
                    "make one with PUT",
                    kind=ErrorKind.NOT_FOUND,
                    details={"revision": found.revision},
                )
            return _answered(request, _shown(found))
        check_query(request, {"expected"})
        text = request.query_params.get("expected")
        expected = None if text is None else whole_number("expected", text, 0)
        if request.method == "DELETE":
            return _answered(request, {"revision": await states.delete(entity_type, entity_id, expected=expected)})
        definition = _state_definition(states, entity_type)
        value = await _body(request, definition.state.value_type)
        return _answered(request, {"revision": await states.upsert(entity_type, entity_id, value, expected=expected)})

    async def listed(request: Request) -> Response:
        entity_type = request.path_params["entity_type"]
        definition = _state_definition(states, entity_type)
        check_query(request, {"tag", "after", "max", *definition.columns})
        found = await states.query(
            entity_type,
            tag=request.query_params.get("tag", ""),
            where=[_where(definition, name, text) for name, text in request.query_params.items()
                   if name in definition.columns],
            after=request.query_params.get("after", ""),
            max_rows=query_number(request, "max", _ROWS_DEFAULT, minimum=1, maximum=ROWS_MAX),
        )  # fmt: skip
        return _answered(request, {"states": [_shown(value) for value in found]})

    return [
        Route("/v1/states/{entity_type}", listed, methods=["GET"]),
        Route("/v1/states/{entity_type}/{entity_id:path}", one, methods=["GET", "PUT", "DELETE"]),
    ]


def _state_definition(states: States, entity_type: str) -> StateDefinition:
    definition = states.definitions.get(entity_type)
    if definition is None:
        raise refusals.unknown_type(entity_type, states.definitions)
    return definition


def _where(definition: StateDefinition, name: str, text: str) -> Where:
    """``column=value``, the value in the column's type."""
    match definition.columns[name]:
        case "TEXT":
            return Where(name, "=", text)
        case "BOOLEAN" if text in {"true", "false"}:
            return Where(name, "=", text == "true")
        case "BIGINT" | "DOUBLE PRECISION":
            try:
                return Where(name, "=", int(text) if definition.columns[name] == "BIGINT" else float(text))
            except ValueError:
                pass
    raise invalid(name, f"must be a {definition.columns[name].lower()}")


def _shown(found: Versioned[Any]) -> dict[str, object]:
    return {
        "id": found.entity_id,
        "value": found.value,
        "revision": found.revision,
        "updated_us": found.updated_us,
        "tags": found.tags,
    }


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    problem = text_problem(key, KEY_MAX_BYTES)
    if problem:
        raise BackhaulError("append.invalid_key", f"the idempotency key {problem}", "use a short plain text")
    return key


async def _body(request: Request, cls: type) -> object:
    """The body as a value of the class; nothing at all is an object without fields."""
    body = await request.body()
    if is_message(cls):
        if PROTOBUF not in request.headers.get("content-type", ""):
            raise invalid("body", f"must be a {cls.__name__} as application/x-protobuf")
        read: Callable[[bytes], object] = cls.FromString  # type: ignore[attr-defined]
        try:
            return read(body)
        except Exception as error:  # noqa: BLE001  whatever the message class says of foreign bytes
            raise invalid("body", f"is no {cls.__name__}: {error}") from None
    content = parse_json(body) if body else {}
    try:
        return reader_of(cls, strict=True)(content)
    except Misfit as misfit:
        raise invalid(misfit.field or "body", misfit.what) from None


def _answered(request: Request, answer: dict[str, object]) -> Response:
    try:
        content = write_json(_plain(answer))
    except TypeError as error:
        # It is on disk: a reply that has no JSON must not look like a failure.
        _log.warning("entity.reply_unfit", path=request.scope["path"][:200], reason=str(error), repeat_key=str(error))
        content = write_json({**answer, "reply": None})
    return Response(content, media_type="application/json")


def _plain(answer: dict[str, object]) -> dict[str, object]:
    return {name: value.to_dict() if is_message(type(value)) else value for name, value in answer.items()}  # type: ignore[attr-defined]
