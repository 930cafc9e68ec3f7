"""Intake for volume: columns over gRPC (``protos/backhaul/v1/intake.proto``), one append or a stream of them.

A single append has no task of its own: the committing task answers it. On a stream the next requests are read while earlier
ones wait for their commit, up to a bound; answers keep the order. A refused request is answered in its place and ends
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import takewhile
from typing import TypeAlias

import outcome
import trio

from common import audit
from common.core.errors import BackhaulError
from common.core.journal.append import Appended, AppendOutcome
from common.core.policy.rights import Access, Right
from common.journal.group_commit import Submitted
from common.runtime.intake import Intake, appended, stored
from common.transport.codec import intake as codec
from common.transport.stream import (
    Answer,
    Caller,
    MessageStream,
    Methods,
    PeerClosed,
    PeerInfo,
    ServedStream,
    StreamMethod,
    UnaryMethod,
)

APPEND_PATH = "/backhaul.v1.Intake/Append"
APPEND_STREAM_PATH = "/backhaul.v1.Intake/AppendStream"
_WAITING_MAX = 64


def intake_methods(intake: Intake, access: Access | None = None) -> Methods:
    """The gRPC methods of the intake, by path; `access` has the programs' token, which comes as metadata."""
    door = access or Access()

    def let_in(metadata: Mapping[str, str], peer: PeerInfo) -> None:
        refusal = door.refusal(Right.PROGRAMS, metadata.get("authorization", ""))
        if refusal is not None:
            audit.refused(who=peer.address, source=peer.address, what="append", rule="door", result=refusal.code)
            raise refusal

    async def append(request: bytes, caller: Caller) -> bytes:
        let_in(caller.metadata, caller.peer)
        return _reply(await intake.append(codec.decode_append_request(request)))

    def append_promptly(request: bytes, caller: Caller, answer: Answer) -> bool:
        let_in(caller.metadata, caller.peer)

        def settled(result: outcome.Outcome[AppendOutcome]) -> None:
            try:
                reply = _reply(appended(result.unwrap()))
            except BackhaulError as error:
                answer(error)
            else:
                answer(reply)

        return intake.submit_nowait(codec.decode_append_request(request), settled)

    async def append_stream(stream: ServedStream) -> None:
        let_in(stream.metadata, stream.peer)
        to_answer, answers = trio.open_memory_channel[Submitted | BackhaulError](_WAITING_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer, answers, stream)
            async with to_answer:
                try:
                    while True:
                        submitted = await submit(await stream.receive())
                        try:
                            to_answer.send_nowait(submitted)
                        except trio.WouldBlock:
                            await to_answer.send(submitted)
                except PeerClosed:
                    pass

    async def submit(request: bytes) -> Submitted | BackhaulError:
        try:
            return await intake.submit(codec.decode_append_request(request))
        except BackhaulError as error:
            return error

    return {APPEND_PATH: UnaryMethod(append, append_promptly), APPEND_STREAM_PATH: StreamMethod(append_stream)}


_Waiting: TypeAlias = Submitted | BackhaulError


async def _answer(answers: trio.MemoryReceiveChannel[_Waiting], stream: MessageStream) -> None:
    """Answer in order; what one commit has settled leaves in one write."""
    with suppress(trio.EndOfChannel):
        behind: _Waiting | None = None
        while True:
            # A turn of the loop for each of many that wait already would cost as much as the answer.
            waiting = behind or _next_of(answers) or await answers.receive()
            ready = [await _answer_to(waiting)]
            while (behind := _next_of(answers)) is not None and _is_known(behind):
                ready.append(await _answer_to(behind))
            await _send_all(ready, stream)


async def _send_all(messages: list[bytes], stream: MessageStream) -> None:
    stream.hold()
    try:
        taken = sum(1 for _ in takewhile(stream.send_nowait, messages))
    finally:
        stream.release()
    for message in messages[taken:]:
        await stream.send(message)


def _next_of(answers: trio.MemoryReceiveChannel[_Waiting]) -> _Waiting | None:
    try:
        return answers.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        return None


def _is_known(waiting: _Waiting) -> bool:
    return isinstance(waiting, BackhaulError) or waiting.is_settled


async def _answer_to(waiting: Submitted | BackhaulError) -> bytes:
    try:
        if isinstance(waiting, BackhaulError):
            raise waiting
        return _reply(await stored(waiting))
    except BackhaulError as error:
        return codec.encode_append_error(error)


def _reply(done: Appended) -> bytes:
    return codec.encode_append_reply(done.first_position, done.seq_nr, done.repeated)
