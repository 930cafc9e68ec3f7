"""Topics: the tags of an event that begin with ``t:``, matched by MQTT 3.1.1 topic expressions.

Levels are parted by ``/``; ``+`` stands for one level, ``#`` at the end for any number of them, none too (``a/#``
matches ``a``). A level may be empty, as in MQTT: ``/a`` and ``a`` are two topics. An expression that begins with a
wildcard does not match a topic that begins with ``$``. ``TopicTree`` finds, of many expressions, those that match.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from common.core.events.ids import NAME_MAX_BYTES, text_problem

TOPIC_PREFIX = "t:"
_LEVEL = "/"
_ONE = "+"
_REST = "#"

Key = TypeVar("Key", bound=Hashable)


def topic_problem(expression: str) -> str:
    """What makes this no topic expression, or ''."""
    if not expression:
        return "is empty"
    problem = text_problem(expression, NAME_MAX_BYTES - len(TOPIC_PREFIX))
    if problem:
        return problem
    levels = expression.split(_LEVEL)
    if any(_REST in level for level in levels[:-1]) or (_REST in levels[-1] and levels[-1] != _REST):
        return "has a # that is not alone in the last level"
    if any(_ONE in level and level != _ONE for level in levels):
        return "has a + that is not alone in its level"
    return ""


def is_wildcard(expression: str) -> bool:
    """Whether a good expression may match more than one topic."""
    return _ONE in expression or _REST in expression


def fixed_prefix(expression: str) -> str:
    """What every topic begins with that a wildcard expression matches; for ``a/#`` that leaves out ``a`` itself."""
    levels = expression.split(_LEVEL)
    first = next(index for index, level in enumerate(levels) if level in (_ONE, _REST))
    return "".join(level + _LEVEL for level in levels[:first])


class _Node(Generic[Key]):
    __slots__ = ("children", "here", "one", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Key]] = {}
        self.one: _Node[Key] | None = None
        self.here: set[Key] = set()
        self.rest: set[Key] = set()

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.one or self.here or self.rest)


class TopicTree(Generic[Key]):
    """Expressions with keys, found by topic in the time of the topic's levels, however many there are.

    Expressions must be good ones (``topic_problem``). Wildcards stand beside the names of levels, not among them: a
    topic that has ``+`` or ``#`` for a name finds no more than others.
    """

    def __init__(self) -> None:
        self._root: _Node[Key] = _Node()

    def __bool__(self) -> bool:
        return not self._root.is_empty

    def add(self, expression: str, key: Key) -> None:
        """Have topics that match ``expression`` find ``key``."""
        node = self._root
        levels = expression.split(_LEVEL)
        for level in levels:
            if level == _REST:
                node.rest.add(key)
                return
            if level == _ONE:
                node.one = node.one or _Node()
                node = node.one
            else:
                node = node.children.setdefault(level, _Node())
        node.here.add(key)

    def remove(self, expression: str, key: Key) -> None:
        """Undo ``add``; nothing is left of an expression that has no key."""
        path = [self._root]
        levels = expression.split(_LEVEL)
        ends_in_rest = levels[-1] == _REST
        for level in levels[:-1] if ends_in_rest else levels:
            following = path[-1].one if level == _ONE else path[-1].children.get(level)
            if following is None:
                return
            path.append(following)
        (path[-1].rest if ends_in_rest else path[-1].here).discard(key)
        for depth in range(len(path) - 1, 0, -1):
            if not path[depth].is_empty:
                return
            if levels[depth - 1] == _ONE:
                path[depth - 1].one = None
            else:
                del path[depth - 1].children[levels[depth - 1]]

    def match(self, topic: str) -> set[Key]:
        """The keys of every expression that matches ``topic``."""
        return {key for found in self._found(topic) for key in found}

    def matches(self, topic: str) -> bool:
        """Whether any expression matches ``topic``."""
        return any(self._found(topic))

    def _found(self, topic: str) -> Iterator[set[Key]]:
        if not topic:
            return
        nodes, is_open = [self._root], not topic.startswith("$")
        for level in topic.split(_LEVEL):
            following = []
            for node in nodes:
                child = node.children.get(level)
                if child:
                    following.append(child)
                if is_open:
                    yield node.rest
                    if node.one:
                        following.append(node.one)
            nodes, is_open = following, True
        for node in nodes:
            yield node.here
            yield node.rest
