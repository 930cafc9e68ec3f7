"""A cloud node, composed: which parts there are, who owns whom, and in which order they end.

Outside to inside: journal, its one writer and its one reader, the doors (gRPC for edges, HTTP for people and programs),
projections and housekeeping. Any number of nodes run this over one PostgreSQL: all state is there. Leaving goes the other
way: edges are asked to dial another node, what they sent is stored and acknowledged, then the doors close.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog
import trio

from cloud_service.edge_spread import EdgeSpread
from cloud_service.fleet import FleetKeeper
from cloud_service.fleet_view import FleetView
from cloud_service.node_routes import node_as_json, node_routes
from cloud_service.queries import projection_query_routes
from cloud_service.report import CloudReport
from cloud_service.retention import CloudRetention, CloudRetentionSettings
from cloud_service.settings import CloudSettings
from cloud_service.tables import make_tables
from common import VERSION
from common.core.errors import BackhaulError
from common.core.journal.session_budget import sessions_of_node
from common.core.members.member import MemberReport, instance_name
from common.core.policy.rights import Right
from common.core.push.messages import CHECK_PATH, PUSH_PATH
from common.journal.feeds import RangeFeeds
from common.journal.group_commit import GroupCommit, open_group_commit
from common.journal.kept_lease import lease_length_s
from common.journal.membership import Membership, MembershipSettings
from common.projection.handlers import Handler
from common.projection.progress import ProjectionSettings
from common.projection.range_assignment import AssignmentSettings, RangeAssignment
from common.projection.snapshot_rule import run_snapshot_rule
from common.runtime.age_keeper import AgeKeeper
from common.runtime.app.application import Application, Transformations, load_application
from common.runtime.app.running import RunningApplication, built_in_handler, open_application
from common.runtime.app.task_runner import TaskRunner
from common.runtime.doors import load_tokens, open_doors
from common.runtime.environment import Environment, tls_files
from common.runtime.http.app import HttpApp
from common.runtime.http.append import events_route
from common.runtime.http.filters import filter_routes
from common.runtime.http.health import health_routes
from common.runtime.http.journal import origin_routes, parked_routes, read_routes
from common.runtime.http.log_level import log_level_routes
from common.runtime.http.owners import owner_routes
from common.runtime.http.policy import identity_routes, policy_routes
from common.runtime.http.projections import projection_routes
from common.runtime.http.snapshots import snapshot_routes
from common.runtime.http.subscriptions import subscription_routes
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
from common.transport.link.departure import leave_links
from common.transport.push.endpoint import EndpointSettings, PushEndpoint
from common.transport.stream import StreamMethod, UnaryMethod

_log = structlog.get_logger()

_LEAVE_S: Final = 2.0


async def serve(
    settings: CloudSettings,
    environment: Environment,
    stop: trio.Event,
    *,
    application: Application | None = None,
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the node until ``stop`` is set, then drain. Raises ConfigurationError and what must end the process.

    ``application`` is the one that the settings name, unless it is given.
    """
    application = application or load_application(settings.app, data_folder=settings.journal.data_folder)
    # Refused before anything is opened.
    tokens = load_tokens(settings.token_files, environment.new_id)
    all_followed(settings, application.app.follows, None)
    policy = PolicyKeeper(settings, environment.reloads)
    built_in = [built_in_handler(name) for name in settings.projections]
    on_serve = application.app.transformations.served if application.app.transformations.on_serve else None
    name = settings.node or socket.gethostname()
    owner = instance_name(name, environment.new_id())
    async with (
        environment.open_journal(
            settings.journal,
            max_bytes=None,
            notified=not settings.poll_only,
            migrates=settings.migrations == "apply",
        ) as journal,
        open_group_commit(journal.log, spacing_max_s=settings.moderation_s, load=environment.loop_load) as commit,
        open_application(
            application,
            journal,
            commit,
            new_intake(settings, commit, application),
            node=owner,
            now_us=environment.now_us,
            chance=environment.chance,
            event_max_bytes=settings.event_max_bytes,
            snapshots_kept=settings.snapshots_kept,
        ) as running,
        open_firehose(journal, poll_s=settings.poll_interval_s, summary_s=settings.summary_interval_s) as firehose,
    ):
        trust = TrustKeeper(settings, environment, journal.identities)
        async with open_streams(
            journal,
            firehose,
            settings,
            environment,
            on_serve,
            policy=policy,
            trust=trust,
            hello_timeout_s=settings.hello_timeout_s,
        ) as streams:
            if settings.migrations == "check":
                await make_tables(journal, application, built_in)  # all are there, or the node refuses to start
            node = _Node(
                settings,
                environment,
                running,
                commit,
                firehose,
                streams,
                built_in,
                policy,
                trust,
                name=name,
                owner=owner,
            )
            await node.serve(tokens, stop, task_status)
            node.watch.check_not_outdated()


