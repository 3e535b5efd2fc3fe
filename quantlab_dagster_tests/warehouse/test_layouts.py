"""Every layout is compacted in place, and engines read the same before and after; what no layout explains is told."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from quantlab_dagster.errors import AccessDenied, SettingsError, TableFormat
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.template import DEFAULT_TEMPLATE, Layout
from quantlab_dagster.lake.warehouse import SLOTS, AppHour, Scope, Told, find_hours, list_hour
from quantlab_dagster.warehouse import looking
from quantlab_dagster.warehouse.checks import EVERY_FILE_EXPLAINED, EVERY_FILE_READABLE, NO_CORRUPT_FILES
from quantlab_dagster.warehouse.judging import judge_now
from quantlab_dagster.warehouse.look import look_over
from quantlab_dagster.warehouse.looking import LOOK_KEY, LookRecord, read_look
from quantlab_dagster.warehouse.outcome import HourStatus, hour_line
from quantlab_dagster.warehouse.slot import Corrupt, ReplacementPlan, Slot
from quantlab_dagster.warehouse.sweep import recover
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, SOON, EventLake, HourRecorder
from quantlab_dagster_tests.warehouse.model_s3 import Bucket, ModelStore

if TYPE_CHECKING:
    from quantlab_dagster.errors import UnaddressableKey
    from quantlab_dagster.lake.store.objects import Names, ObjectInfo
    from quantlab_dagster.warehouse.sweep import Sweep

_HAS_DATAFUSION = importlib.util.find_spec("datafusion") is not None

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


@pytest.fixture
def rig_directory(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path


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


def by_datafusion(directory: str) -> list[object]:
    """Types and rows as DataFusion has them; nothing where it is not installed, which only CI must not be without."""
    if not _HAS_DATAFUSION:
        return []
    from datafusion import SessionContext  # noqa: PLC0415

    table = SessionContext().read_parquet(directory).to_arrow_table()
    return [str(table.schema), *sorted(map(repr, table.to_pylist()))]


def by_polars(directory: str) -> pl.DataFrame:
    return pl.scan_parquet(directory).collect().sort(pl.all())


def test_the_second_engine_is_installed() -> None:
    if not _HAS_DATAFUSION:
        pytest.skip("DataFusion is not installed: the layouts are read by DuckDB and Polars only")


@pytest.mark.parametrize(("template", "directory"), LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_layout_is_compacted_where_it_lies_and_reads_the_same(
    lake: EventLake, template: str, directory: str
) -> None:
    layout = Layout(template)
    slots = open_store(str(lake.scratch / "slots"), create=True)
    put(lake, directory)
    before, other = (by_duckdb(lake), by_polars(f"{lake.url}/{directory}")), by_datafusion(f"{lake.url}/{directory}")
    assert len(other) == (1 + 4 * 50 if _HAS_DATAFUSION else 0)
    done = lake.sweep(layout=layout, slots=slots, now=EARLY + DAY_LATER)
    [outcome] = done.outcomes
    assert (outcome.status, outcome.replacements[0].inputs) == (HourStatus.COMPACTED, 4)
    assert all(found.passed for found in done.findings), done.findings
    [file] = lake.objects()
    assert file.key.startswith(f"{directory}compacted_")
    after = by_duckdb(lake), by_polars(f"{lake.url}/{directory}")
    assert after[0] == before[0]
    assert_frame_equal(after[1], before[1])
    assert by_datafusion(f"{lake.url}/{directory}") == other
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


@pytest.mark.guards("overlooked-lake")
def test_events_behind_many_other_directories_are_told(lake: EventLake) -> None:
    for number in range(40):
        asyncio.run(lake.store.put(f"a{number:02d}/readme.txt", b"x"))
    put(lake, LAYOUTS["plain app"][1].replace("demo", "shop"), files=1)
    assert "shop/year=2026/" in finding(lake.sweep(now=EARLY + DAY_LATER))


def test_a_directory_that_may_not_be_looked_into_is_told_and_the_others_are(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, LAYOUTS["plain app"][1].replace("demo", "shop"), files=1)
    asyncio.run(lake.store.put("private/x.parquet", b"x"))
    peek = LocalStore.peek

    async def denied(self: LocalStore, prefix: str) -> list[ObjectInfo]:
        if prefix == "private/":
            raise AccessDenied(self.name(prefix), "access denied")
        return await peek(self, prefix)

    monkeypatch.setattr(LocalStore, "peek", denied)
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert "shop/year=2026/" in finding(done)
    assert ["private/" in found.text for found in done.findings if found.name == EVERY_FILE_READABLE] == [True]


@pytest.mark.guards("overlooked-lake")
def test_a_lake_without_any_file_is_told_and_nothing_is_written_there(lake: EventLake) -> None:
    """A wrong URL, or one to which no event has come yet."""
    for _ in range(2):
        assert "no file at all: WAREHOUSE_URL may be wrong" in finding(lake.sweep())
        told = asyncio.run(judge_now(lake.place())).findings
        assert [found.passed for found in told if found.name == EVERY_FILE_EXPLAINED] == [False]
    assert asyncio.run(lake.store.list_objects("")) == []
    put(lake, LAYOUTS["padded"][1])
    assert [one.name for one in lake.sweep(now=EARLY + DAY_LATER).findings if not one.passed] == []


def test_two_directories_of_one_hour_are_told_apart(lake: EventLake) -> None:
    for seed, name in enumerate(("padded", "unpadded")):
        put(lake, LAYOUTS[name][1], seed=seed)
    lines = sorted(hour_line(outcome).partition(": ")[0] for outcome in lake.sweep(now=EARLY + DAY_LATER).outcomes)
    assert lines == ["demo/2026-01-05T09", f"demo/2026-01-05T09 ({LAYOUTS['unpadded'][1].rstrip('/')})"]


@pytest.mark.guards("red-for-ever")
@pytest.mark.parametrize("files", ["*", "*.parquet"])
def test_marks_of_directories_are_no_files(files: str) -> None:
    """Zero bytes, as consoles and Hadoop leave them; listed without the slash at their end."""
    bucket, layout = Bucket(), Layout("{app}/{Y}/{m}/{d}/{H}", files)
    for number in range(3):
        bucket.write(f"demo/2026/01/15/10/part-{number}.parquet", b"x")
    for mark in ("demo/2026", "demo/2026/01/15", "demo/2026/01/15/10", "demo/2026/01/15/11"):
        bucket.write(mark, b"")
    for mark in ("demo", "demo/2026", "demo/2026/01/15/10", "demo/2026/01/15/10/part"):
        bucket.write(f"{mark}_$folder$", b"")
    found: dict[AppHour, int] = {}
    told = Told()

    def take(partition: AppHour, listed: list[ObjectInfo] | UnaddressableKey) -> None:
        assert isinstance(listed, list)
        found[partition] = len(listed)

    store = ModelStore(bucket).store
    asyncio.run(find_hours(store, Scope(), take, told, layout))
    [partition] = found
    assert found == {partition: 3}
    assert len(asyncio.run(list_hour(store, partition))) == 3
    assert (told.unexplained, told.unmatched) == ({}, {})
    bucket.write("demo/2026/part", b"x")
    asyncio.run(find_hours(store, Scope(), take, told, layout))
    assert told.unexplained == ({"demo": "demo/2026/part"} if files == "*" else {})


@pytest.mark.guards("red-for-ever")
@pytest.mark.parametrize("name", ["manifest.json", "events.parquet.crc.txt", "notes.md"])
def test_what_a_writer_left_beside_its_events_is_told_as_little_when_these_were_compacted(
    lake: EventLake, name: str
) -> None:
    """The first run left outputs alone beside it, and every later one failed."""
    put(lake, LAYOUTS["padded"][1])
    asyncio.run(lake.store.put(f"{LAYOUTS['padded'][1]}{name}", b"{}"))
    for run in range(3):
        done = lake.sweep(now=EARLY + DAY_LATER + run * DAY_LATER, full=True)
        assert [one.name for one in done.findings if not one.passed] == []
    assert [info.name for info in lake.objects() if info.name == name] == [name]


@pytest.mark.guards("overlooked-lake")
@pytest.mark.parametrize("outputs", [0, 1])
@pytest.mark.parametrize("suffix", ["", ".snappy.PARQUET"])
def test_a_partition_of_files_that_no_pattern_matches_is_told_until_one_does(
    lake: EventLake, suffix: str, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, LAYOUTS["padded"][1], suffix=suffix)
    for number in range(outputs):
        asyncio.run(lake.store.put(f"{LAYOUTS['padded'][1]}compacted_{number}.parquet", b"x"))
    name = f"{LAYOUTS['padded'][1]}events_0_0{suffix}"
    monkeypatch.setattr(looking, "_PAGES", 0)
    for run in range(3):
        text = finding(lake.sweep(now=EARLY + DAY_LATER + run * 3 * DAY_LATER))
        assert f"WAREHOUSE_FILES matches no file of the directories of {name}" in text, "also when it is history"
    told = asyncio.run(judge_now(lake.place(layout=Layout(files="events_*")))).findings
    assert [found.passed for found in told if found.name == EVERY_FILE_EXPLAINED] == [True]


def test_what_lies_beside_event_files_or_begins_as_engines_ignore_is_not_told(lake: EventLake) -> None:
    put(lake, LAYOUTS["padded"][1])
    for key in (f"{LAYOUTS['padded'][1]}readme.txt", f"{LAYOUTS['unpadded'][1]}_SUCCESS", f"{LAYOUTS['a day'][1]}.crc"):
        asyncio.run(lake.store.put(key, b"x"))
    assert all(found.passed for found in lake.sweep(now=EARLY + DAY_LATER).findings)


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


TABLES = {
    "_delta_log/00000000000000000000.json": "Delta",
    ".hoodie/hoodie.properties": "Hudi",
    "_spark_metadata/0": "Spark",
    "metadata/v1.metadata.json": "Iceberg",
    "metadata/version-hint.text": "Iceberg",
    "metadata/snap-1.avro": "Iceberg",
}
ONE_HOUR_ONLY = Scope((), EARLY, EARLY)


def put_table(lake: EventLake, log: str = "_delta_log/00000000000000000000.json") -> list[str]:
    """An app that is a table, beside another one; returns the keys of the table."""
    put(lake, LAYOUTS["padded"][1])
    put(lake, LAYOUTS["padded"][1].replace("demo", "table"), seed=1)
    asyncio.run(lake.store.put(f"app_id=table/{log}", b"x"))
    return keys_of_table(lake)


def keys_of_table(lake: EventLake) -> list[str]:
    return [info.key for info in lake.objects() if info.key.startswith("app_id=table/")]


@pytest.mark.guards("table-compacted")
@pytest.mark.parametrize("scope", [Scope(), ONE_HOUR_ONLY, Scope(("table",))], ids=["all", "an hour", "an app"])
@pytest.mark.parametrize(("log", "kind"), TABLES.items(), ids=list(TABLES))
def test_an_app_that_is_a_table_is_left_alone_and_told_whatever_is_looked_at(
    lake: EventLake, scope: Scope, log: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = put_table(lake, log)
    done = lake.sweep(scope, now=EARLY + DAY_LATER)
    assert {item.partition.app for item in done.outcomes} == ({"demo"} if not scope.apps else set())
    assert keys_of_table(lake) == before
    assert f"app_id=table/ belongs to a table of {kind}" in finding(done)
    monkeypatch.setattr(looking, "_PAGES", 0)
    for place in (lake.place(now=EARLY + DAY_LATER), lake.place(now=EARLY + 9 * DAY_LATER)):
        [text] = [one.text for one in asyncio.run(judge_now(place)).findings if one.name == EVERY_FILE_EXPLAINED]
        assert f"app_id=table/ belongs to a table of {kind}" in text, "it is said between two looks, too"


@pytest.mark.guards("table-compacted")
def test_a_table_whose_files_are_recent_is_left_alone_by_a_run_whose_turn_it_is_not(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, LAYOUTS["padded"][1])
    lake.sweep(now=EARLY + DAY_LATER)
    before = put_table(lake)
    monkeypatch.setattr(looking, "_PAGES", 0)
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert {item.partition.app for item in done.outcomes} == {"demo"}
    assert keys_of_table(lake) == before
    assert "app_id=table/ belongs to a table of Delta" in finding(done)


@pytest.mark.guards("table-compacted")
def test_a_table_below_an_app_that_was_seen_once_is_left_alone_by_later_runs(lake: EventLake) -> None:
    before = put_table(lake, "year=2026/_delta_log/0.json")
    lake.sweep(now=EARLY + DAY_LATER)
    for scope in (ONE_HOUR_ONLY, Scope()):
        done = lake.sweep(scope, now=EARLY + DAY_LATER)
        assert (done.outcomes, keys_of_table(lake)) == ((), before)
        assert "app_id=table/year=2026/ belongs to a table of Delta" in finding(done)


def test_a_table_that_has_gone_is_forgotten(lake: EventLake) -> None:
    put_table(lake)
    lake.sweep(now=EARLY + DAY_LATER)
    shutil.rmtree(Path(lake.url) / "app_id=table" / "_delta_log")
    done = [lake.sweep(now=EARLY + DAY_LATER + run * LATER) for run in range(3)]
    apps = [item.partition.app for one in done for item in one.outcomes]
    assert apps == ["table"], "within two rounds of the history"
    assert all(found.passed for found in done[-1].findings), done[-1].findings


def put_plan(lake: EventLake, partition: AppHour) -> None:
    plan = ReplacementPlan(
        inputs=(), output="compacted_x.parquet", upload_id="x", upload_etags=(), size_bytes=1, rows=1, sha256="x"
    )
    asyncio.run(lake.store.put(partition.slot_key, Slot(state="planned", holder="x", plan=plan).dump()))


@pytest.mark.guards("table-compacted")
@pytest.mark.parametrize("root", [True, False])
def test_what_a_crash_left_in_a_table_is_left_alone_by_recovery(lake: EventLake, *, root: bool) -> None:
    put_table(lake)
    put_plan(lake, planned := AppHour("table", EARLY))
    place = lake.place(now=EARLY + DAY_LATER)
    if root:
        asyncio.run(lake.store.put("_delta_log/0.json", b"x"))
        with pytest.raises(TableFormat, match="Delta"):
            asyncio.run(recover(place, Scope(), HourRecorder()))
    else:
        done = asyncio.run(recover(place, Scope(), HourRecorder()))
        assert done.outcomes == ()
        assert "app_id=table/ belongs to a table of Delta" in finding(done)
    assert lake.slot(planned).plan is not None


def test_an_app_of_which_it_cannot_be_seen_whether_it_is_a_table_is_left_alone_and_the_others_go_on(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_table(lake, "readme.txt")
    listing = LocalStore.list_names

    async def denied(self: LocalStore, prefix: str) -> Names:
        if prefix == "app_id=table/":
            raise AccessDenied(self.name(prefix), "access denied")
        return await listing(self, prefix)

    monkeypatch.setattr(LocalStore, "list_names", denied)
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert [item.partition.app for item in done.outcomes] == ["demo"]
    assert ["app_id=table/" in found.text for found in done.findings if found.name == EVERY_FILE_READABLE] == [True]
    put_plan(lake, AppHour("table", EARLY))
    assert asyncio.run(recover(lake.place(now=EARLY + DAY_LATER), Scope(), HourRecorder())).outcomes == ()
    monkeypatch.undo()
    (Path(lake.url) / "app_id=table" / "metadata").mkdir()
    (Path(lake.url) / "app_id=table" / "metadata" / "a\nb").touch()
    done = lake.sweep(full=True, now=EARLY + DAY_LATER)
    assert done.outcomes == ()
    assert ["app_id=table/metadata/" in found.text for found in done.findings if found.name == NO_CORRUPT_FILES] == [
        True
    ]


def test_metadata_below_an_app_that_is_not_icebergs_is_no_table(lake: EventLake) -> None:
    put_table(lake, "metadata/readme.txt")
    done = lake.sweep(now=EARLY + DAY_LATER)
    assert [item.partition.app for item in done.outcomes] == ["demo", "table"]
    assert all(found.passed for found in done.findings), done.findings


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


# ---- one place of slots, one layout, one lake ------------------------------------------------------------------------

PLAIN = Layout("{app}/year={Y}/month={m}/day={d}/hour={H}")
"""It explains `app_id=demo/year=…`, too, of an app `app_id=demo`."""
ORDERS = {"to plain": (Layout(), PLAIN), "to the default": (PLAIN, Layout())}


def crash_after_publishing(lake: EventLake, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A run that dies when its output is there, and all of its inputs."""

    async def dies(*_: object) -> list[bool]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "delete_all_unchanged", dies)
        with pytest.raises(KeyboardInterrupt):
            lake.sweep(**options)


