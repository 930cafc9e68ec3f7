"""How many sessions a node needs, and when a server has too few of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.core.errors import ConfigurationError
from common.core.journal import session_budget
from common.core.journal.history import Generation, History
from common.core.journal.session_budget import ServerSessions, check_sessions, is_short, sessions_of_node
from common.journal.postgres.connection import Server, SessionLimits
from common.journal.postgres.server_group import ServerGroup
from common.journal.postgres.sessions import PostgresSessions

DEFAULT = ServerSessions(100, 3, -1, -1, 0, 0)


def test_the_formula_counts_every_session_that_a_node_opens() -> None:
    history = History("j", (Generation("g", 1),), 0)
    group = ServerGroup(Server("postgresql://h/d", SessionLimits()), lambda: "")
    sessions = PostgresSessions(group, history, "", lambda: 0)
    lanes = (sessions.readers, sessions.searchers)
    opened: list[object] = [sessions.writer, sessions.state, sessions.members, sessions.hints]
    opened += [*sessions._projections, *sessions.in_transaction]
    assert sum(len(lane.readers) for lane in lanes) + len(opened) == sessions_of_node(notify=True) == 12
    assert sessions_of_node(notify=False) == 11
    assert session_budget.READERS == 2


def test_the_default_server_has_enough_for_eight_nodes_and_not_for_nine() -> None:
    assert check_sessions("db", replace(DEFAULT, nodes=7), notify=True) == 96
    with pytest.raises(ConfigurationError) as refused:
        check_sessions("db", replace(DEFAULT, nodes=8), notify=True)
    assert refused.value.code == "postgres.too_few_connections"
    assert "108" in refused.value.hint


@pytest.mark.parametrize("limit", ["role_limit", "database_limit"])
def test_limits_of_role_and_database_count_too(limit: str) -> None:
    with pytest.raises(ConfigurationError):
        check_sessions("db", replace(DEFAULT, **{limit: 11}), notify=True)
    assert check_sessions("db", replace(DEFAULT, **{limit: 12}), notify=True) == 12


def test_what_others_have_open_is_a_warning() -> None:
    assert not is_short(replace(DEFAULT, others=85), 12)
    assert is_short(replace(DEFAULT, others=86), 12)
