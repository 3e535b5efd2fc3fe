"""Whatever the parts are like, the merged file is what one plain ORDER BY in another engine makes of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from functools import reduce
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantlab_dagster.kernel.digest import add_hashes, add_sequence, digest_file, row_hashes
from quantlab_dagster.kernel.survey import Order
from quantlab_dagster.synthetic.market import DaySpec, generate_parts
from quantlab_dagster_tests.kernel.building import EVENTS, Compacted, compact, on_disk, part_from
from quantlab_dagster_tests.kernel.oracle import Oracle, spelled
from quantlab_dagster_tests.kernel.strategies import DrawnPart, drawn_days, tables_of

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS = Order()

_BUDGETS = st.sampled_from([1, 2_000, 10_000, 40_000, 512 << 20])
_STRIDES = st.sampled_from([1, 2, 7, 512])
_THREADS = st.integers(1, 4)
# Read here: tests themselves run without settings.
_COMBINATIONS = int(os.environ.get("QUANTLAB_BYTE_COMBINATIONS", "40"))


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.close()


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days of a hundred rows have several row groups, too, and are surveyed in several scans."""
    monkeypatch.setattr("quantlab_dagster.kernel.writer.ROW_GROUP_ROWS", 16)
    monkeypatch.setattr("quantlab_dagster.kernel.survey._ROWS_PER_SCAN", 40)


