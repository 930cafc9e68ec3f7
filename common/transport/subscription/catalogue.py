"""Which streams a service serves, to whom, and what of them: a view of the journal under a name.

A stream is some entity types, and what its owner lets a consumer see of them: a filter with the consumer's id put in,
which always wins over what the consumer asks for. Without a catalogue every entity type is a stream of its own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import NAME_MAX_BYTES, text_problem
from common.core.filters.predicates import Filter, parse_filter

CONSUMER_ID = "{consumer_id}"
# What may be put into a filter: nothing that means something in a topic or an expression.
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REGEX_KEYS = frozenset({"exclude_regex", "include_regex", "remove_exclude_regex", "remove_include_regex"})

Transform = Callable[[EventBatch], EventBatch]
"""Events as they leave: in the same order, with the same numbers; one that is missing is withheld."""


@dataclass(frozen=True, slots=True)
class StreamDefinition:
    """One stream. No entity types: all of them. ``filter`` is criteria as JSON; '' lets everybody see everything."""

    id: str
    entity_types: frozenset[str]
    filter: str = ""
    transform: Transform | None = None

    def enforced(self, consumer_id: str) -> Filter:
        """What this consumer may see at most.

        Raises:
            BackhaulError: ``subscription.invalid_consumer`` for an id that cannot be put into the filter.
        """
        if CONSUMER_ID not in self.filter:
            return parse_filter(self.filter)
        if _PLAIN_ID.fullmatch(consumer_id) is None:
            raise invalid_consumer("is not made of letters, digits, '.', '_' and '-', as this stream's filter needs it")
        criteria = [
            {key: _filled(key, value, consumer_id) for key, value in criterion.items()}
            for criterion in json.loads(self.filter)
        ]
        return parse_filter(json.dumps(criteria))


class StreamCatalogue:
    """All streams of a service."""

    def __init__(self, streams: Sequence[StreamDefinition] = ()) -> None:
        self._streams = {stream.id: stream for stream in streams}
        self._transform: Transform | None = None
        for stream in streams:
            stream.enforced("any")  # a filter that is wrong is found at the start

    def transformed_by(self, transform: Transform | None) -> StreamCatalogue:
        """The same streams, their events made by ``transform`` what consumers get."""
        catalogue = StreamCatalogue(
            [replace(stream, transform=stream.transform or transform) for stream in self._streams.values()]
        )
        catalogue._transform = transform
        return catalogue

    def find(self, stream_id: str) -> StreamDefinition:
        """The stream of this name.

        Raises:
            BackhaulError: ``subscription.no_such_stream``.
        """
        if stream_id in self._streams:
            return self._streams[stream_id]
        is_name = stream_id and "|" not in stream_id and not text_problem(stream_id, NAME_MAX_BYTES)
        if self._streams or not is_name:
            raise BackhaulError(
                "subscription.no_such_stream",
                f"no stream {stream_id[:80]!r} is served here",
                "correct the name, or add it to `streams` of the service that serves",
                kind=ErrorKind.NOT_FOUND,
            )
        return StreamDefinition(stream_id, frozenset({stream_id}), transform=self._transform)


def invalid_consumer(what: str) -> BackhaulError:
    """The refusal of a consumer id."""
    return BackhaulError(
        "subscription.invalid_consumer", f"the consumer id {what}", "set the consumer's id to a short name"
    )


def _filled(key: str, value: object, consumer_id: str) -> object:
    if isinstance(value, str):
        return value.replace(CONSUMER_ID, re.escape(consumer_id) if key in _REGEX_KEYS else consumer_id)
    if isinstance(value, list):
        return [_filled(key, entry, consumer_id) for entry in value]
    if isinstance(value, dict):
        return {name: _filled(key, entry, consumer_id) for name, entry in value.items()}
    return value
