"""The edge service: its settings, its command line and its composition root."""

import common as common  # first: refuses a Python that cannot run the rest