class _Node:
    """The parts of an open node: what its doors lead to, and what goes on behind them."""

    def __init__(
        self,
        settings: CloudSettings,
        environment: Environment,
        running: RunningApplication,
        commit: GroupCommit,
        feeds: RangeFeeds,
        streams: ServedStreams,
        built_in: Sequence[Handler],
        policy: PolicyKeeper,
        trust: TrustKeeper,
        *,
        name: str,
        owner: str,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._running = running
        self._journal = journal = running.journal
        self._feeds = feeds
        self._streams = streams
        self._policy = policy
        self._trust = trust
        self._owner = owner
        self._handlers = [*built_in, *running.handlers]
        app = running.application.app
        is_alone, lease_s = not journal.members.holds_leases, lease_length_s(journal.members, settings.lease_s)
        self.endpoint = PushEndpoint(
            journal, commit, _endpoint_settings(settings, app.transformations, policy, trust), environment.now_us
        )
        trust.watch(self.endpoint.live_peers)
        self.subscriptions = Subscriptions(
            journal,
            settings,
            environment,
            consumer_id=settings.consumer_id,
            owner=owner,
            default=None,
            follows=app.follows,
            sinks=running.handler_sinks(environment.plain_calls),
            parked_max=settings.parked_max_events,
        )
        retention = replace(
            CloudRetentionSettings.of(settings, running.application), lease_s=lease_s, keeps_lease=is_alone
        )
        self._retention = CloudRetention(journal, retention, owner=owner)
        self._ages = AgeKeeper(journal, retention.kept_s, environment.now_us, owner=owner)
        self._fleet_view = FleetView(
            journal,
            environment.now_us,
            node=name,
            owner=owner,
            lease_s=max(lease_s, 2 * settings.summary_interval_s),
        )
        self._report = CloudReport(
            journal,
            commit,
            self.endpoint,
            node=name,
            version=VERSION,
            now_us=environment.now_us,
            metrics_edges=settings.metrics_edges,
            count_losses=self._fleet_view.count_losses,
        )
        self.watch = JournalWatch(journal, commit)
        self._fleet = FleetKeeper(journal.fleet, self.endpoint, environment.now_us, node=name, is_alone=is_alone)
        self._known = LastKnown(self._refresh, environment.now_us)
        self._started_us = environment.now_us()
        self._name = name
        self._membership = Membership(
            journal.members, self._as_member, MembershipSettings(lease_s=settings.member_lease_s)
        )
        self._assignment = RangeAssignment(
            journal,
            self._membership,
            feeds,
            AssignmentSettings(lease_s=lease_s),
        )
        self._projecting = trio.CancelScope()
        self._working = trio.CancelScope()
        self._tasks = TaskRunner(running, commit, owner=owner, is_alone=is_alone, random=environment.chance)
        self._spread = EdgeSpread(
            self.endpoint,
            self._membership,
            redial_s=REDIAL_S,
            age_max_s=settings.link_age_max_s,
            now_us=environment.now_us,
            generation=lambda: journal.log.history.generation_id,
        )

    async def serve(self, tokens: Mapping[Right, str], stop: trio.Event, task_status: trio.TaskStatus[Ports]) -> None:
        """Open the doors and work until ``stop`` is set, then leave."""
        settings, environment, journal = self._settings, self._environment, self._journal
        async with (
            environment.serve_grpc(
                {
                    PUSH_PATH: StreamMethod(self.endpoint.serve),
                    CHECK_PATH: UnaryMethod(self.endpoint.check),
                    **self._streams.methods,
                },
                host=settings.grpc_host,
                port=settings.grpc_port,
                tls=tls_files(settings),
                message_max_bytes=2 * settings.window_max_bytes,
                connections_max=settings.links_max,
                user_timeout_s=settings.user_timeout_s,
            ) as grpc_port,
            open_doors(
                environment, self.http_app(stop), settings, settings.http_host, settings.http_port, tokens
            ) as http_port,
            trio.open_nursery() as workers,
        ):
            workers.start_soon(self.work)
            _log.info(
                "service.ready",
                journal_id=journal.log.history.journal_id,
                head=journal.log.history.head_position,
                http_port=http_port,
                grpc_port=grpc_port,
            )
            task_status.started(Ports(grpc_port, http_port, self._running, self.subscriptions.states))
            workers.start_soon(self.watch.stop_when_outdated, stop)
            await stop.wait()
            await self.leave()
            await self.drain(settings.drain_s / 2)
            workers.cancel_scope.cancel()

    def _as_member(self) -> MemberReport:
        return MemberReport(
            self._owner,
            self._name,
            self._started_us,
            self._settings.node_weight,
            frozenset(handler.name for handler in self._handlers),
            sessions_of_node(notify=not self._settings.poll_only),
            self.endpoint.staying,
        )

    def http_app(self, stop: trio.Event) -> HttpApp:
        """Every HTTP route of the service."""
        journal, settings, running = self._journal, self._settings, self._running
        metrics = MetricsRegistry("backhaul_cloud")
        for part in (self._report, self._fleet_view, self._streams, self.subscriptions, self._trust):
            part.register(metrics)
        register_running(metrics, running, settings.journal)
        metrics.gauge("nodes_live", "Nodes of this cloud that are alive.", lambda: len(self._membership.live))
        metrics.gauge(
            "node_ranges", "Ranges of projections of this node.", lambda: self._assignment.ranges_of(self._owner)
        )
        app = HttpApp(
            running.routes(
                [
                    events_route(running.intake),
                    *projection_query_routes(journal, frozenset(settings.projections)),
                    *read_routes(journal),
                    *parked_routes(journal, self._policy.may_write),
                    *owner_routes(journal, self._policy),
                    *snapshot_routes(
                        journal,
                        settings.event_max_bytes,
                        admitted=running.application.admitted,
                        kept=settings.snapshots_kept,
                    ),
                    *origin_routes(journal),
                    *node_routes(journal, self._environment.now_us),
                    *self._fleet_view.routes(),
                    *filter_routes(journal.push_filters, self.endpoint.refresh_filters),
                    *policy_routes(self._policy),
                    *identity_routes(journal.identities, self._trust),
                    *projection_routes(
                        journal, self._handlers, now_us=self._environment.now_us, progress=running.progress
                    ),
                    *subscription_routes(journal, self.subscriptions.states, stop, heartbeat_s=settings.heartbeat_s),
                    *health_routes(new_readiness(self.watch, stop), self._status, metrics),
                    *log_level_routes(),
                ]
            ),
            body_max_bytes=settings.request_max_bytes,
            door=new_door(settings, settings.http_host),
        )
        register_http(metrics, app)
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
                "consumers": self._streams.status(),
                "subscriptions": self.subscriptions.status(),
                "retention": self._retention.status(),
                "trust": self._trust.status(),
                "tasks": self._tasks.status(),
                "nodes": [
                    node_as_json(one, self._assignment.ranges_of(one.instance), self._environment.now_us())
                    for one in self._membership.seen.members
                ],
            }
        )

    async def work(self) -> None:
        """Projections, subscriptions and housekeeping, until cancelled."""
        projecting = ProjectionSettings(
            ranges=self._settings.projection_ranges,
            lease_s=lease_length_s(self._journal.members, self._settings.lease_s),
            poll_s=self._settings.poll_interval_s,
            summary_s=self._settings.summary_interval_s,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._membership.run)
            nursery.start_soon(self._spread.run)
            nursery.start_soon(self._assignment.run)
            nursery.start_soon(self._project, projecting)
            if self._tasks.tasks:
                nursery.start_soon(self._run_tasks)
            if self._settings.snapshot_rule:
                nursery.start_soon(
                    partial(
                        run_snapshot_rule,
                        self._journal,
                        self._settings.snapshot_rule,
                        owner=self._owner,
                        settings=projecting,
                        random=self._environment.chance,
                        kept=self._settings.snapshots_kept,
                    )
                )
            nursery.start_soon(self.endpoint.follow_filters, self._settings.poll_interval_s)
            nursery.start_soon(self.subscriptions.run)
            nursery.start_soon(self._ages.run)
            nursery.start_soon(self._retention.run)
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self._fleet.run)
            nursery.start_soon(self._policy.run)
            nursery.start_soon(self._known.run)
            nursery.start_soon(self._trust.run)
            nursery.start_soon(self._report.summarise, self._settings.summary_interval_s)

    async def _project(self, settings: ProjectionSettings) -> None:
        with self._projecting:
            await project(
                self._running,
                self._feeds,
                self._handlers,
                self._environment,
                owner=self._owner,
                settings=settings,
                holder=self._assignment,
            )

    async def _run_tasks(self) -> None:
        with self._working:
            await self._tasks.run()

    async def leave(self) -> None:
        """Hand all ranges over to the other nodes, before anything that takes time."""
        with trio.move_on_after(_LEAVE_S):
            try:
                await self._assignment.leave()
            except BackhaulError as error:
                _log.warning("member.not_left", code=error.code, reason=error.message)
        self._projecting.cancel()
        self._working.cancel()

    async def drain(self, at_most_s: float) -> None:
        """End its own links, ask edges and consumers to leave, and wait for those that still have something in flight."""
        with trio.move_on_after(at_most_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave_links, list(self.subscriptions.states.values()), LEAVE_S)
                nursery.start_soon(self.endpoint.drain, REDIAL_S)
                nursery.start_soon(self._streams.drain, REDIAL_S, at_most_s)


def _endpoint_settings(
    settings: CloudSettings, transformations: Transformations, policy: PolicyKeeper, trust: TrustKeeper
) -> EndpointSettings:
    return EndpointSettings(
        push_limits(settings),
        parked_max=settings.parked_max_events,
        hello_timeout_s=settings.hello_timeout_s,
        heartbeat_s=settings.heartbeat_s,
        progress_timeout_s=settings.progress_timeout_s,
        require_identity=settings.uses_tls,
        on_receive=transformations.received if transformations.on_receive else None,
        policy=policy,
        trust=trust,
    )
