"""The yardstick measures what it says, on hours and days so small that its figures mean nothing."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from benchmarks.yard.contest import COMPETITORS, OURS, Standing, compete
from benchmarks.yard.data import KINDS, Dataset, dataset
from benchmarks.yard.measure import Failed, Measured, run
from benchmarks.yard.oracle import check, prepare
from benchmarks.yard.report import contest_of, contest_table
from benchmarks.yard.targets import targets
from benchmarks.yardstick import is_fine

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    made = dataset(tmp_path_factory.mktemp("yard"), "wide", "smoke")
    prepare(made)
    return made


def _right(data: Dataset, path: Path) -> pl.DataFrame:
    """The first day as it should be, by other means than the oracle's and the competitors'."""
    parts = [pl.read_parquet(part, hive_partitioning=False) for part in data.parts(data.days[0])]
    frame = pl.concat(parts).sort("ts_event", maintain_order=True).with_row_index("seq")
    frame.write_parquet(path)
    return frame


def test_the_same_data_is_made_again(tmp_path: Path) -> None:
    for kind in KINDS:
        first, again = (dataset(tmp_path / name, kind, "smoke") for name in ("a", "b"))
        assert [part.read_bytes() for part in first.all_parts()] == [part.read_bytes() for part in again.all_parts()]
        assert sum(pl.read_parquet(part).height for part in first.all_parts()) == 2 * 600


def test_data_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    made = dataset(tmp_path, "ours", "smoke")
    (made.directory / "complete").unlink()
    made.all_parts()[0].write_bytes(b"half")
    assert len(dataset(tmp_path, "ours", "smoke").all_parts()[0].read_bytes()) > 1_000


def test_the_wide_data_is_hard(wide: Dataset) -> None:
    frames = [pl.read_parquet(part, hive_partitioning=False) for part in wide.parts(wide.days[0])]
    ranges = [(frame["ts_event"].min(), frame["ts_event"].max()) for frame in frames]
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(ranges))  # type: ignore[operator]
    assert not any(frame["ts_event"].is_sorted() for frame in frames)
    day = pl.concat(frames)
    assert day["ts_event"].is_duplicated().mean() > 0.2  # type: ignore[operator]
    assert day["ask_qty"].null_count()
    assert (day["bid_qty"] == day["bid_qty"].round()).all()


def test_the_right_output_is_right(wide: Dataset, tmp_path: Path) -> None:
    _right(wide, tmp_path / "out.parquet")
    verdict = check(wide, wide.days[0], tmp_path / "out.parquet")
    assert (verdict.same_rows, verdict.ordered, verdict.exact, verdict.numbered, verdict.text) == (True,) * 4 + ("",)


def _swap_ties(frame: pl.DataFrame) -> pl.DataFrame:
    at = int((frame["ts_event"].diff() == 0).arg_true()[0])
    order = [*range(at - 1), at, at - 1, *range(at + 1, frame.height)]
    return frame[order].with_columns(seq=pl.Series(range(frame.height)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda frame: frame.head(-1), (False, True, False, True)),
        (lambda frame: frame.with_columns(pl.col("ask_qty").fill_null(0.0)), (False, True, False, True)),
        (lambda frame: pl.concat([frame.head(-1), frame.head(1)]), (False, False, False, False)),
        (lambda frame: frame.reverse(), (True, False, False, False)),
        (lambda frame: frame.with_columns(seq=frame["seq"] + 1), (True, True, True, False)),
        (lambda frame: frame.drop("seq"), (True, True, True, False)),
        (_swap_ties, (True, True, False, True)),
    ],
    ids=["a row lost", "nulls filled", "a row for another", "reversed", "numbered from 1", "not numbered", "ties"],
)
def test_a_wrong_output_is_wrong(
    wide: Dataset, tmp_path: Path, spoil: Callable[[pl.DataFrame], pl.DataFrame], said: tuple[bool, ...]
) -> None:
    spoil(_right(wide, tmp_path / "out.parquet")).write_parquet(tmp_path / "out.parquet")
    verdict = check(wide, wide.days[0], tmp_path / "out.parquet")
    assert (verdict.same_rows, verdict.ordered, verdict.exact, verdict.numbered) == said
    assert Standing(OURS[0], verdict=verdict).wrong


def test_an_output_that_is_missing_or_no_file_is_wrong(wide: Dataset, tmp_path: Path) -> None:
    assert check(wide, wide.days[0], tmp_path / "none.parquet").text == "no output"
    (tmp_path / "none.parquet").write_bytes(b"PAR1")
    assert "cannot be read" in check(wide, wide.days[0], tmp_path / "none.parquet").text


def test_one_wrong_day_makes_the_contest_wrong(wide: Dataset, tmp_path: Path) -> None:
    right, wrong = (check(wide, day, tmp_path / "none.parquet") for day in wide.days)
    _right(wide, tmp_path / "out.parquet")
    right = check(wide, wide.days[0], tmp_path / "out.parquet")
    assert not (right & wrong).same_rows
    assert (right & wrong).text == wrong.text


def test_a_run_costs_what_its_children_cost(tmp_path: Path) -> None:
    busy = "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    child = f"import time; kept = bytearray(150 << 20)\n{busy}"
    parent = f"import subprocess, sys; kept = bytearray(100 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    measured = run([sys.executable, "-c", parent], {}, tmp_path)
    assert 0.3 <= measured.cpu_seconds < 3
    assert 250 < measured.peak_mib < 330


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="ValueError: this is it"):
        run([sys.executable, "-c", "raise ValueError('this is it')"], {}, tmp_path)


def test_a_competitor_without_its_engine_says_so_and_the_others_go_on(wide: Dataset, tmp_path: Path) -> None:
    copy = COMPETITORS[0]
    (tmp_path / "run").mkdir()
    missing, there = compete(wide, [replace(copy, name="missing", needs="no_such_engine"), copy], 1, tmp_path / "run")
    assert "pip install" in missing.error
    assert not missing.runs
    assert there.seconds > 0


def test_a_competitor_that_dies_is_not_hidden(wide: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    [dead] = compete(wide, [replace(COMPETITORS[0], module=("benchmarks.yard.engines", "none"))], 2, tmp_path / "run")
    assert dead.error == "failed: KeyError: 'none'"
    table = contest_table(contest_of(wide, [dead], 2, (0.0, 0.0)))
    assert "failed: KeyError" in table


def test_an_output_is_judged_by_what_its_competitor_promises(wide: Dataset, tmp_path: Path) -> None:
    limit = COMPETITORS[1]
    (tmp_path / "run").mkdir()
    [honest, braggart] = compete(wide, [limit, replace(limit, ordered=True)], 1, tmp_path / "run")
    assert honest.wrong == ""
    assert braggart.wrong == "not in order, seq is wrong"


def test_the_command_ends_with_0_only_if_all_of_ours_is_right() -> None:
    fine = {"error": "", "wrong": ""}

    def results(ours: dict[str, str], theirs: dict[str, str], notes: tuple[str, ...] = ()) -> dict[str, Any]:
        lines = [{"name": "lake", **ours}, {"name": "duckdb-512", **theirs}]
        return {"contests": [{"lines": lines}], "notes": notes}

    assert is_fine(results(fine, fine))
    assert is_fine(results(fine, {"error": "failed: out of memory", "wrong": ""}))
    assert not is_fine(results({"error": "failed", "wrong": ""}, fine))
    assert not is_fine(results({"error": "", "wrong": "not in order"}, fine))
    assert not is_fine(results(fine, fine, ("s3: no server",)))


def test_the_table_shows_who_is_wrong(wide: Dataset, tmp_path: Path) -> None:
    _right(wide, tmp_path / "out.parquet").reverse().write_parquet(tmp_path / "out.parquet")
    measured = Measured(1.0, 1.0, 1.0, "")
    wrong = Standing(OURS[0], [measured], check(wide, wide.days[0], tmp_path / "out.parquet"), 1)
    assert "**wrong**: not in order, seq is wrong" in contest_table(contest_of(wide, [wrong], 1, (0.0, 0.0)))


def _results(**further: list[dict[str, Any]]) -> dict[str, Any]:
    """Everybody takes a second more than the one before."""
    names = ["limit", "polars", "kernel", "lake"]
    figures = ("seconds", "cpu_seconds", "peak_mib", "size_bytes")
    lines = [{"name": name} | dict.fromkeys(figures, at + 1.0) for at, name in enumerate(names)]
    sizes = ("small", "medium", "large", "tiny")
    return {"contests": [{"kind": "wide", "size": size, "lines": lines} for size in sizes], "further": further}


def test_targets_are_the_right_ratios() -> None:
    found = {one.what: one.measured for one in targets(_results())}
    assert found == {
        "medium, with I/O and publishing ÷ Polars sort-sink": "2.00 (CPU 2.00)",
        "large, with I/O and publishing ÷ Polars sort-sink": "2.00 (CPU 2.00)",
        "small, kernel ÷ limit": "3.00 (CPU 3.00)",
        "small, with I/O and publishing ÷ limit": "4.00 (CPU 4.00)",
        "tiny, with I/O and publishing ÷ Polars loop": "2.00 (CPU 2.00)",
        "large, peak memory": "4 MiB",
        "file ÷ Polars' default zstd, small": "1.50",
        "file ÷ Polars' default zstd, medium": "1.50",
    }


def _lines(*labels: str) -> list[dict[str, Any]]:
    figures = ("seconds", "cpu_seconds", "cpu_ms_per_hour")
    return [
        {"label": one, "kind": "wide", "size": "small"} | dict.fromkeys(figures, at) for at, one in enumerate(labels, 1)
    ]


def test_targets_of_what_the_contest_does_not_show() -> None:
    further = {
        "scans": _lines(
            *(f"{whose} file, read by {who}" for who in ("polars", "duckdb") for whose in ("Polars'", "our"))
        ),
        "one_core": _lines(*(f"{who}, {cores}" for who in ("lake", "polars") for cores in ("all cores", "one core"))),
        "s3": _lines("bare GETs, 64 at a time", "ours, with I/O and publishing"),
        "events": _lines("Polars loop: read → sort → write", "the same, nothing to do", "quantlab warehouse compact"),
        "up_to_date": _lines("quantlab compact, nothing to do"),
    }
    found = [(one.what, one.measured) for one in targets({"contests": [], "further": further})]
    assert found == [
        ("full scan by polars, our file ÷ Polars' file, small", "2.00 (CPU 2.00)"),
        ("full scan by duckdb, our file ÷ Polars' file, small", "1.33 (CPU 1.33)"),
        ("wall on one core ÷ wall on all, small", "2.00 (Polars 1.33)"),
        ("parts a second over S3 ÷ bare GETs, small", "0.50"),
        ("CPU of an event hour of 40 tiny files", "1 ms (Polars loop 1 ms)"),
        ("`quantlab compact` on an up-to-date day", "1.00 s (CPU 1.00 s)"),
    ]


def test_what_was_not_measured_is_no_target() -> None:
    results = _results()
    for contest in results["contests"]:
        contest["lines"] = [{"name": line["name"], "error": "failed"} for line in contest["lines"]]
    assert targets(results) == []


@pytest.mark.slow
def test_everybody_gives_right_rows(wide: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    standings = compete(wide, [*COMPETITORS, *OURS], 1, tmp_path / "run")
    for one in standings:
        if one.competitor.missing:
            continue
        assert (one.error, one.wrong) == ("", ""), one.competitor.name
        assert one.seconds > 0
        assert one.size_bytes > 0
        assert one.competitor.name == "copy" or (one.verdict is not None and one.verdict.same_rows)


@pytest.mark.slow
@pytest.mark.server
def test_the_command_measures_everything(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    options = ["--sizes", "smoke,events", "--kinds", "ours", "--rounds", "1", "--hours", "2", "--also", "all"]
    command = [sys.executable, "benchmarks/yardstick.py", *options, "--data", str(tmp_path / "data"), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    assert set(found["further"]) == {"scans", "one_core", "up_to_date", "s3", "events"}
    assert all(found["further"].values())
    assert [line["name"] for line in found["contests"][0]["lines"]] == ["limit", "polars", "kernel", "lake"]
    page = out.read_text()
    assert str(tmp_path) not in page
    for one in targets(found):
        assert one.what in page
    assert len(targets(found)) >= 6
