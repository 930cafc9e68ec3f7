"""Certificates for tests: an authority in a folder, and PEM files of those it vouches for."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.transport.grpc import TlsFiles


class Authority:
    """A CA and the files of servers and clients it vouches for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        folder.mkdir(exist_ok=True)
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def files(
        self,
        name: str,
        *names: str,
        not_before: datetime.datetime | None = None,
        not_after: datetime.datetime | None = None,
        common_name: str | None = None,
    ) -> TlsFiles:
        """Certificate and key as ``name.pem`` and ``name.key``, replaced if they are there; ``names`` are its SANs."""
        certificate = self.ca.issue_cert(*names, not_before=not_before, not_after=not_after, common_name=common_name)
        files = TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.ca_file)
        certificate.cert_chain_pems[0].write_to_path(str(files.certificate))
        certificate.private_key_pem.write_to_path(str(files.key))
        return files

    def uri_files(self, name: str, uri: str) -> TlsFiles:
        """As `files`, for the one name trustme does not make: a URI."""
        return self.issued(name, [x509.UniformResourceIdentifier(uri)])

    def issued(
        self,
        name: str,
        names: Sequence[x509.GeneralName] = (),
        *,
        usages: Sequence[x509.ObjectIdentifier] | None = None,
        common_name: str = "",
        signs: bool | None = None,
    ) -> TlsFiles:
        """As `files`, with exactly these names and extended key usages; without either extension where there are none.

        ``signs`` is whether the key usage allows signatures; None: there is no key usage.
        """
        authority = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        signer = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(day(-1))
            .not_valid_after(day(1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if signs is not None:
            builder = builder.add_extension(key_usage(signs=signs), critical=True)
        certificate = builder.sign(signer, hashes.SHA256())
        files = TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.ca_file)
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def revoke(self, path: Path, *serials: int, next_update: datetime.datetime | None = None) -> Path:
        """Write the authority's revocation list with these serial numbers."""
        authority = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        signer = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(day(-1))
            .next_update(next_update or day(1))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(day(-1)).build()
            builder = builder.add_revoked_certificate(entry)
        path.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Signatures, or what is of no use to TLS 1.3."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def day(offset: float) -> datetime.datetime:
    """A day relative to the clock that OpenSSL looks at."""
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=offset)
