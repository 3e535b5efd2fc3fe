"""Rows of symbols and a range of time, beside what a naive reader makes of the same files."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantlab_dagster import reader
from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.reader import files, merging, rows
from quantlab_dagster.reader import lake as lakes
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.reader.lakes import (
    DAY,
    DAY_MS,
    MIDNIGHT_MS,
    ReadLake,
    bytes_of,
    day_of,
    frame_of,
    places,
    without_day,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NEXT = DAY + dt.timedelta(days=1)
BEFORE = DAY - dt.timedelta(days=1)
ALL = [
    day_of(symbol, day=day, stream=stream, exchange=exchange)
    for exchange in ("binance", "okx")
    for stream in ("bbo", "trade")
    for symbol in ("adausdt", "btcusdt")
    for day in (DAY, NEXT)
]


@pytest.fixture
def lake(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> ReadLake:
    return ReadLake.of(rig, monkeypatch)


def midnights(lake: ReadLake) -> None:
    """Every symbol, with rows around both ends of the day, some of which lie in the neighbour's directory."""
    for number, symbol_day in enumerate(ALL):
        begin = MIDNIGHT_MS + (symbol_day.day - DAY).days * DAY_MS
        times = [begin + step * 10_800_000 for step in range(8)]
        times += [begin - 5, begin - 1 - number % 3, begin + DAY_MS, begin + DAY_MS + 7, begin + 1, begin + 1]
        lake.put(symbol_day, times)


def test_rows_of_everything_come_in_one_order_on_every_store(lake: ReadLake) -> None:
    midnights(lake)
    found = lake.open().rows()
    assert places(found.polars(), ALL) == without_day(lake.expected())
    assert found.unit == "ms"
    assert len(found.days) == len(ALL)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS),
        (MIDNIGHT_MS + DAY_MS, None),
        (None, MIDNIGHT_MS + DAY_MS + 1),
        (MIDNIGHT_MS + DAY_MS - 5, MIDNIGHT_MS + DAY_MS + 5),
    ],
)
def test_a_range_has_the_rows_that_lie_in_a_neighbours_directory(
    lake: ReadLake, start: int | None, end: int | None
) -> None:
    midnights(lake)
    found = lake.open().rows(symbol="ADAUSDT", start=start, end=end)
    wanted = [day for day in ALL if day.symbol == "adausdt"]
    assert places(found.polars(), ALL) == without_day(lake.expected(wanted, low=start, high=end))


