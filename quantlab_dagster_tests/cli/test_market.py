"""The command line, in processes of its own: what a user types, reads, and what a script gets back."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
import yaml  # type: ignore[import-untyped]

from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.synthetic.market import corrupt_part
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.contract.snapshots import check, shape_of
from quantlab_dagster_tests.lakes import Lakes, first_two_swapped, oracle, same_rows, spec, symbol_day

pytestmark = pytest.mark.present

ROOT = Path(__file__).parents[2]
WORKSPACE_LOCATION = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"][
    "location_name"
]


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs `quantlab` in a directory of its own."""

    directory: Path
    env: dict[str, str]

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "quantlab_dagster.cli", *arguments],
            cwd=self.directory,
            env={**os.environ, **self.env, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    return Lakes.of(Rig("local", None, tmp_path))


@pytest.fixture
def quantlab(lakes: Lakes, tmp_path: Path) -> Shell:
    work = tmp_path / "work"
    work.mkdir()
    return Shell(work, environment(lakes))


def environment(lakes: Lakes) -> dict[str, str]:
    return {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        **lakes.rig.env(),
    }


@pytest.mark.slow
def test_compact_plan_verify_from_raw_to_proved(rig: Rig, tmp_path: Path) -> None:
    lakes = Lakes.of(rig)
    work = tmp_path / "work"
    work.mkdir()
    quantlab = Shell(work, environment(lakes))
    parts = lakes.put_spec(spec())

    planned = quantlab("plan", "--date", "2026-01-08")
    assert planned.returncode == 0
    assert "binance/bbo/adausdt/20260108" in planned.stdout
    assert "1 of 1 symbol-days would be built, reading 12 parts" in planned.stdout
    assert lakes.compact_keys() == {}

    compacted = quantlab("compact", "--date", "20260108")
    assert compacted.returncode == 0, compacted.stderr
    assert "12 parts, " in compacted.stderr
    assert "600 rows" in compacted.stderr
    assert "1 symbol-days: 1 built (600 rows), 0 quarantined or failed" in compacted.stdout
    assert same_rows(lakes.published(symbol_day()), oracle(parts))

    verified = quantlab("verify", "--date", "2026-01-08")
    assert verified.returncode == 0, verified.stdout
    assert "1 right, 0 wrong, 0 not published" in verified.stdout
    [item] = quantlab.json("verify", "--date", "2026-01-08")
    assert (item["verdict"], item["rows"], item["against_raw"], item["findings"]) == ("right", 600, True, [])

    before = lakes.compact_keys()
    again = quantlab.json("compact", "--date", "2026-01-08")
    assert again["symbol_days"][0]["action"] == "up_to_date"
    assert lakes.compact_keys() == before


@pytest.mark.slow
def test_runs_are_in_dagsters_history(quantlab: Shell, lakes: Lakes) -> None:
    lakes.put_spec(spec())
    report = quantlab.json("compact", "--date", "2026-01-08")
    home = quantlab.directory / ".dagster"
    assert (home / "dagster.yaml").resolve() == ROOT / "dagster.yaml"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        [run] = instance.get_runs()
        assert [run.run_id] == report["runs"]
        assert run.status is dg.DagsterRunStatus.SUCCESS
        assert run.job_name == "compact_day"
        assert run.remote_job_origin is not None, "the pages show it beside the runs of the code location"
        assert run.remote_job_origin.location_name == WORKSPACE_LOCATION
        assert run.tags["dagster/max_retries"] == "0", "nobody launches it again: a person is watching it"
        assert run.tags["dagster/partition"] == "2026-01-08"
        assert instance.get_materialized_partitions(dg.AssetKey(["compact", "binance", "bbo"])) == {"2026-01-08"}


@pytest.mark.slow
def test_dagster_home_is_respected(quantlab: Shell, lakes: Lakes, tmp_path: Path) -> None:
    lakes.put_spec(spec())
    home = tmp_path / "home of dagster"
    quantlab("compact", "--date", "2026-01-08", DAGSTER_HOME=str(home))
    assert (home / "history").is_dir()
    assert not (quantlab.directory / ".dagster").exists()


@pytest.mark.slow
def test_a_range_of_days_is_one_run_a_day(quantlab: Shell, lakes: Lakes) -> None:
    for number in (8, 9, 10):
        lakes.put_spec(spec(day=symbol_day().day.replace(day=number), parts=2, rows=20))
    report = quantlab.json("compact", "--date", "2026-01-08", "--to", "2026-01-10")
    assert len(report["runs"]) == 3
    assert [item["date"] for item in report["symbol_days"]] == ["2026-01-08", "2026-01-09", "2026-01-10"]


@pytest.mark.slow
def test_something_quarantined_is_exit_code_one(quantlab: Shell, lakes: Lakes) -> None:
    lakes.put_spec(spec("btcusdt"))
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    done = quantlab("compact", "--date", "2026-01-08")
    assert done.returncode == 1
    assert "binance/bbo/xrpusdt/20260108: QUARANTINED: part-" in done.stderr
    assert "Traceback" not in done.stderr
    only = quantlab("compact", "--date", "2026-01-08", "--symbol", "btcusdt")
    assert only.returncode == 0
    verified = quantlab("verify", "--date", "2026-01-08")
    assert verified.returncode == 1
    assert "quarantined" in verified.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compact"], "--date"),
        (["compact", "--date", "2026-13-01"], "is not a day as YYYY-MM-DD or YYYYMMDD"),
        (["compact", "--date", "2026-01-09", "--to", "2026-01-08"], "is before --date"),
        (["compact", "--date", "2025-12-31"], "QUANTLAB_START_DATE"),
        (["compact", "--date", "9999-01-01"], "is still to come"),
        (["compact", "--date", "2026-01-08", "--exchange", "nyse"], "Configured are: binance"),
        (["frobnicate"], "No such command"),
    ],
)
def test_usage_errors_are_exit_code_two_and_no_traceback(quantlab: Shell, arguments: list[str], message: str) -> None:
    done = quantlab(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_configuration_is_exit_code_two(quantlab: Shell) -> None:
    done = quantlab("compact", "--date", "2026-01-08", QUANTLAB_MEMORY_BUDGET="lots")
    assert done.returncode == 2
    assert "QUANTLAB_MEMORY_BUDGET" in done.stderr
    assert "Traceback" not in done.stderr
    done = quantlab("plan", "--date", "2026-01-08", QUANTLAB_RAW_URL="not-there")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_output_that_is_no_terminal_is_not_wrapped(quantlab: Shell, lakes: Lakes) -> None:
    symbol = "a-very-long-symbol-name-" * 6
    lakes.put_spec(spec(symbol, parts=2, rows=20))
    planned = quantlab("plan", "--date", "2026-01-08", COLUMNS="40")
    assert any(f"binance/bbo/{symbol}/20260108" in line for line in planned.stdout.splitlines())


def publish_foreign_day(lakes: Lakes, query: str, symbol: str = "adausdt") -> None:
    """A day as the old compressor published it: its data, its smaller meta."""
    directory = Path(lakes.compact_url) / symbol_day(symbol).prefix
    directory.mkdir(parents=True)
    data = directory / "data.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"copy ({query}) to '{data}' (format parquet)")
        row = connection.execute(f"select count(*), min(ts_event), max(ts_event) from '{data}'").fetchone()  # noqa: S608
    assert row is not None
    meta = {
        "schema_version": 1,
        "rows": row[0],
        "ts_event_min": row[1],
        "ts_event_max": row[2],
        "ordering_columns": ["ts_event", "seq"],
        "stream_type": "bbo",
        "source_files": 3,
        "day_quality": "GOOD",
    }
    (directory / "meta.json").write_text(json.dumps(meta))


@pytest.mark.guards("unsorted-called-sorted")
def test_verify_finds_misordered_days_of_other_software(quantlab: Shell, lakes: Lakes) -> None:
    publish_foreign_day(lakes, "select 1767830400000 + i as ts_event, i as seq from range(500000) t(i)", "good")
    publish_foreign_day(
        lakes, "select 1767830400000 + (i * 7919) % 500000 as ts_event, i as seq from range(500000) t(i)", "unsorted"
    )
    publish_foreign_day(
        lakes, "select 1767830400000 + i as ts_event, i // 2 as seq from range(500000) t(i)", "misnumbered"
    )
    found = {item["symbol"]: item for item in quantlab.json("verify", "--date", "2026-01-08")}
    assert found["good"]["verdict"] == "right"
    assert found["unsorted"]["verdict"] == "wrong"
    assert "rows have a smaller ts_event than the row before" in found["unsorted"]["findings"][0]
    assert found["misnumbered"]["findings"] == ["499,999 rows do not have their index as seq"]
    assert quantlab("verify", "--date", "2026-01-08").returncode == 1


@pytest.mark.guards("check-for-proof")
@pytest.mark.slow
def test_verify_compares_with_the_raw_parts(quantlab: Shell, lakes: Lakes) -> None:
    lakes.put_spec(spec())
    quantlab("compact", "--date", "2026-01-08")
    data = Path(lakes.compact_url) / symbol_day().key("data.parquet")
    meta = Path(lakes.compact_url) / symbol_day().key("meta.json")
    with duckdb.connect() as connection:  # the same rows but for one value: order, range and count still hold
        one_more = "case when seq = 17 then bid_qty + 1 else bid_qty end as bid_qty"
        changed = f"select * replace ({one_more}) from read_parquet('{data}', hive_partitioning = false)"  # noqa: S608
        connection.execute(f"copy ({changed}) to '{data}.new' (format parquet)")
    Path(f"{data}.new").rename(data)
    foreign = {k: v for k, v in json.loads(meta.read_text()).items() if k not in ("sha256", "data_size_bytes")}
    meta.write_text(json.dumps(foreign))
    [item] = quantlab.json("verify", "--date", "2026-01-08")
    assert item["verdict"] == "wrong"
    assert item["findings"] == ["the rows are not those of the raw parts"]


@pytest.mark.slow
def test_verify_finds_what_meta_says_wrongly_and_days_not_published(quantlab: Shell, lakes: Lakes) -> None:
    lakes.put_spec(spec())
    quantlab("compact", "--date", "2026-01-08")
    meta = Path(lakes.compact_url) / symbol_day().key("meta.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"rows": 599, "ts_event_max": 1}))
    lakes.put_spec(spec("btcusdt"))
    found = {item["symbol"]: item for item in quantlab.json("verify", "--date", "2026-01-08")}
    assert any("meta.json says rows 599, data.parquet has 600" in text for text in found["adausdt"]["findings"])
    assert any("ts_event_max" in text for text in found["adausdt"]["findings"])
    assert found["btcusdt"]["verdict"] == "not_published"
    damaged = Path(lakes.compact_url) / symbol_day().key("data.parquet")
    content = bytearray(damaged.read_bytes())
    content[200] ^= 0xFF
    damaged.write_bytes(content)
    [item] = quantlab.json("verify", "--date", "2026-01-08", "--symbol", "adausdt")
    assert item["verdict"] == "wrong"


@pytest.mark.slow
def test_the_demo_ends_with_exactly_its_planted_part_quarantined(tmp_path: Path) -> None:
    demo = Shell(tmp_path, {})
    done = demo("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Quarantined, as planted, and accepted: binance/bbo/xrpusdt/20260108" in done.stdout
    assert "14 of them verified against their raw parts" in done.stdout
    assert "make dev" in done.stdout
    told = (done.stdout + done.stderr).splitlines()
    assert [line for line in told if "binance/bbo/adausdt/20260109" in line] == [
        line for line in done.stderr.splitlines() if "adausdt/20260109: 300 parts, " in line
    ], "once: while it is done"
    assert done.stdout.startswith("made 3,950 raw parts")
    again = demo("demo", "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    check("document-demo", shape_of(json.loads(again.stdout)))


def test_the_demo_touches_nothing_it_did_not_make(tmp_path: Path) -> None:
    mine = tmp_path / "demo-lake" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("precious")
    done = Shell(tmp_path, {})("demo")
    assert done.returncode == 2
    assert "was not made by the demo" in done.stderr
    assert mine.read_text() == "precious"


def yesterday() -> dt.date:
    return last_eligible_day(utc_now())


@pytest.mark.slow
def test_catch_up_status_and_state_from_a_cold_start(quantlab: Shell, lakes: Lakes) -> None:
    day = yesterday()
    lakes.put_spec(spec(day=day))
    lakes.put_spec(spec(day=day - dt.timedelta(days=3)))
    seeded = quantlab("state", "seed", "--last-compacted", f"{day - dt.timedelta(days=2)}")
    assert seeded.returncode == 0, seeded.stderr
    before = quantlab.json("status")["market_data"]
    assert before["backlog"] == [str(day - dt.timedelta(days=1)), str(day)]
    caught_up = quantlab("catch-up")
    assert caught_up.returncode == 0, caught_up.stderr
    assert "2 days run, 1 symbol-days, 0 quarantined or failed" in caught_up.stdout
    status = quantlab("status")
    assert status.returncode == 0, status.stdout
    assert f"last compacted day   {day:%Y%m%d}" in status.stdout
    assert quantlab.json("status")["market_data"]["backlog"] == []
    shown = json.loads(quantlab("state", "show").stdout)
    assert shown["last_compacted_date"] == f"{day:%Y%m%d}"
    assert len([key for key in lakes.compact_keys() if key.endswith("data.parquet")]) == 1, "history is not touched"
    assert "0 days run" in quantlab("catch-up").stdout


@pytest.mark.slow
def test_a_failed_day_is_shown_and_can_be_accepted(quantlab: Shell, lakes: Lakes) -> None:
    day = yesterday()
    lakes.put_spec(spec(day=day))
    quantlab("state", "seed", "--last-compacted", f"{day - dt.timedelta(days=1)}")
    asyncio.run(lakes.compact.put(symbol_day(day=day).key("meta.json"), b"no json"))
    done = quantlab("catch-up")
    assert done.returncode == 1
    assert "meta.json" in done.stderr
    assert "Traceback" not in done.stderr
    status = quantlab("status")
    assert status.returncode == 1
    assert "failed: binance/bbo" in status.stdout
    accepted = quantlab("state", "accept", f"{day}", "--reason", "the exchange was down")
    assert accepted.returncode == 0, accepted.stderr
    shown = json.loads(quantlab("state", "show").stdout)
    assert shown["last_compacted_date"] == f"{day:%Y%m%d}"
    assert shown["days"][f"{day:%Y%m%d}"]["reason"] == "accepted: the exchange was down"


@pytest.mark.guards("unreadable-state-empty")
def test_state_errors_are_one_line(quantlab: Shell, lakes: Lakes) -> None:
    missing = quantlab("state", "show")
    assert missing.returncode == 1
    assert "there is no state yet" in missing.stderr
    asyncio.run(lakes.compact.put("compacted/_state.json", b"{"))
    malformed = quantlab("status")
    assert malformed.returncode == 1
    assert "quantlab state rebuild" in malformed.stdout
    assert "Traceback" not in malformed.stdout + malformed.stderr
    today = quantlab("state", "accept", f"{utc_now():%Y-%m-%d}", "--reason", "impatience")
    assert today.returncode == 2


@pytest.mark.slow
def test_a_lost_state_is_rebuilt_from_the_lake(quantlab: Shell, lakes: Lakes) -> None:
    day = yesterday()
    for number in (2, 1, 0):
        lakes.put_spec(spec(day=day - dt.timedelta(days=number), parts=2, rows=20))
    quantlab("state", "seed", "--last-compacted", f"{day - dt.timedelta(days=3)}")
    quantlab("catch-up")
    before = json.loads(quantlab("state", "show").stdout)
    asyncio.run(lakes.compact.put("compacted/_state.json", b"{ half"))
    rebuilt = quantlab("state", "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    after = json.loads(quantlab("state", "show").stdout)
    assert after["last_compacted_date"] == before["last_compacted_date"] == f"{day:%Y%m%d}"
    assert after["partitions"].keys() == before["partitions"].keys()
    assert asyncio.run(lakes.compact.get("compacted/_state.json.unreadable"))[0] == b"{ half"


@pytest.mark.guards("repair-blind")
@pytest.mark.slow
def test_repair_rebuilds_exactly_what_is_wrong_and_has_its_raw_parts(quantlab: Shell, lakes: Lakes) -> None:
    misordered = "select 1767830400000 + (i * 7) % 3000 as ts_event, i as seq from range(3000) t(i)"
    publish_foreign_day(lakes, misordered, "nothing-left")
    publish_foreign_day(lakes, misordered, "more-than-is-left")
    lakes.put_spec(spec("more-than-is-left", parts=3, rows=60))
    for symbol in ("right", "wrong"):
        lakes.put_spec(spec(symbol, parts=3, rows=60))
        lakes.run(symbols=[symbol])
    lakes.disown(symbol_day("right"))
    lakes.disown(symbol_day("wrong"), first_two_swapped(lakes.published(symbol_day("wrong"))))
    lakes.put_spec(spec("missing", parts=3, rows=60))
    before = lakes.compact_keys()
    plain = quantlab.json("compact", "--date", "2026-01-08", "--symbol", "right", "--symbol", "wrong")
    assert {item["action"] for item in plain["symbol_days"]} == {"up_to_date"}, "taken over as it is"
    done = quantlab("compact", "--date", "2026-01-08", "--repair")
    assert "4 symbol-days were wrong or missing" in done.stdout
    assert "2 quarantined or failed" in done.stdout
    assert done.returncode == 1, "two of them could not be rebuilt"
    assert "more-than-is-left/20260108: QUARANTINED: " in done.stderr
    assert "says 3,000 rows, and the raw parts now have 60: nothing was replaced" in done.stderr
    after = lakes.compact_keys()
    changed = {key.split("symbol=")[1].split("/")[0] for key in after if after[key] != before.get(key)}
    assert changed == {"wrong", "missing"}
    found = {item["symbol"]: item["verdict"] for item in quantlab.json("verify", "--date", "2026-01-08", "--no-raw")}
    left = {"nothing-left": "wrong", "more-than-is-left": "wrong"}
    assert found == {"right": "right", "wrong": "right", "missing": "right", **left}
