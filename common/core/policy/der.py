"""The few facts that are read from certificates and revocation lists in DER (X.509, RFC 5280).

OpenSSL has verified certificates before they come here. A revocation list is the operator's own file, believed as the
file of authorities is, so its signature is not looked at.
"""

from __future__ import annotations

import binascii
import re
from calendar import timegm
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
# Object identifiers (RFC 5280, 4.2.1.3 and 4.2.1.12), without their tags.
_KEY_USAGE: Final = bytes.fromhex("551d0f")
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_ROLES: Final = {
    "serverAuth": bytes.fromhex("2b06010505070301"),
    "clientAuth": bytes.fromhex("2b06010505070302"),
}
# In the first octet of a key usage.
_DIGITAL_SIGNATURE: Final = 0x80


class DerError(ValueError):
    """The bytes are not what they should be."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """``issuer`` is the issuer's name in DER; ``not_after_s`` is in seconds since 1970."""

    serial: int
    issuer: bytes
    not_after_s: int


@dataclass(frozen=True, slots=True)
class RevocationList:
    """Serial numbers that an issuer (its name in DER) revoked; ``next_s`` is when the next list is due, 0 unknown."""

    issuer: bytes
    serials: frozenset[int]
    next_s: int


def pem_blocks(content: bytes, label: str) -> list[bytes]:
    """The blocks of this label in a PEM file, in DER; what stands between them is passed over. Raises DerError."""
    name = re.escape(label.encode())
    found = re.findall(rb"-----BEGIN %b-----\s+([A-Za-z0-9+/=\s]+?)-----END %b-----" % (name, name), content)
    try:
        return [binascii.a2b_base64(b"".join(block.split()), strict_mode=True) for block in found]
    except binascii.Error as error:
        raise DerError(f"a block {label} is no base64: {error}") from None


def certificate_facts(der: bytes) -> CertificateFacts:
    """Of one certificate. Raises DerError."""
    fields = list(_members(_first(der)))
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    if len(fields) < 4:
        raise DerError("a certificate has too few fields")
    (serial_tag, serial, _), _, (_, _, issuer), (_, validity, _) = fields[:4]
    times = list(_members(validity))
    if serial_tag != _INTEGER or len(times) != 2:
        raise DerError("a certificate has no serial number, or no time")
    return CertificateFacts(int.from_bytes(serial, "big", signed=True), issuer, _time(*times[1][:2]))


def usage_problem(der: bytes, role: str) -> str:
    """Why a peer would refuse a certificate in the role of serverAuth or clientAuth; '' where it would not. Raises DerError.

    A usage is restricted by an extension alone (RFC 5280, 4.2.1.3 and 4.2.1.12); TLS proves the key by a signature.
    """
    values = _extensions(der)
    if _EXTENDED_KEY_USAGE in values:
        _, purposes, _ = next(_members(values[_EXTENDED_KEY_USAGE]), (0, b"", b""))
        if _ROLES[role] not in {purpose for _, purpose, _ in _members(purposes)}:
            return f"its extended key usage does not have {role}"
    if _KEY_USAGE in values:
        _, bits, _ = next(_members(values[_KEY_USAGE]), (0, b"", b""))
        if len(bits) < 2 or not bits[1] & _DIGITAL_SIGNATURE:
            return "its key usage does not have digitalSignature"
    return ""


def _extensions(der: bytes) -> dict[bytes, bytes]:
    """A certificate's extensions: values in DER by object identifier."""
    found = {}
    for tag, content, _ in _members(_first(der)):
        for _, listed, _ in _members(content) if tag == _EXTENSIONS else ():
            for _, extension, _ in _members(listed):
                parts = list(_members(extension))
                if len(parts) < 2:
                    raise DerError("an extension has no value")
                found[parts[0][1]] = parts[-1][1]
    return found


def revocation_list(der: bytes) -> RevocationList:
    """Of one list. Raises DerError."""
    fields = list(_members(_first(der)))
    if fields and fields[0][0] == _INTEGER:  # the version
        del fields[0]
    if len(fields) < 3:
        raise DerError("a revocation list has too few fields")
    issuer, rest = fields[1][2], fields[3:]
    next_s = 0
    if rest and rest[0][0] in (_UTC_TIME, _GENERALIZED_TIME):
        next_s = _time(*rest[0][:2])
        del rest[0]
    serials = set()
    if rest and rest[0][0] == _SEQUENCE:
        for _, entry, _ in _members(rest[0][1]):
            tag, serial, _ = next(_members(entry), (0, b"", b""))
            if tag != _INTEGER:
                raise DerError("a revocation list has an entry without a serial number")
            serials.add(int.from_bytes(serial, "big", signed=True))
    return RevocationList(issuer, frozenset(serials), next_s)


def _first(der: bytes) -> bytes:
    """The content of what is signed: the first member of the outer sequence."""
    outer = list(_members(der))
    if len(outer) != 1 or outer[0][0] != _SEQUENCE:
        raise DerError("this is no certificate and no revocation list")
    signed = next(_members(outer[0][1]), None)
    if signed is None or signed[0] != _SEQUENCE:
        raise DerError("this is no certificate and no revocation list")
    return signed[1]


def _members(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Tag, content and whole of each value, one after the other."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise DerError("a value is cut")
        tag, length, begin = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            if not 0 < count <= 4:
                raise DerError("a length is not definite")
            length, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
        end = begin + length
        if end > len(data):
            raise DerError("a value is cut")
        yield tag, data[begin:end], data[at:end]
        at = end


def _time(tag: int, text: bytes) -> int:
    digits = text.decode("ascii", "replace").removesuffix("Z")
    if tag == _UTC_TIME and len(digits) == 12 and digits.isdigit():
        digits = ("20" if digits < "50" else "19") + digits
    if tag not in (_UTC_TIME, _GENERALIZED_TIME) or len(digits) != 14 or not digits.isdigit():
        raise DerError("a time is not in the form of RFC 5280")
    year, rest = int(digits[:4]), [int(digits[at : at + 2]) for at in range(4, 14, 2)]
    return timegm((year, *rest))
