"""Whether a consumer's stream moves: what it shows of progress, and the verdict when that has stood still for too long.

Progress is an ack, bytes its kernel has taken, or what its heartbeats say it has received: a slow line is not a dead one.
One that owes nothing and has received everything may be silent for as long as it likes.
"""

from __future__ import annotations

from common.core.errors import BackhaulError
from common.core.subscription.source import Serving
from common.transport.stream import MessageStream, PeerGone
from common.transport.subscription.sender import Sender
from common.transport.subscription.stall import not_acked


class ConsumerWatch:
    """See the module. Times in seconds; ``received`` is what the consumer says it has received, ``heard_s`` when it spoke."""

    def __init__(self, stream: MessageStream, serving: Serving, sender: Sender, timeout_s: float, now_s: float) -> None:
        self._stream = stream
        self._serving = serving
        self._sender = sender
        self._timeout_s = timeout_s
        self._seen: tuple[int, ...] = ()
        self._since_s = now_s
        self.received = 0
        self.heard_s = now_s

    def look(self, now_s: float, stood_still_s: float) -> BackhaulError | None:
        """Why the stream is to end now: its consumer owes an ack, or does not read, and nothing moved for the timeout."""
        self._since_s += stood_still_s
        serving = self._serving
        owes = not serving.window.is_empty
        is_sent = not self._sender.is_sending and not self._stream.unsent_bytes
        if is_sent and not owes:
            self._seen, self._since_s = (), now_s
            return None
        seen = (serving.acked, self._stream.bytes_sent, self.received, serving.deliveries)
        silent_s = now_s - self._since_s
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
            return None
        if silent_s < self._timeout_s:
            return None
        if is_sent:
            return not_acked(serving.deliveries - serving.acked, silent_s, now_s - self.heard_s)
        return PeerGone("link.stalled", f"nothing moved for {silent_s:.0f} s", "the line or the consumer stands still")
