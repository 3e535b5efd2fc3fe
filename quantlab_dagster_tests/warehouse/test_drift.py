"""Files that do not unite, or cannot be read: all are found in one pass, nothing is fetched twice, the good go on."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.synthetic.warehouse import EventFile
from quantlab_dagster.warehouse.checks import NO_CORRUPT_FILES
from quantlab_dagster.warehouse.outcome import HourStatus, hour_line
from quantlab_dagster.warehouse.slot import Slot
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import LATER, PARTITION, SOON, EventLake, rows_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("local", None, tmp_path))


def events(first: int, number: int, **columns: object) -> list[EventFile]:
    """Files of one schema, each with one row."""
    files = []
    for n in range(first, first + number):
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table({"timestamp_ms": pa.array([n]), **{k: pa.array([v]) for k, v in columns.items()}}), sink
        )
        files.append(EventFile(f"events_{n:04d}.parquet", sink.getvalue().to_pybytes()))
    return files


def filled_files(first: int, number: int, rows: int, value: str | int) -> list[EventFile]:
    """Files of so many rows whose values do not compress."""
    files = []
    for n in range(first, first + number):
        random = Random(n)
        values = [random.getrandbits(62) for _ in range(rows)]
        column = [f"{value}{one}" for one in values] if isinstance(value, str) else values
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"timestamp_ms": pa.array([n] * rows), "v": pa.array(column)}), sink)
        files.append(EventFile(f"events_{n:04d}.parquet", sink.getvalue().to_pybytes()))
    return files


def damaged(first: int, number: int) -> list[EventFile]:
    """Some have no footer, others a page that is none."""
    bad = []
    for at, file in enumerate(events(first, number, v="a")):
        data = b"PAR1" + bytes(len(file.data)) if at % 2 else file.data[:4] + bytes(40) + file.data[44:]
        bad.append(EventFile(file.name, data))
    return bad


@pytest.mark.guards("drift-fails-hour", "drifted-retired")
def test_drifted_files_become_an_output_of_their_own(lake: EventLake) -> None:
    """40 files, and 25 in which a number has become a text: more than any limit there was."""
    put = lake.put(PARTITION, [*events(0, 40, v=1), *events(40, 25, v="x")])
    done = lake.sweep()
    [outcome] = done.outcomes
    assert (outcome.status, outcome.corrupt) == (HourStatus.COMPACTED, ())
    assert sorted(item.inputs for item in outcome.replacements) == [25, 40]
    assert len(lake.names()) == 2
    assert lake.rows() == rows_of(put)
    # The files, the slot, and that again when the lake is judged; the record of looks. No file twice.
    assert done.requests["GET"] == 65 + 2 + 1
    again = lake.sweep(now=SOON + LATER)
    assert (again.outcomes, again.requests["GET"]) == ((), 1)


@pytest.mark.guards("case-united")
def test_files_that_spell_a_column_in_another_case_become_an_output_of_their_own(lake: EventLake) -> None:
    """In one file DuckDB would find half of the values in `eventtype_1`, and Spark nothing at all."""
    put = lake.put(PARTITION, [*events(0, 3, eventType="a"), *events(3, 2, eventtype="b")])
    [outcome] = lake.sweep().outcomes
    assert (outcome.status, outcome.corrupt, outcome.waiting) == (HourStatus.COMPACTED, (), ())
    assert sorted(item.inputs for item in outcome.replacements) == [2, 3]
    assert lake.rows() == rows_of(put)
    assert lake.sweep().outcomes == ()


def test_a_late_file_joins_the_output_that_it_unites_with(lake: EventLake) -> None:
    put = lake.put(PARTITION, [*events(0, 4, v=1), *events(4, 3, v="x")])
    lake.sweep()
    before = set(lake.names())
    put += lake.put(PARTITION, events(7, 1, v="y"))
    [outcome] = lake.sweep().outcomes
    [replacement] = outcome.replacements
    assert (outcome.corrupt, replacement.inputs) == ((), 2)
    assert len(before & set(lake.names())) == 1, "the other output stays as it is"
    assert lake.rows() == rows_of(put)
    assert lake.sweep().outcomes == ()


def test_a_drifted_file_that_was_alone_is_merged_when_it_has_company(lake: EventLake) -> None:
    put = lake.put(PARTITION, [*events(0, 4, v=1), *events(4, 1, v="x")])
    done = lake.sweep()
    [outcome] = done.outcomes
    assert ([item.name for item in outcome.waiting], outcome.corrupt) == (["events_0004.parquet"], ())
    assert outcome.waiting[0].reason.startswith("does not unite with the others: column 'v'")
    assert hour_line(outcome).endswith("; alone of their kind: events_0004.parquet")
    [said] = [finding for finding in done.findings if finding.name == NO_CORRUPT_FILES]
    assert said.passed, "nothing is wrong with it"
    assert "events_0004.parquet (does not unite" in said.text
    assert lake.sweep().outcomes == ()

    put += lake.put(PARTITION, events(5, 1, v="y"))
    [outcome] = lake.sweep().outcomes
    assert (outcome.waiting, [item.inputs for item in outcome.replacements]) == ((), [2])
    assert lake.slot() == Slot()
    assert lake.rows() == rows_of(put)
    assert lake.sweep().outcomes == ()


@pytest.mark.guards("drifted-redone")
@pytest.mark.parametrize(
    ("name", "outputs"),
    [("0123.parquet", 1), ("0123.parquet", 2), ("zzz.parquet", 1)],
    ids=["first", "first of three kinds", "last"],
)
def test_a_drifted_file_beside_outputs_is_looked_at_once_whatever_its_name(
    lake: EventLake, name: str, outputs: int
) -> None:
    """A name before `compacted_` comes first of all: it must not be taken for the kind from which others differ."""
    others = [[], events(4, 4, v=1.5)][outputs - 1]
    put = lake.put(PARTITION, [*events(0, 4, v="x"), *others])
    lake.sweep()
    [odd] = events(9, 1, v=True)
    put += lake.put(PARTITION, [EventFile(name, odd.data)])
    [outcome] = lake.sweep().outcomes
    assert ([item.name for item in outcome.waiting], outcome.replacements) == ([name], ())
    again = lake.sweep(now=SOON + 4 * LATER)
    assert (again.outcomes, [finding.name for finding in again.findings if not finding.passed]) == ((), [])
    assert lake.rows() == rows_of(put)


@pytest.mark.guards("drifted-redone")
def test_files_that_are_all_alone_are_looked_at_once(lake: EventLake) -> None:
    put = lake.put(PARTITION, [*events(0, 1, v=1), *events(1, 1, v="x"), *events(2, 1, v=True)])
    [outcome] = lake.sweep().outcomes
    assert len(outcome.waiting) == 3
    assert all("column 'v'" in item.reason for item in outcome.waiting)
    assert lake.sweep().outcomes == ()

    put += lake.put(PARTITION, events(3, 1, v=2))
    [outcome] = lake.sweep().outcomes
    assert ([item.inputs for item in outcome.replacements], len(outcome.waiting)) == ([2], 2)
    assert lake.sweep().outcomes == ()
    assert lake.rows() == rows_of(put)


@pytest.mark.guards("drifted-stays-alone")
def test_a_late_file_beside_a_large_output_of_its_kind_is_not_corrupt_and_is_merged_when_others_come(
    lake: EventLake,
) -> None:
    """The output of its own kind is too large to be written again for it, the other kind's is not."""
    put = lake.put(PARTITION, [*filled_files(0, 4, 4_000, "x"), *filled_files(4, 4, 200, 1)])
    lake.sweep()
    large, small = sorted((info.size_bytes for info in lake.objects()), reverse=True)
    [late] = filled_files(8, 1, 600, "x")
    assert small < 4 * len(late.data)
    assert large > 4 * (small + len(late.data)), "it is left as it is"
    put += lake.put(PARTITION, [late])
    done = lake.sweep()
    [outcome] = done.outcomes
    assert ([item.name for item in outcome.waiting], outcome.corrupt) == ([late.name], ())
    assert all(finding.passed for finding in done.findings)
    assert lake.sweep(now=SOON + LATER).outcomes == ()

    put += lake.put(PARTITION, [*filled_files(9, 1, 1, "x"), *filled_files(10, 1, 1, "x")])
    [outcome] = lake.sweep().outcomes
    assert ([item.inputs for item in outcome.replacements], outcome.waiting) == ([3], ())
    assert len(lake.names()) == 3
    assert lake.rows() == rows_of(put)
    assert lake.slot() == Slot()
    assert lake.sweep(now=SOON + LATER).outcomes == ()