@pytest.mark.guards("layout-doubles")
@pytest.mark.parametrize("scope", [Scope(), ONE_HOUR_ONLY], ids=["all", "an hour"])
@pytest.mark.parametrize(("before", "after"), ORDERS.values(), ids=list(ORDERS))
def test_what_another_layout_left_unfinished_is_completed_by_it_before_anything_else_is_done(
    lake: EventLake, before: Layout, after: Layout, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, LAYOUTS["padded"][1])
    rows, now = lake.rows(), EARLY + DAY_LATER
    crash_after_publishing(lake, monkeypatch, layout=before, now=now)
    doubled = [info.key for info in lake.objects()]
    assert len(doubled) == 4 + 1
    for _ in range(2):  # what is refused is not forgotten by being refused
        with pytest.raises(SettingsError, match=r"WAREHOUSE_LAYOUT: .*_compaction/.* is planned"):
            lake.sweep(scope, layout=after, now=now)
    with pytest.raises(SettingsError, match="is planned"):
        asyncio.run(judge_now(lake.place(layout=after, now=now)))
    assert [info.key for info in lake.objects()] == doubled

    [outcome] = asyncio.run(recover(lake.place(layout=before, now=now), Scope(), HourRecorder())).outcomes
    assert outcome.replacements[0].recovered
    put(lake, LAYOUTS["padded"][1], seed=1, files=2)
    assert [item.status for item in lake.sweep(scope, layout=after, now=now).outcomes] == [HourStatus.COMPACTED]
    assert sum(lake.rows().values()) == sum(rows.values()) + 2 * 50


