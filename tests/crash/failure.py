"""What ends a campaign before its proof."""


class CrashFailure(Exception):
    """Something did not hold that the rest of the campaign stands on. The message says what was seen."""