@pytest.mark.guards("drifted-redone")
def test_a_file_that_waits_is_tried_again_when_another_comes_and_not_while_one_stays(lake: EventLake) -> None:
    """Beside those that wait lies a new file that is as large as wanted."""
    put = lake.put(PARTITION, [*filled_files(0, 1, 5_000, "x"), *events(1, 1, v=1), *events(2, 1, v=True)])
    target = len(put[0])
    [outcome] = lake.sweep(target_size=target).outcomes
    assert (len(outcome.waiting), outcome.replacements) == (2, ())
    assert lake.sweep(now=SOON + LATER, target_size=target).outcomes == ()

    put += lake.put(PARTITION, events(3, 1, v=2))
    [outcome] = lake.sweep(target_size=target).outcomes
    assert ([item.inputs for item in outcome.replacements], len(outcome.waiting)) == ([2], 1)
    assert lake.sweep(now=SOON + LATER, target_size=target).outcomes == ()
    assert lake.rows() == rows_of(put)


@pytest.mark.guards("outputs-pile-up")
@pytest.mark.parametrize(("one", "other", "inputs"), [(10, 0, [10]), (9, 0, []), (5, 6, []), (4, 11, [11])])
def test_many_small_files_named_as_outputs_are_merged_once_as_far_as_they_unite(
    lake: EventLake, one: int, other: int, inputs: list[int]
) -> None:
    """As another compactor left them, or ours before its target was raised."""
    made = [*events(0, one, v=1), *events(one, other, v="x")]
    put = lake.put(PARTITION, [EventFile(f"compacted_{file.name}", file.data) for file in made])
    replacements = [item for outcome in lake.sweep().outcomes for item in outcome.replacements]
    assert [item.inputs for item in replacements] == inputs
    assert lake.rows() == rows_of(put)
    again = lake.sweep(now=SOON + 4 * LATER)
    assert (again.outcomes, [finding.name for finding in again.findings if not finding.passed]) == ((), [])

    put += lake.put(PARTITION, events(90, 1, v=2))
    lake.sweep()
    assert lake.sweep(now=SOON + LATER).outcomes == ()
    assert lake.rows() == rows_of(put)


@pytest.mark.guards("drift-fails-hour", "corrupt-then-deleted")
@pytest.mark.parametrize(
    ("good", "bad"),
    [(30, 24), pytest.param(380, 20, marks=pytest.mark.slow), pytest.param(200, 200, marks=pytest.mark.slow)],
)
def test_all_corrupt_files_are_reported_in_one_pass_and_the_good_are_merged(
    lake: EventLake, good: int, bad: int
) -> None:
    put = lake.put(PARTITION, events(0, good, v="a"))
    lake.put(PARTITION, damaged(good, bad))
    done = lake.sweep()
    [outcome] = done.outcomes
    assert outcome.status is HourStatus.COMPACTED
    assert [item.inputs for item in outcome.replacements] == [good]
    assert len(outcome.corrupt) == bad
    assert all(item.reason for item in outcome.corrupt)
    assert len(lake.names()) == 1 + bad
    assert done.requests["GET"] == good + bad + 2 + 1, "no file twice"
    outputs = [name for name in lake.names() if name.startswith("compacted_")]
    assert rows_of([asyncio.run(lake.store.get(PARTITION.key(outputs[0])))[0]]) == rows_of(put)
    assert lake.sweep(now=SOON + LATER).outcomes == ()
