"""The assets as graphs of chunks: to everybody else they are the assets whose day is one step."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.instance_for_test import instance_for_test

from quantlab_dagster.cli.runs.market import compact_days
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.market.handover import HANDED_OVER, LakeHandover
from quantlab_dagster.errors import AccessDenied, StoreUnavailable
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.settings import load_settings
from quantlab_dagster.synthetic.market import corrupt_part, generate_parts
from quantlab_dagster_tests import in_child
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, PAIR, Lakes, Recorder, spec, symbol_day

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BBO = dg.AssetKey(["compact", "binance", "bbo"])
OP = "compact__binance__bbo"
SYMBOLS = ("adausdt", "btcusdt", "ethusdt")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    lakes = Lakes.of(Rig("local", None, tmp_path))
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "QUANTLAB_CHUNK_SIZE": "1",
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return lakes


def run(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    job = build_definitions(load_settings()).resolve_job_def("compact_day")
    run_config = {"ops": {OP: {"config": config}}} if config else {}
    return job.execute_in_process(
        instance=instance, partition_key=f"{DAY}", run_config=run_config, raise_on_error=False
    )


def steps_of(result: dg.ExecuteInProcessResult) -> list[str]:
    steps = [event.step_key or "" for event in result.all_events if event.is_step_start]
    return [step.removeprefix(OP) for step in steps if step.startswith(OP)]


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = [event for event in result.get_asset_materialization_events() if event.asset_key == BBO]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str | None]]:
    evaluations = result.get_asset_check_evaluations()
    return {one.check_name: (one.passed, one.partition) for one in evaluations if one.asset_key == BBO}


def failures_of(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    failed = [event for event in result.all_events if event.is_step_failure]
    details = {event.step_key or "": event.step_failure_data.user_failure_data for event in failed}
    return {step.removeprefix(OP): detail.description or "" for step, detail in details.items() if detail}


def handed_over(lakes: Lakes) -> list[str]:
    return [info.name for info in asyncio.run(lakes.compact.list_objects(HANDED_OVER))]


def test_what_the_asset_declares_is_what_the_plain_one_declares(lakes: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    del lakes
    graph = build_definitions(load_settings()).resolve_asset_graph()
    monkeypatch.delenv("QUANTLAB_CHUNK_SIZE")
    plain = build_definitions(load_settings()).resolve_asset_graph()
    assert graph.get_all_asset_keys() == plain.get_all_asset_keys()
    assert graph.asset_check_keys == plain.asset_check_keys
    for key in plain.get_all_asset_keys():
        [ours], [theirs] = (one.get(key).assets_def.specs for one in (graph, plain) if one.get(key))
        assert ours.replace_attributes(deps=[]) == theirs.replace_attributes(deps=[])
        assert graph.get(key).parent_keys == plain.get(key).parent_keys
        assert graph.get(key).pools == plain.get(key).pools
    for check in plain.asset_check_keys:
        assert graph.get(check) is not None


def test_a_day_in_chunks_ends_as_a_day_that_is_one_step(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for symbol in SYMBOLS:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    result = run(instance)
    assert result.success
    steps = steps_of(result)
    assert (steps[0], steps[-1], len(steps)) == (".split", ".finish", 6)
    assert handed_over(lakes) == []
    chunked, published = metadata_of(result), lakes.compact_keys()

    again = run(instance)
    assert steps_of(again) == [".split", ".finish"], "what stands as it is makes no chunk"
    assert lakes.compact_keys() == published
    assert metadata_of(again)["rows"] == 300

    monkeypatch.delenv("QUANTLAB_CHUNK_SIZE")
    for key in published:
        asyncio.run(lakes.compact.delete(key))
    plain = run(instance)
    assert steps_of(plain) == [""]
    assert checks_of(result) == checks_of(plain)
    assert checks_of(result)["nothing_quarantined"] == (False, None)
    assert checks_of(result)["market_data_plausible"][1] == f"{DAY}"
    of_times = {"summary", "seconds", "rows/s", "symbol-day table", "requests", "requests by kind"}
    assert {name: value for name, value in chunked.items() if name not in of_times} == {
        name: value for name, value in metadata_of(plain).items() if name not in of_times
    }
    assert chunked["summary"].startswith("3 built, 1 quarantined: 300 rows of 9 parts")
    for kind in ("raw GET", "compact PUT"):
        ours, theirs = (metadata["requests by kind"].get(kind, 0) for metadata in (chunked, metadata_of(plain)))
        assert ours >= theirs > 0, "what chunks asked for is counted"


def test_a_small_day_is_one_step_of_work(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_CHUNK_SIZE", "1GiB")
    lakes.put_spec(spec("adausdt", parts=3, rows=100))
    lakes.put_spec(spec("btcusdt", parts=3, rows=100))
    result = run(instance)
    assert steps_of(result) == [".split", ".finish"]
    assert metadata_of(result)["symbol-days built"] == 2


def test_the_asset_is_configured_as_the_plain_one_is(lakes: Lakes, instance: dg.DagsterInstance) -> None:
    for symbol in SYMBOLS[:2]:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    run(instance)
    result = run(instance, overwrite=True)
    assert metadata_of(result)["symbol-days built"] == 2
    assert len(steps_of(result)) == 4, "all of it is built again, so it is cut"
    with pytest.raises(dg.DagsterInvalidConfigError, match="overwrites"):
        run(instance, overwrites=True)
    with pytest.raises(dg.DagsterInvalidConfigError, match="exchange"):
        run(instance, exchange="okx")


def test_what_fails_in_a_chunk_is_tried_again_and_fails_the_day(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for symbol in SYMBOLS[:2]:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    in_child.happens(monkeypatch, in_child.audit_fails, "3 rows of the file are out of order")
    result = run(instance)
    assert not result.success
    [(step, text)] = failures_of(result).items()
    assert step == ".finish"
    assert text.startswith("2 of 2 symbol-days failed")
    assert "3 rows of the file are out of order" in text
    assert checks_of(result)["order_and_losslessness_audited"] == (False, None)
    assert lakes.compact_keys() == {}
    assert BBO not in [event.asset_key for event in result.get_asset_materialization_events()]
    monkeypatch.undo()


def put_late(lakes: Lakes, symbol: str) -> None:
    """A part of 25 rows that comes late."""
    late = next(iter(generate_parts(spec(symbol, parts=2, rows=50, seed=9))))
    lakes.put_raw(symbol_day(symbol), [replace(late, name="part-1767999999-000001.parquet")])


def journal_fails(monkeypatch: pytest.MonkeyPatch, *times: int) -> list[str]:
    """The nth entries of the journal cannot be written, counted from one. Returns where it grows."""
    put, asked = LocalStore.put, list[str]()

    async def no_journal(self: LocalStore, key: str, content: bytes, **options: Any) -> Any:
        if "/journal/" in key:
            asked.append(key)
            if len(asked) in times:
                raise StoreUnavailable(key, "the server is away", "Try again")
        return await put(self, key, content, **options)

    monkeypatch.setattr(LocalStore, "put", no_journal)
    return asked


@pytest.mark.parametrize("times", [(1,), (1, 2, 3)], ids=["one", "all"])
def test_a_chunk_that_cannot_work_at_all_costs_nothing_but_time(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, times: tuple[int, ...]
) -> None:
    for symbol in SYMBOLS:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    journal_fails(monkeypatch, *times)
    result = run(instance)
    assert result.success
    assert len(steps_of(result)) == 5
    assert metadata_of(result)["rows"] == 300
    assert handed_over(lakes) == []


def test_a_day_that_cannot_be_cut_is_done_by_the_last_step(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as that goes: what one symbol-day suffers from is no other's."""
    for symbol in SYMBOLS:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    assert run(instance).success
    for symbol in SYMBOLS:
        put_late(lakes, symbol)
    get, denied = LocalStore.get, symbol_day(SYMBOLS[1]).key("meta.json")

    async def some_denied(self: LocalStore, key: str) -> Any:
        if key == denied:
            raise AccessDenied(key, "is in cold storage", "Restore it")
        return await get(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "get", some_denied)
        result = run(instance)
    assert steps_of(result) == [".split", ".finish"]
    [(step, text)] = failures_of(result).items()
    assert step == ".finish"
    assert text.startswith("1 of 3 symbol-days failed")
    assert [lakes.meta(symbol_day(symbol))["rows"] > 100 for symbol in SYMBOLS] == [True, False, True]


