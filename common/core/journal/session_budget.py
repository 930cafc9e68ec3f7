"""How many sessions a node keeps with the server, and whether the server has that many for all nodes: pure arithmetic.

A node that gets fewer than it needs starts well and then starves: sessions are opened when they are first used, and those
that other nodes have are not given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from common.core.errors import ConfigurationError

READERS: Final = 2
SEARCHERS: Final = 2
COMMITTERS: Final = 2
HANDLER_TRANSACTIONS: Final = 2


def sessions_of_node(*, notify: bool) -> int:
    """The most sessions that one node has open: one writes, one keeps state, one is its membership, one tells of commits."""
    return 3 + READERS + SEARCHERS + COMMITTERS + HANDLER_TRANSACTIONS + notify


@dataclass(frozen=True, slots=True)
class ServerSessions:
    """What the server allows and has open. A limit of -1 is none; ``reserved`` are kept for superusers and such.

    ``nodes`` are those known to have this journal open, by their sessions or as members; ``others`` counts all sessions
    that are not this journal's.
    """

    max_connections: int
    reserved: int
    role_limit: int
    database_limit: int
    nodes: int
    others: int

    @property
    def available(self) -> int:
        """For all nodes together: the least of the limits."""
        limits = (self.max_connections - self.reserved, self.role_limit, self.database_limit)
        return min(limit for limit in limits if limit >= 0)


def check_sessions(server: str, found: ServerSessions, *, notify: bool) -> int:
    """The sessions that all nodes, with this one, need; for a warning the caller compares them with what is open.

    Raises:
        ConfigurationError: ``postgres.too_few_connections`` when the limits do not allow them.
    """
    each, nodes = sessions_of_node(notify=notify), found.nodes + 1
    needed = each * nodes
    if needed > found.available:
        raise ConfigurationError(
            "postgres.too_few_connections",
            f"{nodes} node(s) of this journal need {needed} sessions, {each} each, and {server} allows {found.available}",
            f"raise max_connections (and the limits of role and database) so that {needed} are allowed, or run fewer nodes",
        )
    return needed


def is_short(found: ServerSessions, needed: int) -> bool:
    """Whether what others have open leaves too few, though the limits would allow them."""
    return found.others + needed > found.available
