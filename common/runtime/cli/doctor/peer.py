"""The way to a peer, step by step: its name, its port, its certificate, HTTP/2, and what it answers to this id."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from common import VERSION
from common.core.addresses import Address, PeerAddress
from common.core.errors import BackhaulError, ConfigurationError, reason_of
from common.core.policy.der import DerError, certificate_facts
from common.core.push.messages import CHECK_PATH, PROTOCOL_VERSION, CheckReply
from common.runtime.cli.doctor.finding import Finding, failed, ok, refused, skipped, warning
from common.runtime.cli.doctor.local import dates
from common.transport.codec import push as codec
from common.transport.grpc.client import GrpcChannel, open_channel
from common.transport.grpc.tls import TlsFiles, client_context, names_of, tls_failure

_SKEW_WARN_S: Final = 5.0
_SKEW_BAD_S: Final = 60.0
_MESSAGE_MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class DoctorPeer:
    """A peer to look at. ``asks_as`` is the id that pushes there; empty for a peer that streams are followed from."""

    name: str
    address: PeerAddress
    asks_as: str = ""


async def look_at_peer(
    peer: DoctorPeer, files: TlsFiles | None, timeout_s: float, now_us: Callable[[], int]
) -> AsyncIterator[Finding]:
    """Each address of the peer, up to the step that fails. In `border.open_loop`."""
    for address in peer.address.addresses:
        steps = await trio.to_thread.run_sync(lambda at: list(_lower_layers(at, files, timeout_s, now_us)), address)
        for one in steps:
            yield one
        if any(one.verdict == "fail" for one in steps):
            continue
        try:
            async with open_channel(
                address,
                tls=files,
                connect_timeout_s=timeout_s,
                message_max_bytes=_MESSAGE_MAX_BYTES,
                user_timeout_s=timeout_s,
            ) as channel:
                yield ok("http/2", f"{address} speaks HTTP/2")
                if peer.asks_as:
                    for one in await _answers(channel, address, peer.asks_as, timeout_s, now_us):
                        yield one
        except BackhaulError as error:
            yield refused("http/2", error)


def _lower_layers(
    address: Address, files: TlsFiles | None, timeout_s: float, now_us: Callable[[], int]
) -> Iterator[Finding]:
    """Name, port and TLS, with a connection of its own; blocks."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = "correct the name, or look at /etc/resolv.conf and the DNS server"
        yield failed("dns", f"the name {address.host} does not resolve: {reason}", advice)
        return
    numbers = sorted({str(entry[4][0]) for entry in found})
    yield ok("dns", f"{address.host} is {', '.join(numbers)}")
    try:
        sock = socket.create_connection((address.host, address.port), timeout_s)
    except OSError as error:
        refused_there = isinstance(error, ConnectionRefusedError)
        advice = (
            "start the peer, or correct the port" if refused_there else "open the firewall for this port, both ways"
        )
        yield failed("tcp", f"no connection to {address}: {reason_of(error)}", advice)
        return
    with sock:
        yield ok("tcp", f"{address} accepts connections, from {sock.getsockname()[0]}")
        if files is None:
            yield skipped("tls", f"plaintext with {address}: no TLS files are set")
            return
        yield from _tls(sock, address, files, now_us() / 1e6)


def _tls(sock: socket.socket, address: Address, files: TlsFiles, now_s: float) -> Iterator[Finding]:
    try:
        with client_context(files).wrap_socket(sock, server_hostname=address.host) as secure:
            certificate = secure.getpeercert(binary_form=True) or b""
            names = ", ".join(names_of(dict(secure.getpeercert() or {}))) or "none"
            version = secure.version()
    except ConfigurationError as error:
        yield refused("tls", error)
        return
    except ssl.SSLError as error:
        yield refused("tls", tls_failure(error, str(address)))
        return
    except OSError as error:
        advice = "a proxy between may not pass TLS through; or the peer is full or stopping"
        yield failed("tls", f"{address} ended the TLS handshake: {reason_of(error)}", advice)
        return
    yield ok("tls", f"{version} with {address}, whose certificate carries {names}")
    try:
        yield dates("tls", f"the certificate of {address}", certificate_facts(certificate).not_after_s, now_s)
    except DerError as error:
        yield skipped("tls", f"the certificate of {address} cannot be read: {error}")


async def _answers(
    channel: GrpcChannel, address: Address, own_id: str, timeout_s: float, now_us: Callable[[], int]
) -> list[Finding]:
    asked_us = now_us()
    began_s = trio.current_time()
    try:
        data = await channel.unary(CHECK_PATH, codec.encode_check_request(PROTOCOL_VERSION, own_id), timeout_s)
    except BackhaulError as error:
        if error.code == "link.unknown_method":
            return [skipped("identity", f"{address} is of an older version, which cannot be asked about an id")]
        return [refused("identity", error)]
    took_s = trio.current_time() - began_s
    reply = codec.decode_check_reply(data)
    return [*_identity(reply, address, own_id), _clock(reply.clock_us / 1e6 - (asked_us / 1e6 + took_s / 2), took_s)]


def _identity(reply: CheckReply, address: Address, own_id: str) -> Iterator[Finding]:
    if reply.refusal is not None:
        code, message, hint = reply.refusal
        yield failed(
            "identity", f"{address} would refuse {own_id!r}: {message} ({code})", hint or "docs/errors.md has it"
        )
        return
    connected = "a stream of it is open there now" if reply.is_connected else "no stream of it is open there now"
    yield ok("identity", f"{address} takes this service for {own_id!r}; {connected}")
    rule = f"the rule {reply.rule!r}" if reply.rule else "no rule"
    if reply.may_write:
        yield ok("policy", f"{own_id!r} may write below its own prefix, by {rule}")
    else:
        advice = "its events would be parked: add a rule with `write` to the cloud's policy; `policy check` tries it"
        yield warning("policy", f"{own_id!r} may not write below its own prefix, by {rule}", advice)
    if reply.version == VERSION:
        yield ok("version", f"{address} is backhaul {reply.version}, as is this")
    else:
        yield ok("version", f"{address} is backhaul {reply.version}, this is {VERSION}: versions may differ")


def _clock(skew_s: float, took_s: float) -> Finding:
    ahead = "ahead of" if skew_s > 0 else "behind"
    text = f"the peer's clock is {abs(skew_s):.3f} s {ahead} this one (the answer took {took_s * 1e3:.0f} ms)"
    if abs(skew_s) > _SKEW_BAD_S:
        return failed(
            "clock", text, "set the clock that is wrong, and let NTP run: certificates and times depend on it"
        )
    if abs(skew_s) > _SKEW_WARN_S:
        return warning("clock", text, "let NTP run on both machines")
    return ok("clock", text)
