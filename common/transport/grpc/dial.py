"""From an address to a connection that speaks HTTP/2, or to the plain reason why not.

A dial is finished when the peer has sent its HTTP/2 settings: so a wrong port, a proxy without a back end or a
refused certificate is distinguished from a service that is merely busy.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

import trio

from common import border
from common.core.addresses import Address, SocketPath
from common.core.errors import reason_of
from common.core.policy.identity import IdentityRule
from common.private.grpclib import AbstractHandler
from common.transport.grpc import tcp
from common.transport.grpc.protocol import WireProtocol
from common.transport.grpc.tls import TlsFiles, client_context, local_clock, tls_failure
from common.transport.grpc.wire import WireLimits
from common.transport.stream import PeerGone


class _NoCalls(AbstractHandler):
    """A client is not called: h2 itself refuses requests to it."""

    def accept(self, stream: object, headers: object, release_stream: object) -> None:
        raise ConnectionError("a server does not open calls")

    def cancel(self, stream: object) -> None:
        """A call that was reset: its stream knows."""

    def close(self) -> None:
        """The connection is lost: its streams know."""


async def dial(
    address: Address | SocketPath, tls: TlsFiles | None, timeout_s: float, limits: WireLimits
) -> WireProtocol:
    """Connect, shake hands, hear the peer's settings. Raises what `open_channel` says."""
    context = client_context(tls) if tls else None
    protocol = WireProtocol(_NoCalls(), limits, is_client=True, identity=tls.identity if tls else IdentityRule())
    step = "connecting"
    try:
        with trio.fail_after(timeout_s):
            sock = await _connect(address)
            step = "shaking hands"
            tcp.set_options(sock, user_timeout_s=limits.user_timeout_s)
            await border.adopt_socket(
                lambda: protocol,
                sock,
                tls=context,
                server_hostname=address.host if isinstance(address, Address) else "localhost",
                handshake_timeout_s=timeout_s,
            )
            step = "waiting for its HTTP/2 settings"
            await protocol.settled.wait()
    except trio.TooSlowError:
        _abandon(protocol)
        raise PeerGone("link.timeout", f"{address} did not answer within {timeout_s} s, {step}") from None
    except OSError as error:
        raise _dial_failure(error, address, is_connected=step != "connecting") from error
    except BaseException:
        _abandon(protocol)
        raise
    if not protocol.is_settled:
        raise _settle_failure(protocol, address, tls)
    return protocol


async def _connect(address: Address | SocketPath) -> socket.socket:
    if isinstance(address, SocketPath):
        stream = await trio.open_unix_socket(address.path)
    else:
        stream = await trio.open_tcp_stream(address.host, address.port)
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock


def _abandon(protocol: WireProtocol) -> None:
    if hasattr(protocol, "connection"):
        protocol.connection.abort(PeerGone("link.aborted", "this end gave up the dial"))


def _dial_failure(error: OSError, address: Address | SocketPath, *, is_connected: bool) -> PeerGone:
    if isinstance(error, ssl.SSLError):
        return tls_failure(error, str(address))
    if isinstance(error, socket.gaierror):
        return PeerGone(
            "link.unreachable",
            f"the name in {address} does not resolve: {error.strerror}",
            "is DNS reachable?",
        )
    causes = list(_attempts(error))
    if is_connected or any(cause.errno == errno.ECONNRESET for cause in causes):
        return PeerGone("link.lost", f"{address} closed the connection during the handshake")
    if causes and all(cause.errno == errno.ECONNREFUSED for cause in causes):
        return PeerGone("link.refused", f"nothing listens at {address}", "is the service up, and the port right?")
    reasons = sorted({reason_of(cause) for cause in causes})
    return PeerGone("link.unreachable", f"cannot connect to {address}: {', '.join(reasons)}")


def _attempts(error: BaseException) -> Iterator[OSError]:
    """The single failures within what trio raises for all addresses of a name."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _attempts(part)
    elif isinstance(error.__cause__, OSError | BaseExceptionGroup):
        yield from _attempts(error.__cause__)
    elif isinstance(error, OSError):
        yield error


def _settle_failure(protocol: WireProtocol, address: Address | SocketPath, tls: TlsFiles | None) -> PeerGone:
    """Why a connection ended before its peer had sent HTTP/2 settings."""
    if isinstance(protocol.lost_by, ssl.SSLError):
        return tls_failure(protocol.lost_by, str(address))
    fault = protocol.connection.fault
    if fault is not None and fault.code == "link.garbage":
        return PeerGone(
            "link.not_backhaul",
            f"{address} does not speak HTTP/2",
            "is it the right port?" if tls else "is it the right port, and does it want TLS?",
        )
    if tls:
        # In TLS 1.3 a refused certificate shows only now, and not every peer says so before it closes.
        return PeerGone(
            "link.tls_failed",
            f"{address} closed the connection after the TLS handshake: it probably refused our certificate",
            "is it signed by the CA that the peer believes, and in its time? does its extended key usage, if it has one, have"
            f" clientAuth? {local_clock()}",
        )
    return PeerGone(
        "link.lost",
        f"{address} closed the connection before it said anything",
        "a service that is full or stopping, a proxy without a back end, or a port that wants TLS",
    )