@pytest.mark.guards("layout-doubles")
def test_a_layout_that_died_at_its_first_hour_is_not_taken_for_the_one_before(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lake, LAYOUTS["padded"][1])
    now = EARLY + DAY_LATER
    lake.sweep(layout=PLAIN, now=now)
    put(lake, LAYOUTS["padded"][1], seed=1)
    crash_after_publishing(lake, monkeypatch, now=now)
    with pytest.raises(SettingsError, match="is planned"):
        lake.sweep(layout=PLAIN, now=now)


def test_slots_of_another_layout_that_is_none_of_our_business_stop_nothing(lake: EventLake) -> None:
    put(lake, LAYOUTS["padded"][1])
    other = AppHour("", EARLY, layout=Layout("dt={Y}-{m}-{d}-{H}"))
    idle = Slot(corrupt=(Corrupt(name="x", etag="y", reason="z"),))
    for key, slot in (
        (other.slot_key, Slot(state="claimed", since=SOON)),
        (f"{SLOTS}{LAYOUTS['padded'][1].rstrip('/')}.json", idle),
    ):
        asyncio.run(lake.store.put(key, slot.dump()))
    assert [item.status for item in lake.sweep(now=EARLY + DAY_LATER).outcomes] == [HourStatus.COMPACTED]
    asyncio.run(lake.store.put(f"{SLOTS}{LAYOUTS['padded'][1].rstrip('/')}.json", b"no slot"))
    with pytest.raises(SettingsError, match="is unreadable"):
        lake.sweep(now=EARLY + DAY_LATER, full=True)


