"""The cloud's end of push streams: authenticate, fence, tell where to go on and what is asked for.

What one stream does after its session was opened is ``endpoint_stream``. No handler runs here: projections follow
the journal on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn

import structlog
import trio

from common import VERSION
from common.core.errors import BackhaulError, ErrorKind
from common.core.events.ids import NAME_MAX_BYTES, invisible_problem, text_problem
from common.core.flow.measures import CodeCounts
from common.core.flow.messages import Drain
from common.core.flow.return_hint import RefusedLinks, return_hint_s
from common.core.journal.history import Resume, history_problem
from common.core.push.messages import PROTOCOL_VERSION, CheckReply, Hello, Start
from common.core.push.receiver import Endpoint
from common.core.push.requested_filter import RequestedFilter, filter_for
from common.journal.stores.journal import Journal
from common.transport.codec import push as codec
from common.transport.link.call_status import first_refusal
from common.transport.link.live_peers import LivePeer, check_trusted
from common.transport.link.live_streams import LiveStreams
from common.transport.push.endpoint_stream import (
    AppendWriter,
    EndpointSettings,
    EndpointStream,
    OriginStream,
    protocol_error,
)
from common.transport.stream import Caller, MessageStream, PeerInfo

__all__ = ["EndpointSettings", "OriginStream", "PushEndpoint"]

_log = structlog.get_logger()

# A journal that asks for more than this is not away, but slow.
_SOON_S = 1.0


class PushEndpoint:
    """All push streams of one node."""

    def __init__(
        self,
        journal: Journal,
        writer: AppendWriter,
        settings: EndpointSettings,
        now_us: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._writer = writer
        self._settings = settings
        self._now_us = now_us
        self._live: LiveStreams[str, EndpointStream] = LiveStreams("edge")
        self._seen: dict[str, tuple[int, ...]] = {}
        """By live origin: versions of all requested filters when they were last sent to it."""
        self._refused = RefusedLinks()
        """Edges that found the database away."""
        self.ends = CodeCounts()
        """Streams that are over."""
        self.on_end: Callable[[OriginStream, str, str], object] = lambda state, code, reason: None
        """Called with the code and reason when a stream is over; must be quick."""
        self.parked = CodeCounts()
        """Events that were set aside."""

    @property
    def streams(self) -> list[OriginStream]:
        """What is connected to this node now."""
        return [live.state for live in self._live.values()]

    def live_peers(self) -> list[LivePeer]:
        """The edges that are connected to this node now, for the watch over their certificates."""
        return [live.live_peer for live in self._live.values()]

    async def refresh_filters(self) -> None:
        """Look at what is asked of the edges, and tell those on this node for whom it is news."""
        asked = await self._journal.push_filters.requested()
        seen = _versions(asked)
        for origin_id, live in self._live.items():
            if self._seen.get(origin_id) != seen:
                self._seen[origin_id] = seen
                live.ask(filter_for(origin_id, asked))

    async def follow_filters(self, every_s: float) -> NoReturn:
        """Refresh again and again: filters requested of another node arrive here too. Without edges there is nobody to tell."""
        while True:
            await trio.sleep(every_s)
            if not self._live:
                continue
            try:
                await self.refresh_filters()
            except BackhaulError:
                continue  # the journal's watch reports it

    async def drain(self, redial_within_s: float) -> None:
        """Ask every edge, also those that still come, to finish and dial another node; returns when none is left."""
        await self._live.leave(redial_within_s, lambda live, _: live.wake())

    @property
    def staying(self) -> int:
        """Edges that are connected and were not asked to leave."""
        return sum(not live.is_leaving for live in self._live.values())

    def drain_some(self, count: int, redial_within_s: float, reason: str) -> int:
        """Ask so many edges, those that came first, to finish and dial another node; returns how many were asked."""
        staying = [live for live in self._live.values() if not live.is_leaving][:count]
        for live in staying:
            live.drain(Drain(redial_within_s, reason))
        return len(staying)

    async def serve(self, stream: MessageStream) -> None:
        """One stream, from Hello to its end. Raises BackhaulError for what the peer must learn."""
        hello = await self._receive_hello(stream)
        try:
            await self._serve(stream, hello)
        except* BackhaulError as group:
            error = first_refusal(group)
            if error.code != "journal.unavailable" or (error.retry_after_s or 0.0) > _SOON_S:
                raise
            raise self._come_back(hello.origin_id, error) from error

    def _come_back(self, origin_id: str, error: BackhaulError) -> BackhaulError:
        """The same refusal, with the hint for as many edges as will dial again."""
        self._refused.add(origin_id, trio.current_time())
        return BackhaulError(
            error.code,
            error.message,
            error.hint,
            kind=error.kind,
            details=error.details,
            retry_after_s=return_hint_s(len(self._refused) + len(self._live)),
        )

    async def _serve(self, stream: MessageStream, hello: Hello) -> None:
        origin_id = hello.origin_id
        with structlog.contextvars.bound_contextvars(origin_id=origin_id, peer=stream.peer.address):
            endpoint, start = await self._open_session(hello)
            state = OriginStream(
                origin_id,
                start.session,
                stream.peer.address,
                self._now_us(),
                start.resume.value,
                hello.history.head_position,
                received_position=endpoint.received,
                stored_position=endpoint.stored,
                clock_skew_s=(hello.clock_us - start.clock_us) / 1e6,
                journal_id=hello.history.journal_id,
            )
            live = EndpointStream(
                stream,
                endpoint,
                state,
                self._journal.push_filters,
                self._journal.origins.known,
                self._writer,
                self._settings,
                self._now_us,
                self.parked,
            )
            older = self._live.get(origin_id)
            if older:
                older.fence(start.session)
            self._seen.pop(origin_id, None)
            live.ask(start.requested)
            _log.info(
                "push.connected",
                session=start.session,
                resume=start.resume.value,
                position=start.stored.position,
                behind=hello.history.head_position - start.stored.position,
                clock_skew_s=round(state.clock_skew_s, 3),
            )

            def ended(code: str, reason: str) -> None:
                self.ends.add(code)
                self.on_end(state, code, reason)
                if origin_id not in self._live:
                    self._seen.pop(origin_id, None)
                _log.info(
                    "push.disconnected",
                    session=start.session,
                    code=code,
                    reason=reason,
                    position=endpoint.stored,
                    events=state.events,
                    parked=state.parked,
                )

            await self._live.run(origin_id, live, live.run(start, lambda: self._live.drain), ended)

    async def _receive_hello(self, stream: MessageStream) -> Hello:
        with trio.move_on_after(self._settings.hello_timeout_s):
            hello = codec.decode_from_edge(await stream.receive())
            if not isinstance(hello, Hello):
                raise protocol_error(f"{type(hello).__name__} came before Hello")
            self._check_hello(hello, stream)
            return hello
        raise BackhaulError("link.timeout", "no Hello came", "send Hello at once after opening the stream")

    async def check(self, data: bytes, caller: Caller) -> bytes:
        """What a Hello by an id would be answered; opens no session, so that a running edge is not disturbed."""
        version, name = codec.decode_check_request(data)
        now_us = self._now_us()
        try:
            self._check_peer(version, name, caller.peer)
        except BackhaulError as error:
            return codec.encode_check_reply(CheckReply(now_us, (error.code, error.message, error.hint)))
        rights = self._settings.policy().rights_of(name)
        may_write = rights.may_write(f"Check|{name}/check")
        return codec.encode_check_reply(
            CheckReply(now_us, None, VERSION, rights.rule.name, may_write, name in self._live)
        )

    def _check_hello(self, hello: Hello, stream: MessageStream) -> None:
        self._check_peer(hello.protocol_version, hello.origin_id, stream.peer)
        problem = history_problem(hello.history) or text_problem(hello.instance, NAME_MAX_BYTES)
        if problem:
            raise protocol_error(f"Hello {problem}")

    def _check_peer(self, protocol_version: int, name: str, peer: PeerInfo) -> None:
        """Who is it? Asked before anything is looked up, so that a refusal reveals nothing."""
        if protocol_version != PROTOCOL_VERSION:
            raise BackhaulError(
                "push.version",
                f"the edge speaks protocol {protocol_version}, this node {PROTOCOL_VERSION}",
                "update the older side",
            )
        problem = (text_problem(name, NAME_MAX_BYTES) or invisible_problem(name)) if name else "is empty"
        if problem:
            raise BackhaulError("push.invalid_origin", f"the edge id {problem}", "set EDGE_ID to a short name")
        if self._settings.require_identity:
            peer.must_be(name, "edge")
        check_trusted(self._settings.trust, name, peer, self._now_us() / 1e6)

    async def _open_session(self, hello: Hello) -> tuple[Endpoint, Start]:
        decision = await self._journal.origins.open_session(hello.origin_id, hello.instance, hello.history)
        state, limits = decision.state, self._settings.limits
        if decision.resume is Resume.SUPERSEDED:
            raise BackhaulError(
                "push.superseded",
                f"another journal of {hello.origin_id}, or a copy of this one, has taken its place",
                "an old disk is back, or its copy ran elsewhere: empty the edge's volume, or stop the other and let this"
                " one in with `cloud-service origins readmit`",
                kind=ErrorKind.CONFLICT,
            )
        if decision.cloned:
            _log.error("push.cloned", session=state.session)
        if decision.resume in (Resume.REWOUND, Resume.NEW_JOURNAL):
            _log.warning(
                "push.rebased",
                resume=decision.resume.value,
                branch=state.branch,
                position=state.stored.position,
            )
        own = self._journal.log.history
        place = await self._journal.push_filters.state(hello.origin_id)
        requested = filter_for(hello.origin_id, await self._journal.push_filters.requested())
        start = Start(
            state.session,
            state.stored,
            decision.resume,
            own.journal_id,
            own.generation_id,
            limits,
            self._now_us(),
            place,
            requested,
        )
        endpoint = Endpoint(
            hello.origin_id,
            state.session,
            state.branch,
            state.stored,
            limits,
            self._settings.parked_max,
            place,
            self._settings.on_receive,
            own.generation_id,
        )

        return endpoint, start


def _versions(asked: Iterable[RequestedFilter]) -> tuple[int, ...]:
    """What tells one state of all that is asked from another: no version is used twice."""
    return tuple(one.version for one in asked)
