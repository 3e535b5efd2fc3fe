"""What commands say beside their results: which lakes they look at, and what matches nothing."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster import settings
from quantlab_dagster.cli.app import main
from quantlab_dagster.cli.demo import demo_specs, make_demo_events, make_demo_lake
from quantlab_dagster.cli.runs.market import RunReport
from quantlab_dagster.market.plan import Requested
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import Lakes, spec

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    found = Lakes.of(Rig("local", None, tmp_path))
    warehouse = tmp_path / "warehouse"
    (warehouse / "app_id=demo" / "year=2026").mkdir(parents=True)
    for name, value in {
        "QUANTLAB_RAW_URL": found.raw_url,
        "QUANTLAB_COMPACT_URL": found.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "WAREHOUSE_URL": str(warehouse),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    found.put_spec(spec("adausdt"))
    return found


@pytest.fixture
def compacted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What runs were asked for, none of which is made."""
    asked: list[dict[str, Any]] = []

    def compact_days(_: object, days: list[dt.date], __: object, **options: Any) -> RunReport:
        asked.append({"days": days, **options})
        return RunReport()

    monkeypatch.setattr("quantlab_dagster.cli.runs.market.compact_days", compact_days)
    return asked


def quantlab(capsys: pytest.CaptureFixture[str], arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.guards("nothing-matched")
@pytest.mark.parametrize("command", ["compact", "plan", "verify", "compact --repair"])
def test_a_symbol_that_matches_nothing_is_a_usage_error(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, _, err = quantlab(capsys, f"{command} --date 2026-01-08 --symbol adausd")
    assert code == 2
    assert "--symbol adausd" in err
    assert "adausdt" in err.rpartition("Nearest are:")[2]
    assert lakes.compact_keys() == {}


def test_a_symbol_of_the_compact_lake_alone_is_known(lakes: Lakes, capsys: pytest.CaptureFixture[str]) -> None:
    """Its raw parts may be gone: then it is still published."""
    asyncio.run(lakes.compact.put("exchange=binance/stream=bbo/symbol=gone/date=20260108/data.parquet", b"x"))
    code, out, _ = quantlab(capsys, "plan --date 2026-01-08 --symbol gone")
    assert code == 1, "broken, but no usage error"
    assert "binance/bbo/gone/20260108" in out


def test_symbols_come_from_a_file_too(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], tmp_path: Path, compacted: list[dict[str, Any]]
) -> None:
    lakes.put_spec(spec("btcusdt"))
    (tmp_path / "names").write_text("# ours\nadausdt  # the first\n\nbtcusdt\n")
    assert quantlab(capsys, "compact --date 2026-01-08 --symbols-file names")[0] == 0
    assert compacted[0]["symbols"] == ["adausdt", "btcusdt"]
    assert not compacted[0]["roll_up"]


def test_a_file_of_symbols_as_exchanges_and_spreadsheets_write_them(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], tmp_path: Path, compacted: list[dict[str, Any]]
) -> None:
    lakes.put_spec(spec("btcusdt"))
    (tmp_path / "names").write_bytes(b"\xef\xbb\xbfADAUSDT\r\nBtcUsdt\r\n")
    assert quantlab(capsys, "compact --date 2026-01-08 --symbols-file names")[0] == 0
    assert compacted[0]["symbols"] == ["adausdt", "btcusdt"]


@pytest.mark.guards("nothing-matched")
@pytest.mark.parametrize(
    ("content", "said"), [(b"# none\n", "names no symbol"), (b"\xff", "UTF-8"), (b"adausd", "adausdt")]
)
def test_a_file_of_symbols_that_matches_nothing_is_a_usage_error(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "names").write_bytes(content)
    code, _, err = quantlab(capsys, "compact --date 2026-01-08 --symbols-file names")
    assert code == 2
    assert said in err
    code, _, err = quantlab(capsys, "compact --date 2026-01-08 --symbols-file nowhere")
    assert (code, "nowhere" in err) == (2, True)
    assert lakes.compact_keys() == {}


@pytest.mark.parametrize(
    ("options", "days"),
    [
        ("", ["2026-01-06", "2026-01-07", "2026-01-08"]),
        ("--newest-first", ["2026-01-08", "2026-01-07", "2026-01-06"]),
        ("--max-days 2", ["2026-01-06", "2026-01-07"]),
        ("--newest-first --max-days 2", ["2026-01-08", "2026-01-07"]),
    ],
)
def test_a_range_is_worked_on_in_the_order_and_as_far_as_asked(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], compacted: list[dict[str, Any]], options: str, days: list[str]
) -> None:
    assert lakes.compact_keys() == {}
    assert quantlab(capsys, f"compact --date 2026-01-06 --to 2026-01-08 --retry-quarantine {options}")[0] == 0
    assert [str(day) for day in compacted[0]["days"]] == days
    assert compacted[0]["requested"] == Requested(retry_quarantine=True)


