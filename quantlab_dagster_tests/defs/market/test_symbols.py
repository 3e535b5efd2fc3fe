"""The job of some symbols: what it compacts, what it records, and what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import dagster as dg
import polars as pl
import pytest

from quantlab_dagster.cli.runs.market import compact_days
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.market import calendar, symbols
from quantlab_dagster.defs.names import CALENDAR_ASSET, QUALITY_ASSET, STATE_ASSET, SYMBOLS_JOB, SYMBOLS_OP
from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.market.calendar import Written, write_calendar
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.settings import load_settings
from quantlab_dagster.synthetic.market import DaySpec, corrupt_part
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, Lakes, Recorder, oracle, same_rows, spec, symbol_day

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from quantlab_dagster.market.place import MarketPlace

BBO, TRADE = (dg.AssetKey(["compact", "binance", stream]) for stream in ("bbo", "trade"))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    for name, value in {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo,trade",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    return lakes


def run(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    job = build_definitions(load_settings()).resolve_job_def(SYMBOLS_JOB)
    return job.execute_in_process(
        instance=instance,
        partition_key=f"{DAY}",
        run_config={"ops": {SYMBOLS_OP: {"config": config}}},
        raise_on_error=False,
    )


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data is not None
    return event.step_failure_data.user_failure_data.description or ""


def put_trade(lakes: Lakes, symbol: str) -> None:
    lakes.put_spec(DaySpec("binance", "trade", symbol, DAY, parts=2, rows=20))


@pytest.mark.guards("restricted-run-done")
def test_only_these_symbols_are_compacted_and_the_day_is_not_done(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    raw = lakes.put_spec(spec("adausdt"))
    lakes.put_spec(spec("btcusdt"))
    assert run(instance, symbols=["adausdt"]).success
    assert {SymbolDay.parse(key).symbol for key in lakes.compact_keys()} == {"adausdt"}
    assert same_rows(lakes.published(symbol_day()), oracle(raw))
    assert instance.get_materialized_partitions(BBO) == set()
    [seen] = instance.fetch_observations(dg.AssetRecordsFilter(BBO), limit=9).records
    assert seen.partition_key == f"{DAY}"
    assert seen.asset_observation
    assert seen.asset_observation.metadata["rows"].value == 600


def test_the_calendar_knows_what_a_restricted_run_published(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By symbol, and by pair as from the UI; a run of the whole day writes it once, in its own step."""
    parts = lakes.put_spec(spec("adausdt"))
    index = Path(lakes.compact_url) / f"calendar/date={DAY:%Y%m%d}/index.parquet"

    def known() -> tuple[int, int]:
        [row] = pl.read_parquet(index, hive_partitioning=False).select("revision", "rows").rows()
        return row

    assert run(instance, symbols=["adausdt"]).success
    assert known() == (1, 600)
    lakes.put_raw(symbol_day(), [replace(parts[0], name="part-1999999999-000001.parquet")])
    written = []

    async def counted(place: MarketPlace, days: Sequence[dt.date]) -> Written:
        written.append(days)
        return await write_calendar(place, days)

    monkeypatch.setattr(calendar, "write_calendar", counted)
    job = build_definitions(load_settings()).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, partition_key=f"{DAY}", asset_selection=[BBO]).success
    assert known() == (2, 653)
    assert len(written) == 1
    whole = [QUALITY_ASSET, BBO, TRADE, STATE_ASSET, CALENDAR_ASSET]
    assert job.execute_in_process(instance=instance, partition_key=f"{DAY}", asset_selection=whole).success
    assert len(written) == 2


def test_a_restricted_run_whose_calendar_cannot_be_written_fails(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes.put_spec(spec("adausdt"))

    def broken(place: MarketPlace, days: Sequence[dt.date]) -> NoReturn:
        raise StoreUnavailable(place.compact.name(str(days[0])), "made up")

    monkeypatch.setattr(calendar, "write_calendar", broken)
    result = run(instance, symbols=["adausdt"])
    assert not result.success
    assert "the calendar: " in failure_of(result)
    job = build_definitions(load_settings()).resolve_implicit_global_asset_job_def()
    assert not job.execute_in_process(
        instance=instance, partition_key=f"{DAY}", asset_selection=[BBO], raise_on_error=False
    ).success


def test_of_given_pairs_only(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    lakes.put_spec(spec("adausdt", parts=2, rows=20))
    put_trade(lakes, "adausdt")
    assert run(instance, symbols=["adausdt"], pairs=["binance/trade"]).success
    assert {SymbolDay.parse(key).stream for key in lakes.compact_keys()} == {"trade"}
    assert run(instance, symbols=["adausdt"]).success
    assert {SymbolDay.parse(key).stream for key in lakes.compact_keys()} == {"bbo", "trade"}


def test_options_are_passed_on(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    lakes.put_spec(spec(parts=2, rows=20))

    def built(**options: bool) -> Any:
        result = run(instance, symbols=["adausdt"], pairs=["binance/bbo"], **options)
        [event] = result.get_asset_observation_events()
        return event.asset_observation_data.asset_observation.metadata["symbol-days built"].value

    assert [built(), built(), built(overwrite=True)] == [1, 0, 1]
    next(lakes.rig.directory.glob("**/part-*.parquet")).unlink()
    assert built(overwrite=True) == 0, "a part is gone"
    assert built(overwrite=True, allow_shrink=True) == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"symbols": ["adausdt", "adausd"]}, "adausd: is neither in "),
        ({"symbols": ["adausdt"], "pairs": ["binance/trade"]}, "of binance/trade"),
        ({"symbols": ["adausdt"], "pairs": ["binance/bo"]}, "Configured are: binance/bbo, binance/trade"),
    ],
)
def test_what_matches_nothing_is_refused_before_anything_is_touched(
    lakes: Lakes, instance: dg.DagsterInstance, config: dict[str, list[str]], said: str
) -> None:
    lakes.put_spec(spec("adausdt", parts=2, rows=20))
    result = run(instance, **config)
    assert not result.success
    assert said in failure_of(result)
    assert lakes.compact_keys() == {}