@pytest.mark.guards("slots-shared")
@pytest.mark.parametrize("inside", [True, False])
def test_two_lakes_do_not_share_a_place_of_slots(rig_directory: Path, *, inside: bool) -> None:
    first, second = (EventLake.of(Rig("local", None, rig_directory / name)) for name in ("a", "b"))
    slots = first.store if inside else open_store(str(rig_directory / "slots"), create=True)
    now = EARLY + DAY_LATER
    for lake in (first, second):
        put(lake, LAYOUTS["padded"][1])
    [one, other] = (first, second) if not inside else (second, first)
    one.sweep(slots=slots, now=now)
    before = other.objects()
    options: dict[str, Any] = {"slots": None if inside else slots, "now": now}
    for scope in (Scope(), ONE_HOUR_ONLY):
        with pytest.raises(SettingsError, match=rf"WAREHOUSE_SLOTS_URL: .*{one.store.address}.*delete .*_look.json"):
            other.sweep(scope, **options)
    with pytest.raises(SettingsError, match="WAREHOUSE_SLOTS_URL"):
        asyncio.run(judge_now(other.place(**options)))
    with pytest.raises(SettingsError, match="WAREHOUSE_SLOTS_URL"):
        asyncio.run(recover(other.place(**options), Scope(), HourRecorder()))
    assert other.objects() == before
    assert one.sweep(slots=slots, now=now).outcomes == (), "whose it is goes on"
    asyncio.run(slots.delete(LOOK_KEY))
    assert [item.status for item in other.sweep(**options).outcomes] == [HourStatus.COMPACTED], "a lake that has moved"


