"""Who comes first, judged by Dagster's own queue with the dagster.yaml that is shipped: no lake starves the other."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import DagsterRunStatus

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.names import (
    EVENTS_ASSET,
    HOURLY_PRIORITY,
    JOB,
    MARKET_POOL,
    PRIORITY_TAG,
    SYMBOLS_JOB,
    SYMBOLS_OP,
    WAREHOUSE_JOB,
    WAREHOUSE_POOL,
)
from quantlab_dagster.settings import Settings
from quantlab_dagster_tests.daemon import configured_instance, dequeue, workspace_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dagster._core.workspace.context import WorkspaceProcessContext

NOW = dt.datetime(2026, 1, 16, 2, 30, tzinfo=dt.UTC)
BACKFILL = {"dagster/backfill": "of years"}
SLOTS, OF_A_LAKE = 3, 2

QUICK = {
    "run_launcher": {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"},
    # The usual storage makes a file of every run, which takes longer than all that is tested here.
    "event_log_storage": {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"},
}


@pytest.fixture
def context(tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    """What is launched stays "starting" until a test ends it."""
    with configured_instance(**QUICK) as instance, workspace_of(instance, tmp_path, NOW) as context:
        for pool in (MARKET_POOL, WAREHOUSE_POOL):  # as the first look at a queue with runs of it does
            instance.event_log_storage.initialize_concurrency_limit_to_default(pool)
        yield context


_DEFINITIONS = build_definitions(Settings(QUANTLAB_EXCHANGES="binance", QUANTLAB_STREAMS="bbo"))


@cache
def _job(name: str, assets: frozenset[dg.AssetKey]) -> dg.JobDefinition:
    if assets:
        return _DEFINITIONS.resolve_implicit_global_asset_job_def().get_subset(asset_selection=assets)
    return _DEFINITIONS.resolve_job_def(name)


def put(
    context: WorkspaceProcessContext,
    job: str,
    tags: Mapping[str, str],
    *,
    assets: Sequence[dg.AssetKey] | None = None,
    run_config: Mapping[str, object] | None = None,
) -> str:
    [location] = context.create_request_context().code_locations
    [repository] = location.get_repositories().values()
    run = context.instance.create_run_for_job(
        _job(job, frozenset(assets or ())),
        status=DagsterRunStatus.QUEUED,
        tags=dict(tags),
        run_config=run_config,
        remote_job_origin=repository.get_full_job("__ASSET_JOB" if assets else job).get_remote_origin(),
    )
    return str(run.run_id)


def put_day(context: WorkspaceProcessContext, day: int) -> str:
    return put(context, JOB, {**BACKFILL, "dagster/partition": f"2025-12-{day:02d}"})


def put_hours(context: WorkspaceProcessContext) -> str:
    return put(context, "", BACKFILL, assets=[EVENTS_ASSET])


def put_daily(context: WorkspaceProcessContext) -> str:
    """As its schedule asks for it."""
    schedule = _DEFINITIONS.resolve_schedule_def("daily_compaction")
    assert isinstance(schedule, dg.ScheduleDefinition)
    tick = dg.build_schedule_context(scheduled_execution_time=NOW, repository_def=_DEFINITIONS.get_repository_def())
    [request] = schedule.evaluate_tick(tick).run_requests or ()
    return put(context, JOB, {**request.tags, "dagster/partition": str(request.partition_key)})


def launched(context: WorkspaceProcessContext) -> list[str]:
    """Ids in the order of their launch, of those that this look at the queue launched."""
    queue = context.instance.run_launcher.queue()  # type: ignore[attr-defined]
    before = len(queue)
    dequeue(context)
    return [run.run_id for run in queue[before:]]


def end(context: WorkspaceProcessContext, run_id: str) -> None:
    run = context.instance.get_run_by_id(run_id)
    assert run
    context.instance.report_run_failed(run)


def test_yesterday_does_not_wait_for_a_backfill_of_hours(context: WorkspaceProcessContext) -> None:
    hours = [put_hours(context) for _ in range(30)]
    assert launched(context) == hours[:OF_A_LAKE], "a slot stays free"
    assert launched(context) == []
    daily = put_daily(context)
    assert launched(context) == [daily]


def test_the_hourly_run_does_not_wait_for_a_backfill_of_days(context: WorkspaceProcessContext) -> None:
    days = [put_day(context, day) for day in range(1, 13)]
    assert launched(context) == days[:OF_A_LAKE]
    hourly = put(context, WAREHOUSE_JOB, {PRIORITY_TAG: HOURLY_PRIORITY})
    assert launched(context) == [hourly]


def test_yesterday_is_first_of_all_that_waits(context: WorkspaceProcessContext) -> None:
    hours = [put_hours(context) for _ in range(8)]
    days = [put_day(context, day) for day in range(1, 4)]
    daily = put_daily(context)
    assert launched(context) == [daily, *hours[:OF_A_LAKE]]
    end(context, daily)
    assert launched(context) == days[:1], "the other lake has all that it may have"


def test_within_a_lake_what_runs_by_itself_overtakes_a_backfill(context: WorkspaceProcessContext) -> None:
    hours = [put_hours(context) for _ in range(5)]
    running = launched(context)
    hourly = put(context, WAREHOUSE_JOB, {PRIORITY_TAG: HOURLY_PRIORITY})
    assert launched(context) == []
    end(context, running[0])
    assert launched(context) == [hourly]
    end(context, running[1])
    assert launched(context) == [hours[OF_A_LAKE]]


def test_everything_that_works_on_a_lake_is_in_its_pool(context: WorkspaceProcessContext) -> None:
    """Also a roll-up alone, and symbols by hand."""
    config = {"ops": {SYMBOLS_OP: {"config": {"symbols": ["adausdt"]}}}}
    day = {"dagster/partition": "2025-12-01"}
    state = dg.AssetKey(["compact", "state"])
    pools = {
        put_daily(context): MARKET_POOL,
        put(context, "", day, assets=[state]): MARKET_POOL,
        put(context, SYMBOLS_JOB, day, run_config=config): MARKET_POOL,
        put_hours(context): WAREHOUSE_POOL,
        put(context, WAREHOUSE_JOB, {}): WAREHOUSE_POOL,
    }
    for run_id, pool in pools.items():
        run = context.instance.get_run_by_id(run_id)
        assert run
        assert run.run_op_concurrency
        assert run.run_op_concurrency.all_pools == {pool}


def test_a_new_instance_limits_pools_from_its_second_look_on(tmp_path: Path) -> None:
    """Dagster makes a pool when it first sees a run of it in the queue; that look does not count it yet."""
    with configured_instance(**QUICK) as instance, workspace_of(instance, tmp_path, NOW) as context:
        hours = [put_hours(context) for _ in range(5)]
        assert launched(context) == hours[:SLOTS]
        end(context, hours[0])
        assert launched(context) == []
        end(context, hours[1])
        assert launched(context) == [hours[SLOTS]]
