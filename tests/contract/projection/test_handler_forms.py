"""The four forms of a handler, run over every storage in threads as a service does: one table, one promise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random

import pytest
import structlog
import trio

from common.core.errors import BackhaulError
from common.core.events.ids import ALL_SLICES
from common.core.journal.statement import Statement
from common.journal.stores.journal import Journal
from common.journal.tables import Tables
from common.projection import parking
from common.projection.handlers import FORMS, Event, Handler, OnFailure
from common.projection.progress import ProjectionSettings, ProjectionState
from common.watchdog import Watchdog
from tests.contract.journals import Storage
from tests.support.ledgers import Ledger, decode, fold
from tests.support.projections import Commits, log_of, logged, running, store, until

QUICK = ProjectionSettings(page_max_events=20, backoff_min_s=0.01, backoff_max_s=0.05, standby_poll_s=0.02)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class TestForms:
    """Whatever the form, each event takes effect once and in order, and what fails says where."""

    async def test_every_form_gives_the_same_table(self, journal: Journal, form: str) -> None:
        ledger, commits = Ledger(form), Commits()
        await store(journal, Random(1), 150)
        async with running(journal, ledger.handler, settings=QUICK, commits=commits, decode=decode, in_threads=True):
            await commits.reach(150)
            await store(journal, Random(2), 50)
            await commits.reach(200)
        assert await ledger.accounts(journal) == fold(await log_of(journal))

    async def test_an_event_that_raises_stops_its_projection_there_and_no_other(
        self, journal: Journal, form: str
    ) -> None:
        ledger, other, commits = Ledger(form), Ledger("statements", "other"), Commits()
        await store(journal, Random(3), 60)
        log = await log_of(journal)
        ledger.poison = {(log.persistence_id[30], log.seq_nr[30])}
        with structlog.testing.capture_logs() as lines:
            async with running(
                journal, ledger.handler, other.handler, settings=QUICK, commits=commits, decode=decode, in_threads=True
            ) as [failing, _]:
                await commits.reach(90)
                await until(lambda: failing.failures >= 5)
                assert failing.position == 30
                if form not in ("effect", "act"):
                    assert await ledger.accounts(journal) == fold(log.slice(0, 30))
                ledger.poison = set()
                ledger.effects = dict(fold(log.slice(0, 30)))
                await commits.reach(120)
        assert await ledger.accounts(journal) == await other.accounts(journal) == fold(log)
        last = logged(lines, "projection.failed")[-1]
        assert last["code"] == "projection.handler_failed"
        assert "ledgers.py:" in last["details"]["place"]
        assert (last["details"]["persistence_id"], last["details"]["seq_nr"]) == (
            log.persistence_id[30],
            log.seq_nr[30],
        )
        assert "secret" not in str(lines)

    async def test_a_hundred_cancels_leave_the_effect_and_the_offset_together(self, journal: Journal) -> None:
        random, ledger = Random(4), Ledger("in_transaction", group_events=5)
        for number in range(40):
            await store(journal, random, 10)
            async with running(
                journal, ledger.handler, owner=f"start-{number}", settings=QUICK, decode=decode, in_threads=True
            ):
                await trio.sleep(random.random() * 0.03)
        [row] = await journal.projections.rows()
        commits = Commits()
        async with running(journal, ledger.handler, commits=commits, decode=decode, in_threads=True):
            await commits.reach(400 - row.position)
        assert await ledger.accounts(journal) == fold(await log_of(journal))


class TestInside:
    """A function inside the transaction: all of a group or nothing, and never longer than its deadline."""

    async def run_until_failed(
        self, journal: Journal, function: Callable[[Tables, Event], None], **options: float
    ) -> structlog.typing.EventDict:
        handler = Handler("in_transaction", [["CREATE TABLE kept (n BIGINT)"]], in_transaction=function, **options)  # type: ignore[arg-type]
        await store(journal, Random(5), 3)
        with structlog.testing.capture_logs() as lines:
            async with running(journal, handler, settings=QUICK, in_threads=True) as [progress]:
                await until(lambda: progress.failures > 0)
        assert await journal.projections.query("SELECT n FROM kept") == []
        assert [row.position for row in await journal.projections.rows()] == [0]
        line: structlog.typing.EventDict = logged(lines, "projection.failed")[0]
        return line

    async def test_what_a_function_swallows_still_undoes_the_transaction(self, journal: Journal) -> None:
        def swallow(tables: Tables, event: Event) -> None:
            tables.execute("INSERT INTO kept VALUES ($1)", event.envelope.seq_nr)
            try:
                tables.query("SELECT n FROM nowhere")
            except BackhaulError:
                pass

        assert (await self.run_until_failed(journal, swallow, group_events=1))["code"] == "projection.statement_failed"

    async def test_a_function_beyond_its_deadline_is_left_alone_and_cannot_write_any_more(
        self, journal: Journal
    ) -> None:
        go_on, ended = threading.Event(), threading.Event()
        late: list[str] = []

        def dawdle(tables: Tables, event: Event) -> None:
            tables.execute("INSERT INTO kept VALUES ($1)", event.envelope.seq_nr)
            go_on.wait(20)
            try:
                tables.execute("INSERT INTO kept VALUES (99)")
            except BackhaulError as error:
                late.append(error.code)
            ended.set()

        failed = await self.run_until_failed(journal, dawdle, deadline_s=0.1)
        assert failed["code"] == "projection.handler_timeout"
        assert "test_handler_forms.py:" in failed["details"]["place"]
        assert not late
        go_on.set()
        await trio.to_thread.run_sync(ended.wait, 10)
        assert late == ["projection.tables_closed"]
        assert await journal.projections.query("SELECT n FROM kept") == []

    async def test_a_slow_function_holds_up_no_other_projection(self, journal: Journal) -> None:
        def dawdle(tables: Tables, event: Event) -> None:
            threading.Event().wait(0.2)

        slow = Handler("slow", [], in_transaction=dawdle, deadline_s=0.1)
        ledger, commits = Ledger("statements"), Commits()
        async with running(journal, slow, ledger.handler, settings=QUICK, commits=commits, in_threads=True):
            for number in range(1, 11):
                await store(journal, Random(number), 5)
                await commits.reach(5 * number)
        assert await ledger.accounts(journal) == fold(await log_of(journal))

    async def test_a_lost_session_is_not_replaced_in_the_middle(
        self, storage: Storage, journal: Journal, storage_name: str
    ) -> None:
        """Statements after the loss would be stored without those before it."""
        if storage_name != "postgres":
            return
        await journal.projections.migrate("kept", [["CREATE TABLE kept (n BIGINT)"]])
        lease = await journal.projections.acquire("kept", ALL_SLICES, "node", 60)
        assert lease is not None

        async def work(tables: Tables) -> None:
            def write() -> None:
                [(session,)] = tables.query("SELECT pg_backend_pid()")
                tables.execute("INSERT INTO kept VALUES (1)")
                trio.from_thread.run(end_session, session)
                tables.execute("INSERT INTO kept VALUES (2)")

            await trio.to_thread.run_sync(write)

        async def end_session(session: int) -> None:
            async with storage.open() as other:
                await other.projections.query("SELECT pg_terminate_backend($1::int)", [session])
                await trio.sleep(0.1)

        with pytest.raises(BackhaulError) as lost:
            await journal.projections.commit_in_transaction(lease, 1, work, [], 60)
        assert lost.value.code == "journal.unavailable"
        assert await journal.projections.query("SELECT n FROM kept") == []


class TestWrongThings:
    """What a function returns is looked at before anything is stored."""

    @pytest.mark.parametrize("returned", [None, 7, ["INSERT"], [Statement("SELECT 1"), None]])
    async def test_a_function_that_returns_something_else_is_named(self, journal: Journal, returned: object) -> None:
        handler = Handler("wrong", [], lambda _events: returned)  # type: ignore[arg-type, return-value]
        await store(journal, Random(6), 3)
        with structlog.testing.capture_logs() as lines:
            async with running(journal, handler, settings=QUICK, in_threads=True) as [progress]:
                await until(lambda: progress.failures > 0)
        [line, *_] = logged(lines, "projection.failed")
        assert line["code"] == "projection.handler_returned"
        assert "test_handler_forms.py:" in line["reason"]
        assert [row.position for row in await journal.projections.rows()] == [0]

    async def test_a_plain_function_that_does_not_return_is_left_alone(self, journal: Journal) -> None:
        go_on = threading.Event()

        def hang(event: Event) -> None:
            go_on.wait(20)

        await store(journal, Random(7), 1)
        commits = Commits()
        with structlog.testing.capture_logs() as lines:
            async with running(
                journal,
                Handler("hang", [], each=hang, deadline_s=0.1),
                settings=QUICK,
                commits=commits,
                in_threads=True,
            ) as [progress]:
                await until(lambda: progress.failures >= 2)
                go_on.set()
                await commits.reach(1)
        assert {line["code"] for line in logged(lines, "projection.failed")} == {"projection.handler_timeout"}
        assert all("test_handler_forms.py:" in line["details"]["place"] for line in logged(lines, "projection.failed"))

    async def test_an_async_function_that_holds_the_loop_is_named_while_it_does(self, journal: Journal) -> None:
        async def block(event: Event) -> None:
            await trio.sleep(0.01)
            threading.Event().wait(0.5)

        await store(journal, Random(8), 1)
        commits, watchdog = Commits(), Watchdog()
        with structlog.testing.capture_logs() as lines, watchdog.watching(0.1):
            async with running(
                journal, Handler("block", [], effect=block), commits=commits, in_threads=True, watchdog=watchdog
            ):
                await commits.reach(1)
        [line] = logged(lines, "code.slow")
        assert "test_handler_forms.py:" in line["place"]
        assert "block" in line["at"][-2] + line["at"][-3]


class TestFailurePolicies:
    """What becomes of an event that the handler cannot digest."""

    async def test_parking_sets_one_entity_aside_and_a_retry_brings_it_back_in_order(
        self, journal: Journal, form: str
    ) -> None:
        ledger, commits = Ledger(form, on_failure=OnFailure.PARK, attempts=2), Commits()
        await store(journal, Random(9), 100)
        log = await log_of(journal)
        entity, seq_nr = log.persistence_id[40], log.seq_nr[40]
        ledger.poison = {(entity, seq_nr)}
        with structlog.testing.capture_logs() as lines:
            async with running(
                journal, ledger.handler, settings=QUICK, commits=commits, decode=decode, in_threads=True
            ) as [progress]:
                await until(lambda: progress.position >= 100)
                await store(journal, Random(10), 50)
                await until(lambda: progress.position >= 150)
                log = await log_of(journal)
                behind = [at for at in range(150) if log.persistence_id[at] == entity and log.seq_nr[at] > seq_nr]
                if form not in ("effect", "act"):
                    assert await ledger.accounts(journal) == fold(log, {entity: seq_nr})
                parked = await parking.parked_events(journal.projections, ledger.name)
                assert [one.event.seq_nr for one in parked] == [seq_nr, *(log.seq_nr[at] for at in behind)]
                assert [one.code for one in parked] == [
                    "projection.handler_failed",
                    *(["projection.parked_behind"] * len(behind)),
                ]
                assert await parking.want(journal.projections, ledger.name, entity) == 1 + len(behind)
                while not logged(lines, "projection.parked_again"):  # still poison
                    await journal.projections.intervene(ledger.name, [])  # as the next renewal would, only sooner
                    await store(journal, Random(10), 1)
                    await trio.sleep(0.05)
                assert next(one.tries for one in await parking.parked_events(journal.projections, ledger.name)) == 1
                ledger.poison = set()
                await parking.want(journal.projections, ledger.name, entity)
                while not logged(lines, "projection.unparked"):
                    await store(journal, Random(10), 1)
                    await trio.sleep(0.05)
                head = (await journal.log.stats()).head_position
                await until(lambda: progress.position >= head)
        assert await parking.parked_events(journal.projections, ledger.name) == []
        if form not in ("effect", "act"):
            assert await ledger.accounts(journal) == fold(await log_of(journal))
        else:
            assert {name: count for name, (count, _) in ledger.effects.items()}[entity] >= 1 + len(behind)

    async def test_discarding_drops_the_first_and_lets_the_rest_be_tried(self, journal: Journal) -> None:
        ledger = Ledger("each", on_failure=OnFailure.PARK, attempts=1)
        await store(journal, Random(11), 30, entities=1)
        log = await log_of(journal)
        ledger.poison = {(log.persistence_id[10], 11)}
        async with running(journal, ledger.handler, settings=QUICK, decode=decode, in_threads=True) as [progress]:
            await until(lambda: progress.position >= 30)
            with pytest.raises(BackhaulError) as refused:
                await parking.discard(journal.projections, ledger.name, 12)
            assert refused.value.code == "parked.not_first"
            dropped = await parking.discard(journal.projections, ledger.name, 11)
            assert dropped.event.seq_nr == 11
            with pytest.raises(BackhaulError) as refused:
                await parking.discard(journal.projections, ledger.name, 11)
            assert refused.value.code == "parked.no_such_row"
            assert await parking.want(journal.projections, ledger.name, log.persistence_id[0]) == 19
            while await parking.parked_events(journal.projections, ledger.name):
                await store(journal, Random(12), 1, entities=1)
                await trio.sleep(0.05)
            head = (await journal.log.stats()).head_position
            await until(lambda: progress.position >= head)
        rest = await log_of(journal)
        assert await ledger.accounts(journal) == fold(rest.select([at for at in range(len(rest)) if at != 10]))

    async def test_more_parked_events_than_allowed_hold_the_range(self, journal: Journal) -> None:
        ledger = Ledger("each", on_failure=OnFailure.PARK, attempts=1, parked_max=5)
        await store(journal, Random(13), 30, entities=1)
        log = await log_of(journal)
        ledger.poison = {(log.persistence_id[10], 11)}
        with structlog.testing.capture_logs() as lines:
            async with running(journal, ledger.handler, settings=QUICK, decode=decode, in_threads=True):
                await until(
                    lambda: bool(
                        any(line["code"] == "projection.parked_full" for line in logged(lines, "projection.failed"))
                    )
                )
        assert len(await parking.parked_events(journal.projections, ledger.name)) <= 5
        assert await ledger.accounts(journal) == fold(log.slice(0, 10))

    async def test_stopping_pauses_the_projection_until_it_is_resumed(self, journal: Journal) -> None:
        ledger, commits = Ledger("statements", on_failure=OnFailure.STOP, attempts=2), Commits()
        await store(journal, Random(14), 50)
        log = await log_of(journal)
        ledger.poison = {(log.persistence_id[20], log.seq_nr[20])}
        with structlog.testing.capture_logs() as lines:
            async with running(
                journal, ledger.handler, settings=QUICK, commits=commits, decode=decode, in_threads=True
            ) as [progress]:
                await until(lambda: progress.state is ProjectionState.PAUSED)
                calls = ledger.calls
                await trio.sleep(0.2)
                assert ledger.calls == calls
                assert await ledger.accounts(journal) == fold(log.slice(0, 20))
                [line] = logged(lines, "projection.halted")
                assert line["details"]["persistence_id"] == log.persistence_id[20]
                ledger.poison = set()
                await journal.projections.set_paused(ledger.name, False)
                await commits.reach(50)
        assert await ledger.accounts(journal) == fold(log)
