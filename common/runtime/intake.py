"""Events of local programs on their way into the journal: checked, named, committed with others, answered.

HTTP and gRPC are two doors to this one room. The answer comes after the synced commit. At an edge entity ids get its
prefix here, so that 5,000 gateways may all have a ``temp1``; a cloud's own events keep the names they come with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from common.core.errors import BackhaulError, ErrorKind
from common.core.events.batch import EventBatch
from common.core.events.ids import SEPARATOR, persistence_id_problem, text_problem
from common.core.events.rules import KEY_MAX_BYTES, problems
from common.core.journal.append import Appended, AppendOutcome, AppendRefused, LocalAppend
from common.journal.group_commit import GroupCommit, OnSettled
from common.runtime.admitted import ALL_ADMITTED, Admitted


class Intake:
    """The door to the journal."""

    def __init__(
        self,
        commit: GroupCommit,
        *,
        entity_prefix: str,
        event_max_bytes: int,
        request_max_events: int,
        request_max_bytes: int,
        admitted: Admitted = ALL_ADMITTED,
    ) -> None:
        self._commit = commit
        self._admitted = admitted
        self._prefix = entity_prefix
        self._event_max_bytes = event_max_bytes
        self._request_max_events = request_max_events
        self._request_max_bytes = request_max_bytes

    async def append(self, request: LocalAppend) -> Appended:
        """Store all events of the request or none; returns after the commit. Raises as ``submit`` and ``appended`` do."""
        return appended(await self._commit.append(self._checked(request)))

    async def submit(self, request: LocalAppend, on_settled: OnSettled) -> None:
        """Check a request and give it its place in the log's order; the digest is computed here when there is a key.

        Raises BackhaulError: ``events.none``, ``events.too_many``, ``events.too_large``, ``events.invalid``,
        ``entity.invalid_name``, ``append.invalid_key``, ``journal.closing``.
        """
        checked = self._checked(request)
        while not self._commit.submit_nowait(checked, on_settled):
            await self._commit.wait_room()

    def submit_nowait(self, request: LocalAppend, on_settled: OnSettled) -> bool:
        """As ``submit``, at once or not at all: false when there is no place. What comes of it is for ``appended`` to say."""
        return self._commit.submit_nowait(self._checked(request), on_settled)

    def _checked(self, request: LocalAppend) -> LocalAppend:
        self._check_size(request.events)
        digest = b""
        if request.append_id:
            problem = text_problem(request.append_id, KEY_MAX_BYTES)
            if problem:
                raise BackhaulError("append.invalid_key", f"the idempotency key {problem}", "use a short plain text")
            digest = digest_of(request)
        request = self._named(request, digest)
        _check_expectations(request.expected)
        found = problems(request.events, self._event_max_bytes)
        if found:
            index, (code, what) = min(found.items())
            raise _refusal(code, index, what, len(found))
        self._admitted.check(request.events)
        return request

    def _check_size(self, events: EventBatch) -> None:
        if not len(events):
            raise BackhaulError("events.none", "there is no event in the request", "send at least one")
        if len(events) > self._request_max_events:
            raise BackhaulError(
                "events.too_many",
                f"{len(events)} events in one request, the limit is {self._request_max_events}",
                "send several requests; each is atomic",
                kind=ErrorKind.TOO_LARGE,
            )
        if events.byte_size() > self._request_max_bytes:
            raise BackhaulError(
                "events.too_large",
                f"the request weighs {events.byte_size()} bytes, the limit is {self._request_max_bytes}",
                "send several requests; each is atomic",
                kind=ErrorKind.TOO_LARGE,
            )

    def _named(self, request: LocalAppend, digest: bytes) -> LocalAppend:
        if not self._prefix:
            return replace(request, digest=digest)
        request.events.persistence_id = [self._with_prefix(name) for name in request.events.persistence_id]
        expected = {self._with_prefix(name): seq_nr for name, seq_nr in request.expected.items()}
        return LocalAppend(request.events, expected, request.append_id, digest)

    def _with_prefix(self, persistence_id: str) -> str:
        entity_type, separator, entity_id = persistence_id.partition(SEPARATOR)
        return f"{entity_type}{separator}{self._prefix}{entity_id}" if separator and entity_id else persistence_id


def appended(outcome: AppendOutcome) -> Appended:
    """What became of a request.

    Raises BackhaulError: ``append.wrong_expected_seq_nr``, ``append.foreign_owner``, ``append.id_reused``.
    """
    match outcome:
        case Appended():
            return outcome
        case AppendRefused(code, message, persistence_id, expected, actual):
            raise BackhaulError(
                code,
                message,
                _HINTS.get(code, ""),
                kind=ErrorKind.CONFLICT,
                details={"persistence_id": persistence_id, "expected": expected, "actual": actual},
            )
    raise AssertionError(f"not an outcome of a local append: {outcome!r}")


_HINTS = {
    "append.wrong_expected_seq_nr": "read the entity again, decide again, and append with its present number",
    "append.foreign_owner": "append to one of your own, or take this one over: `cloud-service entities transfer --here`",
    "append.id_reused": "use a new key for new events; repeat an old one only with the same body",
}


def _check_expectations(expected: Mapping[str, int]) -> None:
    """They reach the storage as the events do, and name entities of which the request may hold none."""
    for persistence_id, seq_nr in expected.items():
        problem = persistence_id_problem(persistence_id)
        if problem:
            raise BackhaulError("entity.invalid_name", f"an expectation's {problem}", "nothing was stored: correct it")
        if not 0 <= seq_nr < 2**63:
            raise BackhaulError(
                "events.invalid",
                f"expected_seq_nr {seq_nr} is not a number an entity can have",
                "give 0 for an entity that does not exist, else the number of its last event",
            )


def _refusal(code: str, index: int, what: str, count: int) -> BackhaulError:
    too_large = code == "events.too_large"
    return BackhaulError(
        code,
        f"event {index}: {what}",
        "nothing of the request was stored: mend the event and send it again",
        kind=ErrorKind.TOO_LARGE if too_large else ErrorKind.INVALID,
        details={"index": index, "bad_events": count},
    )


def digest_of(request: LocalAppend) -> bytes:
    """What makes two requests with one key the same: every column as it came, and the expectations."""
    digest = hashlib.blake2b(digest_size=16)
    events = request.events
    columns = (events.persistence_id, events.event_type, events.codec, events.tags, events.metadata)
    for column in columns:
        digest.update("\x1e".join(column).encode("utf-8", "surrogatepass"))
        digest.update(b"\x1d")
    digest.update(repr((events.event_time_us, sorted(request.expected.items()))).encode())
    for payload in events.payload:
        digest.update(len(payload).to_bytes(8, "big"))
        digest.update(payload)
    return digest.digest()
