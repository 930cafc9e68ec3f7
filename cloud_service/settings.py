"""The cloud service's settings (`CLOUD_…`).

Without any it is one small node on loopback with its journal in a SQLite file. For more nodes give all of
them the same `postgresql://` URL; for edges elsewhere, an address to listen on and TLS files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from common.core.addresses import is_loopback
from common.core.journal.url import JournalUrl, parse_journal_url
from common.runtime.settings.loading import SettingsConflict, about
from common.runtime.settings.streams import StreamSettings

PREFIX = "CLOUD"


@dataclass(frozen=True, kw_only=True)
class CloudSettings(StreamSettings):
    """Settings of a cloud node."""

    takes_pushes: ClassVar[bool] = True

    node: str = field(
        default="",
        metadata=about("Name of this node in its logs; the host's name if empty.", may_be_empty=True),
    )
    node_weight: int = field(
        default=1,
        metadata=about(
            "Share of the ranges of projections beside other nodes' shares; 0 runs none.", minimum=0, maximum=100
        ),
    )
    member_lease_s: float = field(
        default=3.0,
        metadata=about(
            "Time after which what a silent node held is taken over; one that was killed is noticed sooner.",
            minimum=1,
            maximum=60,
        ),
    )
    consumer_id: str = field(
        default="cloud",
        metadata=about(
            "Who this cloud is to services whose streams it follows, the same on every node; "
            "its certificates must name it (SAN).",
            pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
        ),
    )
    journal: JournalUrl = field(
        default=parse_journal_url("cloud-journal.db"),
        metadata=about("postgresql:// URL, or the path of a SQLite file for a single node.", secrecy="url"),
    )
    migrations: Literal["apply", "check"] = field(
        default="apply",
        metadata=about(
            "apply makes and changes tables at start; check refuses to start until `cloud-service migrate` has run."
        ),
    )

    grpc_host: str = field(default="127.0.0.1", metadata=about("Address edges connect to."))
    grpc_port: int = field(
        default=7443, metadata=about("Port edges connect to; 0 takes a free one.", minimum=0, maximum=65535)
    )
    http_host: str = field(default="127.0.0.1", metadata=about("Address of queries and health pages (plaintext)."))
    http_port: int = field(
        default=7480,
        metadata=about("Port of queries and health pages; 0 takes one.", minimum=0, maximum=65535),
    )
    links_max: int = field(
        default=10_000, metadata=about("Most edges connected to this node.", minimum=1, maximum=1_000_000)
    )
    link_age_max_s: float | None = field(
        default=None,
        metadata=about(
            "Age at which a connected edge is asked to dial again, maybe another node; none sets no limit.", minimum=60
        ),
    )
    hello_timeout_s: float = field(
        default=10.0,
        metadata=about("Time a new connection has to introduce itself.", minimum=0.1, maximum=600),
    )

    parked_max_events: int = field(
        default=10_000, metadata=about("Most parked events of one edge.", minimum=0, maximum=100_000_000)
    )

    metrics_edges: int = field(
        default=20,
        metadata=about(
            "Most edges with series of their own in the metrics: those furthest behind.", minimum=0, maximum=1000
        ),
    )

    projections: tuple[str, ...] = field(
        default=("latest", "tally"), metadata=about("Built-in projections to run; empty for none.")
    )
    projection_ranges: int = field(
        default=1,
        metadata=about(
            "Slice ranges a new projection is divided into; later `projections split` and `merge`.",
            minimum=1,
            maximum=1024,
        ),
    )

    retention_age_s: float | None = field(
        default=None,
        metadata=about("Age, in running time, at which events are removed; none keeps them for ever.", minimum=1),
    )
    retention_max_bytes: int | None = field(
        default=None,
        metadata=about("Bytes of events that are kept, the newest ones; none sets no limit.", minimum=1024 * 1024),
    )
    retention_least_age_s: float = field(
        default=3600.0, metadata=about("Least time events are kept, whatever they weigh.", minimum=0)
    )
    retention_interval_s: float = field(
        default=60.0,
        metadata=about("How often removable events are looked for.", minimum=0.05, maximum=86400),
    )
    idempotency_keep_s: float = field(
        default=7 * 86400.0, metadata=about("How long idempotency keys are remembered, in running time.", minimum=1)
    )

    def check(self) -> None:
        """Refuse settings that do not fit together (`SettingsConflict`)."""
        super().check()
        self.check_streams(None)
        self.check_door("http_host")
        self.check_database(self.journal)
        if self.migrations == "check" and self.journal.is_file:
            raise SettingsConflict(
                "settings.conflict",
                f"migrations = check and journal = {self.journal}: a file is migrated when it is opened",
                "leave migrations at apply; only a database has roles",
                keys=("migrations", "journal"),
            )
        if not self.insecure and not self.uses_tls and not is_loopback(self.grpc_host):
            raise SettingsConflict(
                "settings.plaintext_refused",
                f"grpc_host = {self.grpc_host} can be reached from elsewhere and no TLS files are set",
                "set tls_ca, tls_cert and tls_key, or allow plaintext with insecure = true",
                keys=("grpc_host", "insecure", "tls_ca", "tls_cert", "tls_key"),
            )
