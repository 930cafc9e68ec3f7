"""A handler that is not idempotent, killed in the middle of its transactions; `make crash` does it more often."""

from __future__ import annotations

from pathlib import Path

from tests.crash.projections import kill_over_and_over, problems


async def test_kills_in_the_middle_of_a_projection_on_sqlite(tmp_path: Path) -> None:
    url = str(tmp_path / "journal.db")
    assert await problems(url, kill_over_and_over(url, kills=3, seed=1)) == []


async def test_kills_in_the_middle_of_a_projection_on_postgres(postgres_url: str) -> None:
    assert await problems(postgres_url, kill_over_and_over(postgres_url, kills=3, seed=2)) == []
