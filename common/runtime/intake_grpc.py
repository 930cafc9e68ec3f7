"""Intake for volume: columns over gRPC (``protos/backhaul/v1/intake.proto``), one append or a stream of them.

The committing task answers, and only what a line does not take at once is left to another. On a stream the next requests are
read while earlier ones wait for their commit, up to a bound; answers keep the order. A refused request is answered in its
place and ends nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import outcome
import trio

from common import audit
from common.core.errors import BackhaulError
from common.core.journal.append import Appended, AppendOutcome
from common.core.policy.rights import Access, Right
from common.journal.group_commit import AfterGroup
from common.runtime.intake import Intake, appended
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

        def settled(result: outcome.Outcome[AppendOutcome]) -> AfterGroup:
            try:
                return answer(_reply(appended(result.unwrap())))
            except BackhaulError as error:
                return answer(error)

        return intake.submit_nowait(codec.decode_append_request(request), settled)

    async def append_stream(stream: ServedStream) -> None:
        let_in(stream.metadata, stream.peer)
        answers = _OrderedAnswers(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.send_rest)
            with suppress(PeerClosed):
                while True:
                    request = await stream.receive()
                    place = await answers.wait_place()
                    try:
                        await intake.submit(codec.decode_append_request(request), partial(answers.settle, place))
                    except BackhaulError as error:
                        place.message = codec.encode_append_error(error)
                        answers.send_ready()
            await answers.wait_sent()
            nursery.cancel_scope.cancel()

    return {APPEND_PATH: UnaryMethod(append, append_promptly), APPEND_STREAM_PATH: StreamMethod(append_stream)}


@dataclass(slots=True, eq=False)
class _Place:
    """Where an answer belongs, and the answer once there is one."""

    message: bytes | None = None


class _OrderedAnswers:
    """The answers of one stream in the order of its requests; what one commit has settled leaves in one write.

    The committing task sends what the line takes at once; from the first answer that it does not take, ``send_rest`` goes on.
    """

    def __init__(self, stream: MessageStream) -> None:
        self._stream = stream
        self._places: deque[_Place] = deque()
        self._is_stuck = False
        self._stuck = trio.lowlevel.ParkingLot()
        self._freed = trio.lowlevel.ParkingLot()

    async def wait_place(self) -> _Place:
        """The place behind the last one; waits while too many have no answer."""
        while len(self._places) >= _WAITING_MAX:
            await self._freed.park()
        place = _Place()
        self._places.append(place)
        return place

    def settle(self, place: _Place, result: outcome.Outcome[AppendOutcome]) -> AfterGroup:
        """What became of the request of this place."""
        try:
            place.message = _reply(appended(result.unwrap()))
        except BackhaulError as error:
            place.message = codec.encode_append_error(error)
        return self.send_ready

    def send_ready(self) -> None:
        """Send the answers at the front that are there, as far as the line takes them."""
        if self._is_stuck:
            return
        self._stream.hold()
        try:
            while self._places and (message := self._places[0].message) is not None:
                if not self._stream.send_nowait(message):
                    self._is_stuck = True
                    self._stuck.unpark()
                    break
                self._places.popleft()
        finally:
            self._stream.release()
        self._freed.unpark_all()

    async def send_rest(self) -> NoReturn:
        """Send what the line does not take at once. Raises as ``MessageStream.send`` does."""
        while True:
            while not self._is_stuck:
                await self._stuck.park()
            while self._places and (message := self._places[0].message) is not None:
                await self._stream.send(message)
                self._places.popleft()
                self._freed.unpark_all()
            self._is_stuck = False

    async def wait_sent(self) -> None:
        """Return when every request has been answered."""
        while self._places:
            await self._freed.park()


def _reply(done: Appended) -> bytes:
    return codec.encode_append_reply(done.first_position, done.seq_nr, done.repeated)
