"""Paging by (ts_event, seq), bound to the content."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantlab_dagster import reader
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.reader.lakes import DAY, MIDNIGHT_MS, ReadLake, day_of, frame_of

if TYPE_CHECKING:
    from pathlib import Path

TIMES = [MIDNIGHT_MS + number // 3 for number in range(20)]
WHICH = ("binance", "bbo", "ADAUSDT", DAY)


@pytest.fixture
def lake(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> ReadLake:
    return ReadLake.of(rig, monkeypatch)


@pytest.fixture
def local(tmp_path: Path) -> ReadLake:
    return ReadLake.of(Rig("local", None, tmp_path))


def test_pages_are_the_day_in_pieces_by_cursors_that_are_text(lake: ReadLake) -> None:
    meta = lake.put(day_of(), TIMES)
    opened, cursor, frames = lake.open(), None, []
    while True:
        page = opened.page(*WHICH, after=cursor, limit=7)
        frames.append(page.rows)
        cursor = str(page.cursor)
        assert page.cursor == reader.Cursor.parse(cursor)
        if page.is_last:
            break
    assert [frame.height for frame in frames] == [7, 7, 6]
    assert_frame_equal(pl.concat(frames), lake.frames[day_of()])
    assert cursor == f"binance/bbo/adausdt/20260108@{TIMES[-1]}:19@{meta['sha256']}"
    after_the_end = opened.page(*WHICH, after=cursor)
    assert (after_the_end.rows.height, after_the_end.is_last, str(after_the_end.cursor)) == (0, True, cursor)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 12), limit=st.integers(1, 14), group=st.integers(1, 5))
def test_any_day_and_page_size(tmp_path: Path, count: int, limit: int, group: int) -> None:
    lake = ReadLake.of(Rig("local", None, tmp_path))
    lake.put(day_of(), TIMES[:count], group=group)
    pages = list(lake.open().pages(*WHICH, limit=limit))
    assert_frame_equal(pl.concat([page.rows for page in pages]), lake.frames[day_of()])
    assert len(pages) == max(1, -(-count // limit))
    assert (pages[-1].cursor is None) == (count == 0)


def test_a_rebuilt_day_is_refused_or_begun_again_as_asked(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    opened = local.open()
    page = opened.page(*WHICH, limit=7)
    local.put(day_of(), [MIDNIGHT_MS, *TIMES], revision=2)
    with pytest.raises(reader.DayRebuilt, match=r"was rebuilt since the cursor was taken.*late rows renumber seq"):
        opened.page(*WHICH, after=page.cursor, limit=7)
    again = opened.page(*WHICH, after=page.cursor, limit=7, on_rebuilt="restart")
    assert again.restarted
    assert again.rows["seq"].to_list() == list(range(7))
    assert not opened.page(*WHICH, after=again.cursor, limit=7, on_rebuilt="restart").restarted


def test_a_day_built_again_with_the_same_content_is_gone_on_with(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    opened = local.open()
    page = opened.page(*WHICH, limit=7)
    local.put(day_of(), TIMES)
    assert opened.page(*WHICH, after=page.cursor, limit=7).rows["seq"].to_list() == list(range(7, 14))


def test_a_cursor_of_something_else_is_refused(local: ReadLake) -> None:
    meta = local.put(day_of(), TIMES)
    local.put(day_of("btcusdt"), TIMES)
    opened = local.open()
    with pytest.raises(reader.CursorError, match="is no cursor of binance/bbo/adausdt/20260108"):
        opened.page(*WHICH, after=opened.page("binance", "bbo", "btcusdt", DAY, limit=3).cursor)
    with pytest.raises(reader.CursorError, match="is no cursor"):
        opened.page(*WHICH, after="17")
    forged = reader.Cursor(day_of(), MIDNIGHT_MS + 1, 7, meta["sha256"])
    with pytest.raises(reader.CursorError, match="is of no row"):
        opened.page(*WHICH, after=forged)
    with pytest.raises(reader.CursorError, match="is of no row"):
        opened.page(*WHICH, after=reader.Cursor(day_of(), MIDNIGHT_MS, 99, meta["sha256"]))
    with pytest.raises(reader.CursorError, match="limit 0"):
        opened.page(*WHICH, limit=0)
    with pytest.raises(reader.NothingPublished):
        opened.page("binance", "bbo", "adausdt", "2027-01-01")


def test_columns_of_a_page(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    pages = list(local.open().pages(*WHICH, limit=9, columns=["bid_price"]))
    assert pl.concat([page.rows for page in pages]).columns == ["bid_price"]
    assert [page.cursor.seq for page in pages if page.cursor] == [8, 17, 19]


def test_a_day_whose_numbers_are_wrong_is_not_paged_through(local: ReadLake) -> None:
    frame = frame_of(day_of(), TIMES)
    local.put_foreign(day_of(), frame.with_columns(seq=pl.Series([*range(10), *range(9, 19)])))
    with pytest.raises(reader.DayMisordered, match="numbered from 0 on"):
        list(local.open().pages(*WHICH, limit=15))


def test_what_a_page_does_not_have_is_said(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    opened = local.open()
    with pytest.raises(reader.ColumnsDiffer, match=r"column bid_prices: is in none.*Nearest are: bid_price"):
        opened.page(*WHICH, columns=["bid_prices"])
    local.put_foreign(day_of("btcusdt"), frame_of(day_of("btcusdt"), TIMES).drop("seq"))
    with pytest.raises(reader.DayMisordered, match="has no column seq"):
        opened.page("binance", "bbo", "btcusdt", DAY)


def test_the_day_of_a_page_may_be_a_time_in_it(local: ReadLake) -> None:
    local.put(day_of(), TIMES)
    opened = local.open()
    cursor = opened.page(*WHICH, limit=7).cursor
    late = dt.datetime(2026, 1, 8, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    page = opened.page("binance", "bbo", "adausdt", late, after=cursor, limit=7)
    assert page.rows["seq"].to_list() == list(range(7, 14))
    with pytest.raises(reader.TimeUnitUnclear, match="has no time zone"):
        opened.page("binance", "bbo", "adausdt", late.replace(tzinfo=None))
