"""Windows: disjoint, consecutive, together the whole day, each about as large as asked."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab_dagster.kernel import cuts
from quantlab_dagster.kernel.cuts import Cut, Window, WindowPlan, by_window, plan_windows
from quantlab_dagster.kernel.cuts import window_indices as cut_indices
from quantlab_dagster.kernel.layout import Layout
from quantlab_dagster.kernel.parts import Footer
from quantlab_dagster_tests.kernel.building import part_of, survey_of

if TYPE_CHECKING:
    from quantlab_dagster.kernel.survey import Survey

INT64 = np.iinfo(np.int64)
Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


def surveyed(parts: list[Ints], *, stride: int = 1) -> Survey:
    tables = [pa.table({"ts_event": pa.array(values, pa.int64())}) for values in parts]
    return survey_of([part_of(f"{index:05}", table) for index, table in enumerate(tables)], stride=stride)


def window_indices(plan: WindowPlan, keys: Ints) -> Ints:
    """Which window holds each row, by comparing Python integers one by one; it must be exactly one."""
    found = []
    for position, key in enumerate(keys.tolist()):
        place = Cut(key, position)
        inside = [
            index
            for index, window in enumerate(plan.windows)
            if (window.low is None or window.low <= place) and (window.high is None or place < window.high)
        ]
        assert len(inside) == 1, place
        found += inside
    return np.array(found, dtype=np.int64)


def check(survey: Survey, plan: WindowPlan, keys: Ints) -> list[int]:
    """Everything that must hold of any plan; returns the windows' sizes."""
    assert plan.windows[0].low is None
    assert plan.windows[-1].high is None
    assert all(one.high == other.low for one, other in pairwise(plan.windows))
    assert all(one < other for one, other in pairwise(plan.cuts))
    belongs = window_indices(plan, keys)
    part_of_row = np.repeat(np.arange(len(survey.parts)), survey.rows)
    opened = {part: index for index, window in enumerate(plan.windows) for part in window.parts}
    assert sorted(opened) == np.flatnonzero(survey.rows).tolist()
    assert sum(len(window.parts) for window in plan.windows) == len(opened), "each part is decoded once"
    for index, window in enumerate(plan.windows):
        assert all(opened[part] <= index for part in part_of_row[belongs == index].tolist())
        assert list(window.parts) == sorted(window.parts)
    positions = np.arange(len(keys))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cuts, "_FEW_CUTS", -1)
        assert (cut_indices(plan.cuts, keys, positions) == belongs).all()
    assert (cut_indices(plan.cuts, keys, positions) == belongs).all()
    pieces = dict(by_window(pl.DataFrame({"position": positions}), belongs))
    assert sorted(pieces) == sorted(set(belongs.tolist()))
    assert all(
        rows["position"].to_list() == np.flatnonzero(belongs == index).tolist() for index, rows in pieces.items()
    )
    return [int((belongs == index).sum()) for index in range(len(plan.windows))]


KEYS = st.sampled_from(
    [
        [5],
        [INT64.min, INT64.max],
        [INT64.min, INT64.min + 1, -1, 0, 1, INT64.max - 1, INT64.max],
        list(range(10)),
        list(range(-5_000, 5_000)),
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=8),
    KEYS,
    st.integers(1, 80),
    st.sampled_from([1, 2, 7, 50]),
    st.integers(0, 2**32 - 1),
)
def test_every_row_is_in_one_window_of_bounded_size(
    sizes: list[int], pool: list[int], rows: int, stride: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.choice(np.array(pool, dtype=np.int64), size) for size in sizes]
    survey = surveyed(parts, stride=stride)
    plan = plan_windows(survey, rows)
    held = check(survey, plan, np.concatenate(parts))
    total = sum(sizes)
    count = 1 if total <= rows * 5 // 4 else -(-total // rows)
    assert len(plan.windows) <= count
    if len(survey.sample_keys):
        # One run of parts was sampled, of which every rank is known to within a stride.
        assert max(held) <= total / count + 4 * stride
    else:
        assert len(plan.windows) == 1


@pytest.mark.parametrize("scan_rows", [500, 3_000])
def test_windows_keep_their_size_however_many_scans_were_sampled(
    monkeypatch: pytest.MonkeyPatch, scan_rows: int
) -> None:
    monkeypatch.setattr("quantlab_dagster.kernel.survey._ROWS_PER_SCAN", scan_rows)
    rng = np.random.default_rng(1)
    parts = [rng.integers(index * 90, index * 90 + 100, 100) for index in range(120)]
    survey = surveyed(parts, stride=16)
    plan = plan_windows(survey, 1_000)
    assert len(plan.windows) == 12
    held = check(survey, plan, np.concatenate(parts))
    scans = 12_000 // scan_rows
    assert max(held) <= 1_000 + (scans + 3) * 16
    assert min(held) >= 1_000 - (scans + 3) * 16


