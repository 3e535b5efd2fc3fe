"""BAD and PARTIAL days end to end: in Dagster, on the command line, on a local directory and on S3."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster import reader
from quantlab_dagster.cli.app import main
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.names import QUALITY_ASSET, STATE_ASSET, compact_key
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.settings import load_settings
from quantlab_dagster.synthetic.quality import WindowsSpec, generate_windows
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import PAIR, Lakes, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.present

DAY = last_eligible_day(utc_now())
ADA = symbol_day(day=DAY)
BEFORE = DAY - dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Desk:
    """The command line in this process, and lakes with one symbol-day."""

    lakes: Lakes
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code, output."""
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        return int(ended.value.code or 0), self.capsys.readouterr().out

    def json(self, *arguments: str) -> tuple[int, Any]:
        code, output = self(*arguments, "--json")
        return code, json.loads(output)

    def put_windows(self, **options: Any) -> None:
        async def put() -> None:
            store = self.lakes.raw
            await asyncio.gather(*(store.put(f.key, f.data) for f in generate_windows(WindowsSpec(DAY, **options))))

        asyncio.run(put())


def configured(lakes: Lakes, monkeypatch: pytest.MonkeyPatch, directory: Path) -> Lakes:
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": PAIR.exchange,
        "QUANTLAB_STREAMS": PAIR.stream,
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "DAGSTER_HOME": str(directory / "home"),
        **lakes.rig.env(),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(directory)
    lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    return lakes


