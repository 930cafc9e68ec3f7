"""What is read of certificates and revocation lists, held against the library that made them; and who may stay."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from common.core.policy.credentials import Credential, Trust, credential_of, digest_of
from common.core.policy.der import DerError, certificate_facts, pem_blocks, revocation_list, usage_problem
from tests.support.certificates import Authority, day

ISSUER, OTHER, ANCHOR = b"i" * 16, b"o" * 16, b"a" * 16
GOOD = Credential(1_000.0, ((ISSUER, 7),), ANCHOR)
TRUST = Trust(frozenset({ANCHOR}), {ISSUER: frozenset({8})})


def der_of(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_facts_of_a_certificate_are_those_that_were_issued(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    files = authority.files("g7", "g7", not_after=datetime.datetime(2049, 12, 31, 23, 59, 58, tzinfo=datetime.UTC))
    late = authority.files("g8", "g8", not_after=datetime.datetime(2061, 1, 2, 3, 4, 5, tzinfo=datetime.UTC))
    ders = [pem_blocks(made.certificate.read_bytes(), "CERTIFICATE")[0] for made in (late, files)]
    der, facts = ders[-1], certificate_facts(ders[-1])
    for made, one in zip((late, files), ders, strict=True):
        certificate, facts = der_of(made.certificate), certificate_facts(one)
        assert facts.serial == certificate.serial_number
        assert facts.not_after_s == certificate.not_valid_after_utc.timestamp()
        assert facts.issuer == certificate.issuer.public_bytes()
    [anchor] = pem_blocks(authority.ca_file.read_bytes(), "CERTIFICATE")
    found = credential_of([der, anchor])
    assert found is not None
    assert found.anchor == digest_of(anchor)
    assert found.links == ((digest_of(facts.issuer), facts.serial),)


SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@pytest.mark.parametrize(
    ("usages", "signs", "problems"),
    [
        (None, None, ("", "")),
        ([SERVER, CLIENT], True, ("", "")),
        ([SERVER], None, ("", "its extended key usage does not have clientAuth")),
        ([CLIENT], True, ("its extended key usage does not have serverAuth", "")),
        (None, False, ("its key usage does not have digitalSignature",) * 2),
        ([SERVER, CLIENT], False, ("its key usage does not have digitalSignature",) * 2),
        (
            [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
            None,
            ("its extended key usage does not have serverAuth", "its extended key usage does not have clientAuth"),
        ),
    ],
)
def test_what_a_certificate_may_be_used_for_is_what_was_issued(
    tmp_path: Path, usages: list[x509.ObjectIdentifier] | None, signs: bool | None, problems: tuple[str, str]
) -> None:
    files = Authority(tmp_path / "ours").issued("g7", [x509.DNSName("g7")], usages=usages, signs=signs)
    [der] = pem_blocks(files.certificate.read_bytes(), "CERTIFICATE")
    assert (usage_problem(der, "serverAuth"), usage_problem(der, "clientAuth")) == problems


@pytest.mark.parametrize("serials", [(), (1, 2**159 - 1, 77)])
def test_a_revocation_list_has_the_serials_that_were_put_in(tmp_path: Path, serials: tuple[int, ...]) -> None:
    authority = Authority(tmp_path / "ours")
    pem = authority.revoke(tmp_path / "crl.pem", *serials, next_update=day(3)).read_bytes()
    [der] = pem_blocks(b"chatter\n" + pem + b"more", "X509 CRL")
    found = revocation_list(der)
    assert found.serials == frozenset(serials)
    assert found.issuer == der_of(authority.ca_file).subject.public_bytes()
    assert abs(found.next_s - day(3).timestamp()) < 5


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_and_never_anything_else(data: bytes) -> None:
    for read in (certificate_facts, revocation_list):
        with pytest.raises(DerError):
            read(data)
    assert credential_of([data]) is None


@given(st.data())
def test_a_cut_or_changed_certificate_is_read_or_refused(data: st.DataObject) -> None:
    der = bytearray(CERTIFICATE)
    at = data.draw(st.integers(0, len(der) - 1))
    der[at] = data.draw(st.integers(0, 255))
    for read in (certificate_facts, revocation_list):
        try:
            read(bytes(der[: data.draw(st.integers(0, len(der)))]))
        except DerError:
            pass


def _certificate() -> bytes:
    pem = trustme.CA().cert_pem.bytes()
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


CERTIFICATE = _certificate()


@pytest.mark.parametrize(
    ("credential", "now_s", "code"),
    [
        (GOOD, 999.0, ""),
        (GOOD, 1_000.0, "auth.expired"),
        (Credential(1_000.0, ((ISSUER, 8),), ANCHOR), 1.0, "auth.refused"),
        (Credential(1_000.0, ((OTHER, 8),), ANCHOR), 1.0, ""),
        (Credential(1_000.0, ((OTHER, 1), (ISSUER, 8)), ANCHOR), 1.0, "auth.refused"),
        (Credential(1_000.0, ((ISSUER, 7),), OTHER), 1.0, "auth.refused"),
        (None, 1.0, ""),
    ],
)
def test_who_may_stay(credential: Credential | None, now_s: float, code: str) -> None:
    objection = TRUST.objection(("g7",), credential, now_s)
    assert (objection.code if objection else "") == code


def test_any_blocked_id_of_a_peer_shuts_it_out_with_the_reason() -> None:
    trust = Trust(blocked={"g2": "stolen"})
    objection = trust.objection(("g7", "g2"), None, 0.0)
    assert objection is not None
    assert (objection.code, "stolen" in objection.message) == ("auth.refused", True)
    assert trust.objection(("g7",), None, 0.0) is None
