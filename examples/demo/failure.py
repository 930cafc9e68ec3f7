"""The one error of the demo: it could not be played to its end. What does not hold is a finding, not an error."""

from __future__ import annotations

import trio


class DemoFailure(Exception):
    """The demo cannot go on; the message is for its user."""


def first_failure(group: BaseExceptionGroup[BaseException]) -> DemoFailure | None:
    """The failure in a group of exceptions, when there is nothing worse in it."""
    failures, rest = group.split(DemoFailure)
    if failures is None or (rest is not None and rest.split(trio.Cancelled)[1] is not None):
        return None
    leaf: BaseException = failures
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, DemoFailure)
    return leaf
