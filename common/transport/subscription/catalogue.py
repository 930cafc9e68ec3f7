"""Which streams a service serves, to whom, and what of them: a view of the journal under a name.

A stream is some entity types. Who may read it, and what of it, is the policy's business. Without a catalogue every entity
type is a stream of its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import NAME_MAX_BYTES, text_problem

Transform = Callable[[EventBatch], EventBatch]
"""Events as they leave: in the same order, with the same numbers; one that is missing is withheld."""


@dataclass(frozen=True, slots=True)
class StreamDefinition:
    """One stream. No entity types: all of them."""

    id: str
    entity_types: frozenset[str]
    transform: Transform | None = None


class StreamCatalogue:
    """All streams of a service."""

    def __init__(self, streams: Sequence[StreamDefinition] = ()) -> None:
        self._streams = {stream.id: stream for stream in streams}
        self._transform: Transform | None = None

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
            raise no_such_stream(stream_id)
        return StreamDefinition(stream_id, frozenset({stream_id}), transform=self._transform)


def no_such_stream(stream_id: str) -> BackhaulError:
    """The refusal of a stream that is not there, or not for this consumer: the answer is the same for both."""
    return BackhaulError(
        "subscription.no_such_stream",
        f"no stream {stream_id[:80]!r} is served here",
        "correct the name, or open it where it is served: by the policy's `read`, or `readers` in `streams`",
        kind=ErrorKind.NOT_FOUND,
    )


def invalid_consumer(what: str) -> BackhaulError:
    """The refusal of a consumer id."""
    return BackhaulError(
        "subscription.invalid_consumer", f"the consumer id {what}", "set the consumer's id to a short name"
    )
