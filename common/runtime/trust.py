"""Who may stay connected: certificates, authorities, revocation lists and blocked ids, looked at every few seconds.

Files are read again when they change and at SIGHUP; blocked ids are in the journal's database, so that every node sees
them within a look. What cannot be read keeps what holds: one line says so for each state of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

import trio

from common import audit
from common.core.errors import BackhaulError, ConfigurationError
from common.core.policy.credentials import DAY_S, Trust, days_left, digest_of
from common.core.policy.der import DerError, certificate_facts, pem_blocks, revocation_list
from common.journal.stores.identities import IdentityStore
from common.runtime.environment import Environment
from common.runtime.logs.setup import get_logger
from common.runtime.metrics import MetricsRegistry
from common.runtime.settings.service import ServiceSettings
from common.transport.link.live_peers import LivePeer

log = get_logger()

LOOK_AGAIN_S: Final = 2.0
WARN_DAYS: Final = 14.0
_WARN_AGAIN_S: Final = 6 * 3600.0
_FILE_MAX_BYTES: Final = 64 * 1024 * 1024


class TrustKeeper:
    """Calling it answers what holds now. ``peers`` are those that dialled here; those dialled are the environment's."""

    def __init__(self, settings: ServiceSettings, environment: Environment, identities: IdentityStore) -> None:
        """Raises ConfigurationError `tls.files_unreadable` for files that cannot be used at the start."""
        self._ca, self._crl, self._certificate = settings.tls_ca, settings.tls_crl, settings.tls_cert
        self._identities = identities
        self._now_us = environment.now_us
        self._dialled = environment.dialled
        self._peers: list[Callable[[], Iterable[LivePeer]]] = [lambda: self._dialled]
        self._trust = Trust()
        self._own_expires_s = 0.0
        self._list_due_s = 0
        self._warned_s: dict[str, float] = {}
        self._stamp = self._state_of_files()
        if self._ca is not None:
            try:
                self._read()
            except BackhaulError as error:
                raise ConfigurationError(error.code, error.message, error.hint) from None
            environment.reloads.add("trust", self.reload)
        environment.dialled.trust = self

    def __call__(self) -> Trust:
        """What holds now."""
        return self._trust

    def watch(self, peers: Callable[[], Iterable[LivePeer]]) -> None:
        """Look at these peers too."""
        self._peers.append(peers)

    @property
    def _live(self) -> Iterator[LivePeer]:
        return chain.from_iterable(peers() for peers in self._peers)

    def reload(self) -> str:
        """Read the files now. Raises `tls.files_unreadable`, and what holds stays."""
        self._stamp = self._state_of_files()
        self._read()
        anchors = self._trust.anchors or ()
        return f"{len(anchors)} authorities, {sum(map(len, self._trust.revoked.values()))} revoked"

    async def run(self) -> NoReturn:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_AGAIN_S)

    async def look(self) -> None:
        """Read what has changed; end the connections of those that may not stay; warn of what runs out soon."""
        if self._ca is not None and self._state_of_files() != self._stamp:
            try:
                self.reload()
            except BackhaulError as error:
                log.error("tls.trust_unreadable", code=error.code, reason=error.message, hint=error.hint)
        try:
            blocked = {row.id: row.reason for row in await self._identities.blocked()}
        except BackhaulError:
            pass  # the journal's watch tells it; what held goes on to hold
        else:
            if blocked != self._trust.blocked:
                self._trust = Trust(self._trust.anchors, self._trust.revoked, blocked)
        now_s = self._now_us() / 1e6
        soon_s = now_s + WARN_DAYS * DAY_S
        running_out = {"own": self._own_expires_s} if 0 < self._own_expires_s < soon_s else {}
        for peer in self._live:  # thousands of them: one pass
            credential = peer.info.credential
            objection = self._trust.objection(peer.names, credential, now_s)
            if objection is not None:
                audit.refused(
                    who=peer.name, source=peer.info.address, what="stay connected", rule="trust", result=objection.code
                )
                peer.end(objection)
            if credential is not None and credential.expires_s < soon_s:
                running_out[peer.name] = credential.expires_s
        self._warn(running_out, now_s)

    def _warn(self, running_out: Mapping[str, float], now_s: float) -> None:
        for name in [name for name in self._warned_s if name not in running_out and name != "list"]:
            del self._warned_s[name]
        for name, expires_s in running_out.items():
            if self._is_due(name, now_s):
                log.warning("tls.expires_soon", certificate=name, days=round(days_left(expires_s, now_s), 5))
        if self._list_due_s and self._list_due_s < now_s and self._is_due("list", now_s):
            log.error("tls.crl_outdated", path=str(self._crl), overdue_s=round(now_s - self._list_due_s))

    def _is_due(self, name: str, now_s: float) -> bool:
        if 0 <= now_s - self._warned_s.get(name, -_WARN_AGAIN_S) < _WARN_AGAIN_S:
            return False
        self._warned_s[name] = now_s
        return True

    def status(self) -> dict[str, Any]:
        """Days until certificates run out (null: there are none), for ``/status``; ``peers`` is the soonest of them."""
        now_s = self._now_us() / 1e6
        peers = min((peer.expires_s for peer in self._live), default=float("inf"))
        return {
            "expires_days": round(days_left(self._own_expires_s, now_s), 5) if self._own_expires_s else None,
            "peers_expire_days": round(days_left(peers, now_s), 5) if peers != float("inf") else None,
            "revoked": sum(map(len, self._trust.revoked.values())),
            "blocked": len(self._trust.blocked),
        }

    @property
    def own_expires_us(self) -> int:
        """When the own certificate runs out, in UTC microseconds; 0 where there is none."""
        return round(self._own_expires_s * 1e6)

    def register(self, metrics: MetricsRegistry) -> None:
        """Offer the days to Prometheus."""
        metrics.gauge(
            "tls_expires_days",
            "Days until the own certificate runs out.",
            lambda: self.status()["expires_days"] if self._own_expires_s else float("inf"),
        )
        metrics.gauge(
            "tls_peers_expire_days",
            "Days until the first certificate of a connected peer runs out.",
            lambda: days_left(min((peer.expires_s for peer in self._live), default=float("inf")), self._now_us() / 1e6),
        )

    # -- files -----------------------------------------------------------------------------------------------------
    def _state_of_files(self) -> tuple[object, ...]:
        return tuple(_state_of(path) for path in (self._ca, self._crl, self._certificate))

    def _read(self) -> None:
        assert self._ca is not None
        try:
            anchors = frozenset(map(digest_of, _blocks(self._ca, "CERTIFICATE")))
            revoked: dict[bytes, frozenset[int]] = {}
            due_s = 0
            for der in _blocks(self._crl, "X509 CRL") if self._crl else ():
                one = revocation_list(der)
                issuer = digest_of(one.issuer)
                revoked[issuer] = revoked.get(issuer, frozenset()) | one.serials
                due_s = min(filter(None, (due_s, one.next_s)), default=0)
            own = [certificate_facts(der) for der in _blocks(self._certificate, "CERTIFICATE")]
        except DerError as error:
            raise _unreadable(f"a certificate or a revocation list cannot be read: {error}") from None
        if not anchors or not own or (self._crl and not revoked):
            raise _unreadable("a file has no certificate, or no revocation list")
        before, self._trust = self._trust, Trust(anchors, revoked, self._trust.blocked)
        self._list_due_s, self._own_expires_s = due_s, float(min(one.not_after_s for one in own))
        if before.anchors is not None and (before.anchors, before.revoked) != (anchors, revoked):
            log.warning("tls.trust_changed", authorities=len(anchors), revoked=sum(map(len, revoked.values())))


def _state_of(path: Path | None) -> tuple[int, ...]:
    try:
        found = path.stat() if path else None
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else ()


def _blocks(path: Path | None, label: str) -> list[bytes]:
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _FILE_MAX_BYTES:
        raise _unreadable(f"{path} is larger than {_FILE_MAX_BYTES} bytes")
    return pem_blocks(content, label)


def _unreadable(what: str) -> BackhaulError:
    return BackhaulError("tls.files_unreadable", what, "they must be PEM files: replace them as a whole")
