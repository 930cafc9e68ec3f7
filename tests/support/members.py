"""Nodes of a cloud reduced to what spreads ranges: a member, its assignment, and projections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random

import trio

from common.core.members.member import MemberReport
from common.firehose.firehose import Firehose
from common.firehose.settings import FirehoseSettings
from common.journal.membership import Membership
from common.journal.stores.journal import Journal
from common.projection.handler_executor import call_inline
from common.projection.handlers import Handler
from common.projection.progress import ProjectionSettings
from common.projection.projection import run_projections
from common.projection.range_assignment import AssignmentSettings, RangeAssignment
from common.projection.tally import TALLY
from common.transport.codec.events import encode_batch
from tests.support.projections import Commits, clock_us


@dataclass(frozen=True)
class Node:
    """One, as it runs; ``kill`` ends it as SIGKILL does: nothing is given back, and its session is gone."""

    name: str
    journal: Journal
    membership: Membership
    assignment: RangeAssignment
    commits: Commits
    work: trio.CancelScope

    @property
    def instance(self) -> str:
        """The owner of its leases."""
        return self.membership.instance

    async def ranges(self) -> int:
        """How many rows it owns."""
        return sum(row.owner == self.instance for row in await self.journal.projections.rows())


@asynccontextmanager
async def node(
    journal: Journal,
    name: str,
    *,
    handlers: Sequence[Handler] = (TALLY,),
    ranges: int = 8,
    weight: int = 1,
    stay_s: float = 0.0,
    now_us: Callable[[], int] = clock_us,
) -> AsyncIterator[Node]:
    """A node that runs until the block is left; then it stops without leaving, unless it has left."""
    report = MemberReport(f"{name}/1", name, 0, weight, frozenset(handler.name for handler in handlers))
    membership = Membership(journal.members, lambda: report)
    commits = Commits()
    firehose = Firehose(journal, encode_batch, FirehoseSettings(poll_s=0.5, block_events=2_000))
    assignment = RangeAssignment(journal, membership, firehose, AssignmentSettings(stay_s=stay_s))
    settings = replace(ProjectionSettings(), ranges=ranges)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(firehose.run)
        nursery.start_soon(membership.run)
        nursery.start_soon(assignment.run)

        async def project() -> None:
            await run_projections(
                journal,
                firehose,
                handlers,
                owner=report.instance,
                holder=assignment,
                settings=settings,
                now_us=now_us,
                random=Random(name),
                on_commit=commits,
                plain_calls=lambda: call_inline,
            )

        nursery.start_soon(project)
        yield Node(name, journal, membership, assignment, commits, nursery.cancel_scope)
        nursery.cancel_scope.cancel()
