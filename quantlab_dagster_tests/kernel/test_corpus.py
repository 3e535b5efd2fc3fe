"""A bounded sample of the corpus, and that what watches it notices what must not be.

`python -m quantlab_dagster_tests.kernel.corpus_run` runs thousands, and writes the table of docs/reliability.md.
"""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from quantlab_dagster_tests.kernel.corpus import (
    BASES,
    MUTATIONS,
    TABLE,
    Case,
    Known,
    base,
    bomb,
    bombs,
    mutated,
    mutations,
    odd_names,
)
from quantlab_dagster_tests.kernel.corpus_run import (
    FAILURES,
    PARTS,
    Bounds,
    End,
    Result,
    case_of,
    expected,
    judge,
    run,
    table_of,
)
from quantlab_dagster_tests.kernel.corpus_writers import foreign
from quantlab_dagster_tests.kernel.parquet_file import ParquetFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

ROUND = sum(mutation.weight for mutation in MUTATIONS)
"""Mutated parts of which each region has its share."""


def failures(cases: Sequence[Case]) -> dict[str, str]:
    return {result.id: f"{result.end}: {result.why}" for result in run(cases) if result.end in FAILURES}


# ---- what becomes of parts -------------------------------------------------------------------------------------------


def test_parts_of_other_writers_come_out_right() -> None:
    cases = foreign()
    assert {case.region for case in cases} == {f"written by {name}" for name in ("PyArrow", "Polars", "DuckDB")}
    assert len(cases) > 200
    assert failures(cases[::6]) == {}


@pytest.mark.guards("page-checksums")
def test_what_carries_a_checksum_is_never_altered() -> None:
    cases = [case for case in mutations(2, 5 * ROUND) if case.known is Known.CHECKED]
    assert len(cases) > 20
    assert failures(cases) == {}


@pytest.mark.guards("negative-count-aborts", "footer-ends-process")
def test_no_mutated_part_ends_a_process_or_its_run() -> None:
    """Every region, and the parts that ended processes before."""
    cases = [case for case in mutations(1, 3 * ROUND) if case.known is Known.FREE]
    cases += [case_of("bomb:a negative number of values"), case_of("bomb:a negative number of values, version 2")]
    assert failures(cases) == {}


@pytest.mark.guards("run-length-bomb", "page-bomb")
def test_no_small_part_takes_more_than_its_share() -> None:
    assert failures([case for case in bombs() if len(case.data) < 100_000]) == {}


@pytest.mark.xfail(strict=True, reason="Polars takes some names for patterns")
@pytest.mark.guards("pattern-names")
def test_columns_of_odd_names_come_out_under_them_or_are_refused() -> None:
    assert failures(odd_names()) == {}


# ---- the corpus ------------------------------------------------------------------------------------------------------


def test_a_case_is_made_again_from_its_id() -> None:
    cases = mutations(7, 2 * ROUND)
    assert [case_of(case.id) for case in cases] == cases
    assert len({case.id for case in cases}) == len(cases)
    assert {case.data for case in cases}.isdisjoint(base(name) for name in BASES), "each is changed"
    assert mutated(8, 0).data != mutated(7, 0).data
    assert case_of(bomb("groups 100 deep").id).data == bomb("groups 100 deep").data


def test_every_region_has_its_parts() -> None:
    regions = {case.region.split(",")[0] for case in mutations(1, ROUND)}
    assert regions == {mutation.region.split(",")[0] for mutation in MUTATIONS}
    both = {case.region for case in mutations(1, 4 * ROUND) if "pages, with" in case.region}
    assert both == {f"{kind} pages, {how} checksums" for kind in ("data", "dictionary") for how in ("with", "without")}


@pytest.mark.parametrize("name", BASES)
def test_a_part_taken_apart_is_put_together_again(name: str) -> None:
    file = ParquetFile.of(base(name))
    assert file.dump() == file.dump(settle=False) == base(name)
    assert len(file.pages) >= 2 * TABLE.num_columns


def test_what_is_called_checked_has_a_checksum_that_finds_it() -> None:
    """Else the table would blame the kernel for what nobody can see."""
    cases = [case for case in mutations(3, 6 * ROUND) if case.known is Known.CHECKED]
    for case in cases:
        with pytest.raises(OSError, match="CRC"):
            pq.read_table(io.BytesIO(case.data), page_checksum_verification=True)
    assert any(readable(case.data) for case in cases), "and nothing else would"


def readable(data: bytes) -> bool:
    try:
        pq.read_table(io.BytesIO(data))
    except (OSError, ValueError):
        return False
    return True


# ---- the judgement ---------------------------------------------------------------------------------------------------


def numbered(table: pa.Table) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415

    return expected(table).add_column(1, "seq", pa.array(range(len(table) + 80), pa.int64()))


