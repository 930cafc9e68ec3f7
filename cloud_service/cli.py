"""The command `cloud-service`."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloud_service.settings import PREFIX, CloudSettings
from common.runtime.cli import main as cli
from common.runtime.cli.append import APPEND
from common.runtime.cli.commands import ASKING, ORIGINS, PARKED
from common.runtime.cli.contexts import context_commands
from common.runtime.cli.diagnosis import diagnosis
from common.runtime.cli.entities import ENTITIES, TRANSFERS
from common.runtime.cli.filters import FILTERS
from common.runtime.cli.fleet import FLEET
from common.runtime.cli.identities import IDENTITIES
from common.runtime.cli.live.top import TOP_FLEET
from common.runtime.cli.log_level import LOG_LEVEL
from common.runtime.cli.nodes import NODES
from common.runtime.cli.policy import POLICY
from common.runtime.cli.projections import PROJECTIONS
from common.runtime.cli.snapshots import SNAPSHOTS
from common.runtime.cli.subscriptions import INBOX, SUBSCRIPTIONS

if TYPE_CHECKING:
    from common.core.addresses import PeerAddress
    from common.runtime.cli.run import Serve


def _load_serve() -> Serve[CloudSettings]:
    from cloud_service.service import serve  # noqa: PLC0415 - heavy, and only for `run`

    return serve


def _migrate(settings: CloudSettings) -> str:
    from cloud_service.tables import migrate  # noqa: PLC0415 - heavy, and only for `migrate`

    return migrate(settings)


def _peers(settings: CloudSettings) -> list[tuple[str, PeerAddress, str]]:
    return [(name, address, "") for address, name in {one.address: one.name for one in settings.followed(None)}.items()]


CLOUD = cli.Program(
    name="cloud-service",
    service="cloud",
    about="Takes in the journals of edges and events of its own, each once and in order, runs projections over them,\n"
    "and serves them as streams to consumers.",
    prefix=PREFIX,
    settings_class=CloudSettings,
    http_address=lambda settings: (settings.http_host, settings.http_port),
    data_folder=lambda settings: settings.journal.data_folder,
    instance=lambda settings: settings.node or socket.gethostname(),
    load_serve=_load_serve,
    migrate=_migrate,
    commands=(
        *ASKING,
        *TOP_FLEET,
        *LOG_LEVEL,
        APPEND,
        *context_commands("cloud"),
        *diagnosis(_peers, {"fleet": "/v1/fleet?sort=lag&max=1000", "nodes": "/v1/nodes", "origins": "/v1/origins"}),
        *PARKED,
        *ORIGINS,
        *NODES,
        *FLEET,
        *FILTERS,
        *POLICY,
        *IDENTITIES,
        *PROJECTIONS,
        *ENTITIES,
        *TRANSFERS,
        *SNAPSHOTS,
        *SUBSCRIPTIONS,
        *INBOX,
    ),
)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return cli.main(CLOUD, sys.argv[1:] if words is None else words, os.environ)
