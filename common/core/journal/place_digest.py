"""The digest by which a consumer and its source recognise a place in a log without naming what stands there.

A position alone does not tell one history from another that was restored and has gone on differently. The event at
that position does, but it may be another tenant's: so its identity travels as a hash, keyed with a secret of the journal,
or who guesses the event could have the guess confirmed. Digests of before there were keys are not compared, for the same
reason.
"""

from __future__ import annotations

from hashlib import blake2b

_DIGEST_BYTES = 8
_KEYED = "k"


def place_digest(key: str, timestamp_us: int, persistence_id: str, seq_nr: int) -> str:
    """'k' and 16 hexadecimal digits for one event of the journal with this key (at most 64 bytes): the same on every node."""
    # No part can run into its neighbour: none of them holds U+001F.
    identity = f"{timestamp_us}\x1f{persistence_id}\x1f{seq_nr}"
    return _KEYED + blake2b(identity.encode(), digest_size=_DIGEST_BYTES, key=key.encode()).hexdigest()


def are_different(digest: str, other: str) -> bool:
    """Whether two digests are of different events. What is not known, or has no key, is not compared."""
    return digest.startswith(_KEYED) and other.startswith(_KEYED) and digest != other
