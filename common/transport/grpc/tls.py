"""TLS for links: mutual, from three files that are read anew for every dial and whenever they change on disk.

So certificates are rotated by replacing the files, with no restart and no signal. An identity is read from the DNS and URI
names of the subject alternative name (`common.core.policy.identity`); a common name counts at neither end. OpenSSL checks the
extended key usage by role: a server's certificate must allow serverAuth, a client's clientAuth; one without the extension
is not restricted (RFC 5280, 4.2.1.12).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.core.errors import ConfigurationError
from common.core.policy.identity import IdentityRule
from common.transport.stream import PeerGone

_OTHER_PURPOSE = 26  # X509_V_ERR_INVALID_PURPOSE
_OUT_OF_TIME = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: our certificate (with its chain), our key, the authorities we believe; and how peers are identified."""

    certificate: Path
    key: Path
    ca: Path
    identity: IdentityRule = field(default_factory=IdentityRule)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """A fresh context for one dial. Raises ConfigurationError `tls.files_unreadable`."""
    return _context(files, ssl.PROTOCOL_TLS_CLIENT)


class ServerContext:
    """The context for accepting, read again when a file has changed; shared by connections, for its size.

    Files that cannot be read while they are being replaced leave the old context in use.
    `on_change(None)` is called after a reload, `on_change(error)` once for each failed state of the files.
    """

    def __init__(self, files: TlsFiles, on_change: Callable[[ConfigurationError | None], None]) -> None:
        """Raises ConfigurationError when the files cannot be used at the start."""
        self._files = files
        self._on_change = on_change
        self._stamp = _stamp(files)
        self._context = _context(files, ssl.PROTOCOL_TLS_SERVER)

    def current(self) -> ssl.SSLContext:
        stamp = _stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = _context(self._files, ssl.PROTOCOL_TLS_SERVER)
            except ConfigurationError as error:
                self._on_change(error)
            else:
                self._on_change(None)
        return self._context


def names_of(certificate: dict[str, Any] | None) -> tuple[str, ...]:
    """The DNS and URI names in what `getpeercert()` returned, in the certificate's order.

    A DNS name with what only a URI has is neither: nothing may pass for a URI that no authority vouched for as one.
    """
    names = (certificate or {}).get("subjectAltName", ())
    return tuple(
        name for kind, name in names if kind == "URI" or (kind == "DNS" and "/" not in name and ":" not in name)
    )


def tls_failure(error: ssl.SSLError, address: str) -> PeerGone:
    """What a failed handshake with `address` means to the operator at the dialling end."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"the certificate of {address} was not accepted: {handshake_reason(error)}"
        if error.verify_code in _OUT_OF_TIME:
            return PeerGone("link.tls_failed", message, "check this machine's clock first")
        if error.verify_code == _OTHER_PURPOSE:
            hint = "issue it with the extended key usage serverAuth, and the key usage digitalSignature"
            return PeerGone("link.wrong_key_usage", message, hint)
        return PeerGone("link.tls_failed", message, "is it signed by the CA file, and for this host name?")
    reason = handshake_reason(error)
    if "wrong version number" in reason or "http request" in reason or "record layer" in reason:
        return PeerGone("link.tls_failed", f"{address} does not speak TLS", "is it the right port?")
    if "alert" in reason:
        hint = "is it signed by the CA it believes?"
        if "unsupported certificate" in reason:
            return PeerGone(
                "link.wrong_key_usage",
                f"{address} refused our certificate: {reason}",
                "issue it with the extended key usage clientAuth, and the key usage digitalSignature",
            )
        if "expired" in reason:
            hint = "renew the certificate, or check the clock over there"
        return PeerGone("link.tls_failed", f"{address} refused our certificate: {reason}", hint)
    return PeerGone("link.tls_failed", f"no TLS with {address}: {reason}")


def handshake_reason(error: ssl.SSLError) -> str:
    """Why a handshake failed, in OpenSSL's words; with our clock where the other certificate's time is the reason."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return (error.reason or str(error)).lower().replace("_", " ")
    reason = error.verify_message.rstrip(".")
    return f"{reason}; {local_clock()}" if error.verify_code in _OUT_OF_TIME else reason


def local_clock() -> str:
    """This host's time, for errors about a certificate's dates: the clock that OpenSSL looks at."""
    return f"the local clock is {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"


def _context(files: TlsFiles, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["h2"])
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # links are long-lived: nobody resumes, and a ticket costs a write per handshake
    for path in (files.certificate, files.key, files.ca):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigurationError(
                "tls.files_unreadable",
                f"cannot read {path}: {error.strerror}",
                "check the path and its permissions",
            ) from error
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            "tls.files_unreadable",
            f"cannot use {files.certificate}, {files.key}, {files.ca}: {error}",
            "they must be PEM files, the key unencrypted and that of the certificate",
        ) from error
    return context


def _stamp(files: TlsFiles) -> tuple[tuple[int, int, int] | None, ...]:
    stamps: list[tuple[int, int, int] | None] = []
    for path in (files.certificate, files.key, files.ca):
        try:
            status = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stamps)
