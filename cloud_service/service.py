"""A cloud node, composed: which parts there are, who owns whom, and in which order they end.

Outside to inside: journal, its one writer, the doors (gRPC for edges, HTTP for people and programs), projections and
housekeeping. Any number of nodes run this over one PostgreSQL: all state is there. Leaving goes the other way: edges are
asked to dial another node, what they sent is stored and acknowledged, then the doors close.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import structlog
import trio

from cloud_service.queries import projection_query_routes
from cloud_service.report import CloudReport
from cloud_service.retention import Retention, RetentionSettings
from cloud_service.settings import CloudSettings
from common import VERSION
from common.core.push_messages import PUSH_PATH
from common.journal.group_commit import open_group_commit
from common.projection.progress import ProjectionSettings
from common.projection.snapshot_rule import run_snapshot_rule
from common.runtime.application import Application, Transformations, load_application
from common.runtime.application_running import built_in_handler, open_application
from common.runtime.filter_routes import filter_routes
from common.runtime.health import health_routes
from common.runtime.http_app import HttpApp
from common.runtime.intake_http import events_route
from common.runtime.journal_routes import origin_routes, parked_routes, read_routes
from common.runtime.journal_watch import JournalWatch
from common.runtime.metrics import Registry
from common.runtime.outside import Outside, tls_files
from common.runtime.projection_routes import projection_routes
from common.runtime.service_parts import REDIAL_S, Ports, new_intake, new_readiness, project, push_limits
from common.runtime.snapshot_routes import snapshot_routes
from common.runtime.stream_serving import ServedStreams, open_streams
from common.runtime.subscribing import Subscriptions, all_followed
from common.runtime.subscription_routes import subscription_routes
from common.transport.push_endpoint import EndpointSettings, PushEndpoint
from common.transport.stream import StreamMethod

_log = structlog.get_logger()


async def serve(
    settings: CloudSettings,
    outside: Outside,
    stop: trio.Event,
    *,
    application: Application | None = None,
    task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the node until ``stop`` is set, then drain. Raises ConfigurationError and what must end the process.

    ``application`` is the one that the settings name, unless it is given.
    """
    application = application or load_application(settings.app)
    all_followed(settings, application.app.follows, None)  # refused before anything is opened
    on_serve = application.app.transformations.served if application.app.transformations.on_serve else None
    built_in = [built_in_handler(name) for name in settings.projections]
    node = settings.node or socket.gethostname()
    owner = f"{node}/{outside.new_id()[:8]}"
    async with (
        outside.open_journal(settings.journal, max_bytes=None, prompted=not settings.poll_only) as journal,
        open_group_commit(journal) as commit,
        open_application(
            application,
            journal,
            commit,
            new_intake(settings, commit),
            node=owner,
            now_us=outside.now_us,
            chance=outside.chance,
            event_max_bytes=settings.event_max_bytes,
        ) as running,
        open_streams(journal, settings, outside, on_serve, hello_timeout_s=settings.hello_timeout_s) as streams,
    ):
        endpoint = PushEndpoint(
            journal, commit.submit, _endpoint_settings(settings, application.app.transformations), outside.now_us
        )
        report = CloudReport(journal, commit, endpoint, node=node, version=VERSION, now_us=outside.now_us)
        watch, metrics = JournalWatch(journal), Registry("backhaul_cloud")
        readiness = new_readiness(watch, stop)
        report.register(metrics)
        streams.register(metrics)
        subscriptions = Subscriptions(
            journal,
            settings,
            outside,
            consumer_id=settings.consumer_id,
            owner=owner,
            default=None,
            follows=application.app.follows,
            sinks=running.handler_sinks(outside.plain_calls),
            parked_max=settings.parked_max_events,
        )

        retention = Retention(journal, _retention_settings(settings, application), outside.now_us, owner=owner)
        subscriptions.register(metrics)

        async def status() -> dict[str, Any]:
            await subscriptions.refresh()
            told = await report.status()
            return told | {
                "consumers": streams.status(),
                "subscriptions": subscriptions.status(),
                "retention": retention.status(),
            }

        app = HttpApp(
            [
                events_route(running.intake),
                *projection_query_routes(journal, frozenset(settings.projections)),
                *read_routes(journal),
                *parked_routes(journal),
                *snapshot_routes(journal, settings.event_max_bytes),
                *origin_routes(journal),
                *filter_routes(journal, endpoint.refresh_filters),
                *projection_routes(journal, [*built_in, *running.handlers], now_us=outside.now_us),
                *subscription_routes(journal, subscriptions.states, stop, heartbeat_s=settings.heartbeat_s),
                *health_routes(readiness, status, metrics),
                *running.routes(),
            ],
            body_max_bytes=settings.request_max_bytes,
        )
        async with (
            outside.serve_grpc(
                {PUSH_PATH: StreamMethod(endpoint.serve), **streams.methods},
                host=settings.grpc_host,
                port=settings.grpc_port,
                tls=tls_files(settings),
                message_max_bytes=2 * settings.window_max_bytes,
                connections_max=settings.links_max,
                user_timeout_s=settings.user_timeout_s,
            ) as grpc_port,
            outside.serve_http(
                app, settings.http_host, settings.http_port, connections_max=settings.connections_max
            ) as http_port,
            trio.open_nursery() as workers,
        ):
            workers.start_soon(
                partial(
                    project,
                    running,
                    [*built_in, *running.handlers],
                    outside,
                    owner=owner,
                    settings=_projection_settings(settings),
                )
            )
            workers.start_soon(endpoint.follow_filters, settings.poll_interval_s)
            if settings.snapshot_rule:
                workers.start_soon(
                    partial(
                        run_snapshot_rule,
                        journal,
                        settings.snapshot_rule,
                        owner=owner,
                        settings=_projection_settings(settings),
                        random=outside.chance,
                    )
                )
            workers.start_soon(subscriptions.run)
            workers.start_soon(retention.run)
            workers.start_soon(watch.run)
            workers.start_soon(report.summarise, settings.summary_interval_s)
            _log.info(
                "service.ready",
                journal_id=journal.history.journal_id,
                head=journal.history.head_position,
                http_port=http_port,
                grpc_port=grpc_port,
            )
            task_status.started(Ports(grpc_port, http_port, running, subscriptions.states))
            await stop.wait()
            await _drain(endpoint, streams, settings.drain_s / 2)
            workers.cancel_scope.cancel()


