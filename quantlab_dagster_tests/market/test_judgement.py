"""One judgement of every day: each situation once, and every way to say it against the judgement itself."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import sqlalchemy.exc

from quantlab_dagster.cli.app import main
from quantlab_dagster.cli.demo import demo_specs, make_demo_events, make_demo_lake
from quantlab_dagster.cli.documents import judgement_document
from quantlab_dagster.defs.checks import changed_evaluations
from quantlab_dagster.defs.market.checks import findings_by_asset
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.catchup import CatchUp, Decided, Decision
from quantlab_dagster.market.judgement import Judgement, Standing, judge
from quantlab_dagster.market.rollup import RawPrefixes
from quantlab_dagster.market.state import Acceptance, DayRecord, Delisted, LateScan, PartitionRecord, State, utc_text
from quantlab_dagster.metrics import MetricsTarget, record_judgement
from quantlab_dagster.settings import DEMO_LAKE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BBO, TRADE = Pair("binance", "bbo"), Pair("binance", "trade")
PAIRS = [BBO, TRADE]
NOW = dt.datetime(2026, 1, 13, 12, tzinfo=dt.UTC)
KEY = "binance/bbo/adausdt/20260110"
RAW = RawPrefixes(("binance/bbo", "binance/trade"), ())
THEN = utc_text(NOW - dt.timedelta(days=1))


def day(number: int) -> dt.date:
    return dt.date(2026, 1, number)


def settled(**update: Any) -> State:
    """Settled from the 8th to the 12th, for both pairs."""
    ranges = (("20260108", "20260112"),)
    state = State(
        last_compacted_date="20260112",
        catch_up_from="20260108",
        updated_at=THEN,
        settled_pairs={str(pair): ranges for pair in PAIRS},
    )
    return state.model_copy(update=update)


def record(status: str, fingerprint: str | None = None, **fields: Any) -> PartitionRecord:
    return PartitionRecord(status=status, updated_at=THEN, error="because", raw_fingerprint=fingerprint, **fields)


def accepted(of: str) -> dict[str, Acceptance]:
    return {KEY: Acceptance(of=of, reason="known", updated_at=THEN)}


def failed(number: int) -> dict[str, DayRecord]:
    return {f"202601{number:02}": DayRecord(status="failed", updated_at=THEN, reason="the store")}


def open_from(number: int, **update: Any) -> State:
    """Open from a day on, the days before are settled."""
    ranges = (("20260108", f"202601{number - 1:02}"),)
    pairs = {str(pair): ranges for pair in PAIRS}
    return settled(last_compacted_date=f"202601{number - 1:02}", settled_pairs=pairs, **update)


def tried(decision: Decision, failures: int = 2, *, late: bool = False, number: int = 11) -> CatchUp:
    return CatchUp(decided=(Decided(day(number), late, decision, failures, "as was decided"),))


SPOKE = {f"{KEY[:-2]}{number:02}": PartitionRecord(status="success", rows=1, updated_at=THEN) for number in (9, 10, 11)}
ROLLED_UP = {"20260112": DayRecord(status="no_files", updated_at=THEN)}
GONE = Delisted(day="20260113", reason="known", updated_at=THEN)
QUARANTINED = {"partitions": {KEY: record("quarantine", "abc")}}

SITUATIONS: dict[str, tuple[State | None, dict[str, Any], set[str], dict[str, float]]] = {
    "all is well": (settled(), {}, set(), {"watermark_lag_days": 0, "open_days": 0}),
    "yesterday is open, before four": (
        open_from(12),
        {"now": NOW.replace(hour=3)},
        set(),
        {"open_days": 1, "overdue_days": 0, "watermark_lag_days": 0},
    ),
    "yesterday is open, after four": (open_from(12), {}, {"freshness"}, {"overdue_days": 1, "watermark_lag_days": 1}),
    "older days are open": (
        open_from(10),
        {"now": NOW.replace(hour=3)},
        {"freshness"},
        {"open_days": 3, "overdue_days": 2, "pairs_behind": 2, "watermark_lag_days": 2},
    ),
    "failed before four": (
        open_from(12, days=failed(12)),
        {"now": NOW.replace(hour=3)},
        {"nothing_failed"},
        {"failed_days": 1, "overdue_days": 0},
    ),
    "waiting": (
        open_from(11, days=failed(11)),
        {"decided": tried(Decision.WAITING)},
        {"freshness", "nothing_failed"},
        {"failed_days": 1, "worst_day_failed_attempts": 2, "exhausted_days": 0},
    ),
    "exhausted": (
        open_from(11, days=failed(11)),
        {"decided": tried(Decision.EXHAUSTED, 5)},
        {"freshness", "nothing_failed"},
        {"failed_days": 1, "worst_day_failed_attempts": 5, "exhausted_days": 1},
    ),
    "quarantined": (settled(**QUARANTINED), {}, {"nothing_quarantined"}, {"quarantined_symbol_days": 1}),
    "accepted quarantine": (
        settled(**QUARANTINED, accepted=accepted("abc")),
        {},
        set(),
        {"quarantined_symbol_days": 0, "accepted_symbol_days": 1},
    ),
    "accepted quarantine with other parts": (
        settled(**QUARANTINED, accepted=accepted("other")),
        {},
        {"nothing_quarantined"},
        {"quarantined_symbol_days": 1, "accepted_symbol_days": 0},
    ),
    "stale": (settled(late_scan=LateScan(stale={KEY: "abc"})), {}, {"not_stale"}, {"stale_symbol_days": 1}),
    "stale, and tried too often": (
        settled(late_scan=LateScan(stale={KEY: "abc"})),
        {"decided": tried(Decision.EXHAUSTED, 5, late=True, number=10)},
        {"not_stale", "nothing_failed"},
        {"stale_symbol_days": 1, "exhausted_days": 1, "open_days": 0},
    ),
    "accepted stale": (
        settled(late_scan=LateScan(stale={KEY: "abc"}), accepted=accepted("abc")),
        {},
        set(),
        {"stale_symbol_days": 0, "accepted_symbol_days": 1},
    ),
    "a late rebuild failed": (
        settled(partitions={KEY: record("failed", error_type="AuditFailed")}),
        {},
        {"nothing_failed"},
        {"failed_symbol_days": 1, "open_days": 0},
    ),
    "failed, and the day was accepted": (
        settled(
            partitions={KEY: record("failed")},
            days={"20260110": DayRecord(status="skipped", updated_at=THEN, reason="accepted: known")},
        ),
        {},
        set(),
        {"failed_symbol_days": 0},
    ),
    "a new pair is behind": (
        settled(settled_pairs={"binance/bbo": (("20260108", "20260112"),)}),
        {},
        {"freshness"},
        {"pairs_behind": 1, "open_days": 5, "watermark_lag_days": 0},
    ),
    "another deployment's pair failed": (settled(days=failed(13)), {}, {"nothing_failed"}, {"failed_days": 1}),
    "nothing begun": (None, {}, {"freshness"}, {"overdue_days": 1, "pairs_behind": 2}),
    "the watermark is in the future": (settled(last_compacted_date="20620101"), {}, {"freshness"}, {}),
    "an unreadable symbol-day": (
        settled(late_scan=LateScan(stale={KEY: "meta.json: is no record"})),
        {},
        {"not_stale"},
        {"unreadable_symbol_days": 1, "stale_symbol_days": 0},
    ),
    "an unreadable entry": (settled(), {"entries": {"compacted/journal/x.json": "no JSON"}}, {"state_understood"}, {}),
    "a key that is none": (settled(partitions={"x": record("failed")}), {}, {"state_understood"}, {}),
    "a wrong raw URL": (settled(), {"raw": RawPrefixes((), ())}, {"no_unclaimed_raw_prefix"}, {}),
    "a raw lake that cannot be listed": (
        settled(),
        {"raw": None, "not_looked": "no answer"},
        {"no_unclaimed_raw_prefix", "not_stale"},
        {},
    ),
    "silent": (
        settled(partitions=SPOKE, days=ROLLED_UP),
        {},
        {"nothing_silent"},
        {"silent_symbols": 1, "delisted": 0},
    ),
    "silent and delisted": (
        settled(partitions=SPOKE, days=ROLLED_UP, delisted={KEY.rpartition("/")[0]: GONE}),
        {},
        set(),
        {"silent_symbols": 0, "delisted": 1},
    ),
    "an exchange nobody configured": (
        settled(),
        {"raw": RawPrefixes(RAW.claimed, ("kraken/bbo",))},
        {"no_unclaimed_raw_prefix"},
        {},
    ),
}


def judged(name: str) -> Judgement:
    state, options, _, _ = SITUATIONS[name]
    given: dict[str, Any] = {"now": NOW, "raw": RAW} | options
    return judge(state, PAIRS, given.pop("now"), **given)


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_way_to_say_it_repeats_the_judgement(name: str, tmp_path: Path) -> None:
    _, _, expected, numbers = SITUATIONS[name]
    judgement = judged(name)
    assert {finding.name for finding in judgement.findings if not finding.passed} == expected
    assert judgement.fine == (not expected)
    assert {key: judgement.gauges[key] for key in numbers} == numbers

    document = judgement_document(judgement)
    assert document["fine"] == judgement.fine
    assert {check for check, found in document["checks"].items() if not found["passed"]} == expected
    assert json.dumps(document)

    file = tmp_path / "q.prom"
    record_judgement(MetricsTarget(file), "market_data", judgement.gauges, NOW)
    written = dict(line.rsplit(" ", 1) for line in file.read_text().splitlines() if not line.startswith("#"))
    lake = 'quantlab_lake_{}{{lake="market_data"}}'
    assert {key: float(written[lake.format(key)]) for key in judgement.gauges} == judgement.gauges
    assert float(written[lake.format("judged_timestamp_seconds")]) == NOW.timestamp()

    with dg.DagsterInstance.ephemeral() as instance:
        said = changed_evaluations(instance, findings_by_asset(judgement))
        of_state = {event.check_name for event in said if event.asset_key.path[-1] == "state" and not event.passed}
        assert of_state == expected
        for event in said:
            instance.report_runless_asset_event(event)
        assert changed_evaluations(instance, findings_by_asset(judgement)) == [], "said once"


def pair_checks(judgement: Judgement, pair: Pair) -> Mapping[str, bool]:
    return {finding.name: finding.passed for finding in judgement.findings_of(pair)}


def test_the_checks_of_a_pair_are_of_all_its_days_and_of_no_other_pair() -> None:
    audited, quarantine = "order_and_losslessness_audited", "nothing_quarantined"
    assert pair_checks(judged("quarantined"), BBO) == {audited: True, quarantine: False}
    assert pair_checks(judged("quarantined"), TRADE) == {audited: True, quarantine: True}
    assert pair_checks(judged("accepted quarantine"), BBO) == {audited: True, quarantine: True}
    assert pair_checks(judged("a late rebuild failed"), BBO) == {audited: False, quarantine: True}


def test_a_pair_that_is_behind_is_said_with_its_backlog() -> None:
    judgement = judged("a new pair is behind")
    [item] = judgement.behind
    assert (item.pair, item.first, item.last, item.days) == (TRADE, day(8), day(12), 5)
    assert "binance/trade by 5 days, 2026-01-08 … 2026-01-12" in judgement.findings[0].text


def test_days_stand_as_was_decided() -> None:
    for name, standing in {
        "waiting": Standing.WAITING,
        "exhausted": Standing.EXHAUSTED,
        "failed before four": Standing.FAILED,
        "older days are open": Standing.DUE,
        "quarantined": Standing.SETTLED,
    }.items():
        assert judged(name).days[0].standing is standing, name


def test_dagster_refuses_the_second_evaluation_of_a_partition_outside_of_runs() -> None:
    """Why checks are not partitioned (docs/adr/0013). When this fails, Dagster can do it."""
    first, second = (
        dg.AssetCheckEvaluation(dg.AssetKey("a"), "b", passed=passed, metadata={}, partition="2026-01-08")
        for passed in (True, False)
    )
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(first)
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            instance.report_runless_asset_event(second)


def test_status_looks_at_both_lakes_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is configured: both lakes are the demo's, as for every other command."""
    monkeypatch.chdir(tmp_path)
    make_demo_lake(DEMO_LAKE, demo_specs(), scale=0.01)
    make_demo_events(DEMO_LAKE)
    with pytest.raises(SystemExit):
        main(["status", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert "problem" not in document["event_lake"], document["event_lake"]
    assert document["event_lake"]["checks"]["no_hours_of_small_files"]["passed"] is False, "they wait to be merged"


def test_status_shows_both_lakes_and_one_that_is_wrong_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("raw", "compact"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"QUANTLAB_{name.upper()}_URL", str(tmp_path / name))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def status(**env: str) -> tuple[object, dict[str, Any]]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(["status", "--json"])
        return ended.value.code, json.loads(capsys.readouterr().out)

    code, document = status()
    assert (code, document["fine"], document["market_data"]["fine"]) == (1, False, False)
    assert "WAREHOUSE_URL is not set" in document["event_lake"]["problem"]
    code, document = status(WAREHOUSE_URL=str(tmp_path / "nowhere"))
    assert (code, document["market_data"]["fine"]) == (1, False)
    assert "nowhere" in document["event_lake"]["problem"]
    code, document = status(QUANTLAB_RAW_URL=str(tmp_path / "nowhere"), WAREHOUSE_URL=str(tmp_path / "raw"))
    assert (code, document["event_lake"]["cold_hours"]) == (2, 0)
    assert "nowhere" in document["market_data"]["problem"]
