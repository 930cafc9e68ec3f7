"""The journal in a PostgreSQL database (15 to 18), through asyncpg: a cloud's storage, shared by any number of nodes.

``open_postgres_journal`` opens it. What every node must agree on is in ``common/journal/sql/postgres``.
"""

from common.journal.postgres.connection import SessionLimits
from common.journal.postgres.journal import open_postgres_journal

__all__ = ["SessionLimits", "open_postgres_journal"]
