"""The one error of the demo: it could not be played to its end. What does not hold is a finding, not an error."""


class DemoFailure(Exception):
    """The demo cannot go on; the message is for whoever started it."""
