"""Lines in memory: pipes that are bounded, in order, as slow as they are set to be, and can be cut or held.

A message is under way until its time has come (`delay_s`, `bytes_per_s`), one after the other. A cut loses what is
under way, in both directions; what has arrived can still be read. A held line (a black hole) loses nothing and
tells nobody anything, not even that an end has gone away. There is no chance in here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import trio

from common.transport.link.gate import Gate
from common.transport.metadata import NO_METADATA
from common.transport.stream import PeerClosed, PeerGone, PeerInfo, PeerRefused

Direction = Literal["up", "down"]


@dataclass(slots=True)
class _Parcel:
    """A message under way, the acceptance of the call, or the end of one direction.

    It sets out at `leaves_at` and is there at `arrives_at`.
    """

    leaves_at: float
    arrives_at: float
    size: int
    message: bytes = b""
    end: PeerClosed | PeerRefused | None = None
    is_acceptance: bool = False


class MemoryPipe:
    """One direction of a call: bounded in bytes, in order, as fast as its connection lets it be."""

    def __init__(self, connection: MemoryConnection, window_bytes: int) -> None:
        self._connection = connection
        self._window_bytes = window_bytes
        self._parcels: deque[_Parcel] = deque()
        self._held_since: float | None = None
        self.bytes_in = 0  # of parcels that were put in
        self._bytes_out = 0  # of parcels that were taken out
        self.changed = Gate()
        self.roomy = Gate()

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit; an empty pipe takes any message, or a large one would never go."""
        under_way = self.bytes_in - self._bytes_out
        return not under_way or under_way + size <= self._window_bytes

    def put(self, message: bytes, end: PeerClosed | PeerRefused | None = None, *, is_acceptance: bool = False) -> None:
        now = trio.current_time()
        link = self._connection
        previous = self._parcels[-1].arrives_at - link.delay_s if self._parcels else now
        leaves_at = max(now, previous)
        arrives_at = leaves_at + link.delay_s + len(message) / link.bytes_per_s
        if self._held_since is not None:  # not even in the moment of the holding
            arrives_at = max(arrives_at, math.nextafter(self._held_since, math.inf))
        self._parcels.append(_Parcel(leaves_at, arrives_at, len(message), message, end, is_acceptance))
        self.bytes_in += len(message)
        self.changed.set()

    def has_arrived(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._parcels) and self._parcels[0].arrives_at <= self._now()

    def take(self) -> _Parcel | None:
        """The first parcel, if it is there."""
        if self.has_arrived():
            parcel = self._parcels.popleft()
            self._bytes_out += parcel.size
            self.roomy.set()
            return parcel
        return None

    def pass_acceptance(self) -> bool:
        """Take the acceptance of the call if it is there and nothing is before it."""
        is_next = self.has_arrived() and self._parcels[0].is_acceptance
        return is_next and self.take() is not None

    def end_if_next(self) -> PeerClosed | PeerRefused | None:
        """The end of this direction, if it is there and nothing is before it."""
        if self._parcels and self._parcels[0].end is not None:
            parcel = self.take()
            return parcel.end if parcel else None
        return None

    async def wait(self) -> None:
        """Wait until `take` may answer otherwise than it just did."""
        self.changed.clear()
        first_at = self._parcels[0].arrives_at if self._parcels and self._held_since is None else math.inf
        with trio.move_on_at(first_at):
            await self.changed.wait()

    def bytes_arrived(self) -> int:
        """Bytes that have come to the far end, counting what has come of a message."""
        now = self._now()
        arrived = self._bytes_out
        for parcel in self._parcels:
            if parcel.arrives_at > now:
                begun_s = now - parcel.leaves_at - self._connection.delay_s
                arrived += int(min(parcel.size, begun_s * self._connection.bytes_per_s)) if begun_s > 0 else 0
                break
            arrived += parcel.size
        return arrived

    def _now(self) -> float:
        """The time as parcels feel it: it stands still while the line is held."""
        return trio.current_time() if self._held_since is None else self._held_since

    def hold(self) -> None:
        if self._held_since is None:
            self._held_since = trio.current_time()

    def let_go(self) -> None:
        if self._held_since is not None:
            held_since, self._held_since = self._held_since, None
            now = trio.current_time()
            for parcel in self._parcels:
                if parcel.arrives_at > held_since:
                    stood_still_s = now - max(held_since, parcel.leaves_at)
                    parcel.leaves_at += stood_still_s
                    parcel.arrives_at += stood_still_s
            self.changed.set()

    def drop_under_way(self) -> None:
        now = self._now()
        while self._parcels and self._parcels[-1].arrives_at > now:
            self.bytes_in -= self._parcels.pop().size  # they never arrive, and need no room
        self.changed.set()
        self.roomy.set()


