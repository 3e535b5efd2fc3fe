"""`quantlab warehouse`: what an operator types and reads, and what a script gets back.

The main path and what concerns secrets in processes of their own; the rest in this one, in a tenth of the time.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.lake.warehouse import ONE_HOUR, AppHour, hour_text
from quantlab_dagster.synthetic.warehouse import corrupt_event_file
from quantlab_dagster.warehouse.slot import Slot
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.cli.test_market import Shell
from quantlab_dagster_tests.conftest import RIG_BUCKET, Rig
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, PARTITION, SOON, EventLake, rows_of, spec

if TYPE_CHECKING:
    from quantlab_dagster_tests.servers import S3Server
    from quantlab_dagster_tests.warehouse.event_lakes import Rows

EVENTS = dg.AssetKey(["warehouse", "events"])
BEFORE = AppHour("demo", HOUR - LATER)


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("local", None, tmp_path))


def environment(lake: EventLake) -> dict[str, str]:
    return {"WAREHOUSE_URL": lake.url, "QUANTLAB_SCRATCH_DIR": str(lake.scratch), **lake.rig.env()}


@dataclass(frozen=True, slots=True)
class Typed:
    """`quantlab` in this process, called like a `Shell`. An exception that `main` does not expect is the test's."""

    home: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.monkeypatch.context() as patched:
            for name, value in env.items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        printed = self.capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), printed.out, printed.err)

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture
def quantlab(
    lake: EventLake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Typed:
    return typed(lake, tmp_path / "home", capsys, monkeypatch)


def typed(lake: EventLake, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    for name, value in {**environment(lake), "DAGSTER_HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    return Typed(home, capsys, monkeypatch)


def contents(lake: EventLake) -> dict[str, str]:
    """Every object with its ETag, the slots included."""
    return {info.key: info.etag for info in asyncio.run(lake.store.list_objects(""))}


def put_hours(lake: EventLake, *hours_before: int, app: str = "demo") -> Rows:
    """So many hours before the usual one, each of four small files; returns their rows."""
    files = [data for number in hours_before for data in lake.put_spec(spec(app=app, hour=HOUR - number * LATER))]
    return rows_of(files)


def kill_after_publishing(lake: EventLake) -> None:
    """Let a run die when its output is visible and all inputs are still there: after its fifth change."""
    command = [sys.executable, "-m", "quantlab_dagster_tests.warehouse.killed"]
    command += [lake.url, str(lake.scratch), "5", SOON.isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


# ---- plan, compact, and again ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_small_files_are_planned_merged_and_then_left_alone(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = EventLake.of(rig)
    quantlab = typed(lake, tmp_path / "home", capsys, monkeypatch)
    original = put_hours(lake, 0, 30) + put_hours(lake, 1, app="shop")
    before = contents(lake)

    planned = quantlab("warehouse", "plan", COLUMNS="40")
    assert planned.returncode == 0, planned.stderr
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in planned.stdout.splitlines() if line.startswith("│")
    ]
    assert [row[0] for row in rows] == ["demo/2026-01-14T04", "demo/2026-01-15T10", "shop/2026-01-15T09"]
    assert {tuple(row[1:4]) for row in rows} == {("4", "4", "1")}
    assert {row[5] for row in rows} == {"4 small files, 4 of them new"}, "not wrapped: it is no terminal"
    assert "3 hours need work: 12 files to merge, " in planned.stdout
    assert contents(lake) == before
    assert not quantlab.home.exists(), "a plan is no run"

    compacted = Shell(tmp_path, {})("warehouse", "compact")
    assert compacted.returncode == 0, compacted.stderr
    assert "hours compacted 3: 12 files → 3, " in compacted.stdout
    for row in rows:
        assert f"{row[0]}: 4 files → 1, " in compacted.stderr
    assert len(lake.objects()) == 3
    assert lake.rows() == original

    before = contents(lake)
    again = quantlab("warehouse", "compact")
    assert (again.returncode, again.stdout) == (0, "no hour needed work\n")
    assert again.stderr.splitlines() == [f"event lake {lake.url}"], "which lake it was, and nothing else"
    assert contents(lake) == before


def test_plan_for_machines_says_what_would_be_merged(quantlab: Typed, lake: EventLake) -> None:
    put_hours(lake, 0, 1)
    before = contents(lake)
    first, second = quantlab.json("warehouse", "plan")
    assert (first["app"], first["hour"], second["hour"]) == ("demo", "2026-01-15T09", "2026-01-15T10")
    assert (second["files"], second["small_files"]) == (4, 4)
    assert second["to_merge"] == [4], "one output of four files"
    assert second["bytes_to_merge"] == sum(
        info.size_bytes for info in lake.objects() if info.key.startswith(PARTITION.prefix)
    )
    assert contents(lake) == before


def test_status_is_one_while_hours_are_late_and_zero_once_they_are_merged(quantlab: Typed, lake: EventLake) -> None:
    put_hours(lake, 0, 1)
    late = quantlab("warehouse", "status")
    assert late.returncode == 1
    assert "hours with backlog   2, the oldest 2026-01-15T09" in late.stdout
    assert "files                8, 8 of them small, " in late.stdout
    assert "FAIL no_hours_of_small_files: " in late.stdout
    assert "demo/2026-01-15T10 (4)" in late.stdout

    assert quantlab("warehouse", "compact").returncode == 0
    brief = quantlab.json("warehouse", "status")
    assert (brief["whole"], brief["cold_hours"]) == (False, 0), "what a run looks at: these hours are history"
    time.sleep(1.1)  # it is said in whole seconds
    calm = quantlab("warehouse", "status", "--json", "--full")
    assert calm.returncode == 0, calm.stdout
    document = json.loads(calm.stdout)
    assert (document["whole"], document["cold_hours"], document["files"], document["backlog"]) == (True, 2, 2, [])
    assert brief["seen_whole_at"] < document["seen_whole_at"], "a run did, and now we"
    assert brief["checks"] == document["checks"]
    assert {name: check["passed"] for name, check in document["checks"].items()} == {
        "no_corrupt_files": True,
        "no_unfinished_plans": True,
        "no_hours_of_small_files": True,
        "every_file_explained": True,
        "server_is_safe": True,
        "every_file_readable": True,
    }


def test_the_options_choose_apps_and_hours(quantlab: Typed, lake: EventLake) -> None:
    original = put_hours(lake, 0, 1, 2) + put_hours(lake, 0, 1, 2, app="shop")

    def left() -> dict[str, int]:
        hours = [AppHour(app, HOUR - number * LATER) for app in ("demo", "shop") for number in (2, 1, 0)]
        return {f"{hour}": len(lake.names(hour)) for hour in hours}

    untouched = left()
    one = quantlab.json("warehouse", "compact", "--app", "demo", "--hour", "2026011510")
    assert [(item["app"], item["hour"], item["status"]) for item in one["hours"]] == [
        ("demo", "2026-01-15T10", "compacted")
    ]
    assert left() == {**untouched, "demo/2026-01-15T10": 1}
    some = quantlab("warehouse", "compact", "--hour", "2026-01-15T08", "--to", "2026-01-15T09", "--app", "shop")
    assert some.returncode == 0
    assert left() == {
        **untouched,
        "demo/2026-01-15T10": 1,
        "shop/2026-01-15T08": 1,
        "shop/2026-01-15T09": 1,
    }
    assert lake.rows() == original


# ---- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.guards("corrupt-then-deleted")
def test_a_corrupt_file_is_exit_code_one_and_the_others_are_merged(quantlab: Typed, lake: EventLake) -> None:
    lake.put_spec(spec())
    bad = corrupt_event_file(spec())
    lake.put(PARTITION, [bad])
    first = quantlab("warehouse", "compact", "--json")
    assert first.returncode == 1
    assert "CORRUPT, left in place: events_" in first.stderr
    [hour] = json.loads(first.stdout)["hours"]
    [corrupt] = hour["corrupt"]
    assert corrupt["name"] == bad.name
    assert "not a readable Parquet file" in corrupt["reason"]
    assert hour["status"] == "compacted"
    assert len(lake.names()) == 2
    assert bad.name in lake.names()

    again = quantlab("warehouse", "compact")
    assert again.returncode == 1, "it is wrong as long as it is there"
    first_line, check = again.stdout.splitlines()
    assert first_line == "no hour needed work", "it is not read again"
    assert check.startswith(f"FAIL no_corrupt_files: cannot be merged, and stay as they are: {PARTITION.key(bad.name)}")
    status = quantlab("warehouse", "status")
    assert status.returncode == 1
    assert "corrupt files        1" in status.stdout
    assert f"{PARTITION.key(bad.name)} (not a readable Parquet file" in status.stdout


def test_a_corrupt_file_is_named_to_people(quantlab: Typed, lake: EventLake) -> None:
    lake.put_spec(spec())
    bad = corrupt_event_file(spec())
    lake.put(PARTITION, [bad])
    done = quantlab("warehouse", "compact")
    assert bad.name in done.stdout + done.stderr


def test_an_unreadable_slot_is_named_and_stops_no_other_hour(quantlab: Typed, lake: EventLake) -> None:
    original = put_hours(lake, 0, 1)
    asyncio.run(lake.store.put(PARTITION.slot_key, b"what is this"))
    done = quantlab("warehouse", "compact")
    assert done.returncode == 1
    assert f"demo/2026-01-15T10: FAILED: {lake.url}/{PARTITION.slot_key}: is not a valid Slot record" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hours compacted 1: 4 files → 1, " in done.stdout
    assert ", failed 1" in done.stdout
    assert "FAIL no_unfinished_plans: to be completed: demo/2026-01-15T10 (unreadable slot)" in done.stdout
    assert len(lake.names(BEFORE)) == 1
    assert len(lake.names()) == 4
    assert lake.rows() == original
    assert asyncio.run(lake.store.get(PARTITION.slot_key))[0] == b"what is this"


@pytest.mark.guards("rows-doubled")
def test_recover_completes_what_a_killed_run_left_and_merges_nothing(quantlab: Typed, lake: EventLake) -> None:
    original = put_hours(lake, 0)
    kill_after_publishing(lake)
    assert lake.rows() == original + original, "a reader sees them twice"
    other = put_hours(lake, 1)
    before = quantlab("warehouse", "status")
    assert before.returncode == 1
    assert "unfinished plans     1" in before.stdout
    assert "FAIL no_unfinished_plans: to be completed: demo/2026-01-15T10" in before.stdout

    recovered = quantlab("warehouse", "recover")
    assert recovered.returncode == 0, recovered.stderr
    assert "demo/2026-01-15T10: 4 files → 1, " in recovered.stderr
    assert lake.rows() == original + other
    assert len(lake.names()) == 1
    assert len(lake.names(BEFORE)) == 4
    assert lake.slot() == Slot()
    assert "unfinished plans     0" in quantlab("warehouse", "status").stdout


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: "),
        (["merge"], "No such command 'merge'"),
        (["compact", "--hour", "noon"], "noon: is not an hour (UTC) as 2026-01-15T10"),
        (["plan", "--hour", "2026-01-15T24"], "2026-01-15T24: is not an hour"),
        (["compact", "--to", "2026-01-15T10"], "--to: is given without --hour"),
        (["plan", "--hour", "2026-01-15T10", "--to", "2026-01-15T09"], "Swap them"),
        (["recover", "--hour", "2999-12-31T23"], "It can be compacted from 3000-01-01 00:00 UTC on"),
        (["compact", "--hour", "9999-12-31T23"], "is not over"),
    ],
)
def test_usage_errors_are_exit_code_two_and_no_traceback(quantlab: Typed, arguments: list[str], message: str) -> None:
    done = quantlab("warehouse", *arguments)
    assert done.returncode == 2
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not quantlab.home.exists(), "no run was begun"


@pytest.mark.parametrize("range_of_hours", [False, True])
def test_an_hour_that_is_not_over_is_refused_and_nothing_is_done(
    quantlab: Typed, lake: EventLake, *, range_of_hours: bool
) -> None:
    while True:
        hour = utc_now().replace(minute=0, second=0, microsecond=0)
        put_hours(lake, 0)
        lake.put_spec(spec(hour=hour))
        before = contents(lake)
        span = ["--hour", "2026-01-15T10", "--to", hour_text(hour)] if range_of_hours else ["--hour", hour_text(hour)]
        done = quantlab("warehouse", "compact", *span)
        if utc_now() < hour + ONE_HOUR:  # else it was over perhaps
            break
    assert done.returncode == 2
    assert f"error: {hour_text(hour)}: is not over" in done.stderr
    assert f"It can be compacted from {hour + ONE_HOUR:%Y-%m-%d %H:%M} UTC on" in done.stderr
    assert done.stdout == ""
    assert contents(lake) == before
    assert not quantlab.home.exists(), "no run was begun"


def test_the_current_hour_is_left_alone_by_a_run_over_everything(quantlab: Typed, lake: EventLake) -> None:
    while True:
        hour = utc_now().replace(minute=0, second=0, microsecond=0)
        lake.put_spec(spec(hour=hour))
        before = contents(lake)
        done = quantlab("warehouse", "compact")
        if utc_now() < hour + ONE_HOUR:
            break
    assert (done.returncode, done.stdout) == (0, "no hour needed work\n")
    after = contents(lake)
    del after["_compaction/_look.json"]  # which says how far the run looked
    assert after == before


@pytest.mark.server
@pytest.mark.parametrize(
    ("bucket", "cause"), [("not-there", "the bucket does not exist"), (RIG_BUCKET, "access denied")]
)
def test_a_missing_bucket_and_wrong_credentials_are_said_in_one_line(
    seaweed: S3Server, tmp_path: Path, bucket: str, cause: str
) -> None:
    secret = "sesame-open-up" if cause == "access denied" else seaweed.secret_key
    quantlab = Shell(
        tmp_path, {**seaweed.env(), "AWS_SECRET_ACCESS_KEY": secret, "DAGSTER_HOME": str(tmp_path / "home")}
    )
    done = quantlab("warehouse", "compact", WAREHOUSE_URL=f"s3://{bucket}/events")
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"s3://{bucket}/events/" in line
    assert cause in line
    assert "Traceback" not in done.stderr
    assert secret not in done.stderr


@pytest.mark.parametrize("schedule", ["7m", "99 * * * *"])
def test_a_nonsensical_schedule_is_exit_code_two_and_named(quantlab: Typed, lake: EventLake, schedule: str) -> None:
    put_hours(lake, 0)
    done = quantlab("warehouse", "compact", COMPACTION_SCHEDULE=schedule)
    assert done.returncode == 2
    assert f"error: COMPACTION_SCHEDULE: '{schedule}' " in done.stderr
    assert "Traceback" not in done.stderr
    assert len(lake.names()) == 4


def test_a_local_lake_that_does_not_exist_is_said_and_not_made(quantlab: Typed, tmp_path: Path) -> None:
    where = {"WAREHOUSE_URL": str(tmp_path / "mistyped")}
    done = [quantlab("warehouse", command, **where) for command in ("plan", "status", "compact")]
    assert not (tmp_path / "mistyped").exists()
    assert all("mistyped: this local lake does not exist. " in item.stderr for item in done)
    assert [item.returncode for item in done[:2]] == [2, 2]
    assert done[2].returncode in (1, 2)


# ---- what is kept of a run -------------------------------------------------------------------------------------------


def test_a_run_is_in_dagsters_history_and_counted_although_the_schedule_is_disabled(
    quantlab: Typed, lake: EventLake, tmp_path: Path
) -> None:
    put_hours(lake, 0, 1)
    metrics = tmp_path / "quantlab.prom"
    variables = {"COMPACTION_ENABLED": "false", "QUANTLAB_METRICS_FILE": str(metrics)}
    done = quantlab("warehouse", "compact", "--json", **variables)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["failures"] == []
    assert sorted(item["hour"] for item in report["hours"]) == ["2026-01-15T09", "2026-01-15T10"]

    with dg.DagsterInstance.from_config(str(quantlab.home)) as instance:
        [run] = instance.get_runs()
        assert run.run_id == report["run"]
        assert run.job_name == "compact_warehouse"
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert run.tags["quantlab/started_by"] == "command line"
        records = instance.fetch_materializations(dg.AssetRecordsFilter(EVENTS), limit=9).records
        assert sorted(str(record.partition_key) for record in records) == ["2026-01-15-09:00", "2026-01-15-10:00"]
        assert {record.run_id for record in records} == {run.run_id}

    labels = 'lake="events",target="warehouse/events"'
    counted = dict(line.rsplit(" ", 1) for line in metrics.read_text().splitlines() if not line.startswith("#"))
    success = 'lake="events",result="success",target="warehouse/events"'
    assert float(counted[f"quantlab_compaction_runs_total{{{success}}}"]) == 1
    assert float(counted[f"quantlab_compaction_input_files_total{{{labels}}}"]) == 8
    assert float(counted[f"quantlab_compaction_output_files_total{{{labels}}}"]) == 2


@pytest.mark.guards("table-compacted")
def test_a_plan_names_tables_and_what_no_pattern_matches(quantlab: Typed, lake: EventLake) -> None:
    put_hours(lake, 0)
    asyncio.run(lake.store.put("app_id=demo/_delta_log/0.json", b"x"))
    asyncio.run(lake.store.put("app_id=shop/year=2026/month=01/day=15/hour=10/part-0", b"x"))
    planned = quantlab("warehouse", "plan", "--hour", "2026-01-15T10").stdout
    assert "nothing to do: no hour needs work" in planned
    assert "left out, it belongs to a table of Delta: app_id=demo/" in planned
    assert (
        "left out, WAREHOUSE_FILES does not match it: app_id=shop/year=2026/month=01/day=15/hour=10/part-0" in planned
    )


@pytest.mark.guards("overlooked-lake")
def test_a_lake_of_another_layout_is_a_finding_until_the_layout_is_set(
    quantlab: Typed, lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_hours(lake, 1)
    root = Path(lake.url)
    (root / "app_id=demo").rename(root / "demo")
    lost = quantlab("warehouse", "status")
    assert lost.returncode == 1
    assert "FAIL every_file_explained: the layout does not explain demo/year=2026/" in lost.stdout
    template = "{app}/year={Y}/month={m}/day={d}/hour={H}"
    assert f"WAREHOUSE_LAYOUT may have to be {template}" in lost.stdout
    assert "left out, WAREHOUSE_LAYOUT does not explain it: demo/" in quantlab("warehouse", "plan").stdout
    compacted = quantlab("warehouse", "compact")
    assert compacted.returncode == 1, "a timer must not take it for an empty lake"
    assert "no hour needed work\nFAIL every_file_explained: the layout does not explain demo/" in compacted.stdout
    assert f"WAREHOUSE_LAYOUT may have to be {template}" in compacted.stdout
    document = quantlab.json("warehouse", "compact")
    assert list(document["failed_checks"]) == ["every_file_explained"]

    monkeypatch.setenv("WAREHOUSE_LAYOUT", template)
    monkeypatch.setenv("WAREHOUSE_SLOTS_URL", str(root.parent / "slots"))
    assert quantlab("warehouse", "compact", "--app", "demo").returncode == 0
    assert quantlab("warehouse", "status").returncode == 0
    assert [path.parent.name for path in (root.parent / "slots").rglob("hour=*.json")] == ["day=15"]
    (root / "_delta_log").mkdir()
    (root / "_delta_log" / "0.json").touch()
    for command in ("compact", "status"):
        refused = quantlab("warehouse", command)
        assert refused.returncode == 2
        assert f"error: {root}/_delta_log/: this belongs to a table of Delta" in refused.stderr
    for command in ("compact", "recover", "status"):
        monkeypatch.setenv("WAREHOUSE_URL", "gs://x/y")
        refused = quantlab("warehouse", command)
        assert refused.returncode == 2
        assert "error: gs://x/y: is no URL this project knows" in refused.stderr
