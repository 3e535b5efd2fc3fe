"""The generated days have the shape, the grammar and the trouble of real ones."""

import datetime as dt
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.synthetic.market import (
    FOREIGN_FILES,
    REAL_DAY,
    STREAMS,
    DaySpec,
    RawPart,
    corrupt_part,
    empty_part,
    generate_parts,
    write_local_day,
)

DAY = dt.date(2026, 1, 8)
DAY_MS = 86_400_000
BBO = DaySpec("binance", "bbo", "adausdt", DAY, parts=200, rows=200_000)
SMALL = DaySpec("bybit", "bbo", "btcusdt", DAY, parts=12, rows=1_200)
NAME = re.compile(r"part-\d{10}-\d{6}\.parquet")

COMMON = {
    "ts_event": pa.int64(),
    "ts_recv": pa.int64(),
    "exchange": pa.string(),
    "symbol": pa.string(),
    "stream": pa.string(),
    "stream_version": pa.int8(),
}
OWN = {
    "bbo": {name: pa.float64() for name in ("bid_price", "bid_qty", "ask_price", "ask_qty")},
    "trade": {"price": pa.float64(), "qty": pa.float64(), "side": pa.int8(), "trade_id": pa.string()},
    "mark_price": {"mark_price": pa.float64(), "index_price": pa.float64()},
    "funding": {"funding_rate": pa.float64(), "next_funding_ts": pa.int64()},
    "open_interest": {"open_interest": pa.float64()},
}


def read(part: RawPart) -> pa.Table:
    # Not io.BytesIO: threaded reads of a Python file abort at interpreter exit now and then (apache/arrow#33975).
    return pq.read_table(pa.BufferReader(part.data))


def plain_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema}


def read_day(spec: DaySpec) -> pa.Table:
    """All rows of a day in key order."""
    parts = sorted(generate_parts(spec), key=lambda part: part.name)
    return pa.concat_tables([read(part).cast(pa.schema(COMMON | OWN[spec.stream])) for part in parts])


@pytest.fixture(scope="module")
def parts() -> list[RawPart]:
    return list(generate_parts(BBO))


@pytest.fixture(scope="module")
def tables(parts: list[RawPart]) -> list[pa.Table]:
    """The tables of the day in key order."""
    return [read(part) for part in sorted(parts, key=lambda part: part.name)]


@pytest.fixture(scope="module")
def events(tables: list[pa.Table]) -> list[npt.NDArray[np.int64]]:
    return [table["ts_event"].to_numpy() for table in tables]


def test_same_spec_gives_same_bytes() -> None:
    assert list(generate_parts(SMALL)) == list(generate_parts(SMALL))


@pytest.mark.parametrize("other", [replace(SMALL, seed=1), replace(SMALL, symbol="ethusdt")])
def test_seed_and_symbol_change_the_rows(other: DaySpec) -> None:
    assert read_day(SMALL)["ts_event"] != read_day(other)["ts_event"]


@pytest.mark.parametrize("stream", STREAMS)
def test_columns_and_types(stream: str) -> None:
    spec = replace(SMALL, stream=stream)
    expected = COMMON | OWN[stream]
    for part in [*generate_parts(spec), empty_part(spec)]:
        types = plain_types(read(part).schema)
        assert types == expected
        assert list(types) == list(expected)


@pytest.mark.parametrize("stream", STREAMS)
def test_constant_columns(stream: str) -> None:
    day = read_day(replace(SMALL, stream=stream))
    for name, value in {"exchange": "bybit", "symbol": "BTCUSDT", "stream": stream, "stream_version": 1}.items():
        assert day[name].unique().to_pylist() == [value]


@pytest.mark.parametrize(
    ("parts", "rows"), [(1, 1), (2, 2), (3, 3), (1, 1_000), (2, 3), (7, 1_000), (100, 100), (50, 12_345)]
)
@pytest.mark.parametrize("stream", STREAMS)
def test_counts_are_exact(stream: str, parts: int, rows: int) -> None:
    made = list(generate_parts(replace(SMALL, stream=stream, parts=parts, rows=rows)))
    counts = [pq.read_metadata(pa.BufferReader(part.data)).num_rows for part in made]
    assert len({part.name for part in made}) == parts
    assert sum(counts) == rows
    assert min(counts) >= 1


def test_a_third_of_events_tie(events: list[npt.NDArray[np.int64]]) -> None:
    _, counts = np.unique(np.concatenate(events), return_counts=True)
    assert counts[counts > 1].sum() / BBO.rows == pytest.approx(1 / 3, abs=0.02)


def test_parts_overlap(events: list[npt.NDArray[np.int64]]) -> None:
    first = np.array([part.min() for part in events])
    last = np.array([part.max() for part in events])
    assert (first[1:] < last[:-1]).mean() > 0.5


def test_rows_are_in_arrival_order(tables: list[pa.Table], events: list[npt.NDArray[np.int64]]) -> None:
    assert all((np.diff(part) < 0).any() for part in events)
    received = np.concatenate([table["ts_recv"].to_numpy() for table in tables])
    assert (np.diff(received) >= 0).all()


def test_a_few_parts_hold_a_backlog_older_than_the_part_before(tables: list[pa.Table]) -> None:
    late_by_ms = np.array([np.max(table["ts_recv"].to_numpy() - table["ts_event"].to_numpy()) for table in tables])
    one_part_ms = DAY_MS / BBO.parts
    # Two backlogs, each in one part or cut in two.
    assert 2 <= (late_by_ms > one_part_ms + 2 * 60_000).sum() <= 4