@pytest.mark.guards("tie-order")
@pytest.mark.parametrize("value", [0, INT64.min, INT64.max])
def test_a_heavy_tie_is_cut_by_position(value: int) -> None:
    parts = [np.full(100, value, dtype=np.int64)] * 10
    survey = surveyed(parts)
    plan = plan_windows(survey, 150)
    assert {cut.key for cut in plan.cuts} == {value}
    held = check(survey, plan, np.concatenate(parts))
    assert len(held) == 7
    assert max(held) <= 150


def test_a_tie_in_the_middle_is_cut_by_position() -> None:
    before, tie, after = np.arange(100), np.full(800, 100), np.arange(101, 201)
    parts = [np.concatenate([before, tie, after]).astype(np.int64)]
    survey = surveyed(parts)
    plan = plan_windows(survey, 100)
    assert max(check(survey, plan, parts[0])) <= 101
    assert sum(cut.key == 100 for cut in plan.cuts) >= 7


def test_a_day_little_larger_than_a_window_stays_whole() -> None:
    survey = surveyed([np.arange(125)])
    assert len(plan_windows(survey, 100).windows) == 1
    assert len(plan_windows(survey, 99).windows) == 2
    assert not plan_windows(survey, 100).distribute


def test_an_empty_day_is_one_window_of_no_parts() -> None:
    plan = plan_windows(surveyed([np.array([], dtype=np.int64)] * 3), 10)
    assert plan == WindowPlan((Window(None, None, ()),), distribute=False)
    assert plan.cuts == ()


def test_consecutive_parts_are_not_distributed() -> None:
    survey = surveyed([np.arange(start, start + 100) for start in range(0, 10_000, 100)])
    plan = plan_windows(survey, 1_000)
    assert not plan.distribute
    assert [len(window.parts) for window in plan.windows] == [10] * 10


def test_parts_that_span_the_day_are_distributed() -> None:
    survey = surveyed([np.arange(start, 10_000, 10) for start in range(10)])
    assert plan_windows(survey, 1_000).distribute


@pytest.mark.parametrize(("reach", "distribute"), [(4_000, False), (5_000, True)])
def test_as_many_rows_as_some_windows_have_may_wait_for_later_ones(reach: int, distribute: bool) -> None:
    """Each part reaches over so much of the day that, at any time, rows of so many parts wait."""
    parts = [np.linspace(start, start + reach, 1_000).astype(np.int64) for start in range(0, 100_000, 1_000)]
    assert plan_windows(surveyed(parts, stride=8), 1_000).distribute is distribute


def test_one_part_larger_than_memory_is_distributed_though_it_is_sorted() -> None:
    """It would be decoded as a whole."""
    small = [np.arange(start, start + 100) for start in range(0, 100_000, 100)]
    large = np.arange(100_000, 105_000)
    survey = surveyed([*small, large], stride=16)
    assert plan_windows(survey, 1_000).distribute


def test_one_part_that_spans_the_day_does_not_send_everything_through_runs() -> None:
    small = [np.arange(start, start + 100) for start in range(0, 100_000, 100)]
    late = np.array([0, 99_999])
    survey = surveyed([*small, late], stride=16)
    plan = plan_windows(survey, 1_000)
    assert not plan.distribute
    assert [len(small) in window.parts for window in plan.windows] == [True] + [False] * (len(plan.windows) - 1)


def test_a_part_of_just_one_side_of_a_cut_within_a_tie_is_left_out() -> None:
    survey = surveyed([np.zeros(10, dtype=np.int64)] * 4)
    plan = plan_windows(survey, 10)
    assert [window.parts for window in plan.windows] == [(0,), (1,), (2,), (3,)]


def test_cuts_are_ordered_by_key_then_position() -> None:
    assert sorted([Cut(1, 0), Cut(0, 5), Cut(0, 4)]) == [Cut(0, 4), Cut(0, 5), Cut(1, 0)]


@pytest.mark.parametrize(
    ("groups", "rows", "slices"),
    [
        ((5, 5, 5), 5, [(0, 5), (5, 5), (10, 5)]),
        ((5, 5, 5), 6, [(0, 10), (10, 5)]),
        ((5, 5, 5), 1, [(0, 5), (5, 5), (10, 5)]),
        ((5, 5, 5), 100, [(0, 15)]),
        ((0, 5, 0, 5, 0), 5, [(0, 5), (5, 5)]),
        ((0, 0), 5, []),
        ((), 5, []),
    ],
)
def test_slices_are_whole_row_groups(groups: tuple[int, ...], rows: int, slices: list[tuple[int, int]]) -> None:
    footer = Footer(groups, Layout(b"", b"", pl.Schema(), {}))
    assert list(footer.slices(rows)) == slices
    assert sum(length for _, length in slices) == footer.rows
