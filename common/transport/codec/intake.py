"""Appends of local programs to bytes and back (protos/backhaul/v1/intake.proto)."""

from __future__ import annotations

from common.core.errors import BackhaulError
from common.core.journal.append import LocalAppend
from common.transport.codec.events import FEW_EVENTS, batch_of, encode_batch, read_batch
from common.transport.codec.wire import intake as wire


def decode_append_request(data: bytes) -> LocalAppend:
    """A program's append; columns it left empty are filled. Raises ``link.malformed`` or ``events.ragged``.

    The digest is left empty: the intake computes it when there is a key.
    """
    message = wire.AppendRequest.decode(data)
    events = read_batch(message.events)
    n = len(events.persistence_id)
    events.position = events.position or [0] * n
    events.timestamp_us = events.timestamp_us or [0] * n
    events.stored_us = events.stored_us or [0] * n
    events.event_time_us = events.event_time_us or [0] * n
    events.seq_nr = events.seq_nr or [0] * n
    events.prev_seq_nr = events.prev_seq_nr or [0] * n
    events.origin_seq_nr = events.origin_seq_nr or [0] * n
    events.codec = events.codec or ["json"] * n
    events.tag_count = events.tag_count or [0] * n
    events.metadata_count = events.metadata_count or [0] * n
    if len(message.expected_persistence_id) != len(message.expected_seq_nr):
        raise BackhaulError(
            "events.ragged",
            "expected_persistence_id and expected_seq_nr differ in length",
            "give one expected number for each named entity",
        )
    expected = dict(zip(message.expected_persistence_id, message.expected_seq_nr, strict=True))
    return LocalAppend(batch_of(events), expected, message.idempotency_key)


def encode_append_request(request: LocalAppend) -> bytes:
    """The client's side of ``decode_append_request``."""
    return wire.AppendRequest(
        encode_batch(request.events), list(request.expected), list(request.expected.values()), request.append_id
    ).encode()


def encode_append_reply(first_position: int, seq_nr: list[int], repeated: bool) -> bytes:
    """The answer to a stored append."""
    if len(seq_nr) > FEW_EVENTS:
        from common.transport.codec import large  # noqa: PLC0415  (a calm service does without it)

        return large.write_reply(first_position, seq_nr, repeated)
    return wire.AppendReply(first_position, seq_nr, repeated).encode()


def encode_append_error(error: BackhaulError) -> bytes:
    """The answer to a refused append: on a stream one refusal must not end the others."""
    return wire.AppendReply(error_code=error.code, error_message=error.message, error_hint=error.hint).encode()


def decode_append_reply(data: bytes) -> tuple[int, list[int], bool]:
    """First position, numbers, repeated; raises the refusal as a ``BackhaulError``."""
    message = wire.AppendReply.decode(data)
    if message.error_code:
        raise BackhaulError(message.error_code, message.error_message, message.error_hint)
    return message.first_position, message.seq_nr, message.repeated_append
