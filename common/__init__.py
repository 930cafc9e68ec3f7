"""What both services stand on. Importing it is the first thing either does, so the Python version is settled here.

Outside the supported range the failure would otherwise be a traceback from deep inside a dependency (trio-asyncio
does not import on CPython 3.14). Only syntax that any Python 3 reads may be used in this file.
"""

import sys


def _refuse_other_pythons() -> None:
    """Leave with one line on stderr and status 1 unless this is CPython 3.11, 3.12 or 3.13."""
    if sys.implementation.name != "cpython" or not (3, 11) <= tuple(sys.version_info[:2]) <= (3, 13):
        running = "{} {}.{}.{}".format(sys.implementation.name, *sys.version_info[:3])
        raise SystemExit("backhaul: needs CPython 3.11, 3.12 or 3.13; this is " + running)


_refuse_other_pythons()

# Read by the build, too (pyproject.toml): asking for the metadata of what is installed would be a twentieth of a start.
VERSION = "0.1.0"
