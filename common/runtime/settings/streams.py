"""The settings of streams, for both services: which are served, and which of other services' are followed.

A list's entries are short texts, such as ``orders=WorkOrder+Route`` or ``orders@cloud.example:7443``; in a file a table may
stand instead. What they say is taken apart here, and refused here with the setting's name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from common.core.addresses import PeerAddress, parse_peer
from common.core.errors import BackhaulError
from common.core.events.ids import NAME_MAX_BYTES, text_problem
from common.core.filters.past import Past
from common.core.filters.predicates import parse_filter
from common.core.schedule import time_us
from common.core.subscription.messages import Begin, OrderTime, StreamLimits
from common.runtime.settings.loading import SettingsConflict, about
from common.runtime.settings.service import MIB, ServiceSettings
from common.transport.subscription.catalogue import StreamCatalogue, StreamDefinition

_STREAM_PORT = 7443


def parse_source(text: str) -> PeerAddress:
    """Where a stream is served: ``host:port`` or a host at the port of streams; several with ``+`` or commas between.

    Raises ValueError with what is wrong.
    """
    return parse_peer(text.replace("+", ","), _STREAM_PORT)


@dataclass(frozen=True, slots=True)
class Followed:
    """A stream of another service: the subscription's own name, the stream's name there, and where that is."""

    name: str
    stream_id: str
    address: PeerAddress


@dataclass(frozen=True, kw_only=True)
class StreamSettings(ServiceSettings):
    """Settings of streams."""

    takes_pushes: ClassVar[bool] = False
    """Whether edges push to the service: rights of theirs are then a policy's."""

    streams: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Streams served, as id=Type or id=Type+Type; `readers=*` behind it opens it over TLS. None: every entity "
            "type is one of its own name; so does *."
        ),
    )
    policy: Path | None = field(
        default=None,
        metadata=about("TOML file of rules: which id may write and read what. None: own prefix, `readers`."),
    )

    subscriptions: tuple[str, ...] = field(
        default=(),
        metadata=about("Streams followed, as stream, stream@host:port or name=stream@host:port."),
    )
    subscription_filters: tuple[str, ...] = field(
        default=(),
        metadata=about("First filter of a subscription, as name=[criteria]; later changes are kept in the journal."),
    )
    subscription_history: tuple[str, ...] = field(
        default=(),
        metadata=about("Past of an entity that enters a filter, as name=snapshot (default), name=full or name=none."),
    )
    into_journal: tuple[str, ...] = field(
        default=(),
        metadata=about("Subscriptions that write into this service's own journal instead of an inbox."),
    )
    inbox_max_bytes: int = field(
        default=64 * MIB, metadata=about("Most bytes that wait in one subscription's inbox.", minimum=1024)
    )
    start_from: str = field(
        default="log",
        metadata=about(
            "Where a new subscription begins: log (its beginning), snapshots, now (its end), or behind an order time, RFC "
            "3339 with a zone."
        ),
    )
    on_trimmed: Literal["snapshots", "stop"] = field(
        default="snapshots",
        metadata=about("When events after a subscription's place are gone: go on with snapshots, or stop."),
    )
    on_diverged: Literal["stop", "restart"] = field(
        default="stop",
        metadata=about("When the source's history is another one: stop, or forget this one and begin anew."),
    )
    snapshots_if_behind: int = field(
        default=0,
        metadata=about("Begin with snapshots when so many positions behind; 0 never.", minimum=0, maximum=2**62),
    )
    connect_timeout_s: float = field(
        default=10.0, metadata=about("Time to reach another service in one try.", minimum=0.1, maximum=600)
    )
    backoff_min_s: float = field(
        default=0.5,
        metadata=about("Shortest bound of the wait between two tries.", minimum=0.01, maximum=3600),
    )
    backoff_max_s: float = field(
        default=30.0, metadata=about("Longest wait between two tries.", minimum=0.01, maximum=86400)
    )
    lease_s: float = field(
        default=15.0, metadata=about("Time after which a silent node's work is taken over.", minimum=0.5)
    )

    @property
    def stream_limits(self) -> StreamLimits:
        """The bounds of every consumer's stream."""
        return StreamLimits(self.window_max_bytes, self.batch_max_bytes, self.batch_max_events)

    def catalogue(self) -> StreamCatalogue:
        """What is served. Raises ``SettingsConflict``."""
        served = []
        for name, types, _ in self._stream_entries():
            if name != "*":
                served.append(StreamDefinition(name, frozenset(types)))
        return StreamCatalogue(served)

    def readers(self) -> dict[str, str]:
        """The readers each stream is opened to over TLS where no policy file says more; "*" is every stream."""
        return {name: readers for name, _, readers in self._stream_entries() if readers}

    def _stream_entries(self) -> Iterator[tuple[str, list[str], str]]:
        """Name, entity types and readers of each entry."""
        for entry in self.streams:
            definition, _, option = entry.strip().partition(" ")
            key, _, readers = option.strip().replace(" ", "").partition("=")
            name, equals, types = definition.partition("=")
            kinds = [kind.strip() for kind in types.split("+")] if equals else [name]
            is_bad = bool(option) and (key != "readers" or not readers)
            if name == "*" and (equals or len(self.streams) > 1):
                is_bad = True
            for text in (name, *kinds):
                if is_bad or not text or "|" in text or text_problem(text, NAME_MAX_BYTES):
                    raise _wrong("streams", entry, "write id=Type or id=Type+Type, and `readers=*` behind it if wanted")
            yield name, kinds, readers

    def followed(self, default: PeerAddress | None) -> list[Followed]:
        """The subscriptions; ``default`` is where a stream is that names no address. Raises ``SettingsConflict``."""
        found: dict[str, Followed] = {}
        for entry in self.subscriptions:
            stream, at, where = entry.partition("@")
            name, equals, stream_id = stream.partition("=")
            try:
                address = parse_source(where) if at else default
            except ValueError as error:
                raise _wrong("subscriptions", entry, f"its address: {error}") from None
            is_bad = any(not text or text_problem(text, NAME_MAX_BYTES) for text in (name, stream_id or name))
            if address is None or is_bad or name in found or (equals and not stream_id):
                raise _wrong("subscriptions", entry, "write stream@host:port or name=stream@host:port, each name once")
            found[name] = Followed(name, stream_id or name, address)
        named: dict[str, Collection[str]] = {
            "into_journal": self.into_journal,
            "subscription_filters": self.first_filters(),
            "subscription_history": self.pasts(),
        }
        for key, names in named.items():
            for name in names:
                if name not in found:
                    raise _wrong(key, name, "name one of `subscriptions`")
        return list(found.values())

    def first_filters(self) -> dict[str, str]:
        """Canonical criteria by subscription. Raises ``SettingsConflict``."""
        filters = _criteria_by_name("subscription_filters", self.subscription_filters)
        try:
            return {name: parse_filter(criteria).criteria for name, criteria in filters.items()}
        except BackhaulError as error:
            raise _conflict("subscription_filters", error.message, error.hint) from None

    def pasts(self) -> dict[str, Past]:
        """How much of its past an entity brings into a filter, by subscription. Raises ``SettingsConflict``."""
        found: dict[str, Past] = {}
        for entry in self.subscription_history:
            name, _, past = (part.strip() for part in entry.partition("="))
            if not name or name in found or past not in set(Past):
                raise _wrong("subscription_history", entry, "write name=snapshot, name=full or name=none, once a name")
            found[name] = Past(past)
        return found

    def start(self) -> Begin | OrderTime:
        """Where a new subscription begins. Raises ``SettingsConflict``."""
        if self.start_from in (Begin.LOG, Begin.SNAPSHOTS, Begin.NOW):
            return Begin(self.start_from)
        timestamp_us = time_us(self.start_from)
        if timestamp_us is None or timestamp_us < 0:
            raise _wrong(
                "start_from", self.start_from, "write log, snapshots, now, or a time like 2026-05-04T03:02:01Z"
            )
        return OrderTime(timestamp_us)

    def check_reachable(self, address: PeerAddress) -> None:
        """Refuse to follow without TLS what is not on this machine, unless that is wanted (`SettingsConflict`)."""
        if not self.uses_tls and not self.insecure and not address.is_loopback:
            raise SettingsConflict(
                "settings.plaintext_refused",
                f"{address} is not on this machine and no TLS files are set",
                "set tls_ca, tls_cert and tls_key, or allow plaintext with insecure = true",
                keys=("subscriptions", "insecure", "tls_ca", "tls_cert", "tls_key"),
            )

    def check_streams(self, default: PeerAddress | None) -> None:
        """Refuse what does not fit together (`SettingsConflict`)."""
        self._check_order("backoff_min_s", "backoff_max_s")
        self.catalogue()
        self.start()
        for one in self.followed(default):
            self.check_reachable(one.address)
        if self.into_journal and self.on_diverged == "restart":
            raise SettingsConflict(
                "settings.conflict",
                "on_diverged = restart would bring into the journal again what into_journal has put there",
                "leave on_diverged at stop, or let the subscription fill an inbox",
                keys=("on_diverged", "into_journal"),
            )


def _criteria_by_name(key: str, entries: Sequence[str]) -> dict[str, str]:
    """``name=[…]`` entries; a variable's list was cut at the commas that are also JSON's."""
    text, found, decoder = ",".join(entries), dict[str, str](), json.JSONDecoder()
    while text:
        name, equals, rest = text.partition("=")
        try:
            _, end = decoder.raw_decode(rest.lstrip())
        except ValueError:
            end = 0
        if not equals or not end or name.strip() in found:
            raise _wrong(key, text[:80], 'write name=[{"exclude_all":true},{"include_topics":["a/#"]}]')
        rest = rest.lstrip()
        found[name.strip()], text = rest[:end], rest[end:].lstrip(", ")
    return found


def _wrong(key: str, what: str, hint: str) -> SettingsConflict:
    return _conflict(key, f"{what[:200]} cannot be used", hint)


def _conflict(key: str, problem: str, hint: str) -> SettingsConflict:
    return SettingsConflict("settings.conflict", f"{key}: {problem}", hint, keys=(key,))