def test_no_symbols_are_not_all_of_them(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    lakes.put_spec(spec("adausdt", parts=2, rows=20))
    assert not run(instance, symbols=[]).success
    assert lakes.compact_keys() == {}


def test_a_pair_that_fails_hides_no_other_one(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    lakes.put_spec(spec("adausdt", parts=2, rows=20))
    put_trade(lakes, "adausdt")
    asyncio.run(lakes.compact.put(symbol_day().key("meta.json"), b"no json"))
    result = run(instance, symbols=["adausdt"])
    assert not result.success
    assert failure_of(result).startswith("1 of 1 symbol-days failed: binance/bbo/adausdt/20260108: ")
    [failed], [done] = (instance.fetch_observations(key, limit=9).records for key in (BBO, TRADE))
    assert failed.asset_observation is not None
    assert failed.asset_observation.metadata["why it failed"].value == failure_of(result)
    assert done.asset_observation is not None
    assert "why it failed" not in done.asset_observation.metadata
    assert SymbolDay("binance", "trade", "adausdt", DAY).key("meta.json") in lakes.compact_keys()


def test_its_checks_can_fail_and_not_hide_what_failed(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    lakes.put_spec(spec("adausdt", parts=2, rows=20))

    def failed() -> list[str]:
        keys = [dg.AssetCheckKey(BBO, name) for name in ("nothing_quarantined", "order_and_losslessness_audited")]
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        return [key.name for key, record in latest.items() if record.status.value == "FAILED"]

    assert run(instance, symbols=["adausdt"]).success
    assert failed() == []
    assert run(instance, symbols=["xrpusdt"]).success
    assert failed() == ["nothing_quarantined"]
    assert run(instance, symbols=["adausdt"]).success
    assert failed() == ["nothing_quarantined"], "xrpusdt was not looked at"


def test_the_command_line_runs_it_and_keeps_its_history(lakes: Lakes) -> None:
    for symbol in ("adausdt", "btcusdt"):
        lakes.put_spec(spec(symbol, parts=2, rows=20))
    report = compact_days(
        load_settings(),
        [DAY],
        [Pair("binance", "bbo")],
        listener=Recorder(),
        tell=lambda _: None,
        symbols=["btcusdt"],
    )
    assert [(str(item.symbol_day), item.status.value) for item in report.outcomes] == [
        ("binance/bbo/btcusdt/20260108", "success")
    ]
    assert report.failures == []
    with dg.DagsterInstance.get() as instance:
        [run_id] = report.run_ids
        found = instance.get_run_by_id(run_id)
        assert found
        assert (found.job_name, found.tags["dagster/partition"]) == (SYMBOLS_JOB, f"{DAY}")
        assert found.tags["quantlab/started_by"] == "command line"
        [seen] = instance.fetch_observations(dg.AssetRecordsFilter(BBO), limit=9).records
        assert (seen.partition_key, seen.run_id) == (f"{DAY}", run_id)
        assert instance.get_materialized_partitions(BBO) == set()


def test_the_command_line_says_a_failure_once_and_swallows_none(lakes: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A symbol-day that failed has its line already; a pair that could not be looked at has none."""
    lakes.put_spec(spec("adausdt", parts=2, rows=20))
    put_trade(lakes, "adausdt")
    asyncio.run(lakes.compact.put(symbol_day().key("meta.json"), b"no json"))

    def compacted() -> list[str]:
        report = compact_days(
            load_settings(),
            [DAY],
            [Pair("binance", "bbo"), Pair("binance", "trade")],
            listener=Recorder(),
            tell=lambda _: None,
            symbols=["adausdt"],
        )
        assert report.outcomes[0].status is Status.FAILED
        return report.failures

    assert compacted() == []

    async def fails_for_trade(place: Any, pair: Pair, *arguments: Any, **options: Any) -> Any:
        if pair.stream == "trade":
            raise StoreUnavailable("exchange=binance/stream=trade", "is out", "Run again")
        return await compact_and_record(place, pair, *arguments, **options)

    monkeypatch.setattr(symbols, "compact_and_record", fails_for_trade)
    [failure] = compacted()
    assert failure.startswith(f"{SYMBOLS_OP}: binance/trade: exchange=binance/stream=trade: is out")
    assert failure.endswith("; and symbol-days of 1 more, see the log")
