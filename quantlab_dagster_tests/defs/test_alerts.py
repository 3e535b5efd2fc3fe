"""Sensors that tell people: of checks that fail and runs that fail, once, and when that is over."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._core.test_utils import create_run_for_test
from dagster._serdes import serialize_value

from quantlab_dagster.alerts.notify import Webhook
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.alerts import Alerts
from quantlab_dagster.defs.market.has_data import HAS_DATA
from quantlab_dagster.defs.market.plausible import PLAUSIBLE
from quantlab_dagster.defs.names import STATE_ASSET, raw_key
from quantlab_dagster.defs.ticks import failing_ticks
from quantlab_dagster.errors import NotifyFailed
from quantlab_dagster.settings import load_settings
from quantlab_dagster_tests.alerts.hook import SECRET, Hook, webhook
from quantlab_dagster_tests.daemon import configured_instance, tick_sensor, workspace_of
from quantlab_dagster_tests.lakes import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOON = dt.datetime(2026, 1, 9, 12, tzinfo=dt.UTC)


@pytest.fixture
def hook() -> Iterator[Hook]:
    with webhook() as hook:
        yield hook


@dataclass
class Daemon:
    """Ticks a sensor; a tick that fails leaves the cursor as it was."""

    hook: Hook
    instance: dg.DagsterInstance
    now: dt.datetime = NOON
    cursors: dict[str, str | None] = field(default_factory=dict)
    told: int = 0

    def tick(self, name: str, **after: float) -> list[str]:
        """The texts that arrived, of a tick so long after the last one."""
        self.now += dt.timedelta(**after)
        definitions = build_definitions(load_settings(), clock=lambda: self.now)
        resources: dict[str, Any] = dict(definitions.resources or {})
        resources["alerts"] = Alerts(Webhook(self.hook.url, pause=0.01, timeout=0.5))
        sensor = definitions.get_repository_def().get_sensor_def(name)
        with dg.build_sensor_context(self.instance, cursor=self.cursors.get(name), resources=resources) as context:
            result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursors[name] = result.cursor
        assert SECRET not in str(result)
        new = self.hook.texts[self.told :]
        self.told = len(self.hook.texts)
        return new

    def check(self, passed: bool, text: str, asset: dg.AssetKey = STATE_ASSET, name: str = "freshness") -> None:
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=asset,
                check_name=name,
                passed=passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=text,
                metadata={},
            )
        )

    def run(self, *, fails: bool, day: str = "2026-01-08", stopped: bool = False) -> None:
        """A run of the job of a day, that fails or not; or is said to be cancelled afterwards, as commands do."""

        @dg.op
        def work() -> None:
            if fails:
                raise dg.Failure(description="the store is away", allow_retries=False)

        partitions = dg.DailyPartitionsDefinition(start_date="2026-01-01")

        @dg.job(name="compact_day", partitions_def=partitions)
        def job() -> None:
            work()

        done = job.execute_in_process(instance=self.instance, partition_key=day, raise_on_error=False)
        if stopped:
            self.instance.report_run_canceled(done.dagster_run, "Stopped by a signal.")


@pytest.fixture
def daemon(hook: Hook) -> Iterator[Daemon]:
    with configured_instance() as instance:
        yield Daemon(hook, instance)


# ---- checks ----------------------------------------------------------------------------------------------------------

CHECKS, RUNS = "check_alerts", "run_alerts"


def test_every_check_of_both_lakes_is_told_of(daemon: Daemon) -> None:
    """Those of assets and those beside them: a new one is among them without a word. But no news is no data."""
    graph = build_definitions(load_settings()).resolve_asset_graph()
    names = {key.asset_key.to_user_string().split("/")[0] for key in graph.asset_check_keys}
    assert names == {"compact", "raw", "warehouse"}
    for key in graph.asset_check_keys:
        daemon.check(passed=False, text="wrong", asset=key.asset_key, name=key.name)
    daemon.tick(CHECKS)
    [text] = daemon.tick(CHECKS, minutes=1)
    told = [key for key in graph.asset_check_keys if key.name not in (HAS_DATA, PLAUSIBLE)]
    assert len(told) == len(graph.asset_check_keys) - 2 * len(load_settings().pairs)
    assert text.startswith(f"quantlab: {len(told)} new\n")


def test_a_check_that_fails_is_told_once_again_after_a_day_and_when_it_is_over(daemon: Daemon) -> None:
    assert daemon.tick(CHECKS) == []
    daemon.check(passed=True, text="all is well")
    assert daemon.tick(CHECKS, minutes=1) == []
    daemon.check(passed=False, text="2026-01-08 should have been done by 04:00 UTC")
    assert daemon.tick(CHECKS, minutes=1) == []
    [text] = daemon.tick(CHECKS, minutes=1)
    assert text == (
        "quantlab: 1 new\nNEW compact/state freshness (since 2026-01-09 12:02 UTC): "
        "2026-01-08 should have been done by 04:00 UTC"
    )
    assert daemon.tick(CHECKS, minutes=1) == []
    assert daemon.tick(CHECKS, hours=23) == []
    [text] = daemon.tick(CHECKS, hours=1)
    assert "STILL compact/state freshness" in text
    daemon.check(passed=True, text="all is well")
    [text] = daemon.tick(CHECKS, minutes=1)
    assert "OVER compact/state freshness" in text
    assert daemon.tick(CHECKS, minutes=1) == []


def test_several_checks_are_one_message_live_ones_among_them_and_others_are_not_ours(daemon: Daemon) -> None:
    daemon.check(passed=False, text="2 of 9 symbols are silent", asset=raw_key(PAIR), name="parts_arriving")
    daemon.check(passed=False, text="late parts", name="not_stale")
    daemon.check(passed=False, text="whatever", asset=dg.AssetKey("foreign"))
    daemon.tick(CHECKS)
    [text] = daemon.tick(CHECKS, minutes=1)
    assert [line.split(" (")[0] for line in text.splitlines()] == [
        "quantlab: 2 new",
        "NEW compact/state not_stale",
        "NEW raw/binance/bbo parts_arriving",
    ]


@pytest.mark.guards("gone-is-not-over")
def test_a_check_of_a_pair_that_is_not_configured_any_more_is_gone(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    for exchange in ("binance", "okx"):
        daemon.check(passed=False, text="silent", asset=dg.AssetKey(["raw", exchange, "bbo"]), name="parts_arriving")
    daemon.tick(CHECKS)
    assert len(daemon.tick(CHECKS, minutes=1)) == 1
    monkeypatch.setenv("QUANTLAB_EXCHANGES", "binance")
    [text] = daemon.tick(CHECKS, minutes=1)
    assert "GONE raw/okx/bbo parts_arriving" in text
    assert "OVER" not in text
    assert daemon.tick(CHECKS, minutes=1) == []


@pytest.mark.guards("alert-of-another-day")
@pytest.mark.parametrize("chunk_size", ["", "8"])
def test_what_is_counted_in_rows_is_no_news(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, chunk_size: str) -> None:
    """It is a day's own, of data that nobody can mend: another day that is fine must not call it over."""
    if chunk_size:
        monkeypatch.setenv("QUANTLAB_CHUNK_SIZE", chunk_size)
    asset = dg.AssetKey(["compact", "binance", "bbo"])
    daemon.check(passed=False, text="adausdt: 36 silences above 1800 s", asset=asset, name=PLAUSIBLE)
    daemon.check(passed=False, text="adausdt has late parts", asset=asset, name="nothing_quarantined")
    assert daemon.tick(CHECKS) == []
    [text] = daemon.tick(CHECKS, minutes=1)
    assert "late parts" in text
    assert "silences" not in text
    daemon.check(passed=True, text="nothing was found", asset=asset, name=PLAUSIBLE)
    assert daemon.tick(CHECKS, minutes=1) == []