@pytest.mark.guards("slots-shared")
def test_a_place_of_slots_is_a_lakes_from_its_first_hour_on(
    rig_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (EventLake.of(Rig("local", None, rig_directory / name)) for name in ("a", "b"))
    slots = open_store(str(rig_directory / "slots"), create=True)
    put(first, LAYOUTS["padded"][1])
    crash_after_publishing(first, monkeypatch, slots=slots, now=EARLY + DAY_LATER)
    with pytest.raises(SettingsError, match="WAREHOUSE_SLOTS_URL"):
        second.sweep(slots=slots, now=EARLY + DAY_LATER)


def test_a_record_that_does_not_say_of_which_lake_it_is_says_nothing_where_slots_are_elsewhere(lake: EventLake) -> None:
    slots = open_store(str(lake.scratch / "slots"), create=True)
    put(lake, LAYOUTS["padded"][1])
    old = EARLY + 9 * DAY_LATER
    record = LookRecord(template=DEFAULT_TEMPLATE, seen_whole_at=old)
    asyncio.run(slots.put(LOOK_KEY, record.dump()))
    assert not asyncio.run(read_look(lake.place(slots=slots)))[0]
    asyncio.run(lake.store.put(LOOK_KEY, record.dump()))
    assert asyncio.run(read_look(lake.place()))[0] == record, "in the lake it is the lake's, wherever that has moved"
    lake.sweep(slots=slots, now=old)
    kept, _ = asyncio.run(read_look(lake.place(slots=slots)))
    assert kept is not None
    assert kept.lake == str(Path(lake.url).resolve())