def test_only_the_ranges_that_are_wanted_are_fetched_and_they_are_right(
    lake: ReadLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of many row groups on S3: PyArrow decodes what was fetched; elsewhere Polars skips."""
    times = [MIDNIGHT_MS + number * 1_000 for number in range(60_000)]
    lake.put(day_of(), times, group=2_000)
    downloads: list[str] = []
    monkeypatch.setattr(files, "_TAIL_BYTES", 1 << 16)
    if lake.rig.server is not None:
        from quantlab_dagster.reader import places as where  # noqa: PLC0415

        monkeypatch.setattr(where._PinnedVersion, "_downloaded", lambda _: downloads.append("whole"))
    low, high = MIDNIGHT_MS + 30_000_500, MIDNIGHT_MS + 33_000_000
    found = lake.open().rows(start=low, end=high, columns=["bid_price", "seq", "ts_event"])
    expected = frame_of(day_of(), times).filter(pl.col("ts_event").is_between(low, high, closed="left"))
    assert_frame_equal(found.polars(), expected.select("bid_price", "seq", "ts_event"))
    filtered = found.lazy().filter(pl.col("bid_price") > 31_000).select("seq").collect()
    assert_frame_equal(filtered, expected.filter(pl.col("bid_price") > 31_000).select("seq"))
    assert downloads == []


def test_every_way_to_ask_brings_the_same(lake: ReadLake) -> None:
    midnights(lake)
    found = lake.open().rows(stream="trade", start=DAY, end=NEXT)
    frame = found.polars()
    assert frame.height > 20
    assert_frame_equal(found.lazy().collect(), frame)
    assert_frame_equal(found.lazy().collect(), frame)  # again
    assert_frame_equal(pl.DataFrame(found.arrow()), frame)
    assert_frame_equal(pl.DataFrame(pa.table(found)), frame)
    assert_frame_equal(pl.concat(list(found.frames())), frame)
    assert found.batches().schema == found.arrow().schema
    with duckdb.connect() as connection:
        relation = found.duckdb(connection)
        for _ in range(2):  # a relation may be executed again
            assert_frame_equal(pl.DataFrame(relation.to_arrow_table()), frame)
        counted = connection.sql("select count(*), count(distinct symbol) from found").fetchall()
    assert counted == [(frame.height, 2)]


def test_columns_filters_and_heads_reach_the_rows(lake: ReadLake) -> None:
    midnights(lake)
    found = lake.open().rows(exchange="binance", stream="bbo")
    frame = found.polars()
    query = found.lazy().filter(pl.col("seq") % 2 == 1)
    assert_frame_equal(query.select("bid_price").collect(), frame.filter(pl.col("seq") % 2 == 1).select("bid_price"))
    assert_frame_equal(found.lazy().head(5).collect(), frame.head(5))
    assert_frame_equal(found.lazy().filter(pl.col("ts_event") < 0).collect(), frame.clear())
    named = lake.open().rows(exchange="binance", stream="bbo", columns=["bid_price"])
    assert_frame_equal(named.polars(), frame.select("bid_price"))
    with pytest.raises(reader.ColumnsDiffer, match=r"bid_prices: is in none.*bid_price"):
        lake.open().rows(columns=["bid_prices"]).polars()


def test_in_the_order_of_files_days_come_one_after_the_other(lake: ReadLake) -> None:
    midnights(lake)
    frame = lake.open().rows(order="files").polars()
    expected = [(day.exchange, day.stream, day.symbol, day.day) for day in ALL for _ in range(lake.frames[day].height)]
    by_file = lake.open().rows(order="files", stream="bbo", exchange="okx").polars()
    assert frame.height == len(expected)
    wanted = [day for day in ALL if (day.exchange, day.stream) == ("okx", "bbo")]
    assert_frame_equal(by_file, pl.concat([lake.frames[day] for day in wanted]))


# ---- on a local directory only: what does not depend on the store ---------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> ReadLake:
    return ReadLake.of(Rig("local", None, tmp_path))


DRAWN = st.dictionaries(
    st.tuples(st.sampled_from(["adausdt", "btcusdt"]), st.sampled_from(["bbo", "trade"]), st.sampled_from([DAY, NEXT])),
    st.lists(st.integers(-3, 3), max_size=9),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=DRAWN,
    group=st.integers(1, 4),
    step=st.integers(1, 5),
    low=st.none() | st.integers(-4, 4),
    width=st.none() | st.integers(0, 5),
    order=st.sampled_from(["total", "files"]),
)
def test_any_days_and_range_are_read_as_a_naive_reader_would(
    tmp_path: Path, drawn: dict[Any, list[int]], group: int, step: int, low: int | None, width: int | None, order: Any
) -> None:
    lake = ReadLake.of(Rig("local", None, tmp_path))
    around = MIDNIGHT_MS + DAY_MS
    for (symbol, stream, day), times in drawn.items():
        lake.put(day_of(symbol, day=day, stream=stream), [around + time for time in times], group=group)
    start = None if low is None else around + low
    end = None if width is None else around + (low or 0) + width
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "_LEAST_STEP_ROWS", step)
        patched.setattr(rows, "_STEP_ROWS", step)
        patched.setattr(rows, "_ROWS_AT_ONCE", step)
        patched.setattr(merging, "_STEP_ROWS", step)
        try:
            found = lake.open().rows(start=start, end=end, order=order)
        except reader.NothingPublished:
            assert lake.expected(low=start, high=end) == []
            return
        frame = found.polars()
    expected = lake.expected(low=start, high=end)
    if order == "files":
        expected.sort(key=lambda row: (row[1], row[2], row[3], row[4], row[5]))
    if frame.height == 0:
        assert expected == []
        return
    assert places(frame, lake.frames) == without_day(expected)


@pytest.mark.slow
def test_merged_order_of_fifty_symbols_is_that_of_a_sort(local: ReadLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in small steps, so that the merge has many."""
    monkeypatch.setattr(rows, "_LEAST_STEP_ROWS", 50)
    monkeypatch.setattr(rows, "_ROWS_AT_ONCE", 5_000)
    monkeypatch.setattr(merging, "_STEP_ROWS", 700)
    symbols = [f"s{number:02d}usdt" for number in range(50)]
    for number, symbol in enumerate(symbols):
        for day in (DAY, NEXT):
            begin = MIDNIGHT_MS + (day - DAY).days * DAY_MS
            times = [begin - 20 + (row * (7 + number) * 37_813) % (DAY_MS + 40) for row in range(300)]
            local.put(day_of(symbol, day=day), times, group=100)
    frame = local.open().rows().polars()
    assert frame.height == 30_000
    assert places(frame, local.frames) == without_day(local.expected())


def test_two_spellings_of_a_symbol_are_the_same(local: ReadLake) -> None:
    local.put(day_of("adausdt"), [MIDNIGHT_MS])
    local.put(day_of("btcusdt"), [MIDNIGHT_MS])
    lake = local.open()
    for spelling in ("adausdt", "ADAUSDT", ["AdaUsdt"]):
        assert lake.rows(symbol=spelling, stream="BBO").polars()["symbol"].to_list() == ["ADAUSDT"]
    with pytest.raises(reader.NothingPublished, match=r"symbol ADAUSD: is not in .*Nearest are: adausdt"):
        lake.rows(symbol="ADAUSD")
    with pytest.raises(reader.NothingPublished, match="exchange kraken"):
        lake.rows(exchange="kraken")


def test_a_range_without_any_day_is_an_error_and_missing_days_are_said(local: ReadLake) -> None:
    local.put(day_of(), [MIDNIGHT_MS])
    local.put(day_of(day=DAY + dt.timedelta(days=3)), [MIDNIGHT_MS + 3 * DAY_MS])
    lake = local.open()
    with pytest.raises(reader.NothingPublished, match="no day of binance/bbo/adausdt"):
        lake.rows(start="2027-01-01", end="2027-02-01")
    found = lake.rows(start="2026-01-08", end="2026-01-12")
    assert found.missing == {("binance", "bbo", "adausdt"): (NEXT, NEXT + dt.timedelta(days=1))}
    assert lake.rows().missing == found.missing
    assert lake.rows(end="2026-01-09").missing == {}


def test_missing_days_are_counted_only_when_they_are_asked_for(
    local: ReadLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the year 1 on they are millions for each symbol."""
    local.put(day_of(), [MIDNIGHT_MS])
    counted: list[Any] = []

    def count(*given_: Any) -> dict[Any, Any]:
        counted.append(given_)
        return {}

    monkeypatch.setattr(lakes, "_missing", count)
    found = local.open().rows(start="0001-01-02", end="9999-12-31")
    assert found.polars().height == 1
    assert counted == []
    assert found.missing == found.missing == {}
    assert len(counted) == 1


def test_days_of_different_units_are_not_mixed(local: ReadLake) -> None:
    local.put(day_of(), [MIDNIGHT_MS])
    local.put(day_of("btcusdt"), [MIDNIGHT_MS * 10**6 + 5])
    lake = local.open()
    with pytest.raises(reader.TimeUnitUnclear, match=r"adausdt/20260108 in ms and .*btcusdt/20260108 in ns"):
        lake.rows()
    found = lake.rows(symbol="btcusdt", start="2026-01-08T00:00:00Z", end="2026-01-08T00:00:01Z")
    assert found.unit == "ns"
    assert found.polars()["ts_event"].to_list() == [MIDNIGHT_MS * 10**6 + 5]


def test_a_day_in_no_unit_is_not_mixed_with_days_in_one(local: ReadLake) -> None:
    """Its rows would be compared with a range in the others' unit, and dropped or taken by chance."""
    local.put(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 1])
    local.put(day_of(day=NEXT), [0, 10**17])
    lake, different = local.open(), r"20260109 in no usual unit and .*20260108 in ms: have ts_event in different units"
    for given_ in ({}, {"start": DAY, "end": DAY + dt.timedelta(days=2)}, {"start": MIDNIGHT_MS}):
        with pytest.raises(reader.TimeUnitUnclear, match=different):
            lake.rows(**given_)
    with pytest.raises(reader.TimeUnitUnclear, match="20260109: has a range of ts_event that is near its day in no"):
        lake.rows(start="2026-01-09T12:00:00Z")
    local.put(day_of(day=NEXT), [])
    assert local.open().rows(start=DAY).polars().height == 2
    local.put(day_of(day=NEXT), [0, (MIDNIGHT_MS + DAY_MS) * 10**6])
    with pytest.raises(
        reader.TimeUnitUnclear, match=r"20260108 in ms and .*20260109 in ns: have ts_event in different"
    ):
        local.open().rows(start=DAY)
    local.put(day_of(day=NEXT), [0, MIDNIGHT_MS + DAY_MS])
    assert local.open().rows(start=DAY, end=DAY + dt.timedelta(days=2)).polars().height == 3, "a row far off hides none"


@pytest.mark.parametrize("has_statistics", [True, False])
def test_where_a_meta_does_not_say_the_range_the_data_does(local: ReadLake, has_statistics: bool) -> None:
    frame = frame_of(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 5])
    nothing = {"ts_event_min": None, "ts_event_max": None}
    meta = {"schema_version": 1, "rows": 2, "ordering_columns": ["ts_event", "seq"], "stream_type": "bbo", **nothing}
    local.put_object(day_of(), "meta.json", meta)
    buffer = io.BytesIO()
    frame.write_parquet(buffer, statistics=has_statistics)
    local.put_object(day_of(), "data.parquet", buffer.getvalue())
    local.put(day_of("btcusdt"), [MIDNIGHT_MS * 10**6])
    lake = local.open()
    with pytest.raises(reader.TimeUnitUnclear, match="in different units"):
        lake.rows()
    if has_statistics:
        found = lake.rows(symbol="adausdt", start=DAY)
        assert (found.unit, found.polars().height) == ("ms", 2)
    else:
        assert lake.rows(symbol="adausdt").polars().height == 2


