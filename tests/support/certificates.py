"""Certificates for tests: an authority in a folder, and PEM files of those it vouches for."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme

from common.transport.streams import TlsFiles


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


def day(offset: int) -> datetime.datetime:
    """A day relative to the clock that OpenSSL looks at."""
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=offset)
