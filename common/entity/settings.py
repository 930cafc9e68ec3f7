"""Bounds of a service's entities."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EntitySettings:
    """``cached_max`` entities stay in memory, and those that are busy; one that nobody asked for ``idle_s`` leaves it.

    ``waiting_max`` commands may wait in all, ``entity_waiting_max`` for one entity; more are refused. A command that is
    not answered within ``deadline_s`` is given up, which is looked at every ``deadline_look_s``. One append holds at most
    ``append_commands_max`` commands of an entity. ``recoveries`` entities are read from the journal at a time. An entity
    that another writer was first at within the last ``contended_s`` pauses up to ``contended_pause_s`` before its next
    append, so that each of them gets its turn. Of an entity's snapshots the latest ``snapshots_kept`` are kept.
    """

    cached_max: int = 10_000
    idle_s: float = 120.0
    waiting_max: int = 10_000
    entity_waiting_max: int = 2_000
    deadline_s: float = 5.0
    deadline_look_s: float = 0.1
    append_commands_max: int = 200
    event_max_bytes: int = 1024 * 1024
    recoveries: int = 16
    snapshots_waiting_max: int = 1_000
    contended_s: float = 1.0
    contended_pause_s: float = 0.02
    retry_s: float = 0.5
    snapshots_kept: int = 1