@pytest.fixture
def desk(rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(configured(Lakes.of(rig), monkeypatch, tmp_path), capsys)


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(configured(Lakes.of(Rig("local", None, tmp_path)), monkeypatch, tmp_path), capsys)


# ---- in Dagster ------------------------------------------------------------------------------------------------------


def materialise(instance: dg.DagsterInstance) -> tuple[bool, dict[dg.AssetKey, dict[str, Any]], dict[str, bool]]:
    """Whether the day's run succeeded, what it materialised, and its checks by name of asset and check."""
    job = build_definitions(load_settings()).resolve_job_def("compact_day")
    result = job.execute_in_process(instance=instance, partition_key=f"{DAY}", raise_on_error=False)
    materialised = {
        event.asset_key: {
            name: value.value for name, value in event.materialization.metadata.items() if hasattr(value, "value")
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    checks = {
        f"{found.asset_key.to_user_string()}:{found.check_name}": found.passed
        for found in result.get_asset_check_evaluations()
    }
    return result.success, materialised, checks


def test_a_bad_day_in_dagster(desk: Desk) -> None:
    desk.put_windows(bad=3)
    with dg.DagsterInstance.ephemeral() as instance:
        succeeded, materialised, checks = materialise(instance)
    assert succeeded, "that it is quarantined is what was to be done"
    said = materialised[QUALITY_ASSET]
    assert (said["quality"], said["why"], said["rules"]) == ("BAD", "the day is BAD (3 BAD windows)", "1.0.0")
    assert (said["windows good"], said["windows bad"]) == (93, 3)
    assert said["dropped events"] > 0
    assert materialised[compact_key(PAIR)]["symbol-days quarantined"] == 1
    assert materialised[compact_key(PAIR)]["rows"] == 0
    assert materialised[STATE_ASSET]["status"] == "quarantine"
    assert not checks["compact/binance/bbo:nothing_quarantined"]
    assert not checks["compact/state:nothing_quarantined"]
    assert checks["compact/state:freshness"]
    assert list(desk.lakes.compact_keys()) == [ADA.key("quarantine.json")]


def test_a_partial_day_in_dagster(desk: Desk) -> None:
    desk.put_windows(partial=17)
    with dg.DagsterInstance.ephemeral() as instance:
        succeeded, materialised, checks = materialise(instance)
        assert succeeded, "nothing failed: it is looked at again"
        assert materialised[QUALITY_ASSET]["quality"] == "PARTIAL"
        assert "1 skipped" in materialised[compact_key(PAIR)]["summary"]
        assert materialised[STATE_ASSET]["status"] == "open: PARTIAL, looked at again"
        assert materialised[STATE_ASSET]["last_compacted_date"] == "none"
        assert checks["compact/binance/bbo:nothing_quarantined"]
        assert checks["compact/state:nothing_failed"]
        assert desk.lakes.compact_keys() == {}
        desk.put_windows(partial=16)
        succeeded, materialised, _ = materialise(instance)
    assert succeeded
    assert materialised[QUALITY_ASSET]["quality"] == "GOOD"
    assert materialised[STATE_ASSET]["status"] == "success"
    assert desk.lakes.meta(ADA)["day_quality"] == "GOOD"


# ---- on the command line ---------------------------------------------------------------------------------------------


def test_a_bad_day_is_published_on_the_command_line_and_readers_still_refuse_it(desk: Desk) -> None:
    desk.put_windows(bad=3)
    options = ("compact", "--date", f"{DAY}", "--exchange", "binance")
    assert desk.json(*options)[0] == 1
    code, done = desk.json(*options, "--accept-bad", "--reason", "the only day of the crash")
    assert code == 0
    [item] = done["symbol_days"]
    assert (item["status"], item["day_quality"]) == ("success", "BAD")
    assert desk.lakes.meta(ADA)["day_quality"] == "BAD"
    lake = reader.open_lake(load_settings().compact_url)
    with pytest.raises(reader.DayBad):
        lake.rows()
    assert lake.rows(allow=["bad"]).polars().height == item["rows"]
    code, report = desk.json("quality", "--last", "1")
    assert (code, report["days"][0]["accepted"]) == (0, "the only day of the crash")


@pytest.mark.parametrize(
    "options",
    [
        ("--accept-bad",),
        ("--reason", "x"),
        ("--accept-bad", "--reason", " "),
        ("--accept-bad", "--reason", "x", "--repair"),
    ],
)
def test_a_bad_day_is_not_published_without_a_reason(desk: Desk, options: tuple[str, ...]) -> None:
    desk.put_windows(bad=3)
    code, _ = desk("compact", "--date", f"{DAY}", *options)
    assert code == 2
    assert desk.lakes.compact_keys() == {}


def test_a_bad_day_on_the_command_line(desk: Desk) -> None:
    desk.put_windows(bad=3)
    desk("state", "seed", "--last-compacted", f"{BEFORE}")
    code, planned = desk.json("plan", "--date", f"{DAY}")
    assert (code, planned[0]["action"]) == (0, "quarantine")
    code, done = desk.json("catch-up")
    assert code == 1
    said = "late parts were last searched for at "
    assert said in desk("catch-up")[1], "within the hour"
    [item] = done["symbol_days"]
    assert (item["status"], item["day_quality"], item["rows"]) == ("quarantine", "BAD", 0)
    code, status = desk.json("status")
    assert code == 1
    assert list(status["market_data"]["quarantined"]) == [ADA.state_key]
    assert status["market_data"]["last_compacted_date"] == f"{DAY:%Y%m%d}", "quarantined is settled"
    code, report = desk.json("quality", "--last", "2")
    assert code == 1
    before, day = report["days"]
    assert (before["day_quality"], before["fine"]) == ("UNKNOWN", True)
    assert (day["date"], day["day_quality"], day["fine"]) == (f"{DAY}", "BAD", False)
    assert [window["window"] for window in day["worst_windows"]]
    assert len(day["worst_windows"]) == 3
    assert desk("state", "accept", f"{DAY}", "--reason", "outage")[0] == 0
    code, status = desk.json("status")
    assert (code, status["market_data"]["accepted"]) == (0, {ADA.state_key: "outage"})
    code, report = desk.json("quality", "--last", "1")
    [day] = report["days"]
    assert (code, day["day_quality"], day["fine"], day["accepted"]) == (0, "BAD", True, "outage"), "as status says"
    assert "accepted: outage" in " ".join(desk("quality", "--last", "1")[1].split())


def test_a_partial_day_on_the_command_line(local: Desk) -> None:
    local.put_windows(partial=17)
    local("state", "seed", "--last-compacted", f"{BEFORE}")
    code, done = local.json("catch-up")
    assert done["failures"] == []
    [item] = done["symbol_days"]
    assert (item["status"], item["day_quality"]) == ("skipped", "PARTIAL")
    code_of_status, status = local.json("status")
    assert code == code_of_status
    [day] = status["market_data"]["days"]
    assert (day["standing"], day["settled"]) == ("partial", False)
    assert "the day is PARTIAL (79 whole windows, 17 partial)" in day["reason"]
    assert day["overdue"] is (code == 1), "before four o'clock it has only become due"
    assert status["market_data"]["last_compacted_date"] == f"{BEFORE:%Y%m%d}"
    code, output = local("compact", "--date", f"{DAY}")
    assert code == 1, "a day that is not published is no success"
    assert "0 quarantined or failed, 1 skipped" in output
    assert local.json("quality", "--last", "1")[0] == 1
    local.put_windows()
    assert local("compact", "--date", f"{DAY}")[0] == 0
    code, status = local.json("status")
    assert (code, status["market_data"]["last_compacted_date"]) == (0, f"{DAY:%Y%m%d}")


@pytest.mark.guards("nothing-matched")
@pytest.mark.parametrize("name", ["adausd", "ADAUSDT"])
def test_a_symbol_that_is_in_neither_lake_is_a_usage_error(local: Desk, name: str) -> None:
    local.put_windows()
    local.lakes.put_spec(spec("zecusdt", day=DAY, parts=1, rows=5))
    with pytest.raises(SystemExit) as ended:
        main(["quality", "--last", "1", "--symbol", name])
    assert ended.value.code == 2
    said = local.capsys.readouterr()
    assert said.out == ""
    assert f"--symbol {name}" in said.err
    assert "Nearest are: adausdt" in said.err
    assert "zecusdt" not in said.err
    assert local("quality", "--last", "1", "--symbol", "adausdt")[0] == 0, "one that is only in the raw lake"


def test_the_report_for_people(local: Desk) -> None:
    local.put_windows(degraded=2, bad=1)
    asyncio.run(local.lakes.raw.put(f"quality/date={DAY:%Y%m%d}/window=0000.json", b"{"))
    code, output = local("quality", "--last", "1")
    assert code == 1, "a window that cannot be understood"
    assert "DEGRADED" in output
    assert "1 BAD windows; 1 windows cannot be understood" in output
    assert f"{DAY} window 0000 cannot be understood: Invalid JSON" in output
    local.put_windows(degraded=2, bad=1)
    code, output = local("quality", "--last", "1")
    assert code == 0
    assert "1 BAD windows" in output
    assert local("quality", "--last", "0")[0] == 2
    assert local("quality", "--exchange", "bin")[0] == 2


def test_days_without_windows_are_one_line_as_long_as_they_follow_each_other(local: Desk) -> None:
    local.put_windows(degraded=2)
    first = DAY - dt.timedelta(days=3)
    code, output = local("quality", "--last", "4")
    assert code == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    none = ["UNKNOWN", "0", "0", "0", "0", "288", "0", "", "3 days: no quality windows"]
    assert lines[0] == [f"{first} … {BEFORE}", *none]
    assert [line[0] for line in lines[1:]] == [f"{DAY}"]
    assert len(local.json("quality", "--last", "4")[1]["days"]) == 4, "programs get every day"
    _, output = local("quality", "--last", "2")
    assert f"│ {BEFORE} │" in output


def test_days_are_named_as_elsewhere(local: Desk) -> None:
    def days(*options: str) -> list[str]:
        return [day["date"] for day in local.json("quality", *options)[1]["days"]]

    assert days("--date", f"{BEFORE}") == [f"{BEFORE}"]
    assert days("--date", f"{BEFORE:%Y%m%d}", "--to", f"{DAY}") == [f"{BEFORE}", f"{DAY}"]
    assert len(days()) == 14
    for wrong in ("--to 2026-01-08", "--date 2026-01-08 --last 2", "--date 2026-01-08 --to 2026-01-07"):
        assert local("quality", *wrong.split())[0] == 2
    assert local("quality", "--date", "2020-01-01")[0] == 2, "before the first partition"
    after = DAY + dt.timedelta(days=1)
    assert local("quality", "--date", f"{after}")[0] == 2, "not over, or just so"
    assert local("quality", "--date", f"{DAY}", "--to", f"{after}")[0] == 2


def test_thresholds_are_settings(local: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put_windows()
    assert local.json("quality", "--last", "1")[1]["days"][0]["day_quality"] == "GOOD"
    monkeypatch.setenv("QUANTLAB_QUALITY_RULES", "bad_from_queue_pct=1")
    code, report = local.json("quality", "--last", "1")
    assert (code, report["days"][0]["day_quality"]) == (1, "BAD")
    assert report["post_filter_version"].startswith("1.0.0+")
    with dg.DagsterInstance.ephemeral() as instance:
        _, materialised, _ = materialise(instance)
    assert materialised[QUALITY_ASSET]["quality"] == "BAD"
    monkeypatch.setenv("QUANTLAB_QUALITY_RULES", "bad_queue=1")
    assert local("quality", "--last", "1")[0] == 2
