"""The event lake's gauges: what `quantlab status` says of it, whoever looked last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.errors import AccessDenied
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.settings import load_settings
from quantlab_dagster.synthetic.warehouse import corrupt_event_file
from quantlab_dagster.warehouse.checks import (
    EVERY_FILE_EXPLAINED,
    EVERY_FILE_READABLE,
    FEW_SMALL_FILES,
    NO_CORRUPT_FILES,
    NO_UNFINISHED_PLANS,
    gauges,
)
from quantlab_dagster.work.finding import Finding
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, PARTITION, SOON, EventLake, spec

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence


_PREFIX = "quantlab_lake_"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLake:
    (tmp_path / "events").mkdir()
    (tmp_path / "scratch").mkdir()
    lake = EventLake(Rig("local", None, tmp_path), str(tmp_path / "events"), tmp_path / "scratch")
    for name, value in {
        "WAREHOUSE_URL": lake.url,
        "QUANTLAB_SCRATCH_DIR": str(lake.scratch),
        "QUANTLAB_METRICS_FILE": str(tmp_path / "quantlab.prom"),
        "QUANTLAB_RAW_URL": str(tmp_path / "raw"),
        "QUANTLAB_COMPACT_URL": str(tmp_path / "compact"),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return lake


def run_job(now: dt.datetime = SOON, config: dict[str, Any] | None = None) -> bool:
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_definitions(load_settings(), clock=lambda: now).resolve_job_def("compact_warehouse")
        run_config = {"ops": {"compact_cold_hours": {"config": config}}} if config else {}
        return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False).success


def said(lake: EventLake, of: str = "events") -> dict[str, float]:
    """The gauges of a lake."""
    lines = (lake.scratch.parent / "quantlab.prom").read_text().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if line.startswith(_PREFIX))
    found = ((name.removeprefix(_PREFIX).split("{"), value) for name, value in samples)
    return {name: float(value) for (name, labels), value in found if labels == f'lake="{of}"}}'}


def status(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        main(["status", "--json", "--metrics"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_gauges_are_the_findings_in_numbers() -> None:
    names = (NO_CORRUPT_FILES, NO_UNFINISHED_PLANS, FEW_SMALL_FILES, EVERY_FILE_EXPLAINED, EVERY_FILE_READABLE)
    well = [Finding(name, passed=True, text="") for name in names]
    numbers = dict.fromkeys(
        ("corrupt_files", "unfinished_plans", "overdue_hours", "unexplained_places", "withheld_places"), 0
    )
    assert gauges(well) == {"fine": 1, **numbers}
    other = Finding("of another kind", passed=False, text="")
    assert gauges([*well, other])["fine"] == 0, "whatever it is that nobody counts"
    wrong = [Finding(finding.name, False, "", number) for number, finding in enumerate(well, 2)]
    assert gauges(wrong) == {"fine": 0, **{name: number for number, name in enumerate(numbers, 2)}}


def test_a_run_says_them(lake: EventLake) -> None:
    lake.put_spec(spec())
    assert run_job()
    assert said(lake) == {
        "fine": 1,
        "corrupt_files": 0,
        "unfinished_plans": 0,
        "overdue_hours": 0,
        "unexplained_places": 0,
        "withheld_places": 0,
        "judged_timestamp_seconds": SOON.timestamp(),
    }
    lake.put(PARTITION, [corrupt_event_file(spec())])
    assert run_job()
    assert (said(lake)["fine"], said(lake)["corrupt_files"]) == (0, 1)


def test_files_that_the_layout_does_not_explain_are_counted(lake: EventLake) -> None:
    stray = Path(lake.url) / "app_id=demo" / "date=2026-01-15" / "x.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"")
    assert run_job()
    assert (said(lake)["fine"], said(lake)["unexplained_places"]) == (0, 1)


def test_a_run_that_left_hours_says_so_and_a_recovery_says_nothing(lake: EventLake) -> None:
    for hour in (HOUR, HOUR + LATER):
        lake.put_spec(spec(hour=hour))
    now = HOUR + 4 * LATER
    assert run_job(now, {"most_hours": 1})
    before = said(lake)
    assert (before["fine"], before["overdue_hours"]) == (0, 1)
    assert run_job(now + LATER, {"recover_only": True})
    assert said(lake) == before, "it does not look at hours, and cannot say that none is left"


def test_a_run_that_cannot_look_is_not_fine_and_the_last_look_stays_when_it_was(lake: EventLake) -> None:
    lake.put_spec(spec())
    assert run_job()
    shutil.rmtree(lake.url)
    assert not run_job(SOON + LATER)
    assert (said(lake)["fine"], said(lake)["judged_timestamp_seconds"]) == (0, SOON.timestamp())


def test_status_says_what_it_shows(lake: EventLake, capsys: pytest.CaptureFixture[str]) -> None:
    lake.put_spec(spec())
    lake.put(PARTITION, [corrupt_event_file(spec())])
    shown = status(capsys)
    checks = shown["event_lake"]["checks"]
    assert not checks[FEW_SMALL_FILES]["passed"]
    assert (said(lake)["fine"], said(lake)["overdue_hours"], said(lake)["corrupt_files"]) == (0, 1, 0)
    assert said(lake, "market_data") == {"fine": 0}, "it cannot be looked at"
    assert run_job()
    shown = status(capsys)
    assert shown["event_lake"]["checks"][FEW_SMALL_FILES]["passed"]
    assert (said(lake)["fine"], said(lake)["overdue_hours"], said(lake)["corrupt_files"]) == (0, 0, 1)
    looked = said(lake)["judged_timestamp_seconds"]
    Path(lake.url).rename(Path(lake.url).with_name("elsewhere"))
    assert "problem" in status(capsys)["event_lake"]
    assert (said(lake)["fine"], said(lake)["judged_timestamp_seconds"]) == (0, looked)


def test_a_lake_that_is_not_configured_is_not_judged(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WAREHOUSE_URL")
    status(capsys)
    assert said(lake) == {}


def test_what_may_not_be_read_is_said_alike_by_all_who_speak_of_it(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake.put_spec(spec())
    lake.put_spec(spec(app="shop"))
    read = LocalStore.get_together

    async def get_together(self: LocalStore, keys: Sequence[str]) -> Any:
        if any("app_id=demo/" in key and "/events_" in key for key in keys):
            raise AccessDenied(self.name(keys[0]), "access denied")
        return await read(self, keys)

    monkeypatch.setattr(LocalStore, "get_together", get_together)
    with pytest.raises(SystemExit) as ended:
        main(["warehouse", "compact"])
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert "demo/2026-01-15T10: left out: " in out
    assert (said(lake)["fine"], said(lake)["withheld_places"]) == (0, 1)
    for full in ([], ["--full"]):
        with pytest.raises(SystemExit) as ended:
            main(["warehouse", "status", "--json", *full])
        document = json.loads(capsys.readouterr().out)
        assert ended.value.code == 1
        assert document["whole"] is bool(full)
        assert not document["checks"][EVERY_FILE_READABLE]["passed"]
        assert document["checks"][FEW_SMALL_FILES]["passed"], "it is said once"
    shown = status(capsys)
    assert not shown["fine"]
    assert (said(lake)["fine"], said(lake)["withheld_places"], said(lake)["overdue_hours"]) == (0, 1, 0)
