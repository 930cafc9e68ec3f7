"""The cloud service: its settings, its command line and its composition root."""

import common  # first: refuses a Python that cannot run the rest

if __file__.rsplit("/", 2)[0] != str(getattr(common, "__file__", "")).rsplit("/", 2)[0]:
    raise SystemExit(
        f"backhaul: {getattr(common, '__file__', None) or common} has the name of Backhaul's package common and is found"
        " before it; rename yours, or move it into a package of your own"
    )
