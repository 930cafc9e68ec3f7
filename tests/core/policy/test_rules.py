"""What a policy says of ids, entities, and streams."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.core.errors import BackhaulError
from common.core.filters.predicates import parse_filter
from common.core.policy.parsing import parse_policy
from common.core.policy.patterns import Pattern
from common.core.policy.rules import Policy, Rights, Rule, WriteGrant, without_file

FLEET = """
[[rule]]
name = "the fridge"
who = ["fridge-1", "fridge-2"]
write = "Fridge|cold/*"
quota = {parked_events = 7}

[[rule]]
who = "g*"
write = ["*|{id}/*", "Alarm|*"]
read = ["news", {stream = "orders*", filter = [{exclude_all = true}, {include_topics = ["site/{id}"]}]}]

[[rule]]
who = "*"
read = "Sensor"
"""


def fleet() -> Policy:
    return parse_policy(FLEET, "policy.toml")


class TestPatterns:
    @given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
    def test_a_star_is_any_characters(self, pattern: str, text: str) -> None:
        expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
        assert Pattern.of(pattern).matches(text) is expected

    def test_an_id_is_put_in_as_it_is_and_never_reaches_into_another(self) -> None:
        pattern = Pattern.of("{id}/*")
        filled = pattern.filled("g.2")
        assert filled is not None
        assert filled.matches("g.2/x")
        assert not filled.matches("gx2/x")
        for bad in ("g2/sub", "*", "", "g\u202e2", "{id}"):
            assert pattern.filled(bad) is None


class TestWrite:
    def test_the_first_rule_that_fits_decides_alone(self) -> None:
        fridge, gateway = fleet().rights_of("fridge-2"), fleet().rights_of("g7")
        assert (fridge.rule.name, gateway.rule.name) == ("the fridge", "rule 2")
        assert fridge.may_write("Fridge|cold/1")
        assert not fridge.may_write("Fridge|g7/1")
        assert gateway.may_write("Sensor|g7/x")
        assert gateway.may_write("Alarm|anything")
        assert not gateway.may_write("Sensor|g2/x")
        assert not gateway.may_write("Sensor|g7")
        assert not gateway.may_write("Sensor")
        assert gateway.denied(["Sensor|g7/x", "Sensor|g2/x", "Sensor|g2/x"]) == {"Sensor|g2/x"}
        assert (fridge.parked_events, gateway.parked_events) == (7, None)

    @given(
        st.lists(st.tuples(st.text("a|*.", max_size=5), st.text("a|*.\n", max_size=5)), max_size=10),
        st.lists(st.text("a|.b\n", max_size=8), max_size=20),
    )
    @example([("a*|b", "*")], ["a|b|c"])
    @example([("*", "a")], ["b|a\n"])
    def test_of_many_entities_the_same_are_denied_as_one_by_one(
        self, grants: list[tuple[str, str]], names: list[str]
    ) -> None:
        patterns = [(Pattern.of(types), Pattern.of(ids)) for types, ids in grants]
        rights = Rights("edge", Rule("all", (), tuple(WriteGrant(types, ids) for types, ids in patterns)))
        expected = set(names)
        for name in names:
            entity_type, _, entity_id = name.partition("|")
            if any(types.matches(entity_type) and ids.matches(entity_id) for types, ids in patterns):
                expected.discard(name)
        assert rights.denied(names) == expected == {name for name in names if not rights.may_write(name)}

    def test_an_exact_id_does_not_overtake_an_earlier_pattern(self) -> None:
        policy = parse_policy('[[rule]]\nwho="g*"\n[[rule]]\nwho="g7"\nwrite="*|*"', "p")
        assert not policy.rights_of("g7").may_write("A|b")

    def test_none_fits_is_nothing(self) -> None:
        rights = parse_policy('[[rule]]\nwho = "x"\nwrite = "*|*"\nread = "*"', "p").rights_of("y")
        assert (rights.may_write("A|b"), rights.wall_of("A")) == (False, None)

    def test_without_a_file_it_is_the_own_prefix_always(self) -> None:
        for is_open in (True, False):
            rights = without_file({}, is_open=is_open).rights_of("g7")
            assert rights.may_write("Sensor|g7/x")
            assert not rights.may_write("Sensor|g2/x")
            assert not rights.may_write("Sensor|x")
            assert not without_file({}, is_open=is_open).rights_of("g7/sub").may_write("Sensor|g7/sub/x")


class TestRead:
    def test_a_stream_is_there_with_its_filter_or_not_at_all(self) -> None:
        rights = fleet().rights_of("g7")
        assert rights.wall_of("Sensor") is None
        news, orders = rights.wall_of("news"), rights.wall_of("orders-2")
        assert news is not None
        assert orders is not None
        assert news.filter_for("g7").criteria == parse_filter("").criteria
        assert "site/g7" in orders.filter_for("g7").criteria
        with pytest.raises(BackhaulError, match="invalid_consumer"):
            orders.filter_for("g/#")

    def test_without_a_file_streams_are_open_where_identity_is_unproven_else_to_named_readers(self) -> None:
        assert without_file({}, is_open=True).rights_of("g7").wall_of("any") is not None
        closed = without_file({"orders": "g*"}, is_open=False)
        assert closed.rights_of("g7").wall_of("any") is None
        assert closed.rights_of("g7").wall_of("orders") is not None
        assert closed.rights_of("h7").wall_of("orders") is None


@pytest.mark.parametrize("key", ['write = "*|*"', "quota = {parked_events = 1}"])
def test_where_nobody_pushes_rights_of_pushes_are_refused(key: str) -> None:
    text = f'[[rule]]\nwho = "*"\n{key}'
    assert parse_policy(text, "p").rules
    with pytest.raises(BackhaulError, match="nobody pushes to an edge"):
        parse_policy(text, "p", takes_pushes=False)


@pytest.mark.parametrize("key", ["commands", "command", "events_per_second"])
def test_a_right_that_is_enforced_nowhere_is_no_key(key: str) -> None:
    with pytest.raises(BackhaulError, match=r"policy\.invalid"):
        parse_policy(f'[[rule]]\nwho = "*"\n{key} = "*"', "p")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("rule", "is not TOML"),
        ("rules = []", "known are rule"),
        ("rule = 5", r"\[\[rule\]\]"),
        ("[[rule]]\nwrite = []", "no `who`"),
        ('[[rule]]\nwho = "a"\nwrites = []', "'writes'"),
        ("[[rule]]\nwho = [1]", "`who`"),
        ('[[rule]]\nwho = ""', "`who`"),
        ('[[rule]]\nwho = "a"\nwrite = "Sensor"', "not EntityType|entityId"),
        ('[[rule]]\nwho = "a"\nread = [5]', "`read`"),
        ('[[rule]]\nwho = "a"\nread = [{stream = "s", filter = [{no_such = 1}]}]', "filter of 's'"),
        ('[[rule]]\nwho = "a"\nread = [{stream = "s", filter = ["{id}"]}]', "filter of 's'"),
        ('[[rule]]\nwho = "a"\nwrite = "*|{edge_id}/*"', "the only placeholder"),
        ('[[rule]]\nwho = "a"\nquota = {events = 1}', "parked_events"),
        ('[[rule]]\nwho = "a"\nquota = {parked_events = -1}', "no number"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(text: str, what: str) -> None:
    with pytest.raises(BackhaulError, match=what) as refused:
        parse_policy(text, "policy.toml")
    assert refused.value.code == "policy.invalid"
    assert refused.value.message.startswith("policy.toml")
