"""All that an application imports: ``from common.app import App, EventSourced, Handler``; for its tests, ``common.testing``.

These names stay, wherever in the product they are made.
"""

from __future__ import annotations

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import Envelope, EventBatch
from common.core.events.types import EventTypes, StoredAs, Unknown, named
from common.core.filters.predicates import parse_filter
from common.core.journal.statement import Statement
from common.entity.definition import Decision, EventSourced, accept, reject
from common.entity.durable_state import ColumnValue, DurableState, Versioned, Where
from common.journal.tables import Tables
from common.projection.handlers import Event, Handler, OnFailure
from common.runtime.app.application import App, Follow, Transformations
from common.runtime.app.context import Running
from common.runtime.app.tasks import Task, at, background, every
from common.runtime.http.app import json_response

__all__ = [
    "App",
    "BackhaulError",
    "ColumnValue",
    "Decision",
    "DurableState",
    "Envelope",
    "ErrorKind",
    "Event",
    "EventBatch",
    "EventSourced",
    "EventTypes",
    "Follow",
    "Handler",
    "OnFailure",
    "Running",
    "Statement",
    "StoredAs",
    "Tables",
    "Task",
    "Transformations",
    "Unknown",
    "Versioned",
    "Where",
    "accept",
    "at",
    "background",
    "every",
    "json_response",
    "named",
    "parse_filter",
    "reject",
]
