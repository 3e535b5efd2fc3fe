"""Runs that were killed are ended, and no other ones."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType, EngineEventData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from quantlab_dagster.cli.runs.in_process import InProcess
from quantlab_dagster.cli.runs.market import catch_up
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs import liveness
from quantlab_dagster.defs.history import CATCH_UP_TAG, UNFINISHED, busy_days, tries_of
from quantlab_dagster.defs.liveness import (
    SILENT_FOR,
    command_line_tags,
    end_dead_runs,
    process_in,
    say_which_process,
    why_dead,
)
from quantlab_dagster.defs.warehouse.job import SWEEP_OP
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.settling import seed
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.settings import load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster.work.processes import Machine, Process
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.dead_runs import LIVING, killed, put_run, tags_of
from quantlab_dagster_tests.lakes import PAIR, Lakes, Recorder, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantlab_dagster.market.outcome import Outcome

pytestmark = pytest.mark.present

HERE = Machine("box", "boot-1", "4026531836")
ELSEWHERE = replace(LIVING, machine=replace(LIVING.machine, name="elsewhere", boot="another"))
REBOOTED = replace(LIVING, machine=replace(LIVING.machine, boot="the one before"))
MINUTE = dt.timedelta(minutes=1)
DAY = {"dagster/partition": "2026-01-12"}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run
    return run.status


# ---- the judgement ---------------------------------------------------------------------------------------------------


def judged(
    machine: Machine | None, *, ended: bool | None = None, silent: dt.timedelta = MINUTE, here: Machine = HERE
) -> str | None:
    process = Process(machine, 7, "99") if machine else None
    asked: list[Process] = []

    def look(process: Process) -> bool | None:
        asked.append(process)
        return ended

    why = why_dead(process, here, lambda: silent, look)
    assert asked in ([], [process])
    return why


@pytest.mark.guards("living-run-ended")
def test_on_this_machine_the_process_decides_however_long_it_is_silent() -> None:
    assert judged(HERE, ended=True) == "its process 7 on box is gone"
    assert judged(HERE, ended=False, silent=100 * SILENT_FOR) is None
    assert judged(replace(HERE, name="renamed"), ended=True) == "its process 7 on renamed is gone"
    assert judged(replace(HERE, name="renamed"), ended=False, silent=100 * SILENT_FOR) is None


@pytest.mark.guards("dead-run")
def test_a_reboot_ends_every_process() -> None:
    assert judged(replace(HERE, boot="boot-0"), ended=False) == "box was started again since"
    assert judged(replace(HERE, boot="boot-0", pids="1"), ended=False) == "box was started again since"


@pytest.mark.parametrize(
    "machine",
    [
        Machine("other", "boot-9", HERE.pids),
        Machine("other", "", ""),
        Machine("box", "", ""),  # its system did not say: that is no reboot
        replace(HERE, pids="4026532999"),  # a container of this machine, with its name
        None,
    ],
)
def test_what_cannot_be_looked_at_is_dead_after_six_silent_hours(machine: Machine | None) -> None:
    assert judged(machine, ended=True) is None, "its process id means nothing here"
    assert judged(machine, silent=SILENT_FOR) is None
    assert "no sign of life for more than 6 hours" in str(judged(machine, silent=SILENT_FOR + MINUTE))
    assert judged(machine, silent=-MINUTE) is None
    assert judged(machine, silent=-100 * SILENT_FOR), "a wrong clock is no life"


def test_an_id_in_use_that_cannot_be_told_apart_is_believed_for_six_hours() -> None:
    plain = Machine("laptop")
    assert judged(plain, here=plain, ended=None) is None
    assert judged(plain, here=plain, ended=True)
    assert judged(plain, here=plain, ended=None, silent=SILENT_FOR + MINUTE)
    assert judged(plain, here=Machine("other"), ended=True) is None


def test_the_time_is_that_of_dagsters_run_monitoring() -> None:
    configuration = (Path(__file__).parents[2] / "dagster.yaml").read_text()
    assert f"  max_runtime_seconds: {SILENT_FOR.total_seconds():.0f}\n" in configuration


def test_tags_say_which_process_it_is() -> None:
    assert process_in(command_line_tags("a run")) == LIVING
    assert process_in(tags_of(ELSEWHERE)) == ELSEWHERE
    good = command_line_tags("a run")
    for name, value in [
        (".dagster/quantlab_host", ""),
        (".dagster/quantlab_host", "a/b"),
        (".dagster/quantlab_pid", ""),
        (".dagster/quantlab_pid", "-1"),
        (".dagster/quantlab_pid", "0"),
        (".dagster/quantlab_pid", "x"),
    ]:
        assert process_in({**good, name: value}) is None
    assert process_in({}) is None


# ---- the history -----------------------------------------------------------------------------------------------------


@pytest.mark.guards("living-run-ended")
def test_only_what_is_dead_is_ended(instance: dg.DagsterInstance) -> None:
    alive = put_run(instance, LIVING, tags=DAY)
    finished = put_run(instance, killed(), status=dg.DagsterRunStatus.SUCCESS)
    dead = {
        put_run(instance, killed(), tags=DAY): "is gone",
        put_run(instance, replace(LIVING, started="1")): "is gone",
        put_run(instance, REBOOTED): "was started again since",
    }
    ended = end_dead_runs(instance, utc_now())
    assert {run.run_id for run in ended} == set(dead)
    for run in ended:
        assert dead[run.run_id] in run.text
        assert status_of(instance, run.run_id) is dg.DagsterRunStatus.FAILURE
        [event] = instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
        assert run.why in event.message
    assert any("compact_day 2026-01-12" in run.text for run in ended)
    assert status_of(instance, alive) is dg.DagsterRunStatus.STARTED
    assert status_of(instance, finished) is dg.DagsterRunStatus.SUCCESS
    assert busy_days(instance) == {dt.date(2026, 1, 12)}, "of the one that is alive"
    assert end_dead_runs(instance, utc_now()) == []


# What is queued was launched by Dagster.
@pytest.mark.guards("dead-run")
@pytest.mark.parametrize("status", [status for status in UNFINISHED if status is not dg.DagsterRunStatus.QUEUED])
def test_whatever_it_was_doing(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> None:
    run_id = put_run(instance, killed(), status=status)
    assert [run.run_id for run in end_dead_runs(instance, utc_now())] == [run_id]
    canceling = status is dg.DagsterRunStatus.CANCELING
    assert status_of(instance, run_id) is (dg.DagsterRunStatus.CANCELED if canceling else dg.DagsterRunStatus.FAILURE)


@pytest.mark.guards("dead-run")
def test_another_hosts_run_is_ended_six_hours_after_its_last_event(instance: dg.DagsterInstance) -> None:
    old_version = create_run_for_test(
        instance, status=dg.DagsterRunStatus.STARTED, tags={"quantlab/started_by": "command line"}
    )
    runs = {put_run(instance, ELSEWHERE), old_version.run_id}
    begun = utc_now()
    assert end_dead_runs(instance, begun) == []
    assert end_dead_runs(instance, begun + SILENT_FOR - MINUTE) == []
    for run_id in runs:  # it says something two hours later
        _say(instance, run_id, begun + dt.timedelta(hours=2))
    assert end_dead_runs(instance, begun + SILENT_FOR + MINUTE) == []
    ended = end_dead_runs(instance, begun + dt.timedelta(hours=2) + SILENT_FOR + MINUTE)
    assert {run.run_id for run in ended} == runs
    assert all("no sign of life" in run.text for run in ended)


def _say(instance: dg.DagsterInstance, run_id: str, at: dt.datetime) -> None:
    event = DagsterEvent(
        DagsterEventType.ENGINE_EVENT.value, "compact_day", message="at work", event_specific_data=EngineEventData()
    )
    instance.report_dagster_event(event, run_id, timestamp=at.timestamp())


ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("quantlab"), "repository"), "compact_day")


def put_launched(
    instance: dg.DagsterInstance,
    tags: dict[str, str],
    *,
    of: str | None = None,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
) -> str:
    """A run that Dagster launched, with tags that were written for it, or for another one."""
    run = create_run_for_test(instance, status=status, tags=tags, remote_job_origin=ORIGIN)
    instance.add_run_tags(run.run_id, {".dagster/quantlab_process_of": of or run.run_id})
    return str(run.run_id)


def test_a_run_that_dagster_launched_is_ended_if_the_process_that_it_names_is_dead(
    instance: dg.DagsterInstance,
) -> None:
    alive = put_launched(instance, tags_of(LIVING))
    dead = put_launched(instance, tags_of(killed()))
    assert [run.run_id for run in end_dead_runs(instance, utc_now())] == [dead]
    assert status_of(instance, dead) is dg.DagsterRunStatus.FAILURE
    assert status_of(instance, alive) is dg.DagsterRunStatus.STARTED


@pytest.mark.guards("living-run-ended")
def test_other_runs_that_dagster_launched_are_left_to_it(instance: dg.DagsterInstance) -> None:
    """Those that name no process; and one that is executed again, because Dagster copies the first one's tags."""
    plain = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, remote_job_origin=ORIGIN)
    of_a_command = create_run_for_test(
        instance, status=dg.DagsterRunStatus.STARTED, tags=tags_of(killed()), remote_job_origin=ORIGIN
    )
    copied = put_launched(instance, tags_of(killed()), of="the first one")
    queued = put_launched(instance, tags_of(killed()), status=dg.DagsterRunStatus.QUEUED)
    assert end_dead_runs(instance, utc_now() + 100 * SILENT_FOR) == []
    for run_id in (plain.run_id, of_a_command.run_id, copied):
        assert status_of(instance, run_id) is dg.DagsterRunStatus.STARTED
    assert status_of(instance, queued) is dg.DagsterRunStatus.QUEUED


