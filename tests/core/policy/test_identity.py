"""Which id a certificate's names carry, by patterns, and that one certificate carries one."""

from __future__ import annotations

import pytest

from common.core.errors import BackhaulError
from common.core.policy.identity import Identity, IdentityRule, pattern_problem

SPIFFE = "spiffe://fleet/edge/{id}"


@pytest.mark.parametrize(
    ("patterns", "names", "ids"),
    [
        (("{id}",), ["edge-7"], ("edge-7",)),
        (("{id}",), ["spiffe://fleet/edge/edge-7"], ()),
        (("{id}",), ["*.example.com", "", "-x", "a/b", "a b", "e\u202e7", "x" * 129], ()),
        ((SPIFFE,), ["spiffe://fleet/edge/g7"], ("g7",)),
        ((SPIFFE,), ["g7", "spiffe://fleet/edge/", "spiffe://other/edge/g7", "spiffe://fleet/edge/g7/x"], ()),
        ((SPIFFE,), ["spiffe://fleet/edge/g7?x", "xspiffe://fleet/edge/g7", "spiffe://fleet/edge/g7\n"], ()),
        (("{id}.edges.example",), ["g7.edges.example", "g7-edges-example"], ("g7",)),
        ((SPIFFE, "{id}"), ["g7", "spiffe://fleet/edge/g7"], ("g7",)),
        ((), ["g7"], ()),
    ],
)
def test_ids_are_read_by_pattern(patterns: tuple[str, ...], names: list[str], ids: tuple[str, ...]) -> None:
    assert IdentityRule(patterns).identify(names).ids == ids


def test_a_certificate_with_two_ids_has_none_unless_said_otherwise() -> None:
    identity = IdentityRule().identify(["g1", "g2"])
    assert identity.ids == ()
    with pytest.raises(BackhaulError) as refused:
        identity.must_be("g1", "edge")
    assert refused.value.code == "auth.identity_ambiguous"
    assert "g1, g2" in refused.value.message
    several = IdentityRule(one_id=False).identify(["g1", "g2"])
    assert several.ids == ("g1", "g2")
    several.must_be("g2", "edge")


@pytest.mark.parametrize("identity", [Identity(), IdentityRule().identify(["g2"])])
def test_another_name_is_refused_with_what_the_certificate_has(identity: Identity) -> None:
    with pytest.raises(BackhaulError) as refused:
        identity.must_be("g1", "edge")
    assert refused.value.code == "auth.identity_mismatch"
    assert ("g2" if identity.names else "no DNS or URI name") in refused.value.message


@pytest.mark.parametrize(
    "pattern", ["", "edge", "{id}{id}", "{id}-{x}", "{ID}", "a b{id}", "*{id}", "é{id}", "{id}\n", "['{id}']"]
)
def test_a_pattern_must_have_one_place_for_the_id(pattern: str) -> None:
    assert pattern_problem(pattern)
    with pytest.raises(ValueError, match="must"):
        IdentityRule((pattern,))
