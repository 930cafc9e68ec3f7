"""The edge service, composed: which parts there are, who owns whom, and in which order they end.

Outside to inside: journal, its one writer, the doors (gRPC, HTTP), the link and the housekeeping. Leaving goes the
other way: the link lets go, the doors finish their requests, the writer commits what they still wait for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
import trio

from common import VERSION
from common.core.errors import BackhaulError, ConfigurationError, ErrorKind
from common.core.filters.past import Past
from common.core.filters.predicates import parse_filter
from common.core.flow.backoff import Backoff
from common.core.flow.messages import EdgeHealth
from common.core.flow.moderation import Moderation
from common.core.policy.rights import Access
from common.firehose.firehose import Firehose
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.kept_lease import lease_length_s
from common.journal.stores.journal import Journal
from common.projection.progress import ProjectionSettings
from common.projection.snapshot_rule import SNAPSHOT_RULE, run_snapshot_rule
from common.runtime.age_keeper import AgeKeeper
from common.runtime.app.application import Application, Transformations, load_application
from common.runtime.app.running import RunningApplication, open_application
from common.runtime.app.task_runner import TaskRunner
from common.runtime.doors import load_tokens, open_doors
from common.runtime.environment import Environment, peer_dialler, tls_files
from common.runtime.http.app import HttpApp
from common.runtime.http.append import events_route
from common.runtime.http.health import health_routes
from common.runtime.http.journal import parked_routes, read_routes
from common.runtime.http.log_level import log_level_routes
from common.runtime.http.policy import identity_routes, policy_routes
from common.runtime.http.projections import projection_routes
from common.runtime.http.snapshots import snapshot_routes
from common.runtime.http.subscriptions import subscription_routes
from common.runtime.intake_grpc import intake_methods
from common.runtime.journal_watch import JournalWatch
from common.runtime.last_known import LastKnown
from common.runtime.metrics import MetricsRegistry
from common.runtime.policy import PolicyKeeper
from common.runtime.service_parts import (
    LEAVE_S,
    REDIAL_S,
    Ports,
    new_door,
    new_intake,
    new_readiness,
    project,
    push_limits,
)
from common.runtime.shared_metrics import register_http, register_running
from common.runtime.stream_serving import ServedStreams, open_firehose, open_streams
from common.runtime.subscriptions import Subscriptions, all_followed
from common.runtime.trust import TrustKeeper
from common.transport.link.departure import LeavingLink, leave_links
from common.transport.push.link import keep_push_link
from common.transport.push.link_state import LinkState
from common.transport.push.producer import PushSettings
from common.transport.stream import Methods
from edge_service.event_trace import EventTrace
from edge_service.report import EdgeReport
from edge_service.retention import EdgeRetention, EdgeRetentionSettings
from edge_service.settings import EdgeSettings

_log = structlog.get_logger()


async def serve(
    settings: EdgeSettings,
    environment: Environment,
    stop: trio.Event,
    *,
    application: Application | None = None,
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the edge until ``stop`` is set, then drain. Raises ConfigurationError and what must end the process.

    ``application`` is the one that the settings name, unless it is given.
    """
    application = application or load_application(settings.app, data_folder=settings.journal.data_folder)
    tokens = load_tokens(settings.token_files, environment.new_id)
    all_followed(settings, application.app.follows, settings.cloud)  # refused before anything is opened
    cap_bytes = settings.journal_max_bytes if settings.journal.is_file else None
    # A file has one process at a time: what it held before it was killed is its own, and needs no waiting.
    owner = settings.id if settings.journal.is_file else f"{settings.id}/{environment.new_id()[:8]}"
    async with (
        environment.open_journal(settings.journal, max_bytes=cap_bytes, notified=not settings.poll_only) as journal,
        open_group_commit(journal.log, spacing_max_s=settings.moderation_s, load=environment.loop_load) as commit,
        open_application(
            application,
            journal,
            commit,
            new_intake(settings, commit, application, entity_prefix=settings.entity_id_prefix),
            node=f"{settings.id}/{environment.new_id()[:8]}",
            now_us=environment.now_us,
            chance=environment.chance,
            id_prefix=settings.entity_id_prefix,
            event_max_bytes=settings.event_max_bytes,
            snapshots_kept=settings.snapshots_kept,
        ) as running,
    ):
        edge = _Edge(settings, environment, running, commit, owner=owner, cap_bytes=cap_bytes)
        async with (
            _open_intake(settings, environment, intake_methods(running.intake, Access(tokens=tokens))) as grpc_port,
            open_doors(
                environment, edge.http_app(stop), settings, settings.http_host, settings.http_port, tokens
            ) as http_port,
            trio.open_nursery() as workers,
        ):
            await workers.start(edge.work)
            _log.info(
                "service.ready",
                journal_id=journal.log.history.journal_id,
                head=journal.log.history.head_position,
                http_port=http_port,
                grpc_port=grpc_port,
            )
            task_status.started(Ports(grpc_port, http_port, running, edge.subscriptions.states))
            workers.start_soon(edge.watch.stop_when_outdated, stop)
            await stop.wait()
            await edge.drain(settings.drain_s / 2)
            workers.cancel_scope.cancel()
        edge.watch.check_not_outdated()


