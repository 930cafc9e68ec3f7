"""The policy of a running service: the file that the settings name, read again when it changes and on SIGHUP.

A file that cannot be used keeps the policy that holds: one line says so, and again only after it has changed. At the
start it keeps the service from starting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NoReturn

import trio

from common.core.errors import BackhaulError, ConfigurationError
from common.core.policy.parsing import parse_policy
from common.core.policy.rules import Policy, without_file
from common.runtime.logs.setup import get_logger
from common.runtime.reload import Reloads
from common.runtime.settings.streams import StreamSettings

log = get_logger()

LOOK_AGAIN_S: Final = 2.0
_FILE_MAX_BYTES: Final = 4 * 1024 * 1024


class PolicyKeeper:
    """Calling it answers the policy that holds now: the same object until another one holds."""

    def __init__(self, settings: StreamSettings, reloads: Reloads) -> None:
        self._path = settings.policy
        self._takes_pushes = settings.takes_pushes
        if self._path is None:
            self._policy = without_file(settings.readers(), is_open=not settings.uses_tls)
            return
        self._seen = _state_of(self._path)
        try:
            self._policy = self._read(self._path)
        except BackhaulError as error:
            raise ConfigurationError(error.code, error.message, error.hint) from None
        reloads.add("policy", self.reload)

    def __call__(self) -> Policy:
        """The policy that holds."""
        return self._policy

    def may_write(self, origin_id: str, persistence_id: str) -> bool:
        """Whether an origin may write an entity now."""
        return self._policy.rights_of(origin_id).may_write(persistence_id)

    def reload(self) -> str:
        """Read the file now. Raises ``policy.invalid``, and the policy that holds stays."""
        assert self._path is not None
        self._seen = _state_of(self._path)
        policy = self._read(self._path)
        if policy.version != self._policy.version:
            before, self._policy = self._policy.version, policy
            log.warning("policy.changed", rules=len(policy.rules), version=policy.version, before=before)
        return f"{len(policy.rules)} rules, version {policy.version}"

    def _read(self, path: Path) -> Policy:
        return parse_policy(_text_of(path), str(path), takes_pushes=self._takes_pushes)

    async def run(self) -> NoReturn:
        """Look every few seconds whether the file is another one, until cancelled."""
        while self._path is not None:
            await trio.sleep(LOOK_AGAIN_S)
            if _state_of(self._path) == self._seen:
                continue
            try:
                self.reload()
            except BackhaulError as error:
                log.error("policy.refused", code=error.code, reason=error.message, version=self._policy.version)
        await trio.sleep_forever()
        raise AssertionError("sleep_forever returned")


def _state_of(path: Path) -> tuple[int, ...]:
    """What distinguishes one state of the file from another; empty where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BackhaulError("policy.invalid", f"{path} cannot be read: {what}", "correct its path and mode") from None
    if len(content) > _FILE_MAX_BYTES:
        raise BackhaulError("policy.invalid", f"{path} is larger than {_FILE_MAX_BYTES} bytes", "use patterns")
    return text
