"""Rows as a LazyFrame: whatever is composed of it is what the same makes of a frame, and nothing stays behind."""

from __future__ import annotations

import datetime as dt
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantlab_dagster.reader import rows
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.reader.lakes import DAY, DAY_MS, MIDNIGHT_MS, ReadLake, day_of

if TYPE_CHECKING:
    from quantlab_dagster import reader
    from quantlab_dagster.reader.rows import FileOrder

DAYS = [DAY + dt.timedelta(days=number) for number in range(3)]
NUMBERS = ["ts_event", "seq", "ts_recv", "bid_price"]
MAX_SECONDS = 300

Step = tuple[str, int, int]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ReadLake:
    """Three symbols over three days, with rows around midnight."""
    lake = ReadLake.of(Rig("local", None, tmp_path_factory.mktemp("lake")))
    drawn = random.Random(1)
    for symbol in ("adausdt", "btcusdt", "ethusdt"):
        for day in DAYS:
            begin = MIDNIGHT_MS + (day - DAY).days * DAY_MS
            times = [begin + drawn.randrange(-50_000, DAY_MS + 50_000, 1_000) for _ in range(200)]
            lake.put(day_of(symbol, day=day), times, group=16)
    return lake


@pytest.fixture(scope="module")
def opened(lake: ReadLake) -> reader.Lake:
    return lake.open()


@cache
def selected(lake: reader.Lake, order: FileOrder) -> tuple[reader.Rows, pl.DataFrame]:
    """All rows, and what they are."""
    found = lake.rows(order=order)
    return found, found.polars()


def apply(frame: pl.LazyFrame, steps: list[Step]) -> pl.LazyFrame:
    """One thing after the other: of numbers that mean what there is."""
    names = [*NUMBERS, "symbol"]
    for what, first, second in steps:
        numbers = [name for name in names if name in NUMBERS]
        column = pl.col(numbers[first % len(numbers)])
        if what == "filter":
            frame = frame.filter(column % (second % 3 + 2) == 0)
        elif what == "filter_text":
            frame = frame.filter(pl.col("symbol") != ("ADAUSDT", "BTCUSDT", "none")[second % 3])
        elif what == "head":
            frame = frame.head(second)
        elif what == "tail":
            frame = frame.tail(second)
        elif what == "slice":
            frame = frame.slice(first, second)
        else:
            names = list(dict.fromkeys([numbers[first % len(numbers)], numbers[second % len(numbers)], "symbol"]))
            frame = frame.select(names)
    return frame


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["filter", "filter_text", "head", "head", "tail", "slice", "select"]),
        st.integers(0, 40),
        st.sampled_from([0, 1, 5, 17, 60, 400, 2_000]),
    ),
    max_size=5,
)


@pytest.mark.guards("head-filter-swapped")
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, engine=st.sampled_from(["in-memory", "streaming"]), order=st.sampled_from(["total", "files"]))
def test_any_composition_is_what_it_is_of_a_frame(
    opened: reader.Lake, steps: list[Step], engine: Any, order: FileOrder
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "_LEAST_STEP_ROWS", 50)
        patched.setattr(rows, "_STEP_ROWS", 50)
        found, frame = selected(opened, order)
        expected = apply(frame.lazy(), steps).collect()
        assert_frame_equal(apply(found.lazy(), steps).collect(engine=engine), expected)


@pytest.mark.guards("head-filter-swapped")
def test_a_filter_of_the_first_rows_is_not_the_first_of_what_a_filter_leaves(lake: ReadLake) -> None:
    found = lake.open().rows()
    is_ada, frame = pl.col("symbol") == "ADAUSDT", found.polars()
    first = frame.head(300).filter(is_ada)
    assert 0 < first.height < 300
    assert_frame_equal(found.lazy().head(300).filter(is_ada).collect(), first)
    assert_frame_equal(found.lazy().head(300).filter(is_ada).select("seq").collect(), first.select("seq"))
    assert_frame_equal(found.lazy().filter(is_ada).head(300).collect(), frame.filter(is_ada).head(300))
    assert found.lazy().head(300).filter(is_ada).select(pl.len()).collect().item() == first.height


_STOP_EARLY = """
import sys, threading
import polars as pl
from quantlab_dagster import reader
lazy = reader.open_lake(sys.argv[1]).rows(order=sys.argv[2]).lazy()
late = lazy.filter(pl.col("seq") > 100)
for engine in ("in-memory", "streaming"):
    for query in (lazy.head(7), late.head(5), late.slice(10, 5), lazy.head(9).filter(pl.col("seq") > 1), late.tail(3)):
        for _ in range(5):
            query.collect(engine=engine)
print([thread.name for thread in threading.enumerate()])
"""


_LEFT = """
import sys
import polars as pl
from quantlab_dagster import reader
late = reader.open_lake(sys.argv[1]).rows(order=sys.argv[2]).lazy().filter(pl.col("seq") > 100)
next(iter(late.collect_batches()))
"""


@pytest.mark.slow
@pytest.mark.guards("lazy-never-ends")
@pytest.mark.parametrize("order", ["total", "files"])
def test_a_process_that_leaves_a_query_alone_ends(lake: ReadLake, order: str) -> None:
    """Without the exit's waiting one process in ten is aborted, a little more on a busy machine."""
    command = [sys.executable, "-c", _LEFT, lake.url, order]
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda _: subprocess.run(command, check=False, capture_output=True), range(24)))
    assert {(one.returncode, one.stderr) for one in ended} == {(0, b"")}


@pytest.mark.slow
@pytest.mark.guards("lazy-never-ends")
@pytest.mark.parametrize("order", ["total", "files"])
def test_a_process_whose_queries_stop_early_goes_on_and_ends(lake: ReadLake, order: str) -> None:
    """Polars lets a source go on whichever thread comes along: on one of a pool it would wait for itself."""
    done = subprocess.run(
        [sys.executable, "-c", _STOP_EARLY, lake.url, order],
        check=False,
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['MainThread']\n", "")


@pytest.mark.guards("lazy-never-ends")
def test_a_lazy_frame_has_no_threads_that_work_ahead(lake: ReadLake, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(threads: int, name: str) -> ThreadPoolExecutor:
        made.append(threads)
        return ThreadPoolExecutor(threads, name)

    monkeypatch.setattr(rows, "ThreadPoolExecutor", make)
    found = lake.open().rows()
    assert found.lazy().filter(pl.col("seq") > 100).head(5).collect().height == 5
    assert made == []
    assert found.polars().height == 1_800
    assert made == [4]


def test_a_lazy_frame_opens_no_day_before_it_is_needed(lake: ReadLake, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    found_lake = lake.open()
    found = found_lake.rows(symbol="adausdt", order="files")
    assert found.schema
    open_day = found_lake.open

    def open_seen(day: Any) -> Any:
        opened.append(day)
        return open_day(day)

    monkeypatch.setattr(found_lake, "open", open_seen)
    assert found.lazy().head(250).collect().height == 250
    assert len(opened) == 2
