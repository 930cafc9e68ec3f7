"""Which PostgreSQL server the sessions of a node may stand on: the one that may be written, and all of them on the same.

An address moves: a standby is promoted, a cut-over sets the old primary read-only, a former primary comes back. A session
that answers proves nothing about where it is, so each new one is judged by what its server says of itself, against the
server that this node stood on last:

    in recovery, read-only          refused; if it is the server that the others stand on, they are closed too
    another journal                 refused: the address leads somewhere else
    an older timeline of the system refused: a former primary, from which the standby that this node saw has parted;
                                    a node that starts looks at all hosts of its address for that
    the same server                 taken
    any other                       taken, and the sessions with the server before it are closed
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from common.core.journal.history import History


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A life of a server: from a start to the next, of one timeline. System and timeline are 0 where the role may not know."""

    system_identifier: int
    timeline: int
    database_oid: int
    started_us: int


@dataclass(frozen=True, slots=True)
class FoundServer:
    """What a server says of itself at a session's beginning. ``journal_id`` is empty where there is no journal yet."""

    identity: ServerIdentity
    is_in_recovery: bool
    is_read_only: bool
    journal_id: str = ""


class ServerVerdict(StrEnum):
    """What becomes of a new session; the text of a refusal is for people."""

    SAME = "same"
    MOVED = "moved"
    IN_RECOVERY = "it is a standby, in recovery"
    READ_ONLY = "it is read-only (default_transaction_read_only)"
    LEFT_BEHIND = "it is a former primary, on an older timeline than the server this node has seen in its place"
    ANOTHER_JOURNAL = "it holds another journal; if it is meant to, restart this node"

    @property
    def is_refusal(self) -> bool:
        """Whether the session is closed."""
        return self not in (ServerVerdict.SAME, ServerVerdict.MOVED)


def judge_server(known: ServerIdentity | None, journal_id: str, found: FoundServer) -> ServerVerdict:
    """What to do with a session on ``found``; ``known`` and ``journal_id`` are of the server that was stood on last."""
    if found.is_in_recovery:
        return ServerVerdict.IN_RECOVERY
    if found.is_read_only:
        return ServerVerdict.READ_ONLY
    if journal_id and found.journal_id != journal_id:
        return ServerVerdict.ANOTHER_JOURNAL
    if known is None or known == found.identity:
        return ServerVerdict.SAME
    is_same_system = known.system_identifier == found.identity.system_identifier != 0
    if is_same_system and found.identity.timeline < known.timeline:
        return ServerVerdict.LEFT_BEHIND
    return ServerVerdict.MOVED


def newest_of(found: Iterable[ServerIdentity]) -> ServerIdentity | None:
    """What a node that has stood nowhere yet judges by: of the servers that its hosts lead to, one of the newest timeline.

    None where they are not of one system: then nothing says which of them is the former one.
    """
    servers = list(found)
    if len({server.system_identifier for server in servers}) != 1:
        return None
    return max(servers, key=lambda server: server.timeline)


def are_siblings_closed(verdict: ServerVerdict, sibling: ServerIdentity, found: ServerIdentity) -> bool:
    """Whether an open session with ``sibling`` is closed, after a new one with ``found`` got this verdict.

    A standby that an address leads to too early says nothing against the primary that the others still stand on.
    """
    return sibling == found if verdict.is_refusal else sibling != found


def is_behind(before: History, now: History, head_position: int) -> bool:
    """Whether a log that ends at ``head_position`` is another than the one whose head this node had seen.

    ``before`` is what was known when the question was sent, ``now`` when its answer came: history may have been put back.
    """
    return head_position < min(before.head_position, now.head_position)
