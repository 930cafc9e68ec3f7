"""Every table that a node may need, made at once: what `cloud-service migrate` does for nodes whose role may make none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from cloud_service.settings import CloudSettings
from common.core.errors import BackhaulError
from common.entity import mends
from common.journal.stores.journal import Journal
from common.projection import parking, skips
from common.projection.beginning import covered
from common.projection.handlers import Handler
from common.runtime.app.application import Application, load_application
from common.runtime.app.running import TABLES, built_in_handler
from common.runtime.environment import real_environment
from common.runtime.logs.fields import leaf_errors

_OWN: Final = tuple((made.SCHEMA, made.MIGRATIONS) for made in (mends, parking, skips, covered))


async def make_tables(journal: Journal, application: Application, built_in: Sequence[Handler]) -> int:
    """Migrate the tables of the application and of projections; returns how many sets of tables there are.

    Otherwise each is made when it is first used. Raises what ``ProjectionStore.migrate`` does.
    """
    app = application.app
    handlers = [*built_in, *app.projections, *(follow.handler for follow in app.follows)]
    wanted = [
        (TABLES, app.migrations),
        *((state.migration_name, state.migrations) for state in application.states.values()),
        *((handler.name, handler.migrations) for handler in handlers),
        *_OWN,
    ]
    wanted = [(name, steps) for name, steps in wanted if steps]
    for name, steps in wanted:
        await journal.projections.migrate(name, steps)
    return len(wanted)


def migrate(settings: CloudSettings) -> str:
    """Bring the journal's tables and the application's up to this version; returns what to say of it."""
    application = load_application(settings.app, data_folder=settings.journal.data_folder)
    built_in = [built_in_handler(name) for name in settings.projections]

    async def run() -> int:
        async with (
            real_environment() as environment,
            environment.open_journal(settings.journal, max_bytes=None, notified=False) as journal,
        ):
            return await make_tables(journal, application, built_in)

    try:
        made = trio.run(run)
    except BaseExceptionGroup as group:
        errors = leaf_errors(group)
        if len(errors) == 1 and isinstance(errors[0], BackhaulError):
            raise errors[0] from None
        raise
    of = f" with {settings.app}" if settings.app else ""
    return f"{settings.journal.place}: the journal and {made} sets of tables{of} are as this version needs them"
