"""What one step of the doctor found, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.core.errors import BackhaulError
from common.runtime.cli.output import printable


class Verdict(StrEnum):
    """How a finding stands."""

    OK = "ok"
    WARNING = "warn"
    FAILED = "fail"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step: ``check`` names it (docs/commands.md), ``advice`` says what to do; it is empty where all is well."""

    verdict: Verdict
    check: str
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, check, text)


def warning(check: str, text: str, advice: str) -> Finding:
    """It works, and will not for long or not well."""
    return Finding(Verdict.WARNING, check, text, advice)


def failed(check: str, text: str, advice: str) -> Finding:
    """It cannot work so."""
    return Finding(Verdict.FAILED, check, text, advice)


def skipped(check: str, text: str) -> Finding:
    """It could not be looked at."""
    return Finding(Verdict.SKIPPED, check, text)


def refused(check: str, error: BackhaulError) -> Finding:
    """As an error says: its code, message and hint."""
    return failed(check, f"{error.message} ({error.code})", error.hint or "docs/errors.md has the code")


def report(findings: Sequence[Finding]) -> str:
    """The findings as lines, advice below each."""
    width = max(len(one.check) for one in findings)
    lines = []
    for one in findings:
        lines.append(printable(f"{one.verdict.value:<4}  {one.check:<{width}}  {one.text}"))
        if one.advice:
            lines.append(printable(" " * (width + 8) + f"do: {one.advice}"))
    return "\n".join(lines)
