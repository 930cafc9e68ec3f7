"""What a service answers about its projections over HTTP, and what an operator decides about them.

Each decision holds for all nodes of the journal, and is logged (`operator.…`). A `reset` cannot be taken
back: it names the projection once more in its body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import slice_ranges
from common.core.journal.range_failure import RangeFailure
from common.core.journal.slice_ranges import unknown_projection
from common.core.journal.statement import Statement
from common.core.members.member import node_of
from common.core.schedule import time_us
from common.journal.order_time import position_at
from common.journal.stores.journal import Journal
from common.journal.stores.projections import ProjectionRow
from common.projection import parking, skips
from common.projection.beginning import covered
from common.projection.beginning.leading import first_refused
from common.projection.handlers import Handler
from common.projection.parking import ParkedForProjection
from common.projection.progress import ProjectionProgress, ProjectionState
from common.projection.status import ProjectionStatus, projection_status
from common.runtime.http.app import json_response
from common.runtime.http.event_json import event_as_json, event_place_as_json
from common.runtime.http.fields import check_bare, check_query, entity, invalid, json_object, query_number, whole_number

_log = structlog.get_logger()

_ROWS_MAX: Final = 1_000
_RANGES_MAX: Final = 1_024


def projection_routes(
    journal: Journal,
    handlers: Sequence[Handler] = (),
    *,
    now_us: Callable[[], int],
    progress: Sequence[ProjectionProgress] = (),
) -> list[BaseRoute]:
    """`GET /v1/projections`, `POST /v1/projections/{name}/…`, and the events that each has parked."""
    decisions = _Decisions(journal, {handler.name: handler for handler in handlers})

    async def listed(request: Request) -> Response:
        check_query(request, ())
        statuses = await projection_status(journal, now_us)
        head = (await journal.log.stats()).head_position
        own = {(one.name, one.slices): one for one in progress if one.state is not ProjectionState.WAITING}
        shown = [projection_as_json(one) | _progress_as_json(own.get(one.row.key), one.row) for one in statuses]
        return json_response({"projections": shown, "head": head})

    async def parked(request: Request) -> Response:
        check_query(request, {"after", "max"})
        name, wanted = _name(request), query_number(request, "max", 100, minimum=1, maximum=_ROWS_MAX)
        await parking.make_tables(journal.projections)
        rows = await parking.parked_events(
            journal.projections, name, after=query_number(request, "after", 0), max_rows=wanted
        )
        through = rows[-1].event.position if rows else query_number(request, "after", 0)
        return json_response({"parked": [_parked_as_json(row) for row in rows], "through": through})

    async def parked_one(request: Request) -> Response:
        check_query(request, ())
        position = whole_number("position", request.path_params["position"], 1)
        await parking.make_tables(journal.projections)
        rows = await parking.parked_events(journal.projections, _name(request), after=position - 1, max_rows=1)
        if not rows or rows[0].event.position != position:
            raise parking.no_such_row(_name(request), position)
        return json_response({**_parked_as_json(rows[0]), "event": event_as_json(rows[0].event)})

    posts = {
        "pause": decisions.pause,
        "resume": decisions.resume,
        "split": decisions.split,
        "merge": decisions.merge,
        "reset": decisions.reset,
        "move": decisions.move,
        "forget": decisions.forget,
        "skip": decisions.skip,
        "parked/retry": decisions.retry,
        "parked/{position}/discard": decisions.discard,
    }
    return [
        Route("/v1/projections", listed, methods=["GET"]),
        Route("/v1/projections/{name}/parked", parked, methods=["GET"]),
        Route("/v1/projections/{name}/parked/{position}", parked_one, methods=["GET"]),
        *(Route(f"/v1/projections/{{name}}/{path}", decide, methods=["POST"]) for path, decide in posts.items()),
    ]


class _Decisions:
    """What an operator may decide."""

    def __init__(self, journal: Journal, handlers: Mapping[str, Handler]) -> None:
        self._journal = journal
        self._handlers = handlers

    async def pause(self, request: Request) -> Response:
        name, ranges = await self._set_paused(request, True)
        _log.warning("operator.paused_projection", projection=name, ranges=ranges)
        return json_response({"projection": name, "paused": True, "ranges": ranges})

    async def resume(self, request: Request) -> Response:
        name, ranges = await self._set_paused(request, False)
        _log.info("operator.resumed_projection", projection=name, ranges=ranges)
        return json_response({"projection": name, "paused": False, "ranges": ranges})

    async def _set_paused(self, request: Request, paused: bool) -> tuple[str, int]:
        await check_bare(request)
        name = _name(request)
        ranges = await self._journal.projections.set_paused(name, paused)
        if not ranges:
            raise unknown_projection(name)
        return name, ranges

    async def skip(self, request: Request) -> Response:
        name, body = _name(request), await json_object(request, {"position"})
        position = body.get("position")
        if type(position) is not int or not 1 <= position < 2**63:
            raise invalid("position", "must be a whole number from 1")
        [event] = (await skips.skip(self._journal, name, position)).envelopes()
        _log.warning(
            "operator.skipped_event",
            projection=name,
            position=position,
            persistence_id=event.persistence_id,
            seq_nr=event.seq_nr,
        )
        return json_response({"projection": name, "position": position, "event": event_place_as_json(event)})

    async def split(self, request: Request) -> Response:
        return await self._reshape(request, is_split=True)

    async def merge(self, request: Request) -> Response:
        return await self._reshape(request, is_split=False)

    async def _reshape(self, request: Request, *, is_split: bool) -> Response:
        name, body = _name(request), await json_object(request, {"ranges"})
        count = body.get("ranges")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _RANGES_MAX:
            raise invalid("ranges", f"must be a whole number from 1 to {_RANGES_MAX}")
        before = sum(row.name == name for row in await self._journal.projections.rows())
        if before and (count <= before if is_split else count >= before):
            raise invalid("ranges", f"must be {'more' if is_split else 'fewer'} than the {before} there are")
        offsets = await self._journal.projections.reshape(name, slice_ranges(count))
        _log.warning("operator.reshaped_projection", projection=name, before=before, ranges=len(offsets))
        shown = [{"slices": str(one.slices), "position": one.position} for one in offsets]
        return json_response({"projection": name, "ranges": shown})

    async def reset(self, request: Request) -> Response:
        name, body = _name(request), await json_object(request, {"confirm", "accept_trimmed"})
        _confirmed(name, body)
        handler = self._handlers.get(name)
        if handler is None or (handler.migrations and not handler.reset):
            raise BackhaulError(
                "projection.no_reset",
                f"projection {name[:80]!r} does not say here how its tables are emptied",
                "give its Handler reset=[…] with SQL that does",
                kind=ErrorKind.CONFLICT,
            )
        accepts, deleted_through = body.get("accept_trimmed") is True, (await self._journal.log.stats()).deleted_through
        if not accepts:
            rows = await self._journal.projections.rows()
            begin = min((row.begin for row in rows if row.name == name), default=0)
            await self._check_nothing_missing(name, begin, deleted_through)
        await self._make_tables()
        statements = [
            *(Statement(sql) for sql in handler.reset),
            parking.forget_all(name),
            *(covered.accept(name, deleted_through) if accepts else covered.forget(name)),
        ]
        ranges = await self._journal.projections.intervene(name, statements, restart=True)
        if not ranges:
            raise unknown_projection(name)
        _log.warning("operator.reset_projection", projection=name, ranges=ranges)
        return json_response({"projection": name, "ranges": ranges})

    async def move(self, request: Request) -> Response:
        name, body = _name(request), await json_object(request, {"confirm", "position", "order_time", "accept_trimmed"})
        _confirmed(name, body)
        stats = await self._journal.log.stats()
        position = await self._position_wanted(body, stats.head_position)
        accepts = body.get("accept_trimmed") is True
        if not accepts:
            await self._check_nothing_missing(name, position, stats.deleted_through)
        await self._make_tables()
        statements = covered.accept(name, stats.deleted_through) if accepts else covered.forget(name)
        before = {row.slices: row.position for row in await self._journal.projections.rows() if row.name == name}
        ranges = await self._journal.projections.move(name, position, statements)
        if not ranges:
            raise unknown_projection(name)
        first, last = min(before.values(), default=position), max(before.values(), default=position)
        _log.warning(
            "operator.moved_projection", projection=name, ranges=ranges, position=position, first=first, last=last
        )
        return json_response({"projection": name, "ranges": ranges, "position": position, "first": first, "last": last})

    async def _position_wanted(self, body: Mapping[str, object], head: int) -> int:
        """The place that `position` ("now" is the log's end) or `order_time` names."""
        position, order_time = body.get("position"), body.get("order_time")
        if order_time is not None:
            wanted_us = time_us(order_time)
            if wanted_us is None or position is not None:
                raise invalid(
                    "order_time", "must be RFC 3339 with a zone (2026-05-04T03:02:01Z), and without a position"
                )
            return await position_at(self._journal.log, wanted_us)
        if position == "now":
            return head
        if type(position) is not int or not 0 <= position <= head:
            raise invalid("position", f"must be a whole number from 0 to the head of the log, {head}, or now")
        return position

    async def _make_tables(self) -> None:
        await parking.make_tables(self._journal.projections)
        await covered.make_tables(self._journal.projections)

    async def _check_nothing_missing(self, name: str, after: int, deleted_through: int) -> None:
        """Refuse to go back to where events are deleted, unless the handler can be led over them."""
        if after >= deleted_through:
            return
        handler = self._handlers.get(name)
        if handler is None or not (handler.snapshots or handler.sees_deleted):
            raise _trimmed(deleted_through)
        error = await first_refused(self._journal, handler, after, deleted_through)
        if error is not None:
            raise _trimmed(deleted_through) from error

    async def forget(self, request: Request) -> Response:
        await check_bare(request)
        name = _name(request)
        if name in self._handlers:
            raise BackhaulError(
                "projection.in_use",
                f"this service runs projection {name}, which would begin again from the start of the log",
                "take it out of the application or the settings, and restart the service first",
                kind=ErrorKind.CONFLICT,
            )
        await self._make_tables()
        statements = [parking.forget_all(name), *covered.forget(name)]
        ranges = await self._journal.projections.forget(name, statements)
        if not ranges:
            raise unknown_projection(name)
        _log.warning("operator.forgot_projection", projection=name, ranges=ranges)
        return json_response({"projection": name, "forgotten": True, "ranges": ranges})

    async def retry(self, request: Request) -> Response:
        name, body = _name(request), await json_object(request, {"entity"})
        persistence_id = entity(body.get("entity"))
        events = await parking.want(self._journal.projections, name, persistence_id)
        _log.info("operator.retried_projection", projection=name, persistence_id=persistence_id, events=events)
        return json_response({"projection": name, "entity": persistence_id, "events": events})

    async def discard(self, request: Request) -> Response:
        await check_bare(request)
        name, position = _name(request), whole_number("position", request.path_params["position"], 1)
        row = await parking.discard(self._journal.projections, name, position)
        _log.warning(
            "operator.discarded_from_projection",
            projection=name,
            position=position,
            persistence_id=row.event.persistence_id,
            seq_nr=row.event.seq_nr,
            code=row.code,
        )
        return json_response({"projection": name, "discarded": _parked_as_json(row)})


def projection_as_json(status: ProjectionStatus) -> dict[str, object]:
    """A range as lists and ``/status`` show it."""
    row, lag = status.row, status.lag
    return {
        "name": row.name,
        "slices": str(row.slices),
        "position": row.position,
        "begin": row.begin,
        "behind": lag.events,
        "lag_s": round(lag.seconds, 3),
        "epoch": row.epoch,
        "owner": row.owner,
        "node": node_of(row.owner),
        "directed": row.is_directed,
        "lease_left_s": round(row.lease_left_s, 3),
        "paused": row.paused,
        "updated_us": row.updated_us,
    } | failure_as_json(row.failing)


def failure_as_json(failing: RangeFailure | None) -> dict[str, object]:
    """Why a range does not move, by its row and so on every node; nulls while it does."""
    if failing is None:
        return dict.fromkeys(("error_code", "error", "error_position", "attempts", "failing_since_us"))
    return {
        "error_code": failing.code,
        "error": failing.reason,
        "error_position": failing.position,
        "attempts": failing.attempts,
        "failing_since_us": failing.since_us,
    }


def _progress_as_json(progress: ProjectionProgress | None, row: ProjectionRow) -> dict[str, object]:
    """What a range does on the node that was asked; where another one runs it, no more than what the row says."""
    if progress is None:
        return {"state": ProjectionState.FAILING.value if row.failing else None, "skipped": None}
    shown: dict[str, object] = {"state": progress.state.value, "skipped": progress.skipped}
    if row.failing is None and progress.state is ProjectionState.FAILING:  # the store did not take it
        shown |= {"error_code": progress.error_code, "error": progress.error}
    return shown


def _parked_as_json(row: ParkedForProjection) -> dict[str, object]:
    place = event_place_as_json(row.event)
    return {
        "position": row.event.position,
        "code": row.code,
        "reason": row.reason,
        "tries": row.tries,
        "parked_us": row.parked_us,
        **{name: place[name] for name in ("entity_type", "entity_id", "seq_nr", "event_type")},
        "payload_bytes": len(row.event.payload),
    }


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


def _trimmed(deleted_through: int) -> BackhaulError:
    return BackhaulError(
        "projection.history_trimmed",
        f"events up to position {deleted_through} may have been deleted: going back would not bring them back",
        "accept that with accept_trimmed, if what is left is what you want",
        kind=ErrorKind.CONFLICT,
        details={"deleted_through": deleted_through},
    )


def _confirmed(name: str, body: Mapping[str, object]) -> None:
    if body.get("confirm") != name:
        raise invalid("confirm", f"must be the projection's name once more, {name!r}")
