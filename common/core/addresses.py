"""Addresses of the network, parsed once in the settings and carried as values.

An `Address` is a host and a port: where a service listens. A `PeerAddress` is where another service is reached: one
address or several that lead to the same service, and the carrier that is spoken there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

Scheme = Literal["grpc"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMES: Final[tuple[Scheme, ...]] = ("grpc",)
_PORT: Final = re.compile(r"[0-9]{1,5}")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
ADDRESSES_MAX: Final = 16
SOCKET_PATH_MAX_BYTES: Final = 100  # sun_path has 108


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; the host is a name or an IP address without brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether traffic to it stays on this machine. Names other than `localhost` count as elsewhere."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a service is dialled: addresses of equal rank (at least one, each once), and their carrier."""

    addresses: tuple[Address, ...]
    scheme: Scheme = "grpc"

    @property
    def is_loopback(self) -> bool:
        """Whether all of them are on this machine."""
        return all(address.is_loopback for address in self.addresses)

    def __str__(self) -> str:
        return ",".join(map(str, self.addresses))


@dataclass(frozen=True, slots=True)
class SocketPath:
    """A Unix socket, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse_door(text: str) -> Address | SocketPath:
    """`host:port`, or `unix:` and an absolute path. Raises ValueError as `parse_address` does."""
    kind, _, path = text.partition(":")
    if kind != "unix":
        return parse_address(text)
    if not path.startswith("/") or not path.isprintable() or len(path.encode()) > SOCKET_PATH_MAX_BYTES:
        raise ValueError(f"the path must begin with / and have at most {SOCKET_PATH_MAX_BYTES} bytes")
    return SocketPath(path)


def is_loopback(host: str) -> bool:
    """Whether a host, name or IP address, is this machine's loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: str, default_port: int | None = None) -> Address:
    """`host:port`, `[v6]:port`, or a host alone at the default port.

    Raises ValueError with what is wrong, as the end of a sentence "… is not an address: …".
    """
    found = _SCHEME.match(text)
    if found:
        raise ValueError(f"it begins with {found[0]}; write host:port")
    if not text:
        raise ValueError("it is empty; write host:port")
    wrong = next((char for char in text if not char.isprintable() or char in " /@?#,"), None)
    if wrong is not None:
        raise ValueError(f"it has {wrong!r} in it; write host:port")
    host, port_text = _split(text)
    if port_text is None and default_port is None:
        raise ValueError("the port is missing; write host:port")
    if port_text is not None and (not _PORT.fullmatch(port_text) or not 0 < int(port_text) < 65_536):
        raise ValueError(f"{port_text!r} is no port; write host:port with a port from 1 to 65535")
    if ":" not in host and not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host name; write host:port")
    return Address(host, int(port_text) if port_text is not None else default_port or 0)


def parse_peer(text: str, default_port: int | None = None) -> PeerAddress:
    """One address or several, comma separated, with an optional `grpc://` in front of each. Raises as `parse_address`."""
    addresses: list[Address] = []
    for part in text.split(","):
        rest, found = part.strip(), _SCHEME.match(part.strip())
        if found:
            if found[1].lower() not in _SCHEMES:
                raise ValueError(f"{found[0]} is no carrier; write host:port, or grpc://host:port")
            rest = rest[found.end() :]
        if default_port is not None and _WORD.fullmatch(rest) and rest.lower() != "localhost":
            raise ValueError(
                f"{rest!r} has no port and is no full name; write {rest}:{default_port} if a host is called so"
            )
        address = parse_address(rest, default_port)
        if address in addresses:
            raise ValueError(f"{address} is in it twice")
        addresses.append(address)
    if len(addresses) > ADDRESSES_MAX:
        raise ValueError(f"it has {len(addresses)} addresses; at most {ADDRESSES_MAX} are tried")
    return PeerAddress(tuple(addresses))


def _split(text: str) -> tuple[str, str | None]:
    """Host and port's text."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("the brackets do not fit; write [address]:port")
        return _v6(host), rest[1:] if rest else None
    if text.count(":") > 1:  # a bare IPv6 address; its port cannot be distinguished from its last group
        return _v6(text), None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _v6(host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{host!r} is no IPv6 address; write [address]:port") from None
    return host
