"""The edge's end of a push stream: from the local journal to the cloud, until the link breaks or has to leave.

One nursery a stream: this task sends, one child receives acks, one watches that something moves, one keeps the acked position
on disk. While this task waits at the log's end, the task that commits sends what it has stored, where nothing has to wait.
What may be sent and what an ack means is decided by ``core.push.producer.Producer``; here are only the journal, the stream
and the clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.batch import EventBatch
from common.core.events.transformations import Transformed
from common.core.filters.past import Past
from common.core.flow.messages import Drain, EdgeHealth, Heartbeat
from common.core.flow.moderation import Pacing
from common.core.journal.append import PushLane
from common.core.journal.history import Offset
from common.core.push.filter_transition import EVERYTHING, PushFilterApplied
from common.core.push.messages import Ack, Hello, PastKnown, PushBatch, PushFilterUpdate, PushLimits, Start
from common.core.push.producer import Producer, StartVerdict, check_start
from common.core.push.stand_ins import PushPage
from common.fail_points import fail_point
from common.journal.stores.journal import Journal
from common.transport.codec import push as codec
from common.transport.push.link_state import LinkState
from common.transport.push.past import PastLane
from common.transport.push.source import PushSource
from common.transport.stream import DialledStream, PeerClosed, PeerGone

_log = structlog.get_logger()

CURSOR = "push"
_CURSOR_SAVE_S = 1.0
# Encoding more than this would keep a commit's callers from their answers.
_AT_ONCE_MAX_EVENTS = 256
_WRONG_PEER = "is the address that of a cloud service of ours?"


@dataclass(frozen=True, slots=True)
class PushSettings:
    """Who pushes, with which bounds; times in seconds."""

    origin_id: str
    instance: str
    limits: PushLimits
    batch_max_events: int
    window_max_batches: int
    heartbeat_s: float
    progress_timeout_s: float
    poll_interval_s: float
    own_filter: str = EVERYTHING
    """Criteria (canonical JSON) of what this edge ever pushes, whatever the cloud asks for."""
    own_past: Past = Past.FULL
    """How much past an entity brings at most that comes into what is pushed, whatever the cloud asks for."""
    snapshots_if_behind: int = 0
    """With more events than this ahead a stream begins with snapshots; 0 = never."""
    on_push: Callable[[EventBatch], Transformed] | None = None
    """What an application makes of events before they are sent."""
    health: Callable[[], EdgeHealth] | None = None
    """How this edge is, for heartbeats."""
    spacing_s: Callable[[], float] = lambda: 0.0
    """How far apart commits begin now: not 0 while this edge is busy."""


async def push(
    stream: DialledStream,
    journal: Journal,
    settings: PushSettings,
    state: LinkState,
    *,
    now_us: Callable[[], int],
    on_start: Callable[[], None],
    on_progress: Callable[[], None],
) -> Drain | None:
    """Push until the cloud asks to leave (its Drain is returned) or ends the stream well, or this service stops (None).

    ``on_start`` is called when the cloud has taken the stream, ``on_progress`` whenever it has done useful work. Raises
    PeerGone (also for ``link.stalled`` and ``link.timeout``), PeerRefused, and BackhaulError ``push.history_mismatch``,
    ``link.protocol``, ``link.malformed``.
    """
    start = await _open(stream, journal, settings, state, now_us, on_start)
    return await _PushStream(stream, journal, settings, state, start, now_us, on_progress).run()


async def _open(
    stream: DialledStream,
    journal: Journal,
    settings: PushSettings,
    state: LinkState,
    now_us: Callable[[], int],
    on_start: Callable[[], None],
) -> Start:
    """Say hello, hear where to go on, and compare that with the own log."""
    hello = Hello(settings.origin_id, settings.instance, journal.log.history, now_us())
    with trio.move_on_after(settings.progress_timeout_s) as deadline:
        try:
            await stream.send(codec.encode_from_edge(hello))
            start = codec.decode_from_cloud(await stream.receive())
        except PeerClosed:
            raise PeerGone("link.not_backhaul", "the peer ended the stream without Start", _WRONG_PEER) from None
    if deadline.cancelled_caught:
        raise PeerGone("link.timeout", "the cloud did not answer Hello", "look at the cloud's log; dialling again")
    if not isinstance(start, Start):
        raise _protocol_error(f"{type(start).__name__} came before Start")
    position = start.stored.position
    page = await journal.log.read(position - 1, max_events=1, max_bytes=1) if position else None
    own = page.events.envelope(0) if page and page.events.position == [position] else None
    acked = await journal.log.load_cursor(CURSOR)
    verdict = check_start(start, journal.log.history, acked, own)
    on_start()
    state.session = start.session
    state.sent_position = state.acked_position = state.resumed_position = position
    state.clock_skew_s = (start.clock_us - hello.clock_us) / 1e6
    head = journal.log.history.head_position
    _log.info(
        "push.started",
        session=start.session,
        resume=start.resume.value,
        position=position,
        behind=head - position,
        clock_skew_s=round(state.clock_skew_s, 3),
    )
    if verdict is StartVerdict.PEER_LOST_HISTORY and acked:
        kept_from = (await journal.log.stats()).first_position
        lost = max(0, kept_from - 1 - position)
        if lost:
            _log.error("push.peer_lost_history", acked=acked.position, stored=position, kept_from=kept_from, lost=lost)
        else:
            _log.warning("push.peer_refilled", acked=acked.position, stored=position, kept_from=kept_from)
    # No await from here to the stream's lanes: without them retention does not know what is owed.
    state.acked_is_known = True
    return start


class _PushStream:
    """One stream after Start."""

    def __init__(
        self,
        stream: DialledStream,
        journal: Journal,
        settings: PushSettings,
        state: LinkState,
        start: Start,
        now_us: Callable[[], int],
        on_progress: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._journal = journal
        self._settings = settings
        self._state = state
        self._now_us = now_us
        self._on_progress = on_progress
        self._producer = Producer(
            start,
            settings.limits,
            batches_max=settings.window_max_batches,
            ack_target_s=settings.progress_timeout_s / 3,
            own_filter=settings.own_filter,
            own_past=settings.own_past,
        )
        self._source = PushSource(
            journal,
            self._producer,
            batch_max_events=settings.batch_max_events,
            batch_max_bytes=settings.limits.batch_bytes,
            on_push=settings.on_push,
            snapshots_if_behind=settings.snapshots_if_behind,
        )
        self._tell_filter()
        self._acked_or_asked = trio.lowlevel.ParkingLot()
        self._past = PastLane(
            journal,
            self._producer,
            self._source.known,
            self._acked_or_asked,
            self._send,
            self._send_batch,
            batch_max_events=settings.batch_max_events,
            answer_timeout_s=settings.progress_timeout_s,
            on_push=settings.on_push,
        )
        self._pacing = Pacing()
        self._drain: Drain | None = None
        self._peer_received = 0
        self._last_sent_s = trio.current_time()
        self._health_due_s = trio.current_time()

    async def run(self) -> Drain | None:
        """The stream's whole life; whichever child's end means "over" cancels the rest."""
        try:
            with self._source.listening(self._send_stored):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, nursery.cancel_scope)
                    nursery.start_soon(self._watch_progress)
                    nursery.start_soon(self._keep_cursor)
                    nursery.start_soon(self._leave_when_asked)
                    await self._send_journal()
        finally:
            self._state.in_flight_bytes = 0
        return self._drain

    async def _leave_when_asked(self) -> None:
        """This service stops: send nothing more, hear the acks of what is in flight, and end the stream."""
        await self._state.departure.asked.wait()
        self._producer.draining = True
        self._source.wake()
        self._acked_or_asked.unpark_all()

    # -- sending: the only task that does, while it does not wait --------------------------------------------------------
    async def _send_journal(self) -> None:
        producer, source, settings = self._producer, self._source, self._settings
        await source.begin()
        while not producer.draining:
            change = producer.change_filter()
            if change:
                await self._send_change(change)
                continue
            room = producer.room_bytes()
            if not room:
                await self._acked_or_asked.park()
                continue
            if self._due_s > trio.current_time():
                await trio.sleep_until(self._due_s)
                continue
            page = await source.next(room)
            if page:
                await self._send_page(page)
            else:
                await source.wait(min(settings.poll_interval_s, settings.heartbeat_s))
                await self._heartbeat_if_due()
        while not producer.window.is_empty:
            await self._acked_or_asked.park()
        await self._stream.end()

    async def _send_page(self, page: PushPage) -> None:
        """Send a page, or of one that is too large a half: what goes with a message is chosen for its own positions.

        So a stream that ends behind any message has stated nothing that its position does not reach, but for what is gone
        ahead (``core.push.deletions``).
        """
        producer, source = self._producer, self._source
        after, is_live = source.looked_through, producer.lanes.lane is PushLane.LIVE
        through = page.through
        looked_at: Sequence[int] = page.events.position
        batch = await source.batch_of(page)
        if batch and after < batch.through_position < through:  # the page was cut
            through = batch.through_position
            looked_at = looked_at[: bisect_right(looked_at, through)]
        if not source.has_holes:  # what an index left out is withheld
            looked_at = range(after + 1, through + 1)
        if batch is None:
            self._state.passed(*source.page.counted(looked_at, ()))
            return
        message = codec.encode_from_edge(batch)
        if len(message) > producer.message_bytes and through - producer.cursor > 1:
            # Tags, metadata and ranges can outweigh the payloads by which the page was cut.
            middle = (producer.cursor + through) // 2
            await self._send_page(page.cut(middle))
            return
        if source.entries:
            passed = await self._past.bring(source.entries, batch)
            if passed is None:
                return  # it is read again
            if passed < batch.through_position:
                # The rest is read again, and its past is behind the cursor then.
                batch = await source.batch_of(page.cut(passed), is_due=True)
                assert batch is not None
                message = codec.encode_from_edge(batch)
                looked_at = looked_at[: bisect_right(looked_at, passed)]
        source.sent(batch)
        if is_live and batch.through_position > batch.after_position:
            self._state.passed(*source.page.counted(looked_at, batch.events.position))
        await self._send_batch(batch, message)
        if source.page.has_stand_ins:
            fail_point("push.in_snapshots")
        if self._settings.health and trio.current_time() >= self._health_due_s:
            # Behind a batch only: on a line that stands still nothing small may look like progress.
            await self._send_heartbeat()

    def _send_stored(self, stored: EventBatch) -> None:
        """Called in the commit's task: send what it has stored, if that is little and nothing has to wait.

        Else the head signal wakes the sending task.
        """
        producer, source, settings = self._producer, self._source, self._settings
        room = producer.room_bytes() if len(stored) <= _AT_ONCE_MAX_EVENTS else 0
        if (
            not room
            or self._due_s > trio.current_time()
            or (settings.health and trio.current_time() >= self._health_due_s)
        ):
            return
        batch = source.stored_now(room)
        if batch is None:
            return
        message = codec.encode_from_edge(batch)
        if len(message) > producer.message_bytes or not self._stream.send_nowait(message):
            return
        self._last_sent_s = trio.current_time()
        source.sent(batch)
        self._state.passed(batch.events.position, batch.events.position)
        self._count(batch, message)

    async def _send_batch(self, batch: PushBatch, message: bytes) -> None:
        # Counted before the bytes leave: the ack may be there before `send` returns.
        self._count(batch, message)
        await self._send(message)

    @property
    def _due_s(self) -> float:
        """The next message may leave then."""
        return self._pacing.due_s(trio.current_time(), self._settings.spacing_s())

    def _count(self, batch: PushBatch, message: bytes) -> None:
        if batch.lane is PushLane.LIVE:
            self._pacing.left(trio.current_time(), batch.through_position - batch.after_position)
        self._producer.sent(batch, len(message), trio.current_time())
        self._state.sent_position = self._producer.position
        self._state.in_flight_bytes = self._producer.window.in_flight_bytes

    async def _send_change(self, change: PushFilterApplied) -> None:
        self._source.restart()
        self._tell_filter()
        _log.info(
            "push.filter_changed",
            filter_version=change.filter.version,
            position=change.position,
            needs_backfill=change.needs_backfill,
        )
        await self._send(codec.encode_from_edge(change))

    def _tell_filter(self) -> None:
        self._state.lanes = self._producer.lanes
        self._state.filters = place = self._producer.lanes.place
        self._state.filter_version = place.new.version
        self._state.backfill_left = place.change_position - place.backfill_position

    async def _heartbeat_if_due(self) -> None:
        # Silent while data is in flight: then whatever growth the cloud reports was made by data.
        idle_s = trio.current_time() - self._last_sent_s
        if self._producer.window.is_empty and idle_s >= self._settings.heartbeat_s:
            await self._send_heartbeat()

    async def _send_heartbeat(self) -> None:
        health = self._settings.health() if self._settings.health else None
        self._health_due_s = trio.current_time() + self._settings.heartbeat_s
        heartbeat = Heartbeat(self._stream.bytes_received, self._now_us(), health)
        await self._send(codec.encode_from_edge(heartbeat))

    async def _send(self, message: bytes) -> None:
        try:
            await self._stream.send(message)
        except PeerClosed:
            await trio.sleep_forever()  # `_receive` meets the end too, behind the acks that came before it
        self._last_sent_s = trio.current_time()

    # -- receiving ------------------------------------------------------------------------------------------------------
    async def _receive(self, whole_stream: trio.CancelScope) -> None:
        try:
            while True:
                message = codec.decode_from_cloud(await self._stream.receive())
                match message:
                    case Ack():
                        self._on_ack(message)
                    case Heartbeat():
                        self._peer_received = message.bytes_received
                    case PushFilterUpdate():
                        self._producer.lanes.desire(message.version, message.criteria, message.history)
                        self._source.wake()
                    case PastKnown():
                        self._past.hear(message)
                    case Drain():
                        _log.info("push.draining", reason=message.reason, redial_within_s=message.redial_within_s)
                        self._drain = message
                        self._producer.draining = True
                    case Start():
                        raise _protocol_error("a second Start came")
                self._acked_or_asked.unpark_all()
        except PeerClosed:
            whole_stream.cancel()

    def _on_ack(self, ack: Ack) -> None:
        producer, state = self._producer, self._state
        before = producer.progress
        age_s = producer.ack(ack, trio.current_time())
        state.acked_position = producer.acked
        if ack.lane is PushLane.BACKFILL:
            self._on_backfilled(ack)
        state.in_flight_bytes = producer.window.in_flight_bytes
        state.window_bytes = producer.window.bytes_limit
        if age_s is not None:
            state.ack_age_s = age_s
            state.acks.add(age_s)
        if producer.progress != before:
            state.last_progress_us = self._now_us()
            self._on_progress()
        self._source.known.forget(parked.persistence_id for parked in ack.parked)
        for parked in ack.parked:
            state.parked += 1
            _log.warning(
                "push.parked",
                persistence_id=parked.persistence_id,
                seq_nr=parked.seq_nr,
                position=parked.position,
                code=parked.code,
                repeat_key=f"{parked.persistence_id} {parked.code}",
            )

    def _on_backfilled(self, ack: Ack) -> None:
        self._tell_filter()
        if ack.position and not self._state.backfill_left:
            self._source.restart()
            _log.info("push.backfilled", filter_version=self._state.filter_version, position=ack.position)

    # -- watching ---------------------------------------------------------------------------------------------------------
    async def _watch_progress(self) -> None:
        """Abort when nothing moves: no ack, no byte taken by the peer's kernel, no growth in what the cloud reports.

        With nothing in flight the cloud's heartbeats are the sign of life.
        """
        timeout_s = self._settings.progress_timeout_s
        seen, since_s = self._evidence(), trio.current_time()
        while True:
            await trio.sleep(timeout_s / 10)
            evidence, now_s = self._evidence(), trio.current_time()
            if evidence != seen:
                seen, since_s = evidence, now_s
            elif now_s - since_s >= timeout_s:
                self._stream.abort()
                waiting_for = "heartbeat" if self._producer.window.is_empty else "ack"
                raise PeerGone(
                    "link.stalled",
                    f"no {waiting_for} and no other progress for {timeout_s:g} s",
                    "the line or the cloud stands still; dialling again",
                )

    def _evidence(self) -> tuple[int, ...]:
        if self._producer.window.is_empty:
            return (*self._producer.progress, self._stream.bytes_received)
        return (*self._producer.progress, self._stream.bytes_sent, self._peer_received)

    async def _keep_cursor(self) -> None:
        """Remember what the cloud had, so that a cloud that lost history is noticed after our own restart too."""
        history, saved = self._journal.log.history, -1
        while True:
            position = self._producer.acked
            if position != saved:
                offset = Offset(history.journal_id, history.generation_at(position), position)
                try:
                    await self._journal.log.save_cursor(CURSOR, offset)
                    saved = position
                except BackhaulError as error:  # a full disk must not keep from leaving what would make room
                    _log.warning(
                        "push.cursor_not_saved",
                        code=error.code,
                        reason=error.message,
                        position=position,
                        repeat_key=error.code,
                    )
            await trio.sleep(_CURSOR_SAVE_S)


def _protocol_error(what: str) -> BackhaulError:
    return BackhaulError("link.protocol", what, "this is a fault of the peer: report it")
