"""Every layout is compacted in place, and engines read the same before and after; what no layout explains is told."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from quantlab_dagster.errors import TableFormat
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.template import DEFAULT_TEMPLATE, Layout
from quantlab_dagster.lake.warehouse import SLOTS, AppHour, Scope
from quantlab_dagster.warehouse.checks import EVERY_FILE_EXPLAINED
from quantlab_dagster.warehouse.look import look_over
from quantlab_dagster.warehouse.looking import LOOK_KEY
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, SOON, EventLake

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.warehouse.sweep import Sweep

DAY_LATER = dt.timedelta(days=1)
EARLY = dt.datetime(2026, 1, 5, 9, tzinfo=dt.UTC)
"""An hour whose month, day and number have one digit."""

LAYOUTS = {
    "padded": (DEFAULT_TEMPLATE, "app_id=demo/year=2026/month=01/day=05/hour=09/"),
    "unpadded": (DEFAULT_TEMPLATE, "app_id=demo/year=2026/month=1/day=5/hour=9/"),
    "plain app": ("{app}/year={Y}/month={m}/day={d}/hour={H}", "demo/year=2026/month=01/day=05/hour=09/"),
    "plain app, unpadded": ("{app}/year={Y}/month={m}/day={d}/hour={H}", "demo/year=2026/month=1/day=5/hour=9/"),
    "date and hour": ("{app}/date={Y}-{m}-{d}/hour={H}", "demo/date=2026-01-05/hour=09/"),
    "no app": ("date={Y}-{m}-{d}/hour={H}", "date=2026-01-05/hour=09/"),
    "dt": ("dt={Y}-{m}-{d}-{H}", "dt=2026-01-05-09/"),
    "a day": ("app_id={app}/dt={Y}{m}{d}", "app_id=demo/dt=20260105/"),
    "a day, no app": ("dt={Y}-{m}-{d}", "dt=2026-01-05/"),
}


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("local", None, tmp_path))


def finding(done: Sweep) -> str:
    [text] = [found.text for found in done.findings if found.name == EVERY_FILE_EXPLAINED and not found.passed]
    return text


def put(lake: EventLake, directory: str, *, files: int = 4, seed: int = 0, suffix: str = ".parquet") -> None:
    """Files of one schema, so that engines need no options to read them."""
    for number in range(files):
        at = 1_000 * (seed * files + number)
        table = pa.table(
            {
                "id": [f"{at + row}" for row in range(50)],
                "timestamp_ms": pa.array(range(at + 50, at, -1), pa.int64()),
                "battery": pa.array([None if row % 3 else row / 7 for row in range(50)], pa.float32()),
                "level": pa.array([row % 2 == 0 for row in range(50)]),
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        key = f"{directory}events_{seed}_{number}{suffix}"
        asyncio.run(lake.store.put(key, sink.getvalue().to_pybytes()))


def by_duckdb(lake: EventLake) -> list[tuple[object, ...]]:
    """Types and rows as DuckDB has them, the values of the path among them."""
    glob = f"{lake.url}/**/*.parquet"
    relation = duckdb.sql(f"SELECT * FROM read_parquet('{glob}', hive_partitioning=true, union_by_name=true)")  # noqa: S608
    assert relation is not None
    return [tuple(map(str, relation.types)), *sorted(relation.fetchall(), key=repr)]


def by_polars(directory: str) -> pl.DataFrame:
    return pl.scan_parquet(directory).collect().sort(pl.all())


@pytest.mark.parametrize(("template", "directory"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_layout_is_compacted_where_it_lies_and_reads_the_same(
    lake: EventLake, template: str, directory: str
) -> None:
    layout = Layout(template)
    slots = open_store(str(lake.scratch / "slots"), create=True)
    put(lake, directory)
    before = by_duckdb(lake), by_polars(f"{lake.url}/{directory}")
    done = lake.sweep(layout=layout, slots=slots, now=EARLY + DAY_LATER)
    [outcome] = done.outcomes
    assert (outcome.status, outcome.replacements[0].inputs) == (HourStatus.COMPACTED, 4)
    assert all(found.passed for found in done.findings), done.findings
    [file] = lake.objects()
    assert file.key.startswith(f"{directory}compacted_")
    after = by_duckdb(lake), by_polars(f"{lake.url}/{directory}")
    assert after[0] == before[0]
    assert_frame_equal(after[1], before[1])
    again = lake.sweep(layout=layout, slots=slots, now=EARLY + DAY_LATER)
    assert (again.outcomes, again.looked_at) == ((), 1)


@pytest.mark.server
@pytest.mark.parametrize(("template", "directory"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_layout_is_compacted_on_a_server_with_its_slots_beside_it(
    rig: Rig, template: str, directory: str
) -> None:
    lake = EventLake.of(rig)
    layout = Layout(template)
    put(lake, directory)
    before = lake.rows()
    [outcome] = lake.sweep(layout=layout, now=EARLY + DAY_LATER).outcomes
    assert outcome.status is HourStatus.COMPACTED
    assert [file.key.startswith(f"{directory}compacted_") for file in lake.objects()] == [True]
    assert lake.rows() == before
    assert lake.sweep(layout=layout, now=EARLY + DAY_LATER).outcomes == ()
    assert lake.sweep(Scope((), EARLY, EARLY), layout=layout, now=EARLY + DAY_LATER).looked_at == 1
    assert lake.staged() == []


@pytest.mark.guards("slots-in-the-way")
def test_a_reader_of_the_whole_directory_reads_before_and_after_where_slots_are_elsewhere(lake: EventLake) -> None:
    put(lake, LAYOUTS["padded"][1])
    before = by_polars(lake.url)
    slots = open_store(str(lake.scratch / "slots"), create=True)
    [outcome] = lake.sweep(slots=slots, now=EARLY + DAY_LATER).outcomes
    assert outcome.status is HourStatus.COMPACTED
    assert_frame_equal(by_polars(lake.url), before)
    kept = [info.key for info in asyncio.run(slots.list_objects(""))]
    assert sorted(kept) == sorted([outcome.partition.slot_key, LOOK_KEY])
    assert asyncio.run(lake.store.list_objects(SLOTS)) == []


def test_two_spellings_of_one_hour_are_two_partitions(lake: EventLake) -> None:
    put(lake, LAYOUTS["padded"][1])
    put(lake, LAYOUTS["unpadded"][1], seed=1)
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert [item.status for item in done.outcomes] == [HourStatus.COMPACTED] * 2
    assert len({info.key.rpartition("/")[0] for info in lake.objects()}) == len(lake.objects()) == 2


@pytest.mark.parametrize(("hours", "cold"), [(0, False), (14, False), (15, True), (16, True)])
def test_a_day_is_cold_when_it_is_over(lake: EventLake, hours: int, cold: bool) -> None:
    layout = Layout("dt={Y}{m}{d}")
    put(lake, "dt=20260105/")
    now = EARLY + hours * LATER
    assert bool(lake.sweep(layout=layout, now=now).outcomes) is cold
    assert bool(lake.sweep(Scope((), EARLY, EARLY), layout=layout, now=now).looked_at) is cold
    partition = AppHour("", EARLY.replace(hour=0), "", layout)
    assert partition.last_hour == EARLY.replace(hour=23)


def test_names_without_a_suffix_are_merged_if_a_pattern_says_so(lake: EventLake) -> None:
    put(lake, LAYOUTS["padded"][1], suffix="")
    asyncio.run(lake.store.put(f"{LAYOUTS['padded'][1]}_SUCCESS", b"x"))
    assert lake.sweep(now=EARLY + DAY_LATER).looked_at == 0
    [outcome] = lake.sweep(now=EARLY + DAY_LATER, layout=Layout(files="events_*")).outcomes
    assert outcome.replacements[0].inputs == 4
    assert lake.sweep(now=EARLY + DAY_LATER, layout=Layout(files="events_*")).outcomes == ()


# ---- what no layout explains -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in LAYOUTS if LAYOUTS[name][0] != DEFAULT_TEMPLATE])
def test_a_lake_of_another_layout_is_no_empty_healthy_one(lake: EventLake, name: str) -> None:
    template, directory = LAYOUTS[name]
    put(lake, directory)
    before = [info.key for info in lake.objects()]
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert done.outcomes == ()
    text = finding(done)
    assert before[0] in text
    assert f"WAREHOUSE_LAYOUT may have to be {template}" in text
    assert [info.key for info in lake.objects()] == before


def test_a_file_in_no_partition_is_told_at_every_level(lake: EventLake) -> None:
    put(lake, LAYOUTS["padded"][1])
    strangers = ["x.parquet", "app_id=demo/year=2026/x.parquet", "other/deep/x.parquet"]
    for key in strangers:
        asyncio.run(lake.store.put(key, b"x"))
    for key in ("_tmp/x.parquet", "app_id=demo/_tmp/x.parquet", "app_id=demo/README.md", "more/README.md"):
        asyncio.run(lake.store.put(key, b"x"))
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert [item.status for item in done.outcomes] == [HourStatus.COMPACTED]
    text = finding(done)
    assert [key for key in strangers if key not in text] == [], text
    assert "README" not in text
    assert "_tmp" not in text


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "Delta"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("_spark_metadata/0", "Spark"),
        ("metadata/v1.metadata.json", "Iceberg"),
        ("metadata/version-hint.text", "Iceberg"),
    ],
)
def test_a_table_of_another_format_is_refused_by_name(lake: EventLake, key: str, kind: str) -> None:
    put(lake, LAYOUTS["padded"][1])
    asyncio.run(lake.store.put(key, b"x"))
    before = [info.key for info in lake.objects()]
    with pytest.raises(TableFormat, match=rf"{key.partition('/')[0]}.*{kind}"):
        lake.sweep(now=EARLY + DAY_LATER)
    assert [info.key for info in lake.objects()] == before


def test_an_app_that_is_a_table_is_left_alone_and_told_and_the_others_are_compacted(lake: EventLake) -> None:
    put(lake, LAYOUTS["padded"][1])
    put(lake, LAYOUTS["padded"][1].replace("demo", "table"), seed=1)
    asyncio.run(lake.store.put("app_id=table/_delta_log/00000000000000000000.json", b"x"))
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert [item.partition.app for item in done.outcomes] == ["demo"]
    assert "app_id=table/ belongs to a table of Delta" in finding(done)


def test_metadata_of_no_table_is_an_app_like_others(lake: EventLake) -> None:
    layout = Layout("{app}/dt={Y}{m}{d}")
    put(lake, "metadata/dt=20260105/")
    look = asyncio.run(look_over(replace(lake.place(now=EARLY + DAY_LATER), layout=layout), Scope()))
    assert look.totals.apps == {"metadata"}


def test_a_late_hour_of_a_layout_is_late(lake: EventLake) -> None:
    """What is due is judged by the end of the partition."""
    layout = Layout("dt={Y}{m}{d}")
    put(lake, "dt=20260115/")
    day_over = HOUR.replace(hour=0) + DAY_LATER
    look = asyncio.run(look_over(lake.place(now=day_over + LATER, layout=layout), Scope()))
    assert [item.needs_work for item in look.looks] == [True]
    assert look.looks[0].partition.last_hour == day_over - LATER
    assert day_over > SOON