RIGHT = numbered(TABLE)
OTHER = numbered(TABLE.set_column(1, "origin", TABLE["origin"].take([1, 0, *range(2, 40)])))
RENAMED = RIGHT.rename_columns([*RIGHT.column_names[:-1], "x"])
MISNUMBERED = RIGHT.set_column(1, "seq", RIGHT["seq"].take([1, 0, *range(2, len(RIGHT))]))
SHORT = RIGHT.slice(0, len(RIGHT) - 1)


@pytest.mark.parametrize("altered", [OTHER, RENAMED, MISNUMBERED, SHORT], ids=["value", "name", "number", "row"])
def test_a_published_part_is_right_or_altered(altered: pa.Table) -> None:
    for known, end in (
        (Known.FREE, End.ALTERED),
        (Known.CHECKED, End.CHECKED_ALTERED),
        (Known.ROWS, End.GOOD_ALTERED),
    ):
        case = Case("x", "region", b"", known, TABLE)
        assert judge(case, "success", None, RIGHT, "").end is End.RIGHT
        assert judge(case, "success", None, altered, "").end is end
        assert (end in FAILURES) == (known is not Known.FREE)


def test_a_refusal_names_the_part() -> None:
    case = Case("x", "region", b"", Known.FREE, TABLE)
    assert judge(case, "quarantine", PARTS[1], None, "").end is End.REFUSED
    assert judge(case, "quarantine", PARTS[0], None, "").end is End.OTHER_BLAMED
    assert judge(case, "quarantine", None, None, "").end is End.OTHER_BLAMED
    assert judge(case, "failed", None, None, "").end is End.RUN_FAILED
    assert judge(case, "success", None, None, "").end is End.RUN_FAILED
    good = replace(case, known=Known.ROWS)
    assert judge(good, "quarantine", PARTS[1], None, "").end is End.GOOD_REFUSED
    assert {End.OTHER_BLAMED, End.RUN_FAILED, End.GOOD_REFUSED} < FAILURES


# ---- the watch -------------------------------------------------------------------------------------------------------

WORK = """
import json, os, subprocess, sys, time
directory, first, after = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def say(*words):
    with open(directory + "/said", "a") as file:
        file.write(json.dumps(words) + "\\n")
for number in range(first, after):
    say("begin", number, None)
    if number == 1:
        {mishap}
    place = f"{{directory}}/compact/exchange=binance/stream=bbo/symbol=c{{number:05d}}/date=20260108"
    os.makedirs(place)
    with open(place + "/quarantine.json", "w") as file:
        file.write('{{"part": "{part}"}}')
    say("end", number, {{"status": "quarantine", "reason": "bad", "error": ""}})
"""


@pytest.mark.parametrize(
    ("mishap", "end", "why"),
    [
        ("os.abort()", End.PROCESS_ENDED, "-6"),
        ("raise MemoryError('all gone')", End.PROCESS_ENDED, "1: MemoryError: all gone"),
        ("sys.exit(0)", End.PROCESS_ENDED, "before its work was done"),
        ("time.sleep(60)", End.HUNG, "for 1 s"),
        ("held = bytearray(os.urandom(1 << 20) * 200); time.sleep(60)", End.GREW, "MiB"),
        (
            "subprocess.run([sys.executable, '-c', 'x = b\"x\" * (1 << 28); import time; time.sleep(60)'])",
            End.GREW,
            "MiB",
        ),
    ],
)
def test_what_happens_to_the_process_is_its_parts_and_the_next_goes_on(
    tmp_path: Path, mishap: str, end: End, why: str
) -> None:
    (tmp_path / "work.py").write_text(WORK.format(mishap=mishap, part=PARTS[1]))
    cases = [Case(str(number), "region", b"", Known.FREE, TABLE) for number in range(3)]
    bounds = Bounds(seconds=1.0, memory=64 << 20) if end is not End.GREW else Bounds(memory=64 << 20)
    results = list(run(cases, bounds, [sys.executable, str(tmp_path / "work.py")]))
    assert [(result.id, result.end) for result in results] == [("0", End.REFUSED), ("1", end), ("2", End.REFUSED)]
    assert why in results[1].why
    assert end in FAILURES


def test_the_table_tells_of_every_failure() -> None:
    results = [
        Result("a", "pages", End.RIGHT),
        Result("b", "pages", End.HUNG, "for 1 s"),
        Result("c", "magic", End.REFUSED),
    ]
    assert table_of(results, ["said"]) == {
        "said": ["said"],
        "outcomes": ["right", "refused", "altered, no checksum", "hung"],
        "regions": {"pages": {"right": 1, "hung": 1}, "magic": {"refused": 1}},
        "failures": {"b": "hung: for 1 s"},
    }
