"""What is pruned of Dagster's history, and what never is: by real runs in a real SQLite home.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.test_utils import create_run_for_test

from quantlab_dagster.cli.runs.sqlite import files_held_open
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs import pruning
from quantlab_dagster.defs.history import CATCH_UP_TAG, RUN_KEY_TAG, tries_of
from quantlab_dagster.defs.pruning import PRUNED_TAG, prune
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.daemon import configured_instance

DAYS = dg.DailyPartitionsDefinition("2026-01-01", timezone="UTC")
KEY = dg.AssetKey("day")
CHECK = dg.AssetCheckKey(KEY, "fine")
LATER = dt.timedelta(hours=1)


@dg.asset(key=KEY, partitions_def=DAYS, check_specs=[dg.AssetCheckSpec("fine", asset=KEY)])
def day(context: dg.AssetExecutionContext) -> Any:
    context.log.info("at work")
    if "fails" in context.run.tags:
        raise RuntimeError("it fails")
    yield dg.MaterializeResult(metadata={"rows": 1}, check_results=[dg.AssetCheckResult(passed=True)])


@dg.op
def nothing() -> None:
    """Leaves no event of an asset."""


@dg.job
def idle() -> None:
    nothing()


CONSOLIDATED = {
    "module": "dagster._core.storage.event_log",
    "class": "ConsolidatedSqliteEventLogStorage",
}
"""One database for all runs, as Postgres is."""


@pytest.fixture(params=["a file for each run", "one database"])
def instance(request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    instead = {} if request.param == "a file for each run" else {"event_log_storage": CONSOLIDATED}
    with files_held_open(), configured_instance(**instead) as instance:  # else each of its commits waits for the disk
        yield instance


def run_day(instance: dg.DagsterInstance, partition: str, **tags: str) -> str:
    done = dg.materialize([day], instance=instance, partition_key=partition, tags=tags, raise_on_error=False)
    return done.run_id


def run_idle(instance: dg.DagsterInstance, **tags: str) -> str:
    return idle.execute_in_process(instance=instance, tags=tags).run_id


def attempt(instance: dg.DagsterInstance, number: int, *, ended: dg.DagsterRunStatus) -> str:
    tags = {CATCH_UP_TAG: "20260103", RUN_KEY_TAG: f"20260103:{number}"}
    return str(create_run_for_test(instance, job_name="compact_day", status=ended, tags=tags).run_id)


FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


def shards(instance: dg.DagsterInstance) -> set[str]:
    storage = instance.event_log_storage
    return set(storage.get_all_run_ids()) if isinstance(storage, SqliteEventLogStorage) else set()


def left(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def test_runs_that_nobody_needs_go_with_all_they_left(instance: dg.DagsterInstance) -> None:
    first, second = run_day(instance, "2026-01-02"), run_day(instance, "2026-01-02")
    other = run_idle(instance)
    compute_logs = Path(instance.root_directory) / "storage"
    assert {path.name for path in compute_logs.iterdir()} == {first, second, other}
    done = prune(instance, utc_now() + LATER)
    assert (set(done.deleted), done.emptied, done.kept) == ({first, other}, [second], [])
    assert left(instance) == {second}
    assert shards(instance) == set()
    assert list(compute_logs.iterdir()) == []
    assert instance.all_logs(first) == []
    [event] = instance.fetch_materializations(KEY, limit=10).records
    assert event.run_id == second
    history = instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=10)
    assert [record.run_id for record in history] == [second]


def test_what_the_pages_show_of_partitions_and_checks_stays(instance: dg.DagsterInstance) -> None:
    kept = {run_day(instance, "2026-01-02"), run_day(instance, "2026-01-03"), run_day(instance, "2026-01-04", fails="")}
    before = instance.event_log_storage.get_latest_asset_check_execution_by_key([CHECK])[CHECK].evaluation
    materialised, failed = look(instance)
    assert (materialised, failed) == ({"2026-01-02", "2026-01-03"}, {"2026-01-04"})
    done = prune(instance, utc_now() + LATER)
    assert (done.deleted, set(done.emptied)) == ([], kept)
    assert left(instance) == kept
    assert look(instance) == (materialised, failed)
    after = instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=10)
    assert before in [record.evaluation for record in after]
    for run in instance.get_runs():
        assert PRUNED_TAG in run.tags, "its page says why it is empty"
    again = prune(instance, utc_now() + LATER)
    assert (again.deleted, again.emptied) == ([], []), "what was emptied is not looked at again"


def look(instance: dg.DagsterInstance) -> tuple[set[str], set[str]]:
    """What the pages show: partitions that are materialised, and that failed."""
    value = get_and_update_asset_status_cache_value(instance, KEY, DAYS, None)
    assert value is not None
    return (
        set(value.deserialize_materialized_partition_subsets(DAYS).get_partition_keys()),
        set(value.deserialize_failed_partition_subsets(DAYS).get_partition_keys()),
    )


def test_logs_and_steps_of_what_is_shown_go(instance: dg.DagsterInstance) -> None:
    run_id = run_day(instance, "2026-01-02")
    assert any("at work" in entry.user_message for entry in instance.all_logs(run_id))
    prune(instance, utc_now() + LATER)
    types = {entry.dagster_event_type for entry in instance.all_logs(run_id)}
    assert types <= {
        dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        dg.DagsterEventType.RUN_START,
        dg.DagsterEventType.RUN_SUCCESS,
    }
    assert instance.get_run_by_id(run_id) is not None
    if not isinstance(instance.event_log_storage, SqliteEventLogStorage):  # which mirrors them where all runs are
        assert dg.DagsterEventType.ASSET_CHECK_EVALUATION in types


def test_a_run_that_was_emptied_goes_when_another_has_its_partition(instance: dg.DagsterInstance) -> None:
    first = run_day(instance, "2026-01-02")
    assert prune(instance, utc_now() + LATER).emptied == [first]
    second = run_day(instance, "2026-01-02")
    done = prune(instance, utc_now() + LATER)
    assert (done.deleted, done.emptied) == ([first], [second])


def test_what_is_young_or_has_not_ended_stays_as_it_is(instance: dg.DagsterInstance) -> None:
    old = run_idle(instance)
    going, long = (create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED).run_id for _ in range(2))
    queued = create_run_for_test(instance, status=dg.DagsterRunStatus.NOT_STARTED).run_id
    time.sleep(1.1)  # the database keeps seconds
    before = utc_now()
    young = run_idle(instance)
    never_begun = create_run_for_test(instance, status=dg.DagsterRunStatus.CANCELED).run_id
    begun_long_ago = instance.get_run_by_id(long)
    assert begun_long_ago
    instance.report_run_failed(begun_long_ago, "only now")
    assert prune(instance, before).deleted == [old]
    assert left(instance) == {going, queued, young, never_begun, long}
    assert young in shards(instance) or not shards(instance)


@pytest.mark.guards("pruned-attempts")
@pytest.mark.parametrize(
    "history",
    [
        [FAILURE, FAILURE],
        [FAILURE, SUCCESS, FAILURE],
        [FAILURE, SUCCESS],
        [SUCCESS, FAILURE, SUCCESS, FAILURE, FAILURE],
        [dg.DagsterRunStatus.CANCELED, FAILURE],
    ],
    ids=lambda history: "-".join(status.value for status in history),
)
def test_catch_up_counts_the_same_attempts_before_and_after(
    instance: dg.DagsterInstance, history: list[dg.DagsterRunStatus]
) -> None:
    for number, status in enumerate(history, 1):
        attempt(instance, number, ended=status)
    before = tries_of(instance, "20260103")
    prune(instance, utc_now() + LATER)
    after = tries_of(instance, "20260103")
    assert after.failed == before.failed
    if before.failed:
        assert after == before, "its run key is used up, and the next attempt has to wait as long"


@pytest.mark.guards("pruned-attempts")
def test_a_failure_that_the_pages_need_does_not_begin_to_count(instance: dg.DagsterInstance) -> None:
    tags = {CATCH_UP_TAG: "20260103"}
    failed = run_day(instance, "2026-01-03", fails="", **tags)
    ended_well = run_idle(instance, **tags)
    prune(instance, utc_now() + LATER)
    assert left(instance) == {failed, ended_well}
    assert tries_of(instance, "20260103").failed == 0


def test_runs_of_a_backfill_that_goes_on_stay(instance: dg.DagsterInstance) -> None:
    for name, status in (("going", BulkActionStatus.REQUESTED), ("over", BulkActionStatus.COMPLETED_SUCCESS)):
        instance.add_backfill(
            PartitionBackfill(
                backfill_id=name,
                status=status,
                from_failure=False,
                tags={},
                backfill_timestamp=0.0,
                partition_names=[],
                reexecution_steps=None,
                partition_set_origin=None,
            )
        )
    going = run_idle(instance, **{"dagster/backfill": "going"})
    over = run_idle(instance, **{"dagster/backfill": "over"})
    done = prune(instance, utc_now() + LATER)
    assert (done.deleted, done.kept) == ([over], [going])


def used(instance: dg.DagsterInstance) -> int:
    """Bytes in the two databases of all runs, without pages that are free to be used again."""
    total = 0
    for name in ("runs.db", "runs/index.db"):
        with closing(sqlite3.connect(Path(instance.root_directory) / "history" / name)) as database:
            pages, free, size = (
                database.execute(f"PRAGMA {what}").fetchone()[0]
                for what in ("page_count", "freelist_count", "page_size")
            )
            total += (pages - free) * size
    return total


def test_what_stays_of_a_day_is_small() -> None:
    """Of a run that the pages still need: its rows in two databases, and no file."""
    days = [f"2026-01-{number:02}" for number in range(2, 10)]

    with files_held_open(), configured_instance() as instance:
        empty = used(instance)
        for partition in days:
            run_day(instance, partition)
        full = sum(path.stat().st_size for path in Path(instance.root_directory).rglob("*") if path.is_file())
        prune(instance, utc_now() + LATER)
        assert full > 100_000 * len(days), "else there was nothing to win"
        assert used(instance) - empty < 20_000 * len(days)
        assert shards(instance) == set()


def dated(instance: dg.DagsterInstance, run_ids: list[str], when: dt.datetime) -> None:
    """Let runs have been made, and have ended, at a moment."""
    with closing(sqlite3.connect(Path(instance.root_directory) / "history" / "runs.db")) as database, database:
        for run_id in run_ids:
            database.execute(
                "UPDATE runs SET create_timestamp = ?, start_time = ?, end_time = ? WHERE run_id = ?",
                (f"{when:%Y-%m-%d %H:%M:%S.%f}", when.timestamp(), when.timestamp(), run_id),
            )


@pytest.mark.slow
def test_a_history_that_is_pruned_each_day_hardly_grows() -> None:
    """A year, scaled down: a run of a day and one of an hour each day, of which the last four days are kept in full."""
    start, kept, days = dt.datetime(2026, 1, 3, 2, 30, tzinfo=dt.UTC), 4, 16
    sizes: list[int] = []
    with files_held_open(), configured_instance() as instance:
        for number in range(days):
            now = start + dt.timedelta(days=number)
            dated(instance, [run_day(instance, f"{now - dt.timedelta(days=1):%Y-%m-%d}"), run_idle(instance)], now)
            prune(instance, now - dt.timedelta(days=kept, hours=-1))
            assert len(shards(instance)) == 2 * min(number + 1, kept)
            sizes.append(used(instance))
        runs = instance.get_runs()
        assert len(runs) == days + kept, "the runs of hours went, and those of days stay, emptied"
    assert (sizes[-1] - sizes[kept]) / (days - 1 - kept) < 20_000, "a day beyond those that are kept"


def test_no_more_than_so_many_at_once(instance: dg.DagsterInstance) -> None:
    runs = [run_idle(instance) for _ in range(3)]
    assert prune(instance, utc_now() + LATER, most=2).deleted == runs[:2]
    assert prune(instance, utc_now() + LATER, most=2).deleted == runs[2:]


def test_another_storage_is_refused_and_nothing_is_said_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(pruning, "SqlEventLogStorage", SqliteEventLogStorage)  # of which that one is none
        with pytest.raises(dg.Failure, match=r"InMemoryEventLogStorage is no storage .* switch the schedule"):
            prune(instance, utc_now())


def test_the_job_prunes_what_is_older_than_the_setting() -> None:
    settings = Settings(QUANTLAB_KEEP_RUNS_DAYS=7)
    with configured_instance() as instance:
        old = run_idle(instance)
        for days, stays in ((6, True), (8, False)):
            now = utc_now() + dt.timedelta(days=days)
            job = build_definitions(settings, clock=lambda now=now: now).resolve_job_def("prune_history")  # type: ignore[misc]
            assert job.execute_in_process(instance=instance).success
            assert (old in left(instance)) is stays