@pytest.mark.parametrize("stream", STREAMS)
def test_neighbouring_days_reach_in(stream: str) -> None:
    day = read_day(replace(SMALL, stream=stream))
    since_midnight = day["ts_event"].to_numpy() - SMALL.midnight_ms
    received = day["ts_recv"].to_numpy() - SMALL.midnight_ms
    assert 1 <= (since_midnight < 0).sum() < 20
    assert 1 <= (since_midnight >= DAY_MS).sum() < 20
    assert received.min() >= 0
    assert received.max() < DAY_MS


def test_activity_covers_the_day_unevenly(events: list[npt.NDArray[np.int64]]) -> None:
    hours, _ = np.histogram(np.concatenate(events) - BBO.midnight_ms, bins=24, range=(0, DAY_MS))
    assert hours.min() > 0
    assert hours.max() > 2 * hours.min()


def test_names_and_restart(parts: list[RawPart]) -> None:
    names = sorted(part.name for part in parts)
    assert [part.name for part in parts] != names
    assert len(set(names)) == BBO.parts
    assert all(NAME.fullmatch(name) for name in names)
    counters = [int(name[-14:-8]) for name in names]
    restart = counters.index(1, 1)
    assert counters == [*range(1, restart + 1), *range(1, BBO.parts - restart + 1)]
    assert 60 < restart < 140


def test_names_stay_unique_when_parts_are_tiny() -> None:
    spec = replace(SMALL, parts=2_000, rows=2_000)
    assert len({part.name for part in generate_parts(spec)}) == spec.parts


def test_part_size(parts: list[RawPart]) -> None:
    sizes = [len(part.data) for part in parts]
    assert min(sizes) > 20_000
    assert max(sizes) < 35_000
    assert 25_000 < np.mean(sizes) < 30_000


def test_some_parts_are_dictionary_encoded(tables: list[pa.Table]) -> None:
    encoded = [pa.types.is_dictionary(table.schema.field("exchange").type) for table in tables]
    assert 0.1 < np.mean(encoded) < 0.3


def test_bbo_values(tables: list[pa.Table]) -> None:
    for table in tables[::20]:
        bid, ask = table["bid_price"].to_numpy(), table["ask_price"].to_numpy()
        assert (bid > 0).all()
        assert (bid < ask).all()
        assert (np.round(bid, 4) == bid).all()
        assert (np.round(table["bid_qty"].to_numpy()) == table["bid_qty"].to_numpy()).all()
        assert table["ask_qty"].to_numpy().min() >= 1


def test_trade_values() -> None:
    day = read_day(replace(SMALL, stream="trade"))
    assert set(day["side"].to_pylist()) == {1, -1}
    # Ids are given out at the exchange: with events in order (arrival breaks ties) only ties may be out of order.
    ids = np.sort(day["trade_id"].cast(pa.int64()).to_numpy())
    assert (np.diff(ids) == 1).all()
    in_event_order = day.take(pa.array(np.lexsort((day["trade_id"].to_numpy(), day["ts_event"].to_numpy()))))
    assert in_event_order["trade_id"].cast(pa.int64()).to_numpy().tolist() == ids.tolist()


def test_mark_price_index_is_sometimes_null() -> None:
    day = read_day(replace(SMALL, stream="mark_price"))
    assert 0 < day["index_price"].null_count < SMALL.rows / 10
    assert day["mark_price"].null_count == 0


def test_funding_has_few_values() -> None:
    day = read_day(replace(SMALL, stream="funding"))
    assert len(day["funding_rate"].unique()) <= 3
    assert (day["next_funding_ts"].to_numpy() > day["ts_event"].to_numpy()).all()


def test_empty_part(parts: list[RawPart]) -> None:
    part = empty_part(BBO)
    assert part == empty_part(BBO)
    assert NAME.fullmatch(part.name)
    assert part.name not in {other.name for other in parts}
    assert read(part).num_rows == 0


def test_corrupt_part(parts: list[RawPart]) -> None:
    part = corrupt_part(BBO)
    assert part == corrupt_part(BBO)
    assert NAME.fullmatch(part.name)
    assert part.name not in {empty_part(BBO).name, *(other.name for other in parts)}
    assert part.data.startswith(b"PAR1")
    with pytest.raises(pa.ArrowInvalid):
        read(part)


def test_foreign_files_are_no_parts() -> None:
    assert FOREIGN_FILES
    assert not any(NAME.fullmatch(name) for name in FOREIGN_FILES)


def test_write_local_day(tmp_path: Path) -> None:
    size_bytes = write_local_day(tmp_path, SMALL)
    directory = tmp_path / "exchange=bybit" / "stream=bbo" / "symbol=btcusdt" / "date=20260108"
    written = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert written == {part.name: part.data for part in generate_parts(SMALL)}
    assert size_bytes == sum(map(len, written.values()))


@pytest.mark.parametrize("bad", [{"stream": "depth"}, {"parts": 0}, {"parts": 1_201}])
def test_impossible_specs_are_refused(bad: dict[str, int | str]) -> None:
    with pytest.raises(ValueError, match=r"Unknown stream|rows fill"):
        replace(SMALL, **bad)  # type: ignore[arg-type]


def test_real_day_has_the_observed_size() -> None:
    assert (REAL_DAY.parts, REAL_DAY.rows) == (3_252, 3_272_498)
    assert REAL_DAY.prefix == "exchange=binance/stream=bbo/symbol=adausdt/date=20260108"
