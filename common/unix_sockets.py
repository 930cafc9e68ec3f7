"""Unix sockets of local doors: listened on with a file mode, and with the user of each process that connects."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final, Protocol

import trio

from common import audit

_PEER: Final = struct.Struct("3i")  # pid, uid, gid


class PeerSocket(Protocol):
    """A socket of any library."""

    def getsockopt(self, level: int, option: int, buffer_bytes: int, /) -> bytes: ...


async def listen_on(path: Path, mode: int) -> trio.SocketListener:
    """A listener with this file mode; a socket that a process left behind is replaced, any other file is not.

    Raises OSError.
    """
    name = str(path)
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await _remove_what_was_left(name)
        await sock.bind(name)
        os.chmod(name, mode)  # nobody can have connected: it is not listened on yet
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(sock)


async def _remove_what_was_left(name: str) -> None:
    """Unlink a socket that nobody listens on; whatever else is there stays, and is in the way."""
    try:
        stream = await trio.open_unix_socket(name)
    except ConnectionRefusedError:
        if stat.S_ISSOCK(os.lstat(name).st_mode):
            os.unlink(name)
    except OSError:
        pass  # there is none: binding says what else is wrong
    else:
        await stream.aclose()


def uid_of(sock: PeerSocket) -> int:
    """The user of the process at the other end, from the kernel. Raises OSError."""
    uid: int = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
    return uid


def name_of(uid: int) -> str:
    """What a peer is called in logs and in the audit."""
    return f"uid {uid}"


def is_answered(uid: int, uids: frozenset[int]) -> bool:
    """Whether a process of this user is answered, by the users that are (none: all); one that is not is audited."""
    if not uids or uid in uids:
        return True
    audit.refused(who=name_of(uid), source=name_of(uid), what="connect", rule="door", result="auth.uid_refused")
    return False
