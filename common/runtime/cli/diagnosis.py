"""The commands that search for a fault: `doctor` and `support-bundle`. What they run is loaded by them alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from common.runtime.cli.commands import Command, Question, json_flag

if TYPE_CHECKING:
    from common.core.addresses import PeerAddress

PeersOf = Callable[[Any], "Sequence[tuple[str, PeerAddress, str]]"]
"""What a service dials, by its settings: name, address, and the id that it pushes as there ('' = it only follows)."""


def diagnosis(peers_of: PeersOf) -> tuple[Command, ...]:
    """The commands of one service."""

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
    )
