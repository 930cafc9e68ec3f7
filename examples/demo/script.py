"""What happens to the edges while they are fed: one act for each, and what is known at the moment it happens.

The acts begin when an edge has answered for a share of its readings, so they fall into the replay however fast it goes.
A line is held for a moment before an edge is killed: that makes sure there are events the cloud does not have, whatever
the speed of the machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from common.runtime.environment import utc_now_us
from examples.demo.cast import Cast, Service
from examples.demo.failure import DemoFailure
from examples.demo.feed import Feed
from examples.demo.orders.orders import SiteProgram
from examples.demo.series import Reading
from examples.support.http_client import HttpClient, Unanswered
from examples.support.relay import Relay

EDGE_FILE: Final = "journal.db"

_UNACKED_READINGS: Final = 24
_STATUS_TIMEOUT_S: Final = 5.0
# The programs of an edge post in turn; held up for this long, all of them post at once.
_ALL_ARE_DUE_S: Final = 0.15

Tell = Callable[[str, str], None]


@dataclass(slots=True)
class Edge:
    """An edge with all that belongs to it: process, volume, line to the cloud, feeding programs, the reading one."""

    service: Service
    volume: Path
    line: Relay
    feed: Feed
    program: SiteProgram

    @property
    def id(self) -> str:
        return self.service.name

    @property
    def journal(self) -> str:
        """Path of its journal."""
        return str(self.volume / EDGE_FILE)

    def http_port(self) -> int:
        """Where its intake listens now; 0 while it is down."""
        return self.service.http_port


@dataclass(slots=True)
class Acts:
    """What the acts left behind, for the proof and the closing tables. Times are UTC microseconds."""

    cut_began_us: int = 0
    cut_ended_us: int = 0
    killed_unacked: int = 0
    killed_in_flight: frozenset[str] = frozenset()
    # Answered for by the edge before its disk was lost, and those of them it had no ack for.
    on_lost_disk: frozenset[Reading] = frozenset()
    unacked_at_loss: frozenset[Reading] = frozenset()
    acked_at_loss: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where an edge is in its journal: last position, and last one it has an ack for."""

    head: int
    acked: int


async def place_of(edge: Edge) -> Place:
    """Asked of the edge itself. Raises DemoFailure when it does not say."""
    client = HttpClient(edge.http_port)
    try:
        with trio.fail_after(_STATUS_TIMEOUT_S):
            status = (await client.get("/status")).body
        return Place(int(status["journal"]["head"]), int(status["link"]["acked"]))
    except (Unanswered, KeyError, trio.TooSlowError) as error:
        raise DemoFailure(f"{edge.id} does not say where it is: {error!r}") from error
    finally:
        client.close()


def _drop_what_is_held(edge: Edge) -> None:
    """What was on its way when the edge died is gone with it; new connections pass."""
    edge.line.reset()
    edge.line.set_mode("pass")


async def break_the_line(edge: Edge, acts: Acts, tell: Tell, *, dark_s: float) -> None:
    """A reset of every connection, then a line that takes everything and carries nothing."""
    await edge.feed.reached(0.15)
    tell(edge.id, "its line is reset: both ends get a TCP RST")
    edge.line.reset()
    await edge.feed.reached(0.3)
    tell(edge.id, f"its line goes dark for {dark_s:.0f} s: connections stay up, nothing gets through")
    edge.line.set_mode("black-hole")
    acts.cut_began_us = utc_now_us()
    await trio.sleep(dark_s)
    place = await place_of(edge)
    acts.cut_ended_us = utc_now_us()
    edge.line.set_mode("pass")
    tell(edge.id, f"its line is back; {place.head - place.acked} events waited on its disk")


async def kill_the_process(edge: Edge, cast: Cast, acts: Acts, tell: Tell) -> None:
    """SIGKILL with events the cloud does not have and POSTs in flight; the file survives."""
    await edge.feed.reached(0.4)
    edge.line.set_mode("black-hole")
    await edge.feed.grown_by(_UNACKED_READINGS)
    edge.feed.pause()
    await edge.feed.idle()
    place = await place_of(edge)
    await trio.sleep(_ALL_ARE_DUE_S)
    edge.feed.resume()
    await edge.feed.posts_in_flight(1)
    # With the first answer the others may be committed and not yet answered; before it, more likely nothing is.
    await edge.feed.grown_by(1)
    cast.freeze(edge.service)
    await trio.sleep(_ALL_ARE_DUE_S)  # what it had answered is read; what is posted from now on is not answered
    await edge.feed.posts_in_flight(1)
    in_flight = frozenset(edge.feed.in_flight)
    await cast.kill(edge.service)
    await edge.feed.settled(in_flight)
    acts.killed_unacked, acts.killed_in_flight = place.head - place.acked, in_flight & edge.feed.unanswered
    tell(
        edge.id,
        f"SIGKILL: {acts.killed_unacked} events without an ack, POSTs in flight: "
        + ", ".join(sorted(acts.killed_in_flight)),
    )
    _drop_what_is_held(edge)
    await cast.start(edge.service)
    place_now = await place_of(edge)
    tell(edge.id, f"restarted on its file, {place_now.head} events in it; the programs repeat their POSTs by key")


async def lose_the_disk(edge: Edge, cast: Cast, acts: Acts, tell: Tell) -> None:
    """The process and its volume are gone; a new one starts with the same id on an empty disk.

    No POST is in flight then: a key cannot outlive the disk it is kept on, so a repeat could store twice.
    """
    await edge.feed.reached(0.5)
    edge.line.set_mode("black-hole")
    await edge.feed.grown_by(_UNACKED_READINGS)
    edge.feed.pause()
    await edge.feed.idle()
    place = await place_of(edge)
    await cast.kill(edge.service)
    shutil.rmtree(edge.volume)
    _drop_what_is_held(edge)
    acts.on_lost_disk = frozenset(edge.feed.positions)
    acts.unacked_at_loss = frozenset(
        reading for reading, position in edge.feed.positions.items() if position > place.acked
    )
    acts.acked_at_loss = place.acked
    if len(edge.feed.positions) != place.head:
        raise DemoFailure(f"{edge.id} holds {place.head} events and answered for {len(edge.feed.positions)}")
    edge.feed.disk_lost()
    edge.program.disk_lost()
    tell(
        edge.id,
        f"the machine is lost with its disk: {place.head} events, {place.acked} of them acked by the cloud, "
        f"{len(acts.unacked_at_loss)} not",
    )
    edge.volume.mkdir()
    await cast.start(edge.service)
    tell(edge.id, "replaced: same id, empty disk, a new journal")
    edge.feed.resume()
