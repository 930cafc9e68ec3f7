"""The journal in one SQLite file, through apsw: an edge's storage, and that of a small cloud.

``open_sqlite_journal`` opens it; ``Runner`` is how its blocking calls are run (a thread, or inline in simulations).
"""

from common.journal.sqlite.connection import Runner, run_inline
from common.journal.sqlite.journal import open_sqlite_journal

__all__ = ["Runner", "open_sqlite_journal", "run_inline"]