class MemoryConnection:
    """One dialled connection, and the hooks to play tricks on it. `fault` says why it is over, once it is."""

    def __init__(self, address: str, dialler: PeerInfo) -> None:
        self.address = address
        self.dialler = dialler
        self.delay_s = 0.0
        self.bytes_per_s = math.inf
        self.is_held = False
        self.fault: PeerGone | None = None
        self._calls: list[MemoryCall] = []
        self._let_through: dict[Direction, tuple[float, float]] = {}  # messages, bytes still to be let through

    def cut(self, reason: str = "the line was cut") -> None:
        """Break the connection: both ends raise PeerGone, the serving end's handlers are cancelled."""
        self._break(PeerGone("link.lost", reason), dialled=True, served=True)

    def cut_after(self, direction: Direction, *, messages: float = math.inf, size: float = math.inf) -> None:
        """Cut when so many more messages or bytes have gone up (from the dialling end) or down.

        The message that crosses the bound is lost with the cut, as one that was cut in the middle.
        """
        self._let_through[direction] = (messages, size)

    def hold(self) -> None:
        """Black-hole the line: nothing arrives any more, not even the news that an end has gone away."""
        self.is_held = True
        for call in self._calls:
            call.hold()

    def let_go(self) -> None:
        """End the black hole: what was under way goes on from where it was, and so does the news."""
        self.is_held = False
        for call in self._calls:
            call.let_go()
        if self.fault is not None:
            self._break(self.fault, dialled=True, served=True)

    def abort(self, *, by_server: bool) -> None:
        """What either end's `abort` does; the other end hears of it unless the line is held."""
        fault = PeerGone("link.aborted", "one end dropped the connection")
        self._break(fault, dialled=not by_server or not self.is_held, served=by_server or not self.is_held)

    def _break(self, fault: PeerGone, *, dialled: bool, served: bool) -> None:
        self.fault = self.fault or fault
        for call in list(self._calls):
            call.break_off(fault, dialled=dialled, served=served)

    def close_by_server(self) -> None:
        """The server has stopped: what it still said arrives, and no more calls are taken."""
        self.fault = self.fault or PeerGone("link.lost", "the peer closed the connection")

    def open_call(self, window_bytes: int, metadata: Mapping[str, str] = NO_METADATA) -> MemoryCall:
        call = MemoryCall(self, window_bytes, metadata)
        self._calls.append(call)
        if self.is_held:
            call.hold()
        return call

    def leave_call(self, call: MemoryCall) -> None:
        """One end is done with the call; when both are, nothing can happen to it any more."""
        call.ends -= 1
        if not call.ends:
            self._calls.remove(call)

    def lets_through(self, direction: Direction, size: int) -> bool:
        """Count a message that sets out; False if it reached the bound of `cut_after`: the line is cut now."""
        if direction not in self._let_through:
            return True
        messages, room = self._let_through[direction]
        if messages >= 1 and room >= size:
            self._let_through[direction] = (messages - 1, room - size)
            return True
        del self._let_through[direction]
        self.cut("the line was cut in the middle of a message")
        return False


class MemoryCall:
    """One stream of a connection: a pipe each way, and how each end learned that it is over."""

    def __init__(self, connection: MemoryConnection, window_bytes: int, metadata: Mapping[str, str]) -> None:
        self.connection = connection
        self.metadata = metadata
        self.ends = 2
        self.up = MemoryPipe(connection, window_bytes)
        self.down = MemoryPipe(connection, window_bytes)
        self.dialled_fault: PeerGone | None = None
        self.served_fault: PeerGone | None = None
        self.scope = trio.CancelScope()  # of the serving end's handler

    def hold(self) -> None:
        self.up.hold()
        self.down.hold()

    def let_go(self) -> None:
        self.up.let_go()
        self.down.let_go()

    def break_off(self, fault: PeerGone, *, dialled: bool, served: bool) -> None:
        if dialled:
            self.dialled_fault = self.dialled_fault or fault
        if served:
            self.served_fault = self.served_fault or fault
            self.scope.cancel()
        self.up.drop_under_way()
        self.down.drop_under_way()