def day_job() -> dg.JobDefinition:
    return build_definitions(load_settings()).resolve_job_def("compact_day")


def test_a_run_that_is_executed_again_from_its_failure_looks_for_itself(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the UI's button does: what chunks of the first run handed over may be long out of date."""
    for symbol in SYMBOLS:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    journal_fails(monkeypatch, 4)  # that of the last step
    job = dg.reconstructable(day_job)
    with instance_for_test() as instance:
        first = dg.execute_job(job, instance, tags={"dagster/partition": f"{DAY}"})
        assert not first.success
        assert handed_over(lakes)
        put_late(lakes, SYMBOLS[0])
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        with dg.execute_job(job, instance, reexecution_options=options, tags={"dagster/partition": f"{DAY}"}) as again:
            assert again.success
            steps = [event.step_key or "" for event in again.all_events if event.is_step_start]
            [event] = [one for one in again.all_events if one.is_step_materialization and one.asset_key == BBO]
    assert [step.removeprefix(OP) for step in steps if step.startswith(OP)] == [".finish"]
    assert event.step_materialization_data.materialization.metadata["rows"].value == 325
    assert handed_over(lakes) == []


def test_a_word_that_is_lost_costs_nothing_but_what_it_said(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for symbol in SYMBOLS:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    load, asked = LakeHandover.load_input, []

    def lost(self: LakeHandover, context: dg.InputContext) -> str:
        asked.append(context.upstream_output)
        # The first chunk does not learn its symbols; of the others the last step hears nothing from one.
        return "" if len(asked) in (1, 5) else load(self, context)

    monkeypatch.setattr(LakeHandover, "load_input", lost)
    result = run(instance)
    assert result.success
    assert len(asked) == 6
    metadata = metadata_of(result)
    assert (metadata["rows"], metadata["symbol-days"]) == (300, 3)
    assert metadata["symbol-days built"] == 2, "one is only found to be published"


def test_the_command_line_says_of_each_symbol_day_once_how_it_ended(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for symbol in SYMBOLS[:2]:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    with monkeypatch.context() as patched:
        in_child.happens(patched, in_child.audit_fails, "3 rows of the file are out of order")
        report = compact_days(load_settings(), [DAY], [PAIR], listener=Recorder(), tell=print)
    assert [item.status for item in report.outcomes] == [Status.FAILED, Status.FAILED]
    assert report.failures == [], "symbol-days say it"
    report = compact_days(load_settings(), [DAY], [PAIR], listener=Recorder(), tell=print)
    assert [(item.status, item.built) for item in report.outcomes] == [(Status.SUCCESS, True)] * 2


@pytest.mark.parametrize("chunk_size", ["1", ""])
def test_a_day_is_counted_once(
    lakes: Lakes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunk_size: str
) -> None:
    monkeypatch.setenv("QUANTLAB_CHUNK_SIZE", chunk_size)
    monkeypatch.setenv("QUANTLAB_METRICS_FILE", str(file := tmp_path / "quantlab.prom"))
    for symbol in SYMBOLS[:2]:
        lakes.put_spec(spec(symbol, parts=3, rows=100))
    assert run(instance).success
    counters = dict(line.rsplit(" ", 1) for line in file.read_text().splitlines() if not line.startswith("#"))
    ours = {name: float(value) for name, value in counters.items() if 'target="binance/bbo"' in name}
    assert sum(value for name, value in ours.items() if "_runs_total" in name) == 1
    assert sum(value for name, value in ours.items() if "rows_total" in name) == 200
