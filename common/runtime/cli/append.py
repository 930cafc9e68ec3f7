"""`append`: JSON lines on standard input, each one event as `POST /v1/events` takes it.

Lines go to the running service in batches, one at a time, and are held no longer than that: memory is bounded by one
batch and one line. A batch is stored whole or not at all. With `--idempotency-prefix` the batches are cut by count
and size alone and each has a key made of the prefix and its first line, so the same input can be sent again from
the beginning: what was stored is answered, not stored twice. Without it, lines are sent as they come.

With `--retry` a batch that the service cannot take now, or does not answer, is sent again with the same key until it is
acknowledged; a command without a prefix makes one of its own. Standard input is not read meanwhile: a pipe's writer waits.
"""

from __future__ import annotations

import json
import random
import secrets
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol, cast

from common.core.errors import BackhaulError, ErrorKind
from common.core.events import json_text
from common.core.events.batch import EVENT_OVERHEAD_BYTES
from common.runtime.cli.commands import Command, Question, number
from common.runtime.cli.output import complain_of, say

_BATCH_EVENTS: Final = 500
_BATCH_BYTES: Final = 1024 * 1024
_READ_BYTES: Final = 256 * 1024
# Between two tries of `--retry`.
_AGAIN_MIN_S: Final = 0.1
_AGAIN_MAX_S: Final = 5.0
_KNOWN_OF: Final = {"cli.no_answer": "whether these are stored is not known, and the same key stores nothing twice"}
# What a request weighs beside its lines.
_ENVELOPE_BYTES: Final = 4096


class Input(Protocol):
    """Standard input: `read1` returns what is there, waits while nothing is, and returns b'' at the end."""

    def read1(self, size: int, /) -> bytes: ...


@dataclass(slots=True)
class LineBatch:
    """Lines of one request; blank ones have numbers and are left out."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    weight: int = 0

    def add(self, number: int, line: bytes) -> None:
        """Take one more line."""
        self.lines.append(line)
        self.numbers.append(number)
        self.weight += weight_of(line)

    @property
    def place(self) -> str:
        """Which lines these are, for a message."""
        first, last = self.numbers[0], self.numbers[-1]
        return f"line {first}" if first == last else f"lines {first} to {last}"

    def body(self, prefix: str | None) -> bytes:
        """The request's body."""
        key = b"" if prefix is None else b',"idempotency_key":' + json.dumps(f"{prefix}:{self.numbers[0]}").encode()
        return b'{"events":[' + b",".join(self.lines) + b"]" + key + b"}"


def weight_of(line: bytes) -> int:
    """What a line counts for: never less than the event will at the service."""
    return len(line) + EVENT_OVERHEAD_BYTES


def read_batches(
    source: Input, *, events_max: int, bytes_max: int, line_max: int, is_eager: bool
) -> Iterator[LineBatch]:
    """Cut the input into batches; an eager one does not wait for more lines when none are there.

    Raises BackhaulError: `cli.bad_line` with the line's number; lines of the batch it would be in are not yielded.
    """
    batch = LineBatch()
    for lines in _lines(source, line_max):
        for line_number, line in lines:
            if not line.strip():
                continue
            check_line(line_number, line, batch)
            if batch.lines and batch.weight + weight_of(line) > bytes_max:
                yield batch
                batch = LineBatch()
            batch.add(line_number, line)
            if len(batch.lines) >= events_max:
                yield batch
                batch = LineBatch()
        if is_eager and batch.lines:
            yield batch
            batch = LineBatch()
    if batch.lines:
        yield batch


def _lines(source: Input, line_max: int) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered lines in the groups they came in; the last one needs no line end."""
    number, rest = 0, b""
    while chunk := source.read1(_READ_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        yield list(enumerate(whole, number + 1))
        number += len(whole)
        if len(rest) > line_max:
            raise _bad_line(number + 1, f"is longer than {line_max} bytes")
    yield [(number + 1, rest)]


def check_line(line_number: int, line: bytes, batch: LineBatch) -> None:
    """Refuse a line that is not a JSON object, by the reader that the service has; the rest is the service's to judge."""
    try:
        is_object = isinstance(json_text.read(line), dict)
    except json_text.UnfitJson as unfit:
        place = f" at {unfit.place}" if unfit.place else ""
        what = unfit.what.replace(": line 1 column", ": column")  # the reader counts lines of what it was given
        raise _bad_line(line_number, f"{what}{place}", batch) from None
    if not is_object:
        raise _bad_line(line_number, "is not a JSON object", batch)