def test_a_day_in_no_unit_is_read_by_numbers_only(local: ReadLake) -> None:
    local.put(day_of(), [17, 20])
    lake = local.open()
    assert lake.rows().polars().height == 2
    assert lake.rows().unit is None
    with pytest.raises(reader.TimeUnitUnclear, match="near its day in no usual unit"):
        lake.rows(start="2026-01-08")


def test_columns_unite_over_days(local: ReadLake) -> None:
    narrow = frame_of(day_of(), [MIDNIGHT_MS]).with_columns(stream_version=pl.lit(1, pl.Int8))
    wide = frame_of(day_of(day=NEXT), [MIDNIGHT_MS + DAY_MS]).with_columns(
        stream_version=pl.lit(300, pl.Int32), extra=pl.lit("x")
    )
    local.put(day_of(), narrow)
    local.put(day_of(day=NEXT), wide)
    frame = local.open().rows().polars()
    assert frame.schema["stream_version"] == pl.Int32
    assert frame["stream_version"].to_list() == [1, 300]
    assert frame["extra"].to_list() == [None, "x"]
    local.put(day_of(day=NEXT), wide.with_columns(bid_price=pl.lit("x")))
    with pytest.raises(reader.ColumnsDiffer, match="cannot be united"):
        local.open().rows().polars()


