"""The edge service's settings (`EDGE_…`).

Three suffice: `EDGE_ID`, `EDGE_CLOUD`, and either `EDGE_INSECURE` or the TLS files. The journal lies in the
working directory unless `EDGE_JOURNAL` names another place, and local programs reach the intake on loopback.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.core.addresses import Address, PeerAddress, parse_door
from common.core.errors import BackhaulError
from common.core.filters.predicates import parse_filter
from common.core.journal.url import JournalUrl, parse_journal_url
from common.runtime.settings.loading import SettingsConflict, about
from common.runtime.settings.service import GIB, KIB
from common.runtime.settings.streams import StreamSettings

PREFIX = "EDGE"
CLOUD_GRPC_PORT = 7443
EDGE_STREAM_PORT = 7544


@dataclass(frozen=True, kw_only=True)
class EdgeSettings(StreamSettings):
    """Settings of an edge."""

    id: str = field(
        metadata=about(
            "Identity of this edge, unique in the fleet; its certificate must name it (SAN).",
            pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
        )
    )
    cloud: PeerAddress = field(
        metadata=about(
            "Address of the cloud service, host:port; several, comma separated, are dialled in changing order.",
            default_port=CLOUD_GRPC_PORT,
        )
    )

    journal: JournalUrl = field(
        default=parse_journal_url("edge-journal.db"),
        metadata=about("Path of the SQLite file, or a postgresql:// URL.", secrecy="url"),
    )
    journal_max_bytes: int = field(
        default=GIB,
        metadata=about("Disk space the SQLite journal may take.", minimum=256 * KIB, maximum=16 * 1024 * GIB),
    )
    on_full: Literal["refuse", "drop_oldest"] = field(
        default="refuse",
        metadata=about("At the cap: refuse appends, or drop the oldest events of plain_types."),
    )
    plain_types: tuple[str, ...] = field(
        default=(), metadata=about("Entity types whose oldest events may be dropped when on_full says so.")
    )
    keep_acked_s: float = field(
        default=86400.0,
        metadata=about("Least time acknowledged events are kept, to refill a rewound cloud.", minimum=0),
    )
    retention_interval_s: float = field(
        default=10.0,
        metadata=about("How often deletable events are looked for.", minimum=0.05, maximum=86400),
    )
    idempotency_keep_s: float = field(
        default=7 * 86400.0, metadata=about("How long idempotency keys are remembered, in running time.", minimum=1)
    )
    entity_prefix: str = field(
        default="{edge_id}/",
        metadata=about(
            "Put before every entity id appended here; {edge_id} stands for the id, empty for none.",
            may_be_empty=True,
            pattern=r"[^|]{0,128}",
        ),
    )

    push_filter: str = field(
        default="",
        metadata=about(
            "Criteria (a JSON list) of what is ever pushed, whatever the cloud asks for; empty for everything.",
            may_be_empty=True,
        ),
    )
    push_history: Literal["snapshot", "full", "none"] = field(
        default="full",
        metadata=about("Most past of an entity that enters what is pushed, whatever the cloud asks for."),
    )

    push_snapshots_if_behind: int = field(
        default=0,
        metadata=about(
            "Push snapshots instead of the backlog when so many positions behind; 0 never.", minimum=0, maximum=2**62
        ),
    )

    serve: Address | None = field(
        default=None,
        metadata=about(
            "Where this edge's own streams are served, host:port; none is served if left out.",
            default_port=EDGE_STREAM_PORT,
        ),
    )

    http_host: str = field(default="127.0.0.1", metadata=about("Address of the HTTP intake and health pages."))
    http_port: int = field(
        default=7580, metadata=about("Port of the HTTP intake; 0 takes a free one.", minimum=0, maximum=65535)
    )
    grpc_host: str = field(default="127.0.0.1", metadata=about("Address of the gRPC intake."))
    grpc_port: int = field(
        default=7543, metadata=about("Port of the gRPC intake; 0 takes a free one.", minimum=0, maximum=65535)
    )
    grpc_socket: Path | None = field(
        default=None,
        metadata=about("Unix socket of the gRPC intake, by its absolute path; grpc_host and grpc_port then open none."),
    )

    @property
    def entity_id_prefix(self) -> str:
        """`entity_prefix` with the edge's id filled in."""
        return self.entity_prefix.replace("{edge_id}", self.id)

    def check(self) -> None:
        """Refuse settings that do not fit together (`SettingsConflict`)."""
        super().check()
        self.check_streams(self.cloud)
        self.check_door("http_host")
        if self.grpc_socket is None:
            self.check_door("grpc_host")
        else:
            self._check_socket(self.grpc_socket)
        self.check_database(self.journal)
        if self.serve and not self.uses_tls and not self.insecure and not self.serve.is_loopback:
            raise SettingsConflict(
                "settings.plaintext_refused",
                f"serve = {self.serve} can be reached from elsewhere and no TLS files are set",
                "set tls_ca, tls_cert and tls_key, or allow plaintext with insecure = true",
                keys=("serve", "insecure", "tls_ca", "tls_cert", "tls_key"),
            )
        if not self.uses_tls and not self.insecure and not self.cloud.is_loopback:
            raise SettingsConflict(
                "settings.plaintext_refused",
                f"cloud = {self.cloud} is not on this machine and no TLS files are set",
                "set tls_ca, tls_cert and tls_key, or allow plaintext with insecure = true",
                keys=("cloud", "insecure", "tls_ca", "tls_cert", "tls_key"),
            )
        if set(self.entity_prefix.replace("{edge_id}", "")) & set("{}"):
            raise SettingsConflict(
                "settings.invalid_value",
                f"entity_prefix = {self.entity_prefix} has a brace that is not of {{edge_id}}",
                "write {edge_id} where the id is to stand: it is the only placeholder",
                keys=("entity_prefix",),
            )
        try:
            parse_filter(self.push_filter)
        except BackhaulError as error:
            raise SettingsConflict(
                "settings.invalid_value", f"push_filter: {error.message}", error.hint, keys=("push_filter",)
            ) from None
        if self.on_full == "drop_oldest" and not self.plain_types:
            raise SettingsConflict(
                "settings.conflict",
                "on_full = drop_oldest has nothing it may drop",
                "name the entity types it may drop in plain_types, or leave on_full at refuse",
                keys=("on_full", "plain_types"),
            )

    def _check_socket(self, path: Path) -> None:
        try:
            parse_door(f"unix:{path}")
        except ValueError as error:
            raise SettingsConflict(
                "settings.invalid_value",
                f"grpc_socket = {path}: {error}",
                "write for example /run/backhaul/intake.sock",
                keys=("grpc_socket",),
            ) from None
