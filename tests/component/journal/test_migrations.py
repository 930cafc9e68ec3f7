"""Which schema steps exist, in what order, and which a database still needs."""

from __future__ import annotations

import pytest

from common.core.errors import ConfigurationError
from common.journal.migrations import Migration, load_functions, load_migrations, ordered, pending

ONE, TWO, THREE = (Migration(number, f"step_{number}", f"-- {number}") for number in (1, 2, 3))


def test_steps_are_ordered_by_number() -> None:
    texts = {"0002_step_2.sql": "-- 2", "0001_step_1.sql": "-- 1"}
    assert ordered(texts) == (ONE, TWO)


@pytest.mark.parametrize("name", ["1_step.sql", "0001_Step.sql", "0001_step.txt", "0001.sql"])
def test_a_wrong_file_name_is_our_mistake(name: str) -> None:
    with pytest.raises(AssertionError, match="not a migration"):
        ordered({name: ""})


@pytest.mark.parametrize("numbers", [(2,), (1, 3), (1, 1)])
def test_a_hole_or_a_repeated_number_is_our_mistake(numbers: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="numbered"):
        ordered({f"{number:04}_step_{index}.sql": "" for index, number in enumerate(numbers)})


def test_a_database_needs_what_it_has_not_run() -> None:
    steps = (ONE, TWO, THREE)
    assert list(pending(steps, [])) == [ONE, TWO, THREE]
    assert list(pending(steps, [1])) == [TWO, THREE]
    assert list(pending(steps, [3, 1, 2])) == []


def test_a_newer_database_is_refused() -> None:
    with pytest.raises(ConfigurationError) as refused:
        pending((ONE, TWO), [1, 2, 3])
    assert refused.value.code == "journal.schema_newer"
    assert refused.value.details == {"stored": 3, "known": 2}


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_shipped_steps_are_well_formed(database: str) -> None:
    steps = load_migrations(database)
    assert steps[0].version == 1
    assert all(step.sql.strip() for step in steps)


@pytest.mark.parametrize("name", ["append_batch", "append_plain"])
def test_a_server_function_stands_once(name: str) -> None:
    assert "".join(load_functions("postgres")).count(f"CREATE FUNCTION {name}(") == 1
    assert f"FUNCTION {name}" not in "".join(step.sql for step in load_migrations("postgres"))