@asynccontextmanager
async def _open_intake(settings: EdgeSettings, environment: Environment, methods: Methods) -> AsyncIterator[int]:
    """The gRPC intake while the block runs; yields its port, 0 when it is a Unix socket."""
    if settings.grpc_socket is None:
        async with environment.serve_grpc(
            methods,
            host=settings.grpc_host,
            port=settings.grpc_port,
            tls=None,
            message_max_bytes=settings.request_max_bytes,
            connections_max=settings.connections_max,
            user_timeout_s=settings.user_timeout_s,
        ) as port:
            yield port
        return
    if environment.serve_grpc_socket is None:
        raise ConfigurationError("http.no_sockets", "there are no Unix sockets here", "use grpc_host and grpc_port")
    async with environment.serve_grpc_socket(
        methods,
        path=settings.grpc_socket,
        mode=int(settings.socket_mode, 8),
        uids=frozenset(map(int, settings.socket_uids)),
        message_max_bytes=settings.request_max_bytes,
        connections_max=settings.connections_max,
    ):
        _log.info("grpc.door_open", address=f"unix:{settings.grpc_socket}")
        yield 0


class _Edge:
    """The parts of an open edge: what its doors lead to, and what goes on behind them."""

    def __init__(
        self,
        settings: EdgeSettings,
        environment: Environment,
        running: RunningApplication,
        commit: GroupCommit,
        *,
        owner: str,
        cap_bytes: int | None,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._running = running
        self._journal = journal = running.journal
        self._owner = owner
        self._transformations = running.application.app.transformations
        self._link = LinkState()
        self._moderation = commit.moderation
        self._served: ServedStreams | None = None
        self._policy = PolicyKeeper(settings, environment.reloads)
        self._trust = TrustKeeper(settings, environment, journal.identities)
        self._metrics = MetricsRegistry("backhaul_edge")
        retention = EdgeRetentionSettings.of(settings, cap_bytes, running.application)
        self._retention = EdgeRetention(journal, self._link, retention)
        self._ages = AgeKeeper(journal, retention.kept_s, environment.now_us, owner=owner)
        commit.on_full = self._retention.wake
        self._report = EdgeReport(
            journal,
            commit,
            self._link,
            self._retention,
            edge_id=settings.id,
            version=VERSION,
            cap_bytes=cap_bytes,
            volume_free=partial(environment.volume_free_bytes, settings.journal),
            certificate_expires_us=lambda: self._trust.own_expires_us,
            now_us=environment.now_us,
        )
        self.watch = JournalWatch(journal, commit)
        self._tasks = TaskRunner(running, commit, owner=owner, is_alone=True, random=environment.chance)
        self._known = LastKnown(self._refresh, environment.now_us)
        self.subscriptions = Subscriptions(
            journal,
            settings,
            environment,
            consumer_id=settings.id,
            owner=owner,
            default=settings.cloud,
            follows=running.application.app.follows,
            sinks=running.handler_sinks(environment.plain_calls),
        )
        self._report.register(self._metrics)
        self.subscriptions.register(self._metrics)
        register_running(self._metrics, running, settings.journal)
        self._trust.register(self._metrics)

    def http_app(self, stop: trio.Event) -> HttpApp:
        """Every HTTP route of the service."""
        journal, settings, running = self._journal, self._settings, self._running
        on_push = self._transformations.pushed if self._transformations.on_push else None
        app = HttpApp(
            running.routes(
                [
                    events_route(running.intake),
                    *read_routes(journal, EventTrace(journal, self._link, on_push)),
                    *parked_routes(journal),
                    *policy_routes(self._policy),
                    *identity_routes(journal.identities, self._trust),
                    *projection_routes(
                        journal, running.handlers, now_us=self._environment.now_us, progress=running.progress
                    ),
                    *snapshot_routes(
                        journal,
                        settings.event_max_bytes,
                        settings.entity_id_prefix,
                        running.application.admitted,
                        settings.snapshots_kept,
                    ),
                    *subscription_routes(journal, self.subscriptions.states, stop, heartbeat_s=settings.heartbeat_s),
                    *health_routes(new_readiness(self.watch, stop), self._status, self._metrics),
                    *log_level_routes(),
                ]
            ),
            body_max_bytes=settings.request_max_bytes,
            door=new_door(settings, settings.http_host),
        )
        register_http(self._metrics, app)
        return app

    async def _refresh(self) -> None:
        await self.subscriptions.refresh()
        await self._report.refresh()

    async def _status(self) -> dict[str, Any]:
        known = await self._known.ask()
        return (
            self._report.status()
            | known
            | {
                "subscriptions": self.subscriptions.status(),
                "consumers": self._served.status() if self._served else [],
                "trust": self._trust.status(),
                "tasks": self._tasks.status(),
            }
        )

    async def work(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Link, subscriptions, projections and housekeeping, until cancelled; started once its own streams are served."""
        settings, environment, running = self._settings, self._environment, self._running
        async with (
            open_firehose(
                self._journal, poll_s=settings.poll_interval_s, summary_s=settings.summary_interval_s
            ) as firehose,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(
                partial(_push, health=self._report.health, moderation=self._moderation),
                settings,
                environment,
                self._journal,
                self._link,
                self._transformations,
            )
            nursery.start_soon(self.subscriptions.run)
            if settings.serve is not None:
                self._served = await nursery.start(
                    partial(_serve_streams, policy=self._policy, trust=self._trust),
                    settings,
                    environment,
                    self._journal,
                    firehose,
                    self._transformations,
                )
                self._served.register(self._metrics)
            projecting = _projecting(settings, self._journal)
            nursery.start_soon(
                partial(
                    project, running, firehose, running.handlers, environment, owner=self._owner, settings=projecting
                )
            )
            if self._tasks.tasks:
                nursery.start_soon(self._tasks.run)
            nursery.start_soon(self._ages.run)
            nursery.start_soon(self._retention.run)
            nursery.start_soon(_take_snapshots, settings, environment, self._journal)
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self._policy.run)
            nursery.start_soon(self._known.run)
            nursery.start_soon(self._trust.run)
            nursery.start_soon(self._report.summarise, settings.summary_interval_s)
            task_status.started()

    async def drain(self, at_most_s: float) -> None:
        """End its own links, ask those who follow its streams to dial again, and wait for what is under way."""
        links: list[LeavingLink] = [self._link, *self.subscriptions.states.values()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_links, links, min(at_most_s, LEAVE_S))
            if self._served:
                await self._served.drain(REDIAL_S, at_most_s)


async def _serve_streams(
    settings: EdgeSettings,
    environment: Environment,
    journal: Journal,
    firehose: Firehose,
    transformations: Transformations,
    *,
    policy: PolicyKeeper,
    trust: TrustKeeper,
    task_status: trio.TaskStatus[ServedStreams] = trio.TASK_STATUS_IGNORED,
) -> None:
    """This edge's own streams, on a port of their own, for consumers that may follow them."""
    assert settings.serve is not None
    async with (
        open_streams(
            journal,
            firehose,
            settings,
            environment,
            transformations.served if transformations.on_serve else None,
            policy=policy,
            trust=trust,
        ) as streams,
        environment.serve_grpc(
            streams.methods,
            host=settings.serve.host,
            port=settings.serve.port,
            tls=tls_files(settings),
            message_max_bytes=2 * settings.window_max_bytes,
            connections_max=settings.connections_max,
            user_timeout_s=settings.user_timeout_s,
        ),
    ):
        _log.info("service.serving_streams", address=str(settings.serve))
        task_status.started(streams)
        await trio.sleep_forever()


async def _push(
    settings: EdgeSettings,
    environment: Environment,
    journal: Journal,
    link: LinkState,
    transformations: Transformations,
    *,
    health: Callable[[], EdgeHealth],
    moderation: Moderation,
) -> None:
    await keep_push_link(
        peer_dialler(settings, environment, settings.cloud),
        journal,
        PushSettings(
            origin_id=settings.id,
            instance=environment.new_id(),
            limits=push_limits(settings),
            batch_max_events=settings.batch_max_events,
            window_max_batches=settings.window_max_batches,
            heartbeat_s=settings.heartbeat_s,
            progress_timeout_s=settings.progress_timeout_s,
            poll_interval_s=settings.poll_interval_s,
            own_filter=parse_filter(settings.push_filter).criteria,
            own_past=Past(settings.push_history),
            snapshots_if_behind=settings.push_snapshots_if_behind,
            on_push=transformations.pushed if transformations.on_push else None,
            health=health,
            spacing_s=lambda: moderation.spacing_s,
        ),
        link,
        backoff=Backoff(settings.backoff_min_s, settings.backoff_max_s),
        chance=environment.chance,
        now_us=environment.now_us,
    )


def _projecting(settings: EdgeSettings, journal: Journal) -> ProjectionSettings:
    return ProjectionSettings(
        lease_s=lease_length_s(journal.members, settings.lease_s),
        poll_s=settings.poll_interval_s,
        summary_s=settings.summary_interval_s,
    )


async def _take_snapshots(settings: EdgeSettings, environment: Environment, journal: Journal) -> None:
    """By the rule in the settings. Without one, what an earlier start with one has left behind holds nothing back."""
    if not settings.snapshot_rule:
        while True:
            try:
                if not any(row.name == SNAPSHOT_RULE for row in await journal.projections.rows()):
                    return
                await journal.projections.forget(SNAPSHOT_RULE, [])
            except BackhaulError as error:  # a process that was killed holds it for a while yet, or the storage is away
                if error.code != "projection.in_use" and error.kind not in {ErrorKind.FULL, ErrorKind.UNAVAILABLE}:
                    raise
                await trio.sleep(settings.retention_interval_s)
    await run_snapshot_rule(
        journal,
        settings.snapshot_rule,
        owner=environment.new_id(),
        settings=_projecting(settings, journal),
        random=environment.chance,
        kept=settings.snapshots_kept,
    )
