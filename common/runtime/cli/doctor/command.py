"""`doctor`: every step in order, one line each, advice below what is not well; exit status 1 when a step failed.

It opens no session at the peer and no journal, so it may run beside the service, and before its first start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import trio

from common import border
from common.core.errors import BackhaulError
from common.core.journal.retention import TIGHT_SHARE
from common.core.journal.url import JournalUrl
from common.runtime.cli.client import ServiceClient
from common.runtime.cli.commands import Question
from common.runtime.cli.doctor.finding import Finding, Verdict, ok, refused, report, skipped, warning
from common.runtime.cli.doctor.local import SYNCS, disk, measure_syncs, own_certificate, sync_time, versions
from common.runtime.cli.doctor.peer import DoctorPeer, look_at_peer
from common.runtime.cli.output import json_line, say
from common.runtime.environment import tls_files, utc_now_us
from common.runtime.policy import PolicyKeeper
from common.runtime.reload import Reloads
from common.runtime.settings.streams import StreamSettings

S = TypeVar("S", bound=StreamSettings)

_TIMEOUT_S = 10.0


def run_doctor(question: Question, peers: Sequence[DoctorPeer]) -> int:
    """Look, print and judge."""
    findings = examine(cast(StreamSettings, question.settings), question.client, peers)
    if question.args.json:
        say(json_line([vars_of(one) for one in findings]))
    else:
        say(report(findings))
    return 1 if any(one.verdict is Verdict.FAILED for one in findings) else 0


def vars_of(finding: Finding) -> dict[str, str]:
    """A finding as JSON has it."""
    return {
        "verdict": finding.verdict.value,
        "check": finding.check,
        "text": finding.text,
        "advice": finding.advice,
    }


def examine(
    settings: StreamSettings,
    client: ServiceClient,
    peers: Sequence[DoctorPeer],
    now_us: Callable[[], int] = utc_now_us,
) -> list[Finding]:
    """All findings, in the order in which a fault in one explains those below it."""
    journal: JournalUrl = cast(Any, settings).journal
    files = tls_files(settings)
    findings = [ok("version", versions())]
    findings += _service(client)
    # A cloud is always dialled, an edge where it serves streams; who has peers dials them.
    roles = (["clientAuth"] if peers else []) + (["serverAuth"] if getattr(settings, "serve", True) else [])
    findings += own_certificate(settings, files, now_us() / 1e6, roles)
    findings += _policy(settings)
    if journal.is_file:
        findings += disk(journal, getattr(settings, "journal_max_bytes", None), measure_syncs)
    else:
        findings += trio.run(_database, journal)
    findings += trio.run(_peers, peers, settings, now_us)
    return findings


def _service(client: ServiceClient) -> Iterator[Finding]:
    """The running service's own view of itself."""
    try:
        ready = client.ask("GET", "/readyz")
        status = client.get("/status")
    except BackhaulError as error:
        if error.code == "cli.service_unreachable":
            yield warning("service", error.message, "start it, unless it is not meant to run now")
        else:
            yield refused("service", error)
        return
    reasons = ready.body.get("reasons") or {}
    if reasons:
        text = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        yield warning("service", f"it runs and is not ready: {text}", "its log says since when; what follows says why")
    else:
        yield ok("service", "it runs and is ready")
    link = status.get("link")
    if isinstance(link, dict):
        text = f"the link is {link['state']} for {link['for_s']:.0f} s"
        if link["state"] == "connected" or not link["last_code"]:
            yield ok("link", text)
        else:
            advice = link["last_hint"] or "docs/errors.md has the code"
            yield warning("link", f"{text}; it ended by {link['last_code']}: {link['last_reason']}", advice)
    yield from _room(status.get("journal"))


def _room(journal: object) -> Iterator[Finding]:
    """How much of a cap is used, which the size of the file does not say: it has free pages."""
    if not isinstance(journal, dict) or not journal.get("cap_bytes") or "used_bytes" not in journal:
        return
    share = journal["used_bytes"] / journal["cap_bytes"]
    text = f"{share:.0%} of journal_max_bytes are used"
    if share >= TIGHT_SHARE:
        advice = "events leave when the cloud has acknowledged them: mend the link, or raise journal_max_bytes"
        yield warning("journal", text, advice)
    else:
        yield ok("journal", text)


def _policy(settings: StreamSettings) -> Iterator[Finding]:
    if settings.policy is None:
        return
    try:
        policy = PolicyKeeper(settings, Reloads())()
    except BackhaulError as error:
        yield refused("policy", error)
    else:
        yield ok("policy", f"{settings.policy} has {len(policy.rules)} rules, version {policy.version}")


async def _database(journal: JournalUrl) -> list[Finding]:
    try:
        from common.journal.postgres.diagnosis import look_at  # noqa: PLC0415 - an edge has no driver
    except ImportError as error:
        return [skipped("database", f"{error.name} is not installed")]
    async with border.open_loop():
        try:
            version, seconds = await look_at(journal, SYNCS)
        except BackhaulError as error:
            return [refused("database", error)]
    return [
        ok("database", f"{journal.place} is {version}, may be written and syncs its commits"),
        sync_time("fsync", f"a synced commit at {journal.place}", seconds),
    ]


async def _peers(peers: Sequence[DoctorPeer], settings: StreamSettings, now_us: Callable[[], int]) -> list[Finding]:
    findings = []
    async with border.open_loop():
        for peer in peers:
            timeout_s = min(settings.connect_timeout_s, _TIMEOUT_S)
            findings += [one async for one in look_at_peer(peer, tls_files(settings), timeout_s, now_us)]
    return findings
