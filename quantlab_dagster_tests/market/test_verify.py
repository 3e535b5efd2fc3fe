"""Verification tells a wrong day from a store that did not answer usefully."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.market.outcome import Verdict, VerifiedDay
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import DAY, PAIR, Lakes, damage_downloads, spec, symbol_day

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


ON_SEAWEEDFS = pytest.mark.parametrize("rig", [pytest.param("seaweedfs", marks=pytest.mark.server)], indirect=True)


@pytest.fixture
def local(tmp_path: Path) -> Lakes:
    return Lakes.of(Rig("local", None, tmp_path))


def verified(lakes: Lakes) -> VerifiedDay:
    [item] = asyncio.run(verify_pair(lakes.place(), PAIR, DAY))
    return item


@pytest.mark.guards("verify-blames-the-day")
@ON_SEAWEEDFS
def test_a_part_damaged_in_transit_is_no_wrong_day(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lakes = Lakes.of(rig)
    parts = lakes.put_spec(spec())
    lakes.run()
    assert verified(lakes).verdict is Verdict.RIGHT
    damage_downloads(monkeypatch, type(lakes.raw), parts[3].name)
    with pytest.raises(StoreUnavailable, match="MD5"):
        verified(lakes)

    settings = {
        **rig.env(),
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--date", str(DAY)])
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert parts[3].name in err
    assert "MD5" in err
    assert "wrong" not in out + err


def test_a_part_damaged_in_the_store_is_told(local: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing tells the store's damage from the way's, as on local directories."""
    parts = local.put_spec(spec())
    local.run()
    damage_downloads(monkeypatch, type(local.raw), parts[3].name)
    item = verified(local)
    assert item.verdict is Verdict.WRONG
    assert f"the raw parts cannot be merged any more: {parts[3].name}" in item.findings[0]


def _without_last(table: pa.Table) -> pa.Table:
    return table.slice(0, table.num_rows - 1)


def _first_two_swapped(table: pa.Table) -> pa.Table:
    order = [1, 0, *range(2, table.num_rows)]
    return table.take(order)


def _other_price(table: pa.Table) -> pa.Table:
    column = table["bid_price"].to_pylist()
    return table.set_column(
        table.column_names.index("bid_price"), "bid_price", pa.array([column[0] + 1, *column[1:]], pa.float64())
    )


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_without_last, "but the raw parts have 600"),
        (_first_two_swapped, "do not have their index as seq"),
        (_other_price, "the rows are not those of the raw parts"),
    ],
)
def test_a_wrong_day_is_found(local: Lakes, change: Callable[[pa.Table], pa.Table], finding: str) -> None:
    local.put_spec(spec())
    local.run()
    buffer = pa.BufferOutputStream()
    pq.write_table(change(local.published(symbol_day())), buffer)
    asyncio.run(local.compact.put(symbol_day().key("data.parquet"), buffer.getvalue().to_pybytes()))
    item = verified(local)
    assert item.verdict is Verdict.WRONG
    assert finding in "; ".join(item.findings)


def test_a_day_beyond_the_memory_is_compared_through_the_disk(local: Lakes) -> None:
    local.put_spec(spec(rows=6_000))
    local.run()
    place = local.place()
    small = replace(place, limits=replace(place.limits, memory_budget=1 << 16))
    [item] = asyncio.run(verify_pair(small, PAIR, DAY))
    assert (item.verdict, item.against_raw, item.rows) == (Verdict.RIGHT, True, 6_000)
    assert [path for path in local.scratch.rglob("*") if path.is_file()] == []