def test_a_day_without_rows_has_its_columns(local: ReadLake) -> None:
    local.put(day_of(), [])
    frame = local.open().rows().polars()
    assert frame.height == 0
    assert "bid_price" in frame.columns


HOUR_MS = 3_600_000
QUIET: dict[str, Any] = {"start": "2026-01-08T17:00:00Z", "end": "2026-01-08T18:00:00Z"}


def test_a_quiet_range_has_the_columns_of_the_days_that_were_asked_for(local: ReadLake) -> None:
    """Funding comes at 0, 8 and 16 h."""
    for number in range(3):
        begin = MIDNIGHT_MS + number * DAY_MS
        symbol_day = day_of(stream="funding", day=DAY + dt.timedelta(days=number))
        times = [begin + hour * HOUR_MS for hour in (0, 8, 16)]
        local.put(symbol_day, frame_of(symbol_day, times).with_columns(funding_rate=pl.lit(0.1)))
    lake = local.open()
    found = lake.rows(**QUIET)
    assert (found.days, found.unit, found.missing) == ((), "ms", {})
    assert_frame_equal(found.polars(), local.frames[day_of(stream="funding")].clear())
    assert found.lazy().filter(pl.col("funding_rate") > 0).collect().height == 0
    assert found.arrow().schema.names == found.schema.names()
    assert lake.rows(**QUIET, columns=["funding_rate"]).polars().schema == {"funding_rate": pl.Float64}
    with pytest.raises(reader.ColumnsDiffer, match=r"column bid_price: is in none.*funding_rate"):
        lake.rows(**QUIET, columns=["bid_price"]).polars()
    local.put(day_of(), [MIDNIGHT_MS + 17 * HOUR_MS])
    both = local.open().rows(**QUIET, columns=["bid_price", "funding_rate"]).polars()
    assert both.rows() == [(0.0, None)]


