"""How a service that stops has its kept links end their streams in good order, so that the peers do not see a broken call.

KEPT ── asked, connected ──> the stream is ended ──> over, not dialled again
KEPT ── asked, not connected ──> nothing: it is cancelled with the rest
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import trio


class Departure:
    """Of one kept link: ``asked`` by its service, ``over`` once the link has ended and is not dialled again."""

    __slots__ = ("asked", "over")

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.over = trio.Event()


class LeavingLink(Protocol):
    """What is known of a link, as far as leaving needs it."""

    state: str

    @property
    def departure(self) -> Departure:
        """Of this link."""


async def leave_links(links: Iterable[LeavingLink], at_most_s: float) -> None:
    """Ask all links to end their streams, and wait so long for those that are connected."""
    asked = list(links)
    for link in asked:
        link.departure.asked.set()
    with trio.move_on_after(at_most_s):
        for link in asked:
            if link.state == "connected":
                await link.departure.over.wait()
