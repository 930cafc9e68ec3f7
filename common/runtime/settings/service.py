"""The settings both services have: limits, link timing, TLS, logs, shutdown.

A limit lies within the next larger one (event in batch in window), so that nothing accepted at one end of a
queue is ever too large for the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from common.core.addresses import Address, SocketPath, is_loopback, parse_door
from common.core.events.ids import NAME_MAX_BYTES, text_problem
from common.core.journal.url import JournalUrl
from common.core.policy.identity import PLAIN_NAME, IdentityRule, pattern_problem
from common.core.policy.rights import Right
from common.runtime.settings.loading import SettingsConflict, about

# Of an application: a module and the name it gives its App.
TARGET_PATTERN: Final = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
_HOST: Final = re.compile(r"\*|[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_EVERY: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What edge and cloud share; each adds its own fields."""

    app: str = field(
        default="",
        metadata=about(
            "Application to run, as module:name of its App.", may_be_empty=True, pattern=rf"({TARGET_PATTERN})?"
        ),
    )

    tls_ca: Path | None = field(
        default=None,
        metadata=about("PEM file with the authorities whose certificates the other side may show."),
    )
    tls_cert: Path | None = field(default=None, metadata=about("PEM file with this service's certificate chain."))
    tls_key: Path | None = field(
        default=None, metadata=about("PEM file with the private key of this service's certificate.")
    )
    tls_crl: Path | None = field(
        default=None,
        metadata=about("PEM file with revocation lists of those authorities; read again when it changes."),
    )
    tls_identities: tuple[str, ...] = field(
        default=(PLAIN_NAME,),
        metadata=about(
            "Names in a peer's certificate (SAN, DNS or URI) that carry its id, {id} for it: spiffe://fleet/edge/{id}, {id}."
        ),
    )
    tls_many_ids: bool = field(
        default=False, metadata=about("Believe a certificate that carries more than one id; else it carries none.")
    )
    insecure: bool = field(
        default=False,
        metadata=about("Allow links in plaintext beyond loopback. For trials and trusted networks only."),
    )
    insecure_local: bool = field(
        default=False,
        metadata=about("Allow the doors of local programs and operators, which are plaintext, beyond loopback."),
    )
    insecure_database: bool = field(
        default=False,
        metadata=about("Allow a PostgreSQL beyond loopback without TLS that verifies it (sslmode verify-full)."),
    )

    event_max_bytes: int = field(
        default=MIB, metadata=about("Largest payload of one event.", minimum=KIB, maximum=64 * MIB)
    )
    batch_max_events: int = field(default=2000, metadata=about("Most events in one batch.", minimum=1, maximum=100_000))
    batch_max_bytes: int = field(
        default=MIB, metadata=about("Size at which a batch is full.", minimum=KIB, maximum=64 * MIB)
    )
    window_max_batches: int = field(
        default=8, metadata=about("Most batches sent and not yet acknowledged.", minimum=1, maximum=1000)
    )
    window_max_bytes: int = field(
        default=4 * MIB,
        metadata=about("Most bytes sent and not yet acknowledged.", minimum=KIB, maximum=GIB),
    )
    request_max_bytes: int = field(
        default=8 * MIB,
        metadata=about("Largest body of an HTTP request.", minimum=KIB, maximum=256 * MIB),
    )
    http_hosts: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Names beside loopback under which the HTTP port may be asked (the Host header), without a port; * is any."
        ),
    )
    programs_door: str = field(
        default="",
        metadata=about(
            "Door of local programs (events, inbox, entities), host:port or unix:/path; empty: the HTTP port is.",
            may_be_empty=True,
        ),
    )
    operators_door: str = field(
        default="",
        metadata=about(
            "Door of operators (status, parked, origins, projections, policy), host:port or unix:/path; empty: the HTTP port is.",
            may_be_empty=True,
        ),
    )
    programs_token: Path | None = field(
        default=None,
        metadata=about(
            "File with the token that programs send, also to the gRPC intake; made (0600) if it is missing."
        ),
    )
    operators_token: Path | None = field(
        default=None, metadata=about("File with the token that operators send; made (0600) if it is missing.")
    )
    socket_mode: str = field(
        default="600", metadata=about("File mode of Unix sockets, in octal digits.", pattern=r"0?[0-7]{3}")
    )
    socket_uids: tuple[str, ...] = field(
        default=(), metadata=about("User ids whose processes a Unix socket answers; none: all that may open it.")
    )
    connections_max: int = field(default=256, metadata=about("Most open HTTP connections.", minimum=1, maximum=100_000))

    snapshot_every: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Entity types whose every N-th event is taken as snapshot, as Type=N; their events go only when one covers them."
        ),
    )

    snapshots_kept: int = field(
        default=1,
        metadata=about("Snapshots kept of an entity: the latest and those before it.", minimum=1, maximum=1_000),
    )

    heartbeat_s: float = field(
        default=10.0, metadata=about("Silence after which a heartbeat is sent.", minimum=0.05, maximum=3600)
    )
    progress_timeout_s: float = field(
        default=30.0,
        metadata=about("Time without progress after which a link is left.", minimum=0.1, maximum=3600),
    )
    drain_s: float = field(
        default=8.0, metadata=about("Time to finish what is begun after SIGTERM.", minimum=0, maximum=600)
    )
    poll_interval_s: float = field(
        default=0.5,
        metadata=about("How often to look for new events when no prompt came.", minimum=0.01, maximum=60),
    )
    moderation_s: float = field(
        default=0.005,
        metadata=about(
            "Least time between two commits' beginnings while the service is busy; less the less busy, 0 = never wait.",
            minimum=0,
            maximum=0.1,
        ),
    )
    poll_only: bool = field(
        default=False, metadata=about("Ignore every prompt and rely on polling (for tests of the poll).")
    )

    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=about("Least severe log level written.")
    )
    log_format: Literal["auto", "json", "pretty"] = field(
        default="auto", metadata=about("auto is pretty on a terminal and JSON lines elsewhere.")
    )
    summary_interval_s: float = field(
        default=30.0, metadata=about("How often summary lines are logged.", minimum=0.1, maximum=86400)
    )

    @property
    def uses_tls(self) -> bool:
        """Whether gRPC between the services is encrypted and both sides show a certificate."""
        return self.tls_cert is not None

    @property
    def user_timeout_s(self) -> float:
        """TCP_USER_TIMEOUT: a backstop far behind our own watch, which knows better what progress is.

        Linux counts it from the first full window until what waits at the head of the queue fits into one; behind a
        proxy with a small buffer and a slow line bytes trickle through all that time.
        """
        return 10 * self.progress_timeout_s

    @property
    def snapshot_rule(self) -> dict[str, int]:
        """`snapshot_every` as entity type → N."""
        rule: dict[str, int] = {}
        for entry in self.snapshot_every:
            entity_type, _, number = entry.rpartition("=")
            every = int(number) if _EVERY.fullmatch(number) else 0
            if not every or "|" in entity_type or text_problem(entity_type, NAME_MAX_BYTES) or not entity_type:
                raise SettingsConflict(
                    "settings.conflict",
                    f"snapshot_every has {entry!r}, which is not Type=N with N from 1",
                    "write for example Sensor=100",
                    keys=("snapshot_every",),
                )
            rule[entity_type] = every
        return rule

    @property
    def doors(self) -> dict[Right, Address | SocketPath]:
        """The doors of their own, by right."""
        named = {Right.PROGRAMS: self.programs_door, Right.OPERATORS: self.operators_door}
        found: dict[Right, Address | SocketPath] = {}
        for right, text in named.items():
            try:
                if text:
                    found[right] = parse_door(text)
            except ValueError as error:
                raise SettingsConflict(
                    "settings.invalid_value",
                    f"{right.value}_door = {text}: {error}",
                    "write for example 127.0.0.1:7581 or unix:/run/backhaul/operators.sock",
                    keys=(f"{right.value}_door",),
                ) from None
        return found

    @property
    def token_files(self) -> dict[Right, Path]:
        """The file of each right's token, if it has one."""
        files = {Right.PROGRAMS: self.programs_token, Right.OPERATORS: self.operators_token}
        return {right: path for right, path in files.items() if path is not None}

    @property
    def identity_rule(self) -> IdentityRule:
        """How a peer's id is read from its certificate."""
        return IdentityRule(self.tls_identities, one_id=not self.tls_many_ids)

    def check(self) -> None:
        """Refuse settings that do not fit together (`SettingsConflict`)."""
        tls_keys = ("tls_ca", "tls_cert", "tls_key")
        if len({getattr(self, key) is None for key in tls_keys}) > 1:
            missing = " and ".join(key for key in tls_keys if getattr(self, key) is None)
            raise SettingsConflict(
                "settings.conflict",
                f"{missing} not set while other TLS files are",
                "set tls_ca, tls_cert and tls_key together, or none of them",
                keys=tls_keys,
            )
        if self.tls_crl and not self.tls_ca:
            raise SettingsConflict(
                "settings.conflict",
                "tls_crl is set and tls_ca is not: without TLS nothing is revoked",
                "set tls_ca, tls_cert and tls_key too",
                keys=("tls_crl", *tls_keys),
            )
        for pattern in self.tls_identities:
            if problem := pattern_problem(pattern):
                raise SettingsConflict(
                    "settings.conflict",
                    f"tls_identities: {problem}",
                    "write for example spiffe://fleet/edge/{id}, or {id} for plain names",
                    keys=("tls_identities",),
                )
        _ = self.snapshot_rule  # raises for an entry that is none
        for name in self.http_hosts:
            if not _HOST.fullmatch(name):
                raise SettingsConflict(
                    "settings.invalid_value",
                    f"http_hosts has {name!r}, which is no name or address",
                    "write names without scheme and port, such as cloud.example, 10.0.0.5 or *",
                    keys=("http_hosts",),
                )
        self._check_doors()
        self._check_order("event_max_bytes", "batch_max_bytes")
        self._check_order("batch_max_bytes", "window_max_bytes")
        self._check_order("heartbeat_s", "progress_timeout_s")

    def _check_doors(self) -> None:
        for right, door in self.doors.items():
            if isinstance(door, Address) and not self.insecure_local and not door.is_loopback:
                raise SettingsConflict(
                    "settings.plaintext_refused",
                    f"{right.value}_door = {door} can be reached from elsewhere, and this door is plaintext",
                    "listen on 127.0.0.1 or a Unix socket, or allow plaintext with insecure_local = true",
                    keys=(f"{right.value}_door", "insecure_local"),
                )
        for uid in self.socket_uids:
            if not uid.isdecimal():
                raise SettingsConflict(
                    "settings.invalid_value",
                    f"socket_uids has {uid!r}, which is no user id",
                    "write numbers, as `id -u` shows them",
                    keys=("socket_uids",),
                )

    def check_door(self, key: str) -> None:
        """Refuse a plaintext door that can be reached from elsewhere, unless that is wanted (`SettingsConflict`)."""
        host = getattr(self, key)
        if not self.insecure_local and not is_loopback(host):
            raise SettingsConflict(
                "settings.plaintext_refused",
                f"{key} = {host} can be reached from elsewhere, and this door is plaintext",
                "listen on 127.0.0.1 (behind a proxy with TLS), or allow plaintext with insecure_local = true",
                keys=(key, "insecure_local"),
            )

    def check_database(self, journal: JournalUrl) -> None:
        """Refuse a database elsewhere that anybody between could be, unless that is wanted (`SettingsConflict`)."""
        if not self.insecure_database and not journal.is_private:
            raise SettingsConflict(
                "settings.plaintext_refused",
                f"journal = {journal} is not on this machine, and its server is not verified by TLS",
                "add sslmode=verify-full and sslrootcert=… to the URL, or allow it with insecure_database = true",
                keys=("journal", "insecure_database"),
            )

    def _check_order(self, smaller: str, larger: str) -> None:
        if getattr(self, smaller) > getattr(self, larger):
            raise SettingsConflict(
                "settings.conflict",
                f"{smaller} = {getattr(self, smaller)} is above {larger} = {getattr(self, larger)}",
                f"raise {larger} or lower {smaller}",
                keys=(smaller, larger),
            )