def test_a_day_without_data_is_no_news_what_is_missed_is_another_checks(daemon: Daemon) -> None:
    daemon.check(passed=False, text="no data", asset=dg.AssetKey(["compact", "okx", "funding"]), name="has_data")
    assert daemon.tick(CHECKS) == []
    assert daemon.tick(CHECKS, minutes=1) == []
    daemon.check(passed=False, text="okx/funding is silent", name="nothing_silent")
    assert daemon.tick(CHECKS, minutes=1) == []
    [text] = daemon.tick(CHECKS, minutes=1)
    assert "okx/funding is silent" in text
    assert "no data" not in text


@pytest.mark.slow
def test_ticks_that_fail_are_told_with_the_reason_and_when_they_succeed_again(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon whose settings have changed judges nothing any more, so no check fails."""
    for lake in "ab":
        (tmp_path / lake).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUANTLAB_RAW_URL", "a")
    monkeypatch.setenv("QUANTLAB_COMPACT_URL", "compact")
    with workspace_of(daemon.instance, tmp_path, NOON) as context:
        for sensor in ("catch_up", "live"):
            tick_sensor(context, sensor, NOON)
        assert daemon.tick(CHECKS) == []
        told_of_checks = [*daemon.tick(CHECKS, minutes=1)]  # of the empty lake, none of ticks
        assert not [text for text in told_of_checks if "tick of" in text]

        monkeypatch.setenv("QUANTLAB_RAW_URL", "b")
        for sensor in ("catch_up", "live"):
            tick_sensor(context, sensor, NOON + dt.timedelta(minutes=5), fails=True)
        assert daemon.tick(CHECKS, minutes=4) == [], "what passes by itself is no news"
        [text] = daemon.tick(CHECKS, minutes=1)
        for sensor in ("catch_up", "live"):
            assert (
                f"NEW tick of {sensor} (since 2026-01-09 12:05 UTC): the settings: have changed since they were "
                "loaded: the raw lake was a and is b. Reload the code location"
            ) in text

        monkeypatch.setenv("QUANTLAB_RAW_URL", "a")
        tick_sensor(context, "catch_up", NOON + dt.timedelta(minutes=10))
        [text] = daemon.tick(CHECKS, minutes=5)
        for sensor in ("catch_up", "live"):  # whatever is on ticked
            assert f"OVER tick of {sensor}" in text


@pytest.mark.slow
def test_a_schedule_that_is_off_and_one_of_another_location_are_not_told_of(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUANTLAB_RAW_URL", "a")
    monkeypatch.setenv("QUANTLAB_COMPACT_URL", "compact")
    with workspace_of(daemon.instance, tmp_path, NOON) as context:
        monkeypatch.setenv("QUANTLAB_RAW_URL", "b")
        tick_sensor(context, "catch_up", NOON, fails=True)
        assert [one.what for one in failing_ticks(daemon.instance, ["catch_up"], "quantlab")] == ["tick of catch_up"]
        assert failing_ticks(daemon.instance, ["live"], "quantlab") == []
        assert failing_ticks(daemon.instance, ["catch_up"], "another") == []
        [state] = daemon.instance.all_instigator_state()
        daemon.instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
        assert failing_ticks(daemon.instance, ["catch_up"], "quantlab") == []


@pytest.mark.parametrize("answers", [[503, 503, 503], [403], ["hang", "hang", "hang"]])
def test_what_could_not_be_told_is_told_at_the_next_tick(daemon: Daemon, answers: list[int | str]) -> None:
    daemon.check(passed=False, text="late parts", name="not_stale")
    daemon.tick(CHECKS)
    daemon.hook.answers = list(answers)
    with pytest.raises(NotifyFailed) as caught:
        daemon.tick(CHECKS, minutes=1)
    assert SECRET not in str(caught.value)
    [text] = daemon.tick(CHECKS, minutes=1)
    assert "NEW compact/state not_stale" in text
    daemon.check(passed=True, text="fine", name="not_stale")
    daemon.hook.answers = list(answers)
    with pytest.raises(NotifyFailed):
        daemon.tick(CHECKS, minutes=1)
    [text] = daemon.tick(CHECKS, minutes=1)
    assert "OVER compact/state not_stale" in text


def test_a_cursor_that_is_none_is_begun_anew(daemon: Daemon) -> None:
    daemon.check(passed=False, text="late parts", name="not_stale")
    daemon.cursors[CHECKS] = json.dumps({"x": 1})
    assert daemon.tick(CHECKS) == []
    assert len(daemon.tick(CHECKS, minutes=1)) == 1


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_told_once_and_when_its_partition_succeeds(daemon: Daemon) -> None:
    daemon.run(fails=True, day="2026-01-01")
    daemon.now = dt.datetime.now(dt.UTC)
    assert daemon.tick(RUNS) == [], "what failed before is no news"
    assert daemon.tick(RUNS, minutes=1) == []
    daemon.run(fails=True)
    daemon.run(fails=True, day="2026-01-07")
    [text] = daemon.tick(RUNS, minutes=1)
    assert [line.split(" (")[0] for line in text.splitlines()] == [
        "quantlab: 2 new",
        "NEW run compact_day 2026-01-08",
        "NEW run compact_day 2026-01-07",
    ]
    daemon.run(fails=True)
    assert daemon.tick(RUNS, minutes=1) == [], "another attempt"
    daemon.run(fails=False)
    [text] = daemon.tick(RUNS, minutes=1)
    assert text.splitlines()[0] == "quantlab: 1 over"
    assert "OVER run compact_day 2026-01-08" in text
    daemon.run(fails=True)
    [text] = daemon.tick(RUNS, minutes=1)
    assert "NEW run compact_day 2026-01-08" in text


def chosen(daemon: Daemon, *pairs: str, fails: bool, job: str = "__ASSET_JOB", day: str = "2026-01-08") -> None:
    """A run of some pairs of a day, as somebody launches in the pages, or catch-up does."""
    selection = frozenset(dg.AssetKey(["compact", *pair.split("/")]) for pair in pairs)
    started = dg.DagsterRunStatus.STARTED
    tags = {"dagster/partition": day} if day else {}
    run = create_run_for_test(daemon.instance, job_name=job, tags=tags, asset_selection=selection, status=started)
    if fails:
        daemon.instance.report_run_failed(run, "boom")
    else:
        done = DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name=job, message="done")
        daemon.instance.report_dagster_event(done, run.run_id)


def lines(texts: list[str]) -> list[str]:
    return [line.split(" (")[0] for text in texts for line in text.splitlines()[1:]]


@pytest.mark.guards("over-by-another-run")
@pytest.mark.parametrize("day", ["2026-01-08", ""])
def test_a_success_of_other_assets_ends_no_failure(daemon: Daemon, day: str) -> None:
    """All that is launched in the pages is of one job."""
    daemon.now = dt.datetime.now(dt.UTC)
    daemon.tick(RUNS)
    name = f"run __ASSET_JOB {day}".strip()
    chosen(daemon, "okx/bbo", fails=True, day=day)
    assert lines(daemon.tick(RUNS)) == [f"NEW {name} of compact/okx/bbo"]
    chosen(daemon, "binance/bbo", fails=False, day=day)
    assert daemon.tick(RUNS) == []
    chosen(daemon, "binance/trade", fails=True, day=day)
    assert lines(daemon.tick(RUNS)) == [f"NEW {name} of compact/binance/trade"]
    chosen(daemon, "binance/bbo", "okx/bbo", fails=False, day=day)
    assert lines(daemon.tick(RUNS)) == [f"OVER {name} of compact/okx/bbo"]
    chosen(daemon, "binance/trade", fails=False, day=day)
    assert lines(daemon.tick(RUNS)) == [f"OVER {name} of compact/binance/trade"]


@pytest.mark.guards("over-by-another-run")
def test_a_day_is_over_when_all_that_failed_of_it_has_succeeded(daemon: Daemon) -> None:
    """Catch-up tries the pairs that are left: a day is told once, and is not over with the first of them."""
    daemon.now = dt.datetime.now(dt.UTC)
    daemon.tick(RUNS)
    chosen(daemon, "okx/bbo", "okx/trade", "okx/funding", fails=True, job="compact_day")
    assert lines(daemon.tick(RUNS)) == ["NEW run compact_day 2026-01-08"]
    chosen(daemon, "okx/bbo", fails=False, job="compact_day")
    assert daemon.tick(RUNS) == []
    chosen(daemon, "okx/trade", fails=True, job="compact_day")
    assert daemon.tick(RUNS) == []
    chosen(daemon, "okx/trade", fails=False, job="compact_day")
    chosen(daemon, "okx/bbo", fails=True, job="compact_day")
    assert daemon.tick(RUNS) == []
    chosen(daemon, "okx/funding", fails=False, job="compact_day")
    assert daemon.tick(RUNS) == []
    chosen(daemon, "okx/bbo", fails=False, job="compact_day")
    assert lines(daemon.tick(RUNS)) == ["OVER run compact_day 2026-01-08"]


@pytest.mark.guards("over-by-another-run")
def test_what_a_failed_run_has_done_is_not_owed(daemon: Daemon) -> None:
    """Of a whole day one pair fails; a run of that one, or of its steps alone, ends it."""
    broken = {"okx"}
    partitions = dg.DailyPartitionsDefinition(start_date="2026-01-01")

    def made(exchange: str) -> dg.AssetsDefinition:
        @dg.asset(key=["compact", exchange, "bbo"], partitions_def=partitions)
        def work() -> None:
            if exchange in broken:
                raise dg.Failure(description="the store is away", allow_retries=False)

        return work

    definitions = dg.Definitions(
        assets=[made("binance"), made("okx"), made("bybit")], jobs=[dg.define_asset_job("compact_day", selection="*")]
    )
    job = definitions.resolve_job_def("compact_day")

    def run(*exchanges: str) -> None:
        selection = [dg.AssetKey(["compact", one, "bbo"]) for one in exchanges] or None
        job.execute_in_process(
            instance=daemon.instance, partition_key="2026-01-08", asset_selection=selection, raise_on_error=False
        )

    daemon.now = dt.datetime.now(dt.UTC)
    daemon.tick(RUNS)
    run()
    assert lines(daemon.tick(RUNS)) == ["NEW run compact_day 2026-01-08"]
    run("binance", "bybit")
    assert daemon.tick(RUNS) == []
    broken.clear()
    run("okx")
    assert lines(daemon.tick(RUNS)) == ["OVER run compact_day 2026-01-08"]


def test_what_an_earlier_version_remembered_is_ended_by_any_success(daemon: Daemon) -> None:
    daemon.now = dt.datetime.now(dt.UTC)
    told = [daemon.now.isoformat(), daemon.now.isoformat(), ""]
    daemon.cursors[RUNS] = json.dumps({"after": 0, "told": {"run compact_day 2026-01-08": told}})
    chosen(daemon, "okx/bbo", fails=False, job="compact_day")
    assert lines(daemon.tick(RUNS)) == ["OVER run compact_day 2026-01-08"]


def test_a_run_that_somebody_stopped_is_no_news(daemon: Daemon) -> None:
    daemon.now = dt.datetime.now(dt.UTC)
    daemon.tick(RUNS)
    daemon.run(fails=True, stopped=True)
    assert daemon.tick(RUNS, minutes=1) == []
    daemon.run(fails=True)
    assert len(daemon.tick(RUNS, minutes=1)) == 1


def test_a_failure_is_not_lost_while_nobody_can_be_told(daemon: Daemon) -> None:
    daemon.now = dt.datetime.now(dt.UTC)
    daemon.tick(RUNS)
    daemon.run(fails=True)
    daemon.hook.answers = [403]
    with pytest.raises(NotifyFailed):
        daemon.tick(RUNS, minutes=1)
    [text] = daemon.tick(RUNS, minutes=1)
    assert "NEW run compact_day 2026-01-08" in text
    assert daemon.tick(RUNS, minutes=1) == []


# ---- off unless it is configured -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CHECKS, RUNS])
def test_nothing_is_told_unless_somebody_is_to_be_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions = build_definitions(load_settings())
    sensor = definitions.get_repository_def().get_sensor_def(name)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, resources=dict(definitions.resources or {})) as context,
    ):
        result = sensor(context)
    assert isinstance(result, dg.SkipReason)
    assert "QUANTLAB_ALERT_URL" in str(result.skip_message)

    monkeypatch.setenv("QUANTLAB_ALERT_URL", f"https://hooks.example/{SECRET}")
    repository = build_definitions(load_settings()).get_repository_def()
    assert repository.get_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING
    assert SECRET not in serialize_value(RepositorySnap.from_def(repository)), "in no page"
