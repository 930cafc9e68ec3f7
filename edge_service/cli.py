"""The command `edge-service`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.runtime.cli import main as cli
from common.runtime.cli.append import APPEND
from common.runtime.cli.commands import ASKING, PARKED
from common.runtime.cli.contexts import context_commands
from common.runtime.cli.diagnosis import diagnosis
from common.runtime.cli.entities import ENTITIES
from common.runtime.cli.identities import IDENTITIES
from common.runtime.cli.live.top import TOP
from common.runtime.cli.log_level import LOG_LEVEL
from common.runtime.cli.policy import POLICY
from common.runtime.cli.projections import PROJECTIONS
from common.runtime.cli.snapshots import SNAPSHOTS
from common.runtime.cli.subscriptions import INBOX, SUBSCRIPTIONS
from edge_service.settings import PREFIX, EdgeSettings

if TYPE_CHECKING:
    from common.core.addresses import PeerAddress
    from common.runtime.cli.run import Serve


def _load_serve() -> Serve[EdgeSettings]:
    from edge_service.service import serve  # noqa: PLC0415 - heavy, and only for `run`

    return serve


def _peers(settings: EdgeSettings) -> list[tuple[str, PeerAddress, str]]:
    followed = {one.address: one.name for one in settings.followed(settings.cloud) if one.address != settings.cloud}
    return [("cloud", settings.cloud, settings.id), *((name, address, "") for address, name in followed.items())]


EDGE = cli.Program(
    name="edge-service",
    service="edge",
    about="Keeps the events of local programs on disk, pushes them to the cloud whenever it can be reached,\n"
    "and receives the streams of other services that it follows.",
    prefix=PREFIX,
    settings_class=EdgeSettings,
    http_address=lambda settings: (settings.http_host, settings.http_port),
    data_folder=lambda settings: settings.journal.data_folder,
    instance=lambda settings: settings.id,
    load_serve=_load_serve,
    commands=(
        *ASKING,
        *TOP,
        *LOG_LEVEL,
        APPEND,
        *context_commands("edge"),
        *diagnosis(_peers),
        *PARKED,
        *POLICY,
        *IDENTITIES,
        *PROJECTIONS,
        *ENTITIES,
        *SNAPSHOTS,
        *SUBSCRIPTIONS,
        *INBOX,
    ),
    stand_ins=("--id=asking", "--cloud=localhost"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return cli.main(EDGE, sys.argv[1:] if words is None else words, os.environ)
