"""Files that do not unite, or cannot be read: all are found in one pass, nothing is fetched twice, the good go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.synthetic.warehouse import EventFile
from quantlab_dagster.warehouse.outcome import HourStatus
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
    [outcome] = lake.sweep().outcomes
    assert [item.name for item in outcome.corrupt] == ["events_0004.parquet"]
    assert outcome.corrupt[0].reason.startswith("does not unite with the others: column 'v'")
    assert lake.sweep().outcomes == ()

    put += lake.put(PARTITION, events(5, 1, v="y"))
    [outcome] = lake.sweep().outcomes
    assert (outcome.corrupt, [item.inputs for item in outcome.replacements]) == ((), [2])
    assert lake.slot().corrupt == ()
    assert lake.rows() == rows_of(put)
    assert lake.sweep().outcomes == ()


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