async def _drain(endpoint: PushEndpoint, streams: ServedStreams, at_most_s: float) -> None:
    """Ask edges and consumers to leave, and wait for those that still have something in flight."""
    with trio.move_on_after(at_most_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(endpoint.drain, REDIAL_S)
            nursery.start_soon(streams.drain, REDIAL_S, at_most_s)


def _endpoint_settings(settings: CloudSettings, transformations: Transformations) -> EndpointSettings:
    return EndpointSettings(
        push_limits(settings),
        parked_max=settings.parked_max_events,
        hello_timeout_s=settings.hello_timeout_s,
        heartbeat_s=settings.heartbeat_s,
        progress_timeout_s=settings.progress_timeout_s,
        require_identity=settings.uses_tls,
        on_receive=transformations.received if transformations.on_receive else None,
    )


def _projection_settings(settings: CloudSettings) -> ProjectionSettings:
    return ProjectionSettings(
        ranges=settings.projection_ranges,
        lease_s=settings.lease_s,
        poll_s=settings.poll_interval_s,
        summary_s=settings.summary_interval_s,
    )


def _retention_settings(settings: CloudSettings, application: Application) -> RetentionSettings:
    return RetentionSettings(
        settings.retention_interval_s,
        settings.retention_age_s,
        settings.retention_max_bytes,
        settings.retention_least_age_s,
        settings.idempotency_keep_s,
        frozenset(application.entities) | frozenset(settings.snapshot_rule),
        settings.lease_s,
    )
