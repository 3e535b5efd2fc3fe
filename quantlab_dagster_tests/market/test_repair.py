"""Rows are never lost by a rebuild: what is kept, what is rebuilt, and what a repair finds and says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.market.late import scan_slice
from quantlab_dagster.market.outcome import Status, Verdict
from quantlab_dagster.market.plan import Action, Requested, plan_symbol_day
from quantlab_dagster.market.rollup import roll_up_day
from quantlab_dagster.market.settling import begin, settle_day
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.synthetic.market import RawPart, corrupt_part, generate_parts
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import (
    DAY,
    NO_WINDOWS,
    NOON_AFTER,
    PAIR,
    Lakes,
    first_two_swapped,
    oracle,
    parquet_bytes,
    same_rows,
    spec,
    symbol_day,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantlab_dagster.market.outcome import Outcome
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.market.state import State

THERE = symbol_day()
ROWS = 3_000
LATE = replace(next(iter(generate_parts(spec(seed=9, parts=2)))), name="part-1767999999-000001.parquet")


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    """One published day of 3,000 rows in 12 parts."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    lakes.put_spec(spec(rows=ROWS))
    lakes.run()
    return lakes


@pytest.fixture
def quantlab(lakes: Lakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Types a command in this process; returns its exit code."""
    settings = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": PAIR.exchange,
        "QUANTLAB_STREAMS": PAIR.stream,
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), "--date", str(DAY)])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run


def replace_raw(lakes: Lakes) -> None:
    """As many raw parts as before, of 600 rows."""
    for part in asyncio.run(lakes.raw.list_objects(THERE.prefix)):
        asyncio.run(lakes.raw.delete(part.key))
    lakes.put_spec(spec(rows=600, seed=1))


def raw_parts() -> list[RawPart]:
    return list(generate_parts(spec(rows=ROWS)))


def ran(lakes: Lakes, **options: Any) -> Outcome:
    [item] = lakes.run(**options).outcomes
    return item


def planned(lakes: Lakes) -> Plan:
    return asyncio.run(plan_symbol_day(lakes.raw, lakes.compact, THERE, Requested(), NO_WINDOWS))


# ---- what was read is not known --------------------------------------------------------------------------------------


@pytest.mark.guards("shrink-unknown-sources")
@pytest.mark.parametrize("sources", [None, b"{ half", b'{"raw_fingerprint": "of another", "objects": []}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_with_unknown_sources_never_drops_rows(lakes: Lakes, sources: bytes | None, overwrite: bool) -> None:
    if sources is None:
        lakes.delete_beside(THERE, "sources.json")
    else:
        lakes.put_beside(THERE, "sources.json", sources)
    replace_raw(lakes)
    before = lakes.compact_keys()
    item = ran(lakes, overwrite=overwrite)
    assert (item.status, item.action, item.rows) == (Status.SUCCESS, Action.KEEP, ROWS)
    assert "it is not known which raw parts were read" in item.reason
    assert lakes.compact_keys() == before
    assert ran(lakes, allow_shrink=True).rows == 600


@pytest.mark.guards("shrink-unknown-sources")
def test_a_repair_with_unknown_sources_never_drops_rows(
    lakes: Lakes, quantlab: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    lakes.delete_beside(THERE, "sources.json")
    replace_raw(lakes)
    before = lakes.compact_keys()
    assert quantlab("compact --repair") == 1
    assert "kept, 3,000 rows (it is not known which raw parts were read" in capsys.readouterr().err
    assert lakes.compact_keys() == before
    assert quantlab("compact --repair --allow-shrink") == 0
    assert lakes.meta(THERE)["rows"] == 600


@pytest.mark.guards("shrink-unknown-sources")
def test_a_repair_of_a_half_published_day_with_unknown_sources_fails(
    lakes: Lakes, quantlab: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    lakes.delete_beside(THERE, "sources.json")
    lakes.put_beside(THERE, "data.parquet", parquet_bytes(lakes.published(THERE).slice(1)))
    replace_raw(lakes)
    before = lakes.compact_keys()
    assert quantlab("compact --repair") == 1
    assert "FAILED: data.parquet is not what meta.json says" in capsys.readouterr().err
    assert lakes.compact_keys() == before


# ---- days of other software ------------------------------------------------------------------------------------------


@pytest.mark.guards("adopted-late-parts")
def test_an_adopted_day_with_fewer_sources_than_parts_is_stale_and_rebuilt(lakes: Lakes) -> None:
    lakes.disown(THERE)
    lakes.put_raw(THERE, [LATE])
    assert planned(lakes).stale

    def settled(before: State | None) -> State:
        return settle_day(begin(before, DAY, NOON_AFTER), DAY, Status.SUCCESS, NOON_AFTER, [PAIR])

    place, store = lakes.place(), StateStore(lakes.compact)
    state = asyncio.run(store.update(settled))
    scanned = asyncio.run(scan_slice(place, store, state, [PAIR], look_back_days=7))
    assert set(scanned.late_scan.stale) == {THERE.state_key}
    rolled = asyncio.run(roll_up_day(place, [PAIR], DAY))
    assert (rolled.settled, [plan.symbol_day for plan in rolled.stale]) == (True, [THERE])

    assert ran(lakes).action is Action.BUILD
    assert same_rows(lakes.published(THERE), oracle([*raw_parts(), LATE]))
    assert ran(lakes).action is Action.UP_TO_DATE


@pytest.mark.guards("shrink-vanished")
def test_an_adopted_day_with_more_sources_than_parts_is_kept(lakes: Lakes) -> None:
    lakes.disown(THERE, source_files=13)
    before = lakes.compact_keys()
    for overwrite in (False, True):
        item = ran(lakes, overwrite=overwrite)
        assert (item.action, item.rows) == (Action.KEEP, ROWS)
        assert "only 12 of 13 raw parts are left" in item.reason
    assert lakes.compact_keys() == before


@pytest.mark.guards("shrink-unknown-sources")
def test_an_adopted_day_of_unknown_sources_is_rebuilt_only_if_allowed(
    lakes: Lakes, quantlab: Callable[[str], int]
) -> None:
    lakes.disown(THERE, first_two_swapped(lakes.published(THERE)), source_files=None)
    before = lakes.compact_keys()
    assert ran(lakes).action is Action.UP_TO_DATE
    assert quantlab("compact --repair") == 1
    assert lakes.compact_keys() == before
    assert quantlab("compact --repair --allow-shrink") == 0
    assert same_rows(lakes.published(THERE), oracle(raw_parts()))


@pytest.mark.guards("adopted-believed")
def test_new_data_under_an_adopted_meta_is_not_believed_unseen(lakes: Lakes) -> None:
    """Our repair put its data and sources, and died before its meta."""
    sources = lakes.get(THERE.key("sources.json"))
    lakes.disown(THERE, first_two_swapped(lakes.published(THERE)), source_files=12)
    lakes.put_beside(THERE, "data.parquet", parquet_bytes(oracle(raw_parts())))
    lakes.put_beside(THERE, "sources.json", sources)
    assert not planned(lakes).published.committed
    assert ran(lakes).action is Action.BUILD
    assert same_rows(lakes.published(THERE), oracle(raw_parts()))
    assert lakes.meta(THERE)["raw_fingerprint"]


def write_over(lakes: Lakes, rows: int, *, known: bool) -> None:
    """Other software publishes so many rows over ours, and leaves our sources."""
    sources = lakes.get(THERE.key("sources.json"))
    table = oracle(raw_parts()) if rows <= ROWS else oracle([*raw_parts(), LATE])
    lakes.disown(THERE, table.slice(0, rows))
    if known:
        sha256 = asyncio.run(lakes.compact.sha256(THERE.key("data.parquet")))
        lakes.put_beside(THERE, "meta.json", lakes.meta(THERE) | {"sha256": sha256})
    lakes.put_beside(THERE, "sources.json", sources)


@pytest.mark.guards("foreign-meta")
@pytest.mark.parametrize("known", [False, True])
def test_a_day_that_other_software_wrote_over_is_rebuilt(lakes: Lakes, known: bool) -> None:
    write_over(lakes, ROWS - 1, known=known)
    plan = planned(lakes)
    assert (plan.action, plan.published.committed) == (Action.BUILD, known)
    assert "meta.json is of other software, beside sources.json of this one" in plan.reason
    assert ran(lakes).action is Action.BUILD
    assert same_rows(lakes.published(THERE), oracle(raw_parts()))


@pytest.mark.guards("foreign-meta")
def test_a_day_that_other_software_wrote_over_is_kept_if_rows_would_be_lost(lakes: Lakes) -> None:
    write_over(lakes, ROWS + 1, known=True)
    before = lakes.compact_keys()
    item = ran(lakes)
    assert (item.status, item.action, item.rows) == (Status.QUARANTINE, Action.KEEP, ROWS + 1)
    assert "meta.json is of other software" in item.reason
    assert "says 3,001 rows, and the raw parts now have 3,000" in item.reason
    left = lakes.compact_keys()
    assert left.pop(THERE.key("quarantine.json")), "it says why, until the parts change"
    assert left == before
    again = ran(lakes)
    assert (again.status, again.action) == (Status.QUARANTINE, Action.QUARANTINED), "and it is not merged for ever"


@pytest.mark.guards("foreign-meta")
def test_a_day_that_other_software_wrote_over_is_kept_if_raw_parts_are_gone(lakes: Lakes) -> None:
    write_over(lakes, 10, known=True)
    asyncio.run(lakes.raw.delete(THERE.key(raw_parts()[0].name)))
    before = lakes.compact_keys()
    item = ran(lakes, overwrite=True)
    assert (item.action, item.rows) == (Action.KEEP, 10)
    assert "meta.json is of other software" in item.reason
    assert lakes.compact_keys() == before


# ---- what a repair finds ---------------------------------------------------------------------------------------------


@pytest.mark.guards("repair-blind")
def test_repair_finds_rows_that_verify_misses(lakes: Lakes, quantlab: Callable[[str], int]) -> None:
    """Data and meta agree with each other, and lack a row of the raw parts."""
    lakes.disown(THERE, lakes.published(THERE).slice(0, ROWS - 1))
    place = lakes.place()
    [by_itself] = asyncio.run(verify_pair(place, PAIR, DAY, against_raw=False))
    [with_raw] = asyncio.run(verify_pair(place, PAIR, DAY))
    assert (by_itself.verdict, with_raw.verdict) == (Verdict.RIGHT, Verdict.WRONG)
    assert quantlab("compact --repair") == 0
    assert same_rows(lakes.published(THERE), oracle(raw_parts()))
    assert quantlab("verify") == 0


@pytest.mark.guards("repair-says-well")
def test_repair_says_that_a_wrong_day_cannot_be_rebuilt(
    lakes: Lakes, quantlab: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """It has more rows than its raw parts: duplicates perhaps, or rows of parts that are gone."""
    lakes.disown(THERE, oracle([*raw_parts(), LATE]))
    before = lakes.compact_keys()
    assert quantlab("compact --repair") == 1
    out, err = capsys.readouterr()
    assert "1 symbol-days were wrong or missing" in out
    assert "the raw parts now have 3,000: nothing was replaced" in err
    assert lakes.compact_keys() == before


@pytest.mark.guards("repair-says-well")
def test_repair_says_that_a_symbol_day_is_quarantined(lakes: Lakes, quantlab: Callable[[str], int]) -> None:
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    lakes.run(symbols=["xrpusdt"])
    assert quantlab("verify") == 1
    assert quantlab("compact --repair") == 1
