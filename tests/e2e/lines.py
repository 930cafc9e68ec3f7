"""TCP relays (`examples.support.relay`) that synchronous tests play with; they run in a trio loop in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from examples.support.relay import Relay
from tests.e2e.processes import PATIENCE_S, Service


class Line:
    """One relay, from the outside of its loop."""

    def __init__(self, relay: Relay, port: int, token: trio.lowlevel.TrioToken) -> None:
        self._relay = relay
        self.token = token
        self.address = f"127.0.0.1:{port}"

    def obey(self, command: str) -> dict[str, object]:
        """A command of `examples.support.relay`; returns the relay's state."""
        return trio.from_thread.run_sync(self._relay.obey, command, trio_token=self.token)


class Relays:
    """Opens lines. Made by `open_relays`."""

    def __init__(self, nursery: trio.Nursery, token: trio.lowlevel.TrioToken) -> None:
        self.nursery = nursery
        self.token = token

    def open(self, *clouds: Service | int, rate: float = 0) -> Line:
        """A relay to these nodes, or ports, in turn, with a rate in bytes a second from the start (0: unlimited)."""
        relay = Relay([("127.0.0.1", one if isinstance(one, int) else one.grpc_port) for one in clouds])
        relay.set_rate(rate)
        port = trio.from_thread.run(self.nursery.start, relay.run, trio_token=self.token)
        return Line(relay, port, self.token)


@contextmanager
def open_relays() -> Iterator[Relays]:
    """A loop for relays while the block runs."""
    opened: list[Relays] = []
    is_open = threading.Event()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            opened.append(Relays(nursery, trio.lowlevel.current_trio_token()))
            is_open.set()
            await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(run,), daemon=True)
    thread.start()
    assert is_open.wait(PATIENCE_S)
    relays = opened[0]
    try:
        yield relays
    finally:
        trio.from_thread.run_sync(relays.nursery.cancel_scope.cancel, trio_token=relays.token)
        thread.join(PATIENCE_S)