def _bad_line(number: int, what: str, batch: LineBatch | None = None) -> BackhaulError:
    unsent = f"; {batch.place} before it, of the same batch, were not sent" if batch and batch.lines else ""
    return BackhaulError(
        "cli.bad_line",
        f"line {number} {what}{unsent}",
        "mend the line and send the rest again; with --idempotency-prefix, all of it",
        details={"line": number},
    )


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--retry",
        action="store_true",
        help="wait for a service that is away or full, and repeat what it did not answer, by idempotency keys",
    )
    parser.add_argument(
        "--idempotency-prefix",
        metavar="TEXT",
        help="a text that names this input; sending the same input with it again stores nothing twice",
    )
    parser.add_argument(
        "--batch", type=number, metavar="N", default=_BATCH_EVENTS, help=f"events a request (default: {_BATCH_EVENTS})"
    )


def _append(question: Question) -> int:
    args, settings = question.args, question.settings
    prefix = args.idempotency_prefix
    batches = read_batches(
        cast(Input, sys.stdin.buffer),
        events_max=max(1, min(args.batch, settings.batch_max_events)),
        bytes_max=min(_BATCH_BYTES, settings.request_max_bytes // 2),
        line_max=settings.request_max_bytes - _ENVELOPE_BYTES,
        is_eager=prefix is None,
    )
    if args.retry and prefix is None:
        prefix = f"append-{secrets.token_hex(8)}"
    acknowledged = repeated = 0
    try:
        for batch in batches:
            was_repeat = _send_until_stored(question, batch, prefix) if args.retry else _send(question, batch, prefix)
            acknowledged += len(batch.lines)
            repeated += len(batch.lines) if was_repeat else 0
    finally:
        say(f"{acknowledged} events acknowledged" + (f", {repeated} of them were stored before" if repeated else ""))
    return 0


def _send_until_stored(question: Question, batch: LineBatch, prefix: str) -> bool:
    """As `_send`, again and again until the batch is stored or refused for good; a new reason is said once."""
    reason, since_s = "", time.monotonic()  # noqa: TID251  a command has no loop
    for attempt in count():
        try:
            was_repeat = _send(question, batch, prefix)
        except BackhaulError as error:
            if error.kind not in (ErrorKind.UNAVAILABLE, ErrorKind.FULL):
                raise
            if error.code != reason:
                reason = error.code
                known = _KNOWN_OF.get(reason, "none of these is stored")
                complain_of(f"{error.code}: {error.message}; {known}; trying again until they are")
            most_s = min(_AGAIN_MAX_S, _AGAIN_MIN_S * 2 ** min(attempt, 10))
            wait_s = random.uniform(most_s / 2, most_s)  # noqa: TID251  nothing repeats a command from a seed
            time.sleep(max(wait_s, min(error.retry_after_s or 0, _AGAIN_MAX_S)))  # noqa: TID251
        else:
            if reason:
                waited_s = time.monotonic() - since_s  # noqa: TID251
                before = "was stored before: the answer was lost" if was_repeat else "acknowledged"
                complain_of(f"{batch.place}: {before}, after {waited_s:.1f} s")
            return was_repeat
    raise AssertionError


def _send(question: Question, batch: LineBatch, prefix: str | None) -> bool:
    """Have a batch stored; whether it had been before. An error names the lines."""
    try:
        answer = question.client.post_bytes("/v1/events", batch.body(prefix))
    except BackhaulError as error:
        raise _of_lines(error, batch, prefix) from error
    if len(answer.get("events", ())) != len(batch.lines):
        raise BackhaulError(
            "cli.unexpected_answer",
            f"{batch.place}: {len(batch.lines)} events were sent and the answer does not name as many",
            "is the service of the same version as this command?",
        )
    return answer.get("repeated") is True


def _of_lines(error: BackhaulError, batch: LineBatch, prefix: str | None) -> BackhaulError:
    """The same error, about lines of the input instead of events of a request."""
    index = _index_in(error)
    is_known = index is not None and index < len(batch.numbers)
    place = f"line {batch.numbers[index]}" if index is not None and is_known else batch.place
    hint = error.hint
    if error.code == "cli.service_unreachable":
        hint = f"nothing of these was sent or stored; {error.hint}, or let --retry wait for it"
    elif error.code == "cli.no_answer":
        again = "send all of it again with the same prefix" if prefix else "look with `tail` before sending them again"
        hint = f"whether these were stored is not known: {again}, or use --retry from the beginning"
    return BackhaulError(
        error.code,
        f"{place}: {error.message}",
        hint,
        kind=error.kind,
        details=error.details,
        retry_after_s=error.retry_after_s,
    )


def _index_in(error: BackhaulError) -> int | None:
    """Which event of the request the service objected to, when it says so."""
    index = error.details.get("index")
    if isinstance(index, int):
        return index
    name, bracket, rest = str(error.details.get("field", "")).partition("[")
    number, closing, _ = rest.partition("]")
    return int(number) if name == "events" and bracket and closing and number.isdigit() else None


APPEND: Final = Command(
    ("append",),
    "append events, one JSON object a line on standard input, and wait for each answer",
    _append,
    _arguments,
)
