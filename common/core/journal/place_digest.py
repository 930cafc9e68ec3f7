"""The digest by which a consumer and its source recognise a place in a log without naming what stands there.

A position alone does not tell one history from another that was restored and has gone on differently. The event at
that position does, but it may be another tenant's: so its identity travels as a hash that says nothing about it.
"""

from __future__ import annotations

from hashlib import blake2b

_DIGEST_BYTES = 8


def place_digest(journal_id: str, timestamp_us: int, persistence_id: str, seq_nr: int) -> str:
    """16 hexadecimal digits for one event of one journal: the same on every node and in every version."""
    # No part can run into its neighbour: none of them holds U+001F.
    identity = f"{journal_id}\x1f{timestamp_us}\x1f{persistence_id}\x1f{seq_nr}"
    return blake2b(identity.encode(), digest_size=_DIGEST_BYTES).hexdigest()