@pytest.mark.guards("nothing-matched")
@pytest.mark.parametrize("command", ["compact", "plan", "status", "recover"])
def test_an_app_that_matches_nothing_is_a_usage_error(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, _, err = quantlab(capsys, f"warehouse {command} --app dem")
    assert code == 2
    assert "--app dem: is not in" in err
    assert "Nearest are: demo" in err
    assert lakes.compact_keys() == {}


def test_where_there_is_nothing_to_show_that_is_a_sentence(lakes: Lakes, capsys: pytest.CaptureFixture[str]) -> None:
    assert lakes.compact_keys() == {}
    none = "no symbol-day of 2026-02-08 … 2026-02-09 has raw parts or a published file\n"
    dates = "--date 2026-02-08 --to 2026-02-09"
    assert quantlab(capsys, f"plan {dates}")[:2] == (0, f"nothing to do: {none}")
    assert quantlab(capsys, f"verify {dates}")[:2] == (0, f"nothing to verify: {none}")
    assert quantlab(capsys, "warehouse plan")[:2] == (0, "nothing to do: no hour needs work\n")
    for command in (f"plan {dates}", f"verify {dates}", "warehouse plan"):
        assert quantlab(capsys, f"{command} --json") == (0, "[]\n", "")


@pytest.mark.guards("which-lake")
def test_commands_name_the_lakes_they_look_at(lakes: Lakes, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan --date 2026-01-08", "verify --date 2026-01-08", "status", "catch-up"):
        _, out, err = quantlab(capsys, command)
        assert lakes.raw_url in out + err, command
        assert lakes.compact_url in out + err, command
    _, out, err = quantlab(capsys, "plan --date 2026-01-08 --json")
    assert json.loads(out)
    assert err == ""


def test_what_is_looked_at_of_the_demo_are_both_of_its_lakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_demo_lake(tmp_path / "demo-lake", demo_specs()[-1:], scale=0.01)
    make_demo_events(tmp_path / "demo-lake")
    (tmp_path / "demo-lake" / "compact").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUANTLAB_METRICS_FILE", str(tmp_path / "quantlab.prom"))
    _, out, _ = quantlab(capsys, "status")
    assert "event lake           demo-lake/warehouse/events" in out
    assert "cold hours           12 looked at, of 2 apps" in out
    assert quantlab(capsys, "metrics write")[0] == 0
    assert 'quantlab_lake_judged_timestamp_seconds{lake="events"}' in (tmp_path / "quantlab.prom").read_text()


@pytest.mark.parametrize("command", ["compact", "recover"])
def test_what_works_on_the_event_lake_names_it(lakes: Lakes, capsys: pytest.CaptureFixture[str], command: str) -> None:
    _, _, err = quantlab(capsys, f"warehouse {command}")
    assert f"event lake {lakes.rig.directory / 'warehouse'}" in err
    _, out, err = quantlab(capsys, f"warehouse {command} --json")
    assert json.loads(out)
    assert "event lake" not in err


@pytest.mark.guards("seed-2062")
def test_a_mistaken_seed_can_be_taken_back(lakes: Lakes, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantlab(capsys, "state seed --last-compacted 2026-01-20")[0] == 0
    code, _, err = quantlab(capsys, "state seed --last-compacted 2026-01-07")
    assert (code, "--move-back" in err) == (1, True)
    code, _, err = quantlab(capsys, "state seed --last-compacted 2026-01-07 --move-back")
    assert (code, "--reason" in err) == (2, True)
    assert quantlab(capsys, "state seed --last-compacted 2062-01-07")[0] == 2
    code, out, _ = quantlab(capsys, "state seed --last-compacted 2026-01-07 --move-back --reason typo")
    assert (code, out) == (0, "last_compacted_date is 20260107\n")
    assert json.loads(lakes.get("compacted/_state.json"))["seeds"][0]["reason"] == "typo"


@pytest.mark.guards("unknown-variable")
def test_variables_that_look_like_settings_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / settings.ENV_FILE).write_text("COMPACTION_TARGETSIZE=1\n")
    monkeypatch.setenv("QUANTLAB_EXCHANGE", "binance")
    monkeypatch.setenv("WAREHOUSE_LAYOUTS", "{Y}")
    monkeypatch.setenv("QUANTLAB_RAW_AWS_REGION", "eu-central-1")
    monkeypatch.setenv("WAREHOUSE_AWS_REGION", "eu-central-1")
    monkeypatch.setenv("QUANTLAB_STREAMS", "bbo")
    assert settings.unknown_variables() == ["COMPACTION_TARGETSIZE", "QUANTLAB_EXCHANGE", "WAREHOUSE_LAYOUTS"]
    settings._warn_of.cache_clear()
    with caplog.at_level(logging.WARNING):
        settings.load_settings()
        settings.load_settings()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "COMPACTION_TARGETSIZE is set, but is no setting of this project: did you mean COMPACTION_TARGET_SIZE?",
        "QUANTLAB_EXCHANGE is set, but is no setting of this project: did you mean QUANTLAB_EXCHANGES?",
        "WAREHOUSE_LAYOUTS is set, but is no setting of this project: did you mean WAREHOUSE_LAYOUT?",
    ], "each once"