def test_a_step_says_which_process_executes_its_run(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    run = create_run_for_test(instance, tags=tags_of(killed()), remote_job_origin=ORIGIN)
    job = SimpleNamespace(executor_def=dg.in_process_executor)
    context = SimpleNamespace(run=run, instance=instance, log=logging.getLogger("step"), job_def=job)
    say_which_process(cast("dg.OpExecutionContext", context))
    found = instance.get_run_by_id(run.run_id)
    assert found
    assert process_in(found.tags) == LIVING
    assert found.tags[".dagster/quantlab_process_of"] == run.run_id
    instance.delete_run(run.run_id)
    say_which_process(cast("dg.OpExecutionContext", context))
    assert "cannot say which process this is" in caplog.text

    command = create_run_for_test(instance, tags=tags_of(killed()))
    context.run = command
    say_which_process(cast("dg.OpExecutionContext", context))
    found = instance.get_run_by_id(command.run_id)
    assert found
    assert found.tags == command.tags, "the command has said so"


@pytest.mark.parametrize(("executor", "pid"), [("multiprocess", os.getppid), ("celery", None), ("k8s", None)])
def test_a_step_that_is_not_its_run_names_no_process_but_the_runs(
    instance: dg.DagsterInstance, executor: str, pid: Callable[[], int] | None
) -> None:
    """A run whose worker dies is not dead: another worker does the step."""
    run = create_run_for_test(instance, remote_job_origin=ORIGIN)
    job = SimpleNamespace(executor_def=SimpleNamespace(name=executor))
    context = SimpleNamespace(run=run, instance=instance, log=logging.getLogger("step"), job_def=job)
    say_which_process(cast("dg.OpExecutionContext", context))
    found = instance.get_run_by_id(run.run_id)
    assert found
    process = process_in(found.tags)
    assert (process.pid if process else None) == (pid() if pid else None)


def test_every_job_runs_in_one_process() -> None:
    """With another executor the process of a step would not be the one of its run."""
    jobs = build_definitions(load_settings()).resolve_all_job_defs()
    assert {job.executor_def.name for job in jobs} == {"in_process"}
    assert len(list(jobs)) >= 4


@pytest.mark.guards("living-run-ended")
def test_one_that_ends_well_while_it_is_looked_at_stays_well(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = put_run(instance, killed())

    def ends(_process: Process) -> bool:
        event = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, "compact_day")
        instance.report_dagster_event(event, run_id)
        return True

    monkeypatch.setattr(liveness, "has_ended", ends)
    assert end_dead_runs(instance, utc_now()) == []
    assert status_of(instance, run_id) is dg.DagsterRunStatus.SUCCESS


def test_a_run_that_was_ended_is_told_from_one_that_failed_by_itself(instance: dg.DagsterInstance) -> None:
    """It counts as an attempt, and the next one need not wait: see `catchup.wait_after`."""
    put_run(instance, killed(), tags={CATCH_UP_TAG: "day:20260108"})
    failed = put_run(instance, LIVING, tags={CATCH_UP_TAG: "day:20260109"})
    instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_FAILURE.value, "compact_day"), failed)
    assert len(end_dead_runs(instance, utc_now())) == 1
    died, other = tries_of(instance, "day:20260108"), tries_of(instance, "day:20260109")
    assert (died.failed, died.last_failed, died.last_died) == (1, True, True)
    assert (other.failed, other.last_failed, other.last_died) == (1, True, False)


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that it is dead before either says so."""
    dead = killed()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run_id = put_run(instance, dead, tags=DAY)
        together, read = threading.Barrier(2), instance.get_run_by_id

        def read_together(run_id: str) -> dg.DagsterRun | None:
            run = read(run_id)
            together.wait(30)
            return run

        monkeypatch.setattr(instance, "get_run_by_id", read_together)
        said: list[Any] = []
        enders = [threading.Thread(target=lambda: said.append(end_dead_runs(instance, utc_now()))) for _ in range(2)]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join(60)
        assert [[run.run_id for run in ended] for ended in said] == [[run_id], [run_id]]
        monkeypatch.undo()
        assert status_of(instance, run_id) is dg.DagsterRunStatus.FAILURE
        assert busy_days(instance) == set()
        assert end_dead_runs(instance, utc_now()) == []


def test_an_error_of_the_storage_is_said_and_stops_nothing(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = put_run(instance, killed()), put_run(instance, killed())
    report = instance.report_run_failed

    def fails_for_one(run: dg.DagsterRun, message: str) -> Any:
        if run.run_id == first:
            raise OSError("database is locked")
        return report(run, message)

    monkeypatch.setattr(instance, "report_run_failed", fails_for_one)
    with caplog.at_level(logging.WARNING):
        assert [run.run_id for run in end_dead_runs(instance, utc_now())] == [second]
    assert f"run {first}" in caplog.text
    assert "database is locked" in caplog.text
    monkeypatch.undo()
    assert [run.run_id for run in end_dead_runs(instance, utc_now())] == [first]


def test_a_history_that_cannot_be_read_is_said(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_filters: dg.RunsFilter) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(instance, "get_run_records", fails)
    assert end_dead_runs(instance, utc_now()) == []
    assert "cannot see which runs have died: no route to host" in caplog.text


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.guards("dead-run")
def test_every_command_that_runs_something_ends_them_first_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    said: list[str] = []
    for job in ("compact_day", "compact_warehouse"):
        with InProcess(load_settings(), job, said.append) as runner:
            assert said == []
            alive = put_run(runner.instance, LIVING, tags=DAY)
            dead = put_run(runner.instance, killed(), tags=DAY)
        with InProcess(load_settings(), job, said.append) as runner:
            assert status_of(runner.instance, alive) is dg.DagsterRunStatus.STARTED
            assert status_of(runner.instance, dead) is dg.DagsterRunStatus.FAILURE
            runner.instance.delete_run(alive)
        [text] = said
        assert text.startswith(f"ended run {dead[:8]} (compact_day 2026-01-12), which died without a word: its process")
        said.clear()


def test_a_run_of_the_command_line_says_which_process_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WAREHOUSE_URL", str(tmp_path / "events"))
    said: list[str] = []
    with InProcess(load_settings(), "compact_warehouse", said.append) as runner:
        done = runner.execute({SWEEP_OP: {}}, tags={"more": "of them"})
        run = runner.instance.get_run_by_id(done.run_id)
    assert run
    assert process_in(run.tags) == LIVING
    assert run.tags["more"] == "of them"


@pytest.mark.guards("dead-run")
def test_one_that_dies_while_catch_up_is_at_work_does_not_hold_its_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    for name, value in {
        "DAGSTER_HOME": str(tmp_path / "home"),
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
    }.items():
        monkeypatch.setenv(name, value)
    last = last_eligible_day(utc_now())
    first = last - dt.timedelta(days=1)
    for day in (first, last):
        lakes.put_spec(spec(day=day, parts=2, rows=20))
    before = first - dt.timedelta(days=1)
    asyncio.run(StateStore(lakes.compact).update(lambda state: seed(state, before, utc_now(), [PAIR])))

    class DiesMeanwhile(Recorder):
        def finished(self, outcome: Outcome) -> None:
            super().finished(outcome)
            if outcome.symbol_day.day == first:
                with dg.DagsterInstance.get() as instance:
                    put_run(instance, killed(), tags={"dagster/partition": f"{last}"})

    said: list[str] = []
    report, left = catch_up(load_settings(), listener=DiesMeanwhile(), tell=said.append)
    assert [outcome.symbol_day.day for outcome in report.outcomes] == [first, last]
    assert left.skipped == ()
    assert len(said) == 1
