"""How much the firehose may keep, read and wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.core.firehose.demotion import DemotionRule


@dataclass(frozen=True, slots=True)
class FirehoseSettings:
    """Bounds of one node's firehose. Times in seconds, sizes in bytes."""

    ring_max_events: int = 100_000
    ring_max_bytes: int = 64 * 1024 * 1024
    poll_s: float = 1.0
    """How long after the last sign of a commit the journal is read anyway."""
    read_max_events: int = 2_000
    read_max_bytes: int = 1024 * 1024
    pending_max: int = 8_192
    """Positions that may wait for one selecting subscriber."""
    catch_ups_at_once: int = 2
    """How many subscribers behind the ring the journal is read for at a time."""
    block_events: int = 2_000
    """Where the pages end that subscribers behind the ring share."""
    in_hand_max_bytes: int = 64 * 1024 * 1024
    """What all subscribers behind the ring may have in hand together."""
    shelf_max_bytes: int = 16 * 1024 * 1024
    """Pages kept for those who come to them a little later."""
    range_page_blocks: int = 8
    """How many blocks one page of a projection's range may go through."""
    range_blocks_max_bytes: int = 24 * 1024 * 1024
    """Blocks kept for ranges that have still to take them."""
    ranges_ring_max_events: int = 20_000
    ranges_ring_max_bytes: int = 8 * 1024 * 1024
    """What the ring holds while only ranges are served from it."""
    histories_max_bytes: int = 16 * 1024 * 1024
    """Histories of single entities kept for other consumers that ask for the same."""
    histories_keep_s: float = 5.0
    histories_ahead_max_bytes: int = 512 * 1024
    """What is read in one go of entities that are about to be sent again."""
    short_history_max_events: int = 100
    """One with more events is read alone."""
    deleted_max: int = 500
    """Entities of which something was deleted that one page may tell of."""
    look_again_s: float = 0.25
    """How often one that must stay on the journal looks for something new at the head."""
    sweep_s: float = 1.0
    """How often those are looked for that have fallen out of the ring and do not ask."""
    retry_min_s: float = 0.1
    retry_max_s: float = 5.0
    summary_s: float = 60.0
    standing: DemotionRule = field(default_factory=DemotionRule)
