"""Many sorted runs as one, beside a plain sort."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab_dagster.reader import merging
from quantlab_dagster.reader.merging import Brought, Run, merged, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Cut = list[list[int]]

RUNS = st.lists(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), max_size=4), max_size=5)


def sorted_runs(drawn: list[Cut]) -> list[Cut]:
    """The values of each run in order, cut where the drawn ones were."""
    runs = []
    for cut in drawn:
        values = iter(sorted(value for frame in cut for value in frame))
        runs.append([[next(values) for _ in frame] for frame in cut])
    return runs


def run_of(number: int, cut: Cut, low: int, begun: list[int]) -> Run:
    """Every other run knows that its last frame is the last."""

    def begin() -> Generator[Brought]:
        begun.append(number)
        row = 0
        for index, frame in enumerate(cut):
            rows = range(row, row + len(frame))
            is_last = number % 2 == 0 and index + 1 == len(cut)
            yield Brought(pl.DataFrame({"ts_event": frame, "run": [number] * len(frame), "row": rows}), is_last)
            row += len(frame)

    return Run(low, begin)


def rows_of(frames: list[pl.DataFrame]) -> list[tuple[Any, ...]]:
    return [row for frame in frames for row in frame.iter_rows()]


@settings(deadline=None)
@given(RUNS, st.integers(0, 2), st.integers(1, 8))
def test_runs_are_merged_as_a_sort_would(drawn: list[Cut], early: int, step: int) -> None:
    runs = sorted_runs(drawn)
    lows = [cut[0][0] - early if cut else 0 for cut in runs]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(merging, "_STEP_ROWS", step)
        frames = list(merged(run_of(number, cut, lows[number], []) for number, cut in enumerate(runs)))
    expected = sorted(
        (value, number, row)
        for number, cut in enumerate(runs)
        for row, value in enumerate(value for frame in cut for value in frame)
    )
    assert rows_of(frames) == expected
    assert all(frame.height for frame in frames)


def test_a_run_is_begun_when_its_time_has_come_and_not_before() -> None:
    begun: list[int] = []
    runs = [run_of(number, [[number * 10, number * 10 + 5]], number * 10, begun) for number in range(4)]
    seen = [len(begun) for _ in merged(runs)]
    assert begun == [0, 1, 2, 3]
    assert seen[0] == 1


def test_what_is_held_is_one_frame_of_each_run_that_overlaps() -> None:
    """No more rows are brought than those up to the bound, and one frame ahead."""
    brought = [0, 0]

    def endless(number: int) -> Callable[[], Generator[Brought]]:
        def begin() -> Generator[Brought]:
            for start in range(0, 1_000, 10):
                brought[number] += 1
                yield Brought(pl.DataFrame({"ts_event": range(start, start + 10)}), is_last=False)

        return begin

    frames = merged([Run(0, endless(0)), Run(0, endless(1))])
    for step in range(20):
        next(frames)
        assert max(brought) <= step + 3


def test_steps_are_small_however_large_the_frames_of_runs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_STEP_ROWS", 100)
    runs = [run_of(number, [list(range(number, 5_000, number + 1))], 0, []) for number in range(4)]
    heights = [sum(frame.height for frame in taken) for taken in steps(runs)]
    assert max(heights) < 150
    assert len(heights) < 2 * sum(heights) / 100


def test_rows_of_one_time_are_one_step_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_STEP_ROWS", 10)
    runs = [run_of(number, [[7] * 50 + [8]], 7, []) for number in range(3)]
    assert next(merged(runs)).height == 150


def test_merged_order_of_fifty_symbols_is_that_of_a_sort() -> None:
    random.seed(0)
    runs = []
    for _ in range(50):
        values = sorted(random.randrange(2_000) for _ in range(400))
        sizes, start = [], 0
        while start < len(values):
            size = random.randrange(20, 200)
            sizes.append(values[start : start + size])
            start += size
        runs.append(sizes)
    frames = list(merged(run_of(number, cut, cut[0][0], []) for number, cut in enumerate(runs)))
    everything = pl.concat(frames)
    expected = pl.concat(
        [item.frame for number, cut in enumerate(runs) for item in run_of(number, cut, 0, []).begin()]
    ).sort("ts_event", "run", "row")
    assert everything.equals(expected)
    assert everything.height == 20_000


def test_an_error_of_a_run_is_not_swallowed() -> None:
    def begin() -> Generator[Brought]:
        yield Brought(pl.DataFrame({"ts_event": [1]}), is_last=False)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(merged([Run(0, begin)]))