def check(oracle: Oracle, parts: list[DrawnPart], order: Order, compacted: Compacted) -> None:
    columns, rows = oracle.expected(tables_of(parts), order)
    found_columns, found = oracle.held(compacted.path)
    assert list(found_columns.items()) == list(columns.items())
    assert spelled(found) == spelled(rows)

    merged = compacted.merged
    keys = [row[list(columns).index(order.column)] for row in rows]
    smallest = -(1 << 63)
    filled = [key for key in keys if key is not None]
    assert list(merged.columns) == list(columns)
    assert merged.rows == len(rows)
    assert merged.key_min == (min(smallest if key is None else key for key in keys) if keys else None)
    assert merged.key_max == (max(smallest if key is None else key for key in keys) if keys else None)
    assert merged.size_bytes == compacted.path.stat().st_size
    assert merged.histogram == tuple(sorted(Counter(key // 10 for key in filled).items()))
    assert merged.windows >= 1
    again = digest_file(compacted.path, order.column, numbered=order.numbered)
    assert (again.rows, again.key_min, again.key_max) == (merged.rows, merged.key_min, merged.key_max)
    assert (again.inversions, again.misnumbered, again.nulls) == (0, 0, len(keys) - len(filled))


def check_all_ways(
    oracle: Oracle, parts: list[DrawnPart], order: Order, budget_bytes: int, stride: int, threads: int
) -> str:
    """Merge with the given budget and threads, and what the survey kept at once; returns the path that the former took.

    The bytes are the same.
    """
    sources = [part.part for part in parts]
    with TemporaryDirectory() as name:
        directory = Path(name)
        small = compact(
            sources,
            directory,
            order=order,
            stride=stride,
            budget_bytes=budget_bytes,
            bucket_width=10,
            threads=threads,
            name="small",
        )
        check(oracle, parts, order, small)
        whole = compact(sources, directory, order=order, keep=True, threads=1, name="whole")
        assert whole.merged.windows == 1
        assert small.data == whole.data
    if small.merged.distributed:
        return "runs"
    return "windows" if small.merged.windows > 1 else "one window"


@pytest.mark.guards("unsorted-called-sorted", "tie-order", "bytes-vary")
@pytest.mark.parametrize("order", [TICKS, EVENTS], ids=["ticks", "events"])
def test_merged_file_is_what_a_plain_sort_gives(oracle: Oracle, order: Order) -> None:
    paths: Counter[str] = Counter()

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn_days(order.column, nullable=order.nulls_first), _BUDGETS, _STRIDES, _THREADS)
    def holds(parts: list[DrawnPart], budget_bytes: int, stride: int, threads: int) -> None:
        path = check_all_ways(oracle, parts, order, budget_bytes, stride, threads)
        paths[path] += 1

    holds()
    assert paths["runs"], paths


@pytest.mark.parametrize("order", [TICKS, EVENTS], ids=["ticks", "events"])
def test_parts_that_hardly_overlap_are_read_straight_into_windows(oracle: Oracle, order: Order) -> None:
    paths: Counter[str] = Counter()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        drawn_days(order.column, schemes=["ascending"], part_counts=(8, 14), part_rows=[5, 8, 1, 0]),
        st.sampled_from([60_000, 120_000]),
        st.sampled_from([1, 3]),
        _THREADS,
    )
    def holds(parts: list[DrawnPart], budget_bytes: int, stride: int, threads: int) -> None:
        path = check_all_ways(oracle, parts, order, budget_bytes, stride, threads)
        paths[path] += 1

    holds()
    assert paths["windows"], paths


FRAMES = st.lists(
    st.tuples(st.integers(-2, 2), st.sampled_from([0.0, -0.0, float("nan"), 1.5, None]), st.sampled_from(["", "a"])),
    max_size=30,
).map(lambda rows: pl.DataFrame(rows, {"ts_event": pl.Int64, "price": pl.Float64, "label": pl.String}, orient="row"))


@settings(max_examples=100, deadline=None)
@given(FRAMES, st.lists(st.integers(0, 30), max_size=4), st.randoms(use_true_random=False))
def test_hashes_of_rows_depend_on_the_rows_alone(frame: pl.DataFrame, cuts: list[int], random: Random) -> None:
    """Not on how they are batched or in which order they come; and a row that is there twice counts twice."""

    def total(*frames: pl.DataFrame) -> int:
        return reduce(add_hashes, (row_hashes(one) for one in frames if one.height), 0)

    bounds = [0, *sorted(cut for cut in cuts if cut < frame.height), frame.height]
    assert total(*(frame.slice(low, high - low) for low, high in pairwise(bounds))) == total(frame)
    order = random.sample(range(frame.height), frame.height)
    assert total(frame[order]) == total(frame)
    assert total(frame, frame) == 2 * total(frame) % (1 << 64)
    if frame.height:
        assert total(frame, frame[:1]) != total(frame)
        assert total(frame, frame[:1], frame[:1]) != total(frame)

    in_order = add_sequence(0, row_hashes(frame), 5)
    pieces = [frame.slice(low, high - low) for low, high in pairwise(bounds) if high > low]
    firsts = [5 + low for low, high in pairwise(bounds) if high > low]
    found = 0
    for piece, first in zip(pieces, firsts, strict=True):
        found = add_sequence(found, row_hashes(piece), first)
    assert found == in_order
    moved = row_hashes(frame[order]).to_list() != row_hashes(frame).to_list()
    assert (add_sequence(0, row_hashes(frame[order]), 5) != in_order) == moved


@pytest.mark.guards("bytes-vary")
def test_bytes_depend_on_the_raw_objects_alone(tmp_path: Path) -> None:
    """Not on memory, the survey's sample, the number of threads, or where the parts lie."""
    runs = [
        {"threads": "1", "budget": "500000000", "stride": "512", "source": "bytes"},
        {"threads": "2", "budget": "40000000", "stride": "16", "source": "paths"},
        {"threads": "2", "budget": "2000000", "stride": "64", "source": "bytes"},
    ]
    found = []
    for index, run in enumerate(runs):
        arguments = [run["budget"], run["stride"], str(tmp_path / str(index)), run["source"]]
        done = subprocess.run(
            [sys.executable, "-m", "quantlab_dagster_tests.kernel.one_merge", *arguments],
            env=os.environ | {"POLARS_MAX_THREADS": run["threads"]},
            check=True,
            capture_output=True,
            text=True,
        )
        found.append(json.loads(done.stdout))
    assert [run["rows"] for run in found] == [110_000] * len(runs)
    assert len({run["sha256"] for run in found}) == 1
    assert [run["windows"] > 1 for run in found] == [False, True, True]
    assert [run["distributed"] for run in found] == [False, False, True]


@pytest.mark.guards("bytes-vary")
def test_bytes_are_the_same_in_many_random_ways_to_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Budgets, cuts, samples, threads, runs of the survey, kept or not, from memory or the disk: 40 in CI, more by
    QUANTLAB_BYTE_COMBINATIONS.
    """
    monkeypatch.setattr("quantlab_dagster.kernel.writer.ROW_GROUP_ROWS", 5_000)
    spec = DaySpec("binance", "trade", "btcusdt", dt.date(2026, 1, 8), parts=40, rows=22_000)
    in_memory = [part_from(part.name, part.data) for part in sorted(generate_parts(spec), key=lambda part: part.name)]
    sources = {"memory": in_memory, "disk": [on_disk(part, tmp_path / "parts") for part in in_memory]}
    random, seen, found = Random(20_260_108), Counter[str](), set[str]()
    for number in range(_COMBINATIONS):
        monkeypatch.setattr("quantlab_dagster.kernel.survey._ROWS_PER_SCAN", random.choice([500, 3_000, 1 << 18]))
        made = compact(
            sources[random.choice(["memory", "disk"])],
            tmp_path,
            stride=random.choice([1, 7, 64, 512]),
            budget_bytes=int(10 ** random.uniform(5, 9)),
            keep=random.random() < 0.3,
            threads=random.randint(1, 4),
            name=f"{number}.parquet",
        )
        found.add(hashlib.sha256(made.data).hexdigest())
        made.path.unlink()
        seen["windows" if made.merged.windows > 1 else "one window"] += 1
        seen["distributed"] += made.merged.distributed
    assert len(found) == 1
    assert min(seen["windows"], seen["one window"], seen["distributed"]) >= 5, f"all ways are taken: {seen}"


@pytest.mark.slow
@pytest.mark.guards("memory-grows")
def test_memory_does_not_grow_with_the_output(tmp_path: Path) -> None:
    """A file of more than 1 GB takes what the budget allows, and a constant."""
    budget_bytes = 384 << 20  # the share of the default that merging has
    done = subprocess.run(
        [sys.executable, "-m", "quantlab_dagster_tests.kernel.large_merge", str(budget_bytes), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["rows"] == found["expected_rows"]
    assert found["size_bytes"] > 1e9
    assert found["windows"] > 50
    assert found["peak_bytes"] - found["before_bytes"] < budget_bytes + (128 << 20)
