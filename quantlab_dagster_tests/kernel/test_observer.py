"""Somebody who watches a merge sees the file's rows, in order, whatever the windows; and changes nothing."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.kernel.merge import merge
from quantlab_dagster_tests.kernel.building import compact, read_back, survey_of
from quantlab_dagster_tests.kernel.test_bad_parts import ONE_WINDOW, RUNS, WINDOWS, day

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

    from quantlab_dagster.kernel.terms import Merged


@dataclass
class Recorder:
    """Remembers everything."""

    constants: dict[str, Any] = field(default_factory=dict)
    frames: list[dict[str, list[Any]]] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)

    def begin(self, constants: Mapping[str, Any]) -> Recorder:
        return Recorder(dict(constants))

    def see(self, frame: pl.DataFrame, hashes: pl.Series) -> None:
        assert hashes.len() == frame.height
        self.frames.append(frame.to_dict(as_series=False))
        self.hashes += hashes.to_list()

    def result(self) -> Recorder:
        return self


def watched(directory: Path, budget_bytes: int, observer: Recorder | None) -> Merged:
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    survey = survey_of(day(), stride=8)
    return merge(survey, directory / "watched.parquet", scratch=scratch, budget_bytes=budget_bytes, observer=observer)


@pytest.mark.parametrize("budget_bytes", [ONE_WINDOW, WINDOWS, RUNS], ids=["one window", "windows", "runs"])
def test_the_rows_are_seen_in_the_order_of_the_file(tmp_path: Path, budget_bytes: int) -> None:
    merged = watched(tmp_path, budget_bytes, Recorder())
    seen = merged.seen
    assert isinstance(seen, Recorder)
    assert len(seen.frames) == merged.windows
    assert (merged.windows > 1) is (budget_bytes != ONE_WINDOW)
    file = read_back(tmp_path / "watched.parquet")
    for name in seen.frames[0]:
        assert [value for frame in seen.frames for value in frame[name]] == file[name].to_pylist()
    varying = set(seen.frames[0])
    assert varying | seen.constants.keys() | {"seq"} == set(file.column_names)
    for name, value in seen.constants.items():
        assert set(file[name].to_pylist()) == {value}
    rows = list(zip(*(file[name].to_pylist() for name in sorted(varying)), strict=True))
    assert len(set(seen.hashes)) == len(set(rows))


def test_the_file_is_the_same_without_anybody(tmp_path: Path) -> None:
    watched(tmp_path, WINDOWS, Recorder())
    alone = compact(day(), tmp_path, budget_bytes=WINDOWS, stride=8)
    assert alone.data == (tmp_path / "watched.parquet").read_bytes()
    assert alone.merged.seen is None
    assert watched(tmp_path, WINDOWS, None).seen is None


def test_what_was_seen_travels() -> None:
    assert pickle.loads(pickle.dumps(Recorder({"a": 1}))) == Recorder({"a": 1})  # noqa: S301 - our own
