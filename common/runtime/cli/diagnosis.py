"""The commands that search for a fault: `doctor` and `support-bundle`. What they run is loaded by them alone."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from common.runtime.cli.commands import Command, Question, json_flag

if TYPE_CHECKING:
    from common.core.addresses import PeerAddress

PeersOf = Callable[[Any], "Sequence[tuple[str, PeerAddress, str]]"]
"""What a service dials, by its settings: name, address, and the id that it pushes as there ('' = it only follows)."""


def _bundle_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", help="archive to make (default: backhaul-support-TIME.tar.gz, here)")
    parser.add_argument("--logs", metavar="FILE", help="log of the service: its last 8 MiB are taken too")


def diagnosis(peers_of: PeersOf, pages: dict[str, str] | None = None) -> tuple[Command, ...]:
    """The commands of one service; ``pages`` are its own that a support bundle has too, by name."""

    def bundle(question: Question) -> int:
        from common.runtime.cli.doctor.peer import DoctorPeer  # noqa: PLC0415 - heavy, and only for this command
        from common.runtime.cli.support.bundle import run_bundle  # noqa: PLC0415 - as above

        return run_bundle(question, [DoctorPeer(*peer) for peer in peers_of(question.settings)], pages or {})

    def doctor(question: Question) -> int:
        from common.runtime.cli.doctor.command import run_doctor  # noqa: PLC0415 - heavy, and only for this command
        from common.runtime.cli.doctor.peer import DoctorPeer  # noqa: PLC0415 - as above

        return run_doctor(question, [DoctorPeer(*peer) for peer in peers_of(question.settings)])

    return (
        Command(
            ("doctor",),
            "look for what keeps this service from working, step by step, with what to do; exit 1 if a step failed",
            doctor,
            json_flag,
            timeout_s=5.0,
            needs_settings=True,
        ),
        Command(
            ("support-bundle",),
            "collect settings, status, metrics, doctor and logs in one archive, without secrets and payloads",
            bundle,
            _bundle_arguments,
            needs_settings=True,
        ),
    )
