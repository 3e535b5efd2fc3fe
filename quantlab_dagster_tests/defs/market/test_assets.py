"""The assets, materialised on an ephemeral instance, on a local directory and on real S3 servers."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import io
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from PIL import Image

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.market.plausible import PLAUSIBLE, plausible_result
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.outcome import Outcome, PairOutcome, Status
from quantlab_dagster.market.plan import Action
from quantlab_dagster.settings import Settings, load_settings
from quantlab_dagster.synthetic.market import corrupt_part
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests import in_child
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, PAIR, Lakes, oracle, same_rows, spec, symbol_day

if TYPE_CHECKING:
    from collections.abc import Iterator

BBO = dg.AssetKey(["compact", "binance", "bbo"])
OP = "compact__binance__bbo"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lakes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    return _configured(Lakes.of(rig), monkeypatch)


@pytest.fixture
def local_lakes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    return _configured(Lakes.of(Rig("local", None, tmp_path)), monkeypatch)


def _configured(lakes: Lakes, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        **lakes.rig.env(),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return lakes


def materialise(
    instance: dg.DagsterInstance, partition: str = "2026-01-08", *, settings: Settings | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings or load_settings()).resolve_job_def("compact_day")
    run_config = {"ops": {OP: {"config": config}}} if config else {}
    return job.execute_in_process(
        instance=instance, partition_key=partition, run_config=run_config, raise_on_error=False
    )


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = [event for event in result.get_asset_materialization_events() if event.asset_key == BBO]
    return {
        name: value.records if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in event.materialization.metadata.items()
    }


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    evaluations = result.get_asset_check_evaluations()
    return {evaluation.check_name: evaluation.passed for evaluation in evaluations if evaluation.asset_key == BBO}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data is not None
    return event.step_failure_data.user_failure_data.description or ""


def test_a_materialisation_answers_an_operators_questions(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    adausdt = lakes.put_spec(spec("adausdt"))
    lakes.put_spec(spec("btcusdt", parts=5, rows=100))
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    result = materialise(instance)
    assert result.success
    assert same_rows(lakes.published(symbol_day("adausdt")), oracle(adausdt))
    metadata = metadata_of(result)
    assert metadata["rows"] == 700
    assert metadata["parts"] == 17
    assert metadata["dagster/partition_row_count"] == 700
    assert metadata["ratio"] == pytest.approx(metadata["bytes in"] / metadata["bytes out"], abs=0.01)
    assert metadata["rows/s"] > 0
    assert metadata["requests by kind"]["raw GET"] == 18
    assert metadata["requests"] == sum(metadata["requests by kind"].values())
    assert metadata["time range"].startswith("2026-01-0")
    table = {record.data["symbol"]: record.data for record in metadata["symbol-day table"]}
    assert {symbol: row["status"] for symbol, row in table.items()} == {
        "adausdt": "success",
        "btcusdt": "success",
        "xrpusdt": "quarantine",
    }
    assert table["adausdt"]["rows"] == 600
    [quarantined] = metadata["quarantine"]
    assert corrupt_part(spec()).name in quarantined.data["part and reason"]
    columns = {column.name: column.type for column in metadata["dagster/column_schema"].columns}
    assert list(columns)[:3] == ["ts_event", "seq", "ts_recv"]
    assert columns["seq"] == "Int64"
    encoded = metadata["events per minute"].partition("base64,")[2].rstrip(")")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.width > 24 * 60 / 2


def test_checks_tell_of_quarantine_and_audit(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    local_lakes.put_spec(spec("adausdt"))
    result = materialise(instance)
    checks = checks_of(result)
    assert checks == {
        "order_and_losslessness_audited": True,
        "nothing_quarantined": True,
        "market_data_plausible": False,
        "has_data": True,
    }
    local_lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    result = materialise(instance)
    checks = checks_of(result)
    assert checks == {
        "order_and_losslessness_audited": True,
        "nothing_quarantined": False,
        "market_data_plausible": False,
        "has_data": True,
    }


@pytest.mark.guards("unchecked-is-green")
def test_what_nobody_has_checked_is_not_called_plausible() -> None:
    """A day that is withheld by its label had nothing to check, and says so; one of other software had."""

    def said(**fields: Any) -> tuple[bool, str | None]:
        one = Outcome(symbol_day("adausdt"), fields.pop("status"), Action.KEEP, "why", **fields)
        fine = Outcome(symbol_day("btcusdt"), Status.SUCCESS, Action.KEEP, "why", checks={"findings": {}})
        both = plausible_result(PairOutcome(PAIR, DAY, (one, fine), 1.0, {}))
        alone = plausible_result(PairOutcome(PAIR, DAY, (one,), 1.0, {}))
        assert both.passed == alone.passed
        assert "nothing was checked" not in str(both.description)
        return alone.passed, alone.description

    nothing = (True, "nothing was checked: none of 1 symbol-days is published")
    assert said(status=Status.QUARANTINE, day_quality="BAD") == nothing
    assert said(status=Status.SKIPPED, day_quality="PARTIAL") == nothing
    assert said(status=Status.NO_FILES) == nothing
    foreign = "not checked: adausdt (published by other software or an earlier version)"
    assert said(status=Status.SUCCESS, rows=9) == (False, foreign)
    assert said(status=Status.QUARANTINE) == (False, "not checked: adausdt (quarantine)")
    assert said(status=Status.FAILED) == (False, "not checked: adausdt (failed)")
    assert said(status=Status.SUCCESS, checks={"findings": {}})[0]


@pytest.mark.guards("check-for-proof")
def test_a_failed_audit_fails_the_step_and_its_check_and_publishes_nothing(
    local_lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_lakes.put_spec(spec("adausdt"))

    in_child.happens(monkeypatch, in_child.audit_fails, "3 rows of the file are out of order")
    result = materialise(instance)
    assert not result.success
    assert "3 rows of the file are out of order" in failure_of(result)
    checks = checks_of(result)
    assert checks == {
        "order_and_losslessness_audited": False,
        "nothing_quarantined": True,
        "market_data_plausible": False,
        "has_data": False,
    }
    assert local_lakes.compact_keys() == {}
    materialised = [event.asset_key for event in result.get_asset_materialization_events()]
    assert materialised == [dg.AssetKey(["quality", "day"])]


def test_a_second_materialisation_rewrites_nothing(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    lakes.put_spec(spec())
    materialise(instance)
    before = lakes.compact_keys()
    metadata = metadata_of(materialise(instance))
    assert lakes.compact_keys() == before
    assert metadata["rows"] == 600
    assert metadata["symbol-days built"] == 0
    assert "raw GET" not in metadata["requests by kind"]


def test_overwrite_is_passed_on(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    local_lakes.put_spec(spec())
    materialise(instance)
    assert metadata_of(materialise(instance, overwrite=True))["symbol-days built"] == 1


def test_a_day_without_raw_data_succeeds_with_nothing(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    metadata = metadata_of(materialise(instance))
    assert metadata == {
        "summary": "no data: the raw lake has no parts of this day",
        "rows": 0,
        "dagster/row_count": 0,
        "dagster/partition_row_count": 0,
    }
    assert local_lakes.compact_keys() == {}


def test_an_ineligible_day_fails_at_once_without_retries(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    local_lakes.put_spec(spec())
    just_before = dt.datetime(2026, 1, 9, 2, 29, 59, tzinfo=dt.UTC)
    job = build_definitions(load_settings(), clock=lambda: just_before).resolve_job_def("compact_day")
    result = job.execute_in_process(instance=instance, partition_key="2026-01-08", raise_on_error=False)
    assert "2026-01-08: is not complete" in failure_of(result)
    assert "2026-01-09 02:30 UTC" in failure_of(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert local_lakes.compact_keys() == {}


def test_a_missing_local_lake_says_what_to_do(
    local_lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_RAW_URL", f"{local_lakes.raw_url}-not-there")
    text = failure_of(materialise(instance))
    assert "does not exist" in text
    assert "QUANTLAB_RAW_URL" in text


def test_progress_is_in_the_runs_log(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    local_lakes.put_spec(spec())
    result = materialise(instance)
    messages = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.dagster_event is None]
    assert any("binance/bbo/adausdt/20260108: 12 parts, " in message for message in messages)
    assert any("600 rows" in message and "published as revision 1" in message for message in messages)


def test_partitions_end_with_yesterday() -> None:
    definitions = build_definitions(load_settings())
    partitions = definitions.resolve_asset_graph().get(BBO).partitions_def
    assert partitions is not None
    keys = partitions.get_partition_keys(current_time=dt.datetime(2026, 1, 9, 0, 0, 1, tzinfo=dt.UTC))
    assert keys[0] == "2026-01-01"
    assert keys[-1] == f"{DAY}"
    assert last_eligible_day(utc_now()) < utc_now().date()


@pytest.mark.guards("secrets-told")
def test_no_secret_is_in_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-visible")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show-me")
    definitions = build_definitions(load_settings())
    job = definitions.resolve_job_def("compact_day")
    fields = [resource.config_schema.as_field() for resource in job.resource_defs.values()]
    shown = json.dumps([field.default_value_as_json_str for field in fields if field.default_provided])
    assert "do-not-show-me" not in shown
    assert "demo-lake/raw" in shown


def test_what_was_counted_in_a_day_is_a_check_of_its_partition(
    local_lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    """600 quotes a day are silent for minutes; the day after has them every second minute and more."""
    quiet, busy = DAY, DAY + dt.timedelta(days=1)
    local_lakes.put_spec(spec("adausdt", day=quiet))
    local_lakes.put_spec(spec("adausdt", parts=20, rows=40_000, day=busy))
    said = {}
    for day in (quiet, busy, quiet):
        result = materialise(instance, f"{day}")
        [said[day]] = [one for one in result.get_asset_check_evaluations() if one.check_name == PLAUSIBLE]
        assert said[day].partition == f"{day}"
    assert not said[quiet].passed, "also when it is run again, and nothing is built"
    assert said[busy].passed
    assert "silences above 120 s" in (said[quiet].description or "")
    assert said[quiet].metadata["gaps"].value != 0
    assert said[busy].metadata["symbol-days looked at"].value == 1
    [record] = metadata_of(materialise(instance))["market data"]
    assert record.data["symbol"] == "adausdt"
    assert "market data" not in metadata_of(materialise(instance, f"{busy}"))


def observed(instance: dg.DagsterInstance, asset: dg.AssetKey = BBO) -> list[dg.AssetObservation | None]:
    """Observations of the asset's day, the latest first."""
    chosen = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[f"{DAY}"])
    return [record.asset_observation for record in instance.fetch_observations(chosen, limit=10).records]


