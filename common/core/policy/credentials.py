"""What is kept of a peer's certificate while it is connected, and whether it may stay so.

A certificate is looked at when a connection begins; it runs out, is revoked, or loses its authority later. So the few
facts that decide are kept with the connection, as digests, and are asked again every few seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from common.core.errors import BackhaulError, ErrorKind
from common.core.policy.der import DerError, certificate_facts

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Credential:
    """Of a verified chain: when its first certificate runs out (seconds since 1970), who issued what, and its anchor.

    ``links`` are (digest of the issuer's name, serial number) of every certificate but the anchor; ``anchor`` is the
    digest of the authority's certificate that the chain was verified by.
    """

    expires_s: float
    links: tuple[tuple[bytes, int], ...]
    anchor: bytes


def credential_of(chain: Sequence[bytes]) -> Credential | None:
    """Of a chain of certificates in DER, the peer's own first and the anchor last; None where it cannot be read."""
    try:
        facts = [certificate_facts(certificate) for certificate in chain]
    except DerError:
        return None
    if not facts:
        return None
    below = facts[:-1] or facts
    return Credential(
        min(one.not_after_s for one in facts),
        tuple((digest_of(one.issuer), one.serial) for one in below),
        digest_of(chain[-1]),
    )


def digest_of(data: bytes) -> bytes:
    """A short name for a certificate, or for an issuer's name."""
    return sha256(data).digest()[:16]


@dataclass(frozen=True, slots=True)
class Trust:
    """What holds now. ``anchors`` None: no certificates are asked for. ``revoked`` maps an issuer's digest to serials."""

    anchors: frozenset[bytes] | None = None
    revoked: Mapping[bytes, Collection[int]] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    """Id of a peer to the reason an operator gave."""

    def objection(self, names: Collection[str], credential: Credential | None, now_s: float) -> BackhaulError | None:
        """Why a peer of these ids may not be connected now. Codes: ``auth.expired``, ``auth.refused``."""
        for name in names if self.blocked else ():
            if name in self.blocked:
                why = f": {self.blocked[name]}" if self.blocked[name] else ""
                return _refused(f"{name!r} is blocked{why}", "an operator blocked it: `identities allow` lets it in")
        if credential is None or self.anchors is None:
            return None
        if credential.expires_s <= now_s:
            return BackhaulError(
                "auth.expired",
                f"the certificate ran out {now_s - credential.expires_s:.0f} s ago",
                "renew it: the files are read again for every dial",
                kind=ErrorKind.FORBIDDEN,
            )
        if credential.anchor not in self.anchors:
            return _refused("its authority is no longer believed here", "issue a certificate of the present authority")
        for issuer, serial in credential.links:
            if serial in self.revoked.get(issuer, ()):
                return _refused(f"its certificate {serial:x} is revoked", "issue another certificate")
        return None


TrustNow = Callable[[], Trust]


def always_trusted() -> Trust:
    """Nobody is blocked, nothing was revoked: for parts that are used alone."""
    return _EVERYBODY


_EVERYBODY = Trust()


def days_left(expires_s: float, now_s: float) -> float:
    """Days until a certificate runs out; below 0 it has."""
    return (expires_s - now_s) / DAY_S


def _refused(what: str, hint: str) -> BackhaulError:
    return BackhaulError("auth.refused", f"this peer is refused: {what}", hint, kind=ErrorKind.FORBIDDEN)
