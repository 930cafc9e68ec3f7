"""What can be looked at without anyone else: versions, the own certificate, the disk below the journal."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from common import VERSION
from common.core.errors import ConfigurationError
from common.core.journal.url import JournalUrl
from common.core.policy.der import DerError, certificate_facts, pem_blocks, usage_problem
from common.runtime.cli.doctor.finding import Finding, failed, ok, refused, skipped, warning
from common.runtime.settings.service import ServiceSettings
from common.transport.grpc.tls import TlsFiles, client_context

_PACKAGES: Final = ("trio", "grpclib", "h2", "apsw", "asyncpg", "h11", "prometheus-client")
_MIB: Final = 1024 * 1024
_FREE_LEAST_BYTES: Final = 64 * _MIB
_SYNC_SLOW_S: Final = 0.05
_WARN_DAYS: Final = 14.0
SYNCS: Final = 8


def versions() -> str:
    """Of this program, Python, the system and the packages that matter, in one line."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"backhaul {VERSION}, Python {platform.python_version()}, {platform.platform()}; {', '.join(found)}"


def own_certificate(
    settings: ServiceSettings, files: TlsFiles | None, now_s: float, roles: Sequence[str]
) -> Iterator[Finding]:
    """The three files: whether they can be used, for what (``roles`` are clientAuth, serverAuth), and until when."""
    if files is None:
        advice = "set tls_ca, tls_cert and tls_key: plaintext is for trials"
        if settings.insecure:
            yield warning("certificate", "none: links are in plaintext, also beyond this machine", advice)
        else:
            yield ok("certificate", "none: links are in plaintext on this machine")
        return
    try:
        client_context(files)
        chain = pem_blocks(files.certificate.read_bytes(), "CERTIFICATE")
        ends_s = min(certificate_facts(der).not_after_s for der in chain)
        problems = {role: usage_problem(chain[0], role) for role in roles}
    except ConfigurationError as error:
        yield refused("certificate", error)
        return
    except (OSError, DerError, ValueError) as error:
        yield failed("certificate", f"{files.certificate} cannot be read: {error}", "replace it by a PEM file")
        return
    yield dates("certificate", f"the own certificate {files.certificate}", ends_s, now_s)
    for role, problem in problems.items():
        if problem:
            yield failed("certificate", f"{files.certificate} will be refused: {problem}", usage_advice(role))


def usage_advice(role: str) -> str:
    """What a certificate for this role needs."""
    who = "who dials" if role == "clientAuth" else "who is dialled"
    return (
        f"issue it with the extended key usage {role} (for {who}) and the key usage digitalSignature, or without both"
    )


def dates(check: str, what: str, ends_s: float, now_s: float) -> Finding:
    """Whether a certificate that ends then is good for a while."""
    days = (ends_s - now_s) / 86400
    until = time.strftime("%Y-%m-%d", time.gmtime(ends_s))
    if days < 0:
        return failed(check, f"{what} ran out on {until}", "renew it; if it is new, look at this machine's clock")
    if days < _WARN_DAYS:
        return warning(
            check, f"{what} runs out in {days:.1f} days, on {until}", "renew it: files are read anew at each dial"
        )
    return ok(check, f"{what} is good until {until} ({days:.0f} days)")


def disk(url: JournalUrl, cap_bytes: int | None, measure: Callable[[Path], list[float]]) -> Iterator[Finding]:
    """Room and the time of a sync where a journal's file is."""
    folder = Path(url.data_folder).absolute()
    if not folder.is_dir():
        yield failed("disk", f"{folder} is no folder", "make it, or mount the volume there")
        return
    found = os.statvfs(folder)
    free, journal = found.f_bavail * found.f_frsize, Path(url.target)
    used = sum(one.stat().st_size for one in (journal, journal.with_name(journal.name + "-wal")) if one.exists())
    text = f"{folder} has {_size(free)} free; the journal has {_size(used)}"
    if free < _FREE_LEAST_BYTES:
        yield failed("disk", text, "free room on the volume, or enlarge it: appends are refused when it is full")
    elif cap_bytes is not None and free + used < cap_bytes:
        advice = f"enlarge the volume, or set journal_max_bytes below {_size(free + used)}"
        yield warning("disk", f"{text} of at most {_size(cap_bytes)}, for which there is no room", advice)
    else:
        yield ok("disk", text + (f" of at most {_size(cap_bytes)}" if cap_bytes is not None else ""))
    try:
        seconds = measure(folder)
    except OSError as error:
        if isinstance(error, PermissionError):
            yield skipped("fsync", f"{folder} cannot be written by this user")
        else:
            yield failed(
                "fsync", f"{folder} cannot be written: {error.strerror}", "mount it for writing, and look at the disk"
            )
        return
    yield sync_time("fsync", f"a synced write to {folder}", seconds)


def sync_time(check: str, what: str, seconds: list[float]) -> Finding:
    """The median and the longest of some synced writes."""
    median, longest = sorted(seconds)[len(seconds) // 2], max(seconds)
    text = f"{what} takes {median * 1e3:.1f} ms (longest of {len(seconds)}: {longest * 1e3:.1f} ms)"
    if median > _SYNC_SLOW_S:
        return warning(check, text, "each commit waits so long: a faster disk, or fewer and larger appends")
    return ok(check, text)


def measure_syncs(folder: Path) -> list[float]:
    """Seconds that each of some synced writes of 4 KiB takes there."""
    seconds = []
    with tempfile.TemporaryFile(dir=folder, prefix="doctor-") as file:
        for _ in range(SYNCS):
            file.write(b"\0" * 4096)
            file.flush()
            began_s = time.monotonic()  # noqa: TID251  a command has no loop here
            os.fsync(file.fileno())
            seconds.append(time.monotonic() - began_s)  # noqa: TID251
    return seconds


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