def test_why_a_day_failed_is_said_on_the_page_of_its_partition(
    local_lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    local_lakes.put_spec(spec())
    local_lakes.put_spec(spec("btcusdt"))
    asyncio.run(local_lakes.compact.put(symbol_day("btcusdt").key("meta.json"), b"no json"))
    result = materialise(instance)
    assert not result.success
    [found] = observed(instance)
    assert found is not None
    assert found.partition == f"{DAY}"
    why = str(found.metadata["why it failed"].value)
    assert why == failure_of(result)
    assert why.startswith("1 of 2 symbol-days failed: binance/bbo/btcusdt/20260108: ")
    assert "meta.json: is not a valid DayMeta record" in why
    table = found.metadata["failed"]
    assert isinstance(table, dg.TableMetadataValue)
    [row] = table.records
    assert row.data["symbol"] == "btcusdt"
    assert instance.get_materialized_partitions(BBO) == set(), "it stays open"
    assert observed(instance, dg.AssetKey(["compact", "state"])) == []


def test_why_a_whole_day_could_not_be_worked_on_is_said_there_too(
    local_lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_RAW_URL", f"{local_lakes.raw_url}-not-there")
    materialise(instance)
    [found] = observed(instance, dg.AssetKey(["quality", "day"]))
    assert found is not None
    assert "does not exist" in str(found.metadata["why it failed"].value)


def test_the_picture_and_the_columns_stay_on_the_page_while_the_content_is_the_same(
    local_lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    local_lakes.put_spec(spec())
    first = materialise(instance)
    drawn = metadata_of(first)
    assert "drawn by run" not in drawn
    for _ in range(2):
        again = metadata_of(materialise(instance))
        assert again["symbol-days built"] == 0
        assert again["events per minute"] == drawn["events per minute"]
        assert again["dagster/column_schema"].columns == drawn["dagster/column_schema"].columns
        assert again["drawn by run"] == first.run_id
        assert again["summary"].startswith("1 as they were")
        assert next(iter(again)) == "summary", "what is asked first comes first"

    local_lakes.put_spec(spec("btcusdt"))
    rebuilt = metadata_of(materialise(instance))
    assert rebuilt["symbol-days built"] == 1
    assert rebuilt["events per minute"] != drawn["events per minute"]
    assert "drawn by run" not in rebuilt


def test_a_picture_is_not_kept_of_other_content(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    local_lakes.put_spec(spec())
    materialise(instance)
    local_lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    metadata = metadata_of(materialise(instance))
    assert metadata["symbol-days built"] == 0
    assert metadata["symbol-days quarantined"] == 1
    assert "events per minute" not in metadata


def test_columns_are_described_with_their_units(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    local_lakes.put_spec(spec())
    shown = {
        column.name: column.description or ""
        for column in metadata_of(materialise(instance))["dagster/column_schema"].columns
    }
    assert all(shown.values())
    assert "milliseconds" in shown["ts_event"]
    assert "quote currency" in shown["bid_price"]


def test_a_day_without_data_is_not_as_green_as_one_with_it(local_lakes: Lakes, instance: dg.DagsterInstance) -> None:
    with_data, without, withheld = (DAY + number * dt.timedelta(days=1) for number in range(3))
    local_lakes.put_spec(spec(day=with_data))
    local_lakes.put_raw(symbol_day("xrpusdt", withheld), [corrupt_part(spec("xrpusdt", day=withheld))])
    said = {}
    for day in (with_data, without, withheld):
        result = materialise(instance, f"{day}")
        assert result.success, "each is settled"
        [said[day]] = [one for one in result.get_asset_check_evaluations() if one.check_name == "has_data"]
        assert said[day].partition == f"{day}"
    assert {day: one.passed for day, one in said.items()} == {with_data: True, without: False, withheld: False}
    assert said[with_data].description == "600 rows; symbol-days: 1 success"
    assert said[without].description == "no data: the raw lake has no parts of this day"
    assert said[withheld].description == "0 rows; symbol-days: 1 quarantine"
    assert {one.severity for one in said.values()} == {dg.AssetCheckSeverity.WARN}


def test_days_are_out_of_sync_when_their_content_is_and_not_because_something_ran(
    local_lakes: Lakes, instance: dg.DagsterInstance
) -> None:
    def stale() -> dict[str, str]:
        graph = build_definitions(load_settings()).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        keys = {"day": dg.AssetKey(["quality", "day"]), "bbo": BBO, "state": dg.AssetKey(["compact", "state"])}
        return {name: resolver.get_status(key, f"{DAY}").value for name, key in keys.items()}

    local_lakes.put_spec(spec())
    materialise(instance)
    fresh = {"day": "FRESH", "bbo": "FRESH", "state": "FRESH"}
    assert stale() == fresh
    job = build_definitions(load_settings()).resolve_job_def("compact_day")

    def run(asset: dg.AssetKey) -> None:
        assert job.execute_in_process(instance=instance, partition_key=f"{DAY}", asset_selection=[asset]).success

    for asset in (dg.AssetKey(["quality", "day"]), BBO):
        run(asset)
        assert stale() == fresh, "the same again"
    local_lakes.put_spec(spec("btcusdt"))
    run(BBO)
    assert stale() == {**fresh, "state": "STALE"}
