"""What we ask of a TCP socket: no delay, bounded silence, bounded unsent data, and what the peer has taken.

The figures come from the kernel, so they are true progress: bytes acknowledged by the peer's kernel, not
bytes that a library has buffered. Linux gives all of it; elsewhere the counters stand still and only
heartbeats count.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from typing import Protocol, cast

from common import unix_sockets

# What the kernel may hold that is not on the wire yet. Small enough for a heartbeat not to wait behind much,
# large enough that a fast line does not run dry between two wake-ups of ours.
NOTSENT_LOWAT_BYTES = 128 * 1024

_TCP_INFO_BYTES = 128
_BYTES_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked in Linux's struct tcp_info
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class SocketLike(Protocol):
    """A socket, or what asyncio lends of one."""

    def fileno(self) -> int: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def getsockopt(self, level: int, option: int, buffer_bytes: int, /) -> bytes: ...


def set_options(sock: socket.socket, *, user_timeout_s: float) -> None:
    """Prepare a connected socket. Sent data unacknowledged for `user_timeout_s` ends the connection.

    A Unix socket has none of it: its peer cannot vanish without the kernel's notice.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout_s * 1000))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)


def reset_on_close(sock: SocketLike) -> None:
    """Closing shall send a reset and free the buffers, not go on delivering to a dead peer."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:
        pass  # closed already


def bytes_acknowledged(sock: SocketLike) -> int | None:
    """Bytes the peer's kernel has acknowledged so far; None when that is not to be had."""
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    if len(info) < _BYTES_ACKED.size:
        return None
    acked: int = _BYTES_ACKED.unpack_from(info)[0]
    return acked


def bytes_unacknowledged(sock: SocketLike) -> int:
    """Bytes in the kernel's send queue that the peer's kernel has not acknowledged; 0 when not to be had."""
    if sys.platform != "linux":
        return 0
    try:
        queued: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    except (OSError, ValueError):  # closed already: its number is -1
        return 0
    return queued


def peer_of(sock: object, name: object) -> str:
    """`host:port` of a peer by its socket name; of a Unix socket's, which has none, the user of its process."""
    if isinstance(name, tuple) or getattr(sock, "family", None) != socket.AF_UNIX:
        return address_of(name)
    try:
        return unix_sockets.name_of(unix_sockets.uid_of(cast(unix_sockets.PeerSocket, sock)))
    except OSError:
        return "unknown"  # gone already


def address_of(name: object) -> str:
    """`host:port` of a socket name, IPv6 in brackets."""
    if isinstance(name, tuple) and len(name) >= 2:
        host, port = str(name[0]), name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name) or "unknown"