def test_a_quiet_day_is_not_opened_for_columns_that_others_have(
    local: ReadLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put(day_of(), [MIDNIGHT_MS + 17 * HOUR_MS])
    local.put(day_of(stream="funding"), [MIDNIGHT_MS])
    lake = local.open()
    opened: set[str] = set()
    open_day = lake.open

    def open_seen(day: Any) -> Any:
        opened.add(day.stream)
        return open_day(day)

    monkeypatch.setattr(lake, "open", open_seen)
    assert lake.rows(**QUIET, columns=["seq"]).polars().height == 1
    assert opened == {"bbo"}
    assert lake.rows(**QUIET).polars().height == 1
    assert opened == {"bbo", "funding"}


@pytest.mark.parametrize("step", [1, 1_000])
def test_a_misordered_day_of_other_software_is_noticed(
    local: ReadLake, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Within a frame, and from one to the next."""
    monkeypatch.setattr(rows, "_STEP_ROWS", step)
    frame = frame_of(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 5, MIDNIGHT_MS + 9])
    local.put_foreign(day_of(), frame[[0, 2, 1]])
    with pytest.raises(reader.DayMisordered, match=r"data\.parquet: its rows are not in the order"):
        local.open().rows().polars()


def test_a_day_that_begins_before_it_says_is_noticed_and_not_merged_wrongly(local: ReadLake) -> None:
    local.put(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 9], ts_event_min=MIDNIGHT_MS + 5)
    local.put(day_of("btcusdt"), [MIDNIGHT_MS + 1, MIDNIGHT_MS + 2])
    with pytest.raises(reader.DayMisordered, match="before the ts_event_min"):
        local.open().rows().polars()


@pytest.mark.parametrize("change", [{"ts_event_min": MIDNIGHT_MS + 5}, {"ts_event_max": MIDNIGHT_MS + 3}])
def test_a_day_of_other_software_that_says_a_wrong_range_is_merged_by_its_data(
    local: ReadLake, change: dict[str, int]
) -> None:
    for number, symbol in enumerate(("adausdt", "btcusdt")):
        times = [MIDNIGHT_MS + number, MIDNIGHT_MS + 9]
        local.put_foreign(day_of(symbol), times, **change if number == 0 else {})
    local.put_foreign(day_of(day=NEXT), [MIDNIGHT_MS + DAY_MS])
    assert places(local.open().rows().polars(), local.frames) == without_day(local.expected())


@pytest.mark.parametrize("order", ["total", "files"])
@pytest.mark.parametrize("has_statistics", [True, False])
def test_an_uncommitted_day_that_was_asked_for_is_merged_as_it_is(
    local: ReadLake, order: Any, has_statistics: bool
) -> None:
    """Its publication died between data and meta: the old meta says when the old data began."""
    local.put(day_of(), [MIDNIGHT_MS + 5, MIDNIGHT_MS + 9])
    local.put(day_of("btcusdt"), [MIDNIGHT_MS + 1, MIDNIGHT_MS + 2])
    newer = frame_of(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 1, MIDNIGHT_MS + 5, MIDNIGHT_MS + 9])
    buffer = io.BytesIO()
    newer.write_parquet(buffer, statistics=has_statistics, row_group_size=2)
    local.put_object(day_of(), "data.parquet", buffer.getvalue())
    times = local.open().rows(allow=["uncommitted"], order=order).polars()["ts_event"].to_list()
    expected = [MIDNIGHT_MS + number for number in (0, 1, 5, 9, 1, 2)]
    assert times == (expected if order == "files" else sorted(expected))


@pytest.mark.parametrize("nanoseconds", [1, 999_999, 1_000_000])
def test_a_bound_in_nanoseconds_is_exact_on_a_day_of_milliseconds(local: ReadLake, nanoseconds: int) -> None:
    local.put(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 1, MIDNIGHT_MS + 2])
    bound, lake = MIDNIGHT_MS * 10**6 + nanoseconds, local.open()
    before, after = lake.rows(end=bound).polars(), lake.rows(start=bound).polars()
    assert before["ts_event"].to_list() == [MIDNIGHT_MS]
    assert after["ts_event"].to_list()[:1] == [MIDNIGHT_MS + 1]


def test_a_bound_of_text_is_exact_on_a_day_of_nanoseconds(local: ReadLake) -> None:
    local.put(day_of(), [MIDNIGHT_MS * 10**6 + number for number in range(3_000)], group=500)
    lake, bound = local.open(), "2026-01-08T00:00:00.000001500Z"
    assert lake.rows(start=bound).polars()["seq"].to_list() == list(range(1_500, 3_000))
    assert lake.rows(end=bound).polars()["seq"].to_list() == list(range(1_500))


def test_a_day_that_is_rebuilt_after_it_was_looked_at_is_never_mixed(local: ReadLake) -> None:
    local.put(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 1])
    found = local.open().rows()
    assert found.polars().height == 2
    local.put(day_of(), [MIDNIGHT_MS, MIDNIGHT_MS + 1, MIDNIGHT_MS + 2], revision=2)
    with pytest.raises(reader.DayRebuilt, match="was rebuilt or removed"):
        found.polars()
    with pytest.raises(reader.DayRebuilt, match="was rebuilt or removed"):
        found.lazy().collect()
    assert local.open().rows().polars().height == 3


def test_a_day_that_is_replaced_while_it_is_read_goes_on_as_it_was(
    local: ReadLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_STEP_ROWS", 2)
    local.put(day_of(), [MIDNIGHT_MS + number for number in range(8)])
    frames = local.open().rows().frames()
    first = next(frames)
    local.put(day_of(), [MIDNIGHT_MS + 100 * number for number in range(9)], revision=2)
    whole = pl.concat([first, *frames])
    assert whole["ts_event"].to_list() == [MIDNIGHT_MS + number for number in range(8)]


@pytest.mark.parametrize("order", ["total", "files"])
def test_no_file_stays_open_and_no_thread(local: ReadLake, monkeypatch: pytest.MonkeyPatch, order: Any) -> None:
    """Also where somebody reads the first rows only, while others are decoded ahead."""
    monkeypatch.setattr(rows, "_LEAST_STEP_ROWS", 2)
    monkeypatch.setattr(rows, "_STEP_ROWS", 2)
    midnights(local)
    lake = local.open()
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = lake.rows(order=order)
    found.polars()
    frames = found.frames()
    next(frames)
    del frames
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_days_are_decoded_before_they_are_asked_for_but_only_some(
    local: ReadLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would wait for the one before; and all of a year would be in memory."""
    for number in range(8):
        local.put(day_of(day=DAY + dt.timedelta(days=number)), [MIDNIGHT_MS + number * DAY_MS])
    opened: list[str] = []
    lake = local.open()
    found = lake.rows(order="files")
    assert found.schema
    open_day = lake.open

    def open_seen(day: Any) -> Any:
        opened.append(str(day))
        return open_day(day)

    monkeypatch.setattr(lake, "open", open_seen)
    frames = found.frames()
    next(frames)
    deadline = time.monotonic() + 30
    while len(opened) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(opened) == 3
    assert len(list(frames)) == 7
    assert len(opened) == 8


def test_an_error_of_a_day_that_is_read_ahead_comes_when_its_turn_has_come(local: ReadLake) -> None:
    for number in range(3):
        local.put(day_of(day=DAY + dt.timedelta(days=number)), [MIDNIGHT_MS + number * DAY_MS])
    found = local.open().rows()
    assert found.schema
    local.delete_object(day_of(day=DAY + dt.timedelta(days=2)), "data.parquet")
    frames = found.frames()
    assert [next(frames).height, next(frames).height] == [1, 1]
    with pytest.raises(reader.DayRebuilt):
        next(frames)


@pytest.mark.guards("staged-hides-day")
def test_a_file_that_is_gone_when_it_is_looked_at_does_not_hide_the_day(
    local: ReadLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is staged beside the data gets its own name in the end, and may do so just then."""
    local.put(day_of(), [MIDNIGHT_MS])
    staged = Path(local.url.removeprefix("file://")) / day_of().key("data.parquet#1")
    staged.write_bytes(b"")
    listed = os.scandir

    class Passing(contextlib.AbstractContextManager["Passing"]):
        def __init__(self, entries: Any) -> None:
            self.entries = entries

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self) -> Iterator[Any]:
            for entry in self.entries:
                if entry.name == staged.name:
                    staged.unlink()
                yield entry

    monkeypatch.setattr(os, "scandir", lambda path: Passing(listed(path)))
    [day] = local.open().days()
    assert day.rows == 1
    assert not staged.exists()


def test_a_file_that_is_no_day_is_said_to_be_none(local: ReadLake) -> None:
    local.put(day_of(), [MIDNIGHT_MS], rows=2)
    with pytest.raises(reader.DayUncommitted, match=r"has 1 rows, and meta\.json says 2"):
        local.open().rows().polars()
    local.put(day_of(), [MIDNIGHT_MS])
    local.put_object(day_of(), "data.parquet", bytes_of(pl.DataFrame({"a": [1]})))
    with pytest.raises(reader.DayUncommitted):
        local.open().rows()
    with pytest.raises(reader.DayUncommitted, match="has no column ts_event"):
        local.open().rows(allow=["uncommitted"]).polars()


def test_the_reader_of_a_symbol_day(local: ReadLake) -> None:
    assert isinstance(local.put(day_of(), [MIDNIGHT_MS])["sha256"], str)
    [day] = local.open().days()
    assert day.symbol_day == SymbolDay("binance", "bbo", "adausdt", DAY)
