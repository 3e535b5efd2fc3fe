"""The generated hours have the shape, the grammar and the trouble of real ones."""

import datetime as dt
import json
import re
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.synthetic import warehouse
from quantlab_dagster.synthetic.warehouse import (
    DEVICE_COLUMNS,
    SCHEMA,
    EventFile,
    HourSpec,
    corrupt_event_file,
    generate_event_files,
    write_local_hour,
)

TEN = dt.datetime(2026, 1, 15, 10, tzinfo=dt.UTC)
HOUR_MS = 3_600_000
SMALL = HourSpec("demo", TEN, files=40, rows=2_000)
LARGE = HourSpec("demo", TEN, files=40, rows=40_000)
NAME = re.compile(r"events_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.parquet")
UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"


def read(file: EventFile) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(file.data)).read()


def read_hour(spec: HourSpec) -> pa.Table:
    """All rows of an hour, in one schema."""
    return pa.concat_tables(
        [undictionaried(read(file)) for file in generate_event_files(spec)], promote_options="permissive"
    )


def undictionaried(table: pa.Table) -> pa.Table:
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(plain))


def drift_of(schema: pa.Schema) -> str:
    types = set(schema.types)
    if schema.names != SCHEMA.names:
        return "lacking"
    if schema.field("carrier").type == pa.null():
        return "null"
    if any(map(pa.types.is_dictionary, types)):
        return "dictionary"
    if pa.large_string() in types:
        return "large"
    return "narrow" if pa.int16() in types else "none"


@pytest.fixture(scope="module")
def files() -> list[EventFile]:
    return list(generate_event_files(LARGE))


@pytest.fixture(scope="module")
def tables(files: list[EventFile]) -> list[pa.Table]:
    return [read(file) for file in files]


@pytest.fixture(scope="module")
def hour() -> pa.Table:
    return read_hour(LARGE)


def test_same_spec_gives_same_bytes() -> None:
    first = list(generate_event_files(SMALL))
    warehouse._device_pool.cache_clear()
    assert first == list(generate_event_files(SMALL))


@pytest.mark.parametrize(
    "other",
    [replace(SMALL, seed=1), replace(SMALL, app_id="shop"), replace(SMALL, hour=TEN + dt.timedelta(hours=1))],
)
def test_hours_share_neither_ids_nor_names(other: HourSpec) -> None:
    assert set(read_hour(SMALL)["id"].to_pylist()).isdisjoint(read_hour(other)["id"].to_pylist())
    names = {file.name for file in generate_event_files(SMALL)}
    assert names.isdisjoint(file.name for file in generate_event_files(other))


def test_hours_of_an_app_share_devices() -> None:
    later = replace(SMALL, hour=TEN + dt.timedelta(hours=5))
    shared = set(read_hour(SMALL)["device_id"].to_pylist()) & set(read_hour(later)["device_id"].to_pylist())
    assert len(shared) > 100


@pytest.mark.parametrize(("files", "rows"), [(1, 1), (2, 2), (1, 1_000), (2, 3), (7, 1_000), (100, 100), (50, 12_345)])
@pytest.mark.parametrize("drift", [True, False])
def test_counts_are_exact(files: int, rows: int, drift: bool) -> None:
    made = list(generate_event_files(replace(SMALL, files=files, rows=rows, drift=drift)))
    counts = [pq.read_metadata(pa.BufferReader(file.data)).num_rows for file in made]
    assert len(made) == files
    assert sum(counts) == rows
    assert min(counts) >= 1


@pytest.mark.parametrize("rows_at_once", [1, 60, 333, 1_999])
def test_counts_and_ids_hold_however_many_rows_are_drawn_at_once(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warehouse, "_ROWS_AT_ONCE", rows_at_once)
    hour = read_hour(SMALL)
    assert hour.num_rows == SMALL.rows
    assert len(hour["id"].unique()) == SMALL.rows


def test_names_are_unique_and_well_formed(files: list[EventFile]) -> None:
    names = [file.name for file in files]
    assert len(set(names)) == LARGE.files
    assert all(NAME.fullmatch(name) for name in names)
    assert names != sorted(names)


def test_columns_and_types_without_drift() -> None:
    for file in generate_event_files(replace(SMALL, drift=False)):
        parquet = pq.ParquetFile(pa.BufferReader(file.data))
        assert parquet.schema_arrow == SCHEMA
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_schema_is_that_of_the_lake() -> None:
    strings = ["os_name", "os_version", "device_model", "device_manufacturer", "app_version", "sdk_version"]
    strings += ["locale", "country", "carrier", "network_type"]
    integers = ["screen_width", "screen_height", "battery_level"]
    assert list(DEVICE_COLUMNS) == [*strings, *integers, "is_jailbroken", "is_emulator"]
    ids = ["id", "app_id", "device_id", "timestamp_ms", "correlation_id", "event_category", "event_type"]
    assert SCHEMA.names == [*ids, *DEVICE_COLUMNS, "payload_json", "year", "month", "day", "hour"]
    others = dict.fromkeys([*integers, "year", "month", "day", "hour"], pa.int32()) | {"timestamp_ms": pa.int64()}
    others |= dict.fromkeys(["is_jailbroken", "is_emulator"], pa.bool_())
    assert SCHEMA.types == [others.get(name, pa.string()) for name in SCHEMA.names]


def test_every_drift_occurs(tables: list[pa.Table]) -> None:
    kinds = [drift_of(table.schema) for table in tables]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "none": 20,
        "lacking": 4,
        "dictionary": 4,
        "large": 4,
        "narrow": 4,
        "null": 4,
    }


@pytest.mark.parametrize("seed", range(5))
def test_ten_files_have_every_drift_and_one_has_none(seed: int) -> None:
    ten = replace(SMALL, files=10, seed=seed)
    assert len({drift_of(read(file).schema) for file in generate_event_files(ten)}) == 6
    one = replace(SMALL, files=1, seed=seed)
    assert {drift_of(read(file).schema) for file in generate_event_files(one)} == {"none"}


def test_drift_leaves_the_other_columns_alone(tables: list[pa.Table]) -> None:
    for table in tables:
        lacking = set(SCHEMA.names) - set(table.column_names)
        assert lacking <= set(DEVICE_COLUMNS)
        assert len(lacking) <= 4
        assert table.column_names == [name for name in SCHEMA.names if name not in lacking]
        for name in ("timestamp_ms", "screen_width", "is_jailbroken", "year", "hour"):
            if name not in lacking:
                assert table.schema.field(name).type == SCHEMA.field(name).type


def test_drift_changes_no_value(tables: list[pa.Table]) -> None:
    for drifted, file in zip(tables, generate_event_files(replace(LARGE, drift=False)), strict=True):
        plain = read(file)
        for name in set(drifted.column_names) - {"timestamp_ms", "carrier"}:
            assert undictionaried(drifted)[name].cast(SCHEMA.field(name).type) == plain[name]


def test_ids_are_unique(hour: pa.Table) -> None:
    assert len(hour["id"].unique()) == LARGE.rows
    assert pl.Series(hour["id"]).str.contains(UUID).all()


def test_timestamps(hour: pa.Table) -> None:
    stamps = hour["timestamp_ms"].drop_null().to_numpy() - LARGE.start_ms
    assert hour["timestamp_ms"].null_count / LARGE.rows == pytest.approx(1 / 500, rel=0.5)
    assert stamps.max() < HOUR_MS
    assert ((stamps >= 0) & (stamps < HOUR_MS)).mean() > 0.97
    assert 0.002 < (stamps < -HOUR_MS).mean() < 0.02


def test_without_drift_every_row_has_a_timestamp() -> None:
    assert read_hour(replace(LARGE, drift=False))["timestamp_ms"].null_count == 0


@pytest.mark.parametrize("drift", [True, False])
def test_rows_are_not_sorted(drift: bool) -> None:
    for file in generate_event_files(replace(SMALL, drift=drift)):
        assert (np.diff(read(file)["timestamp_ms"].drop_null().to_numpy()) < 0).any()


def test_partition_columns_are_those_of_the_path(hour: pa.Table) -> None:
    for name, value in {"app_id": "demo", "year": 2026, "month": 1, "day": 15, "hour": 10}.items():
        assert hour[name].unique().to_pylist() == [value]


def test_few_devices_send_many_events(hour: pa.Table) -> None:
    assert 300 < len(hour["device_id"].unique()) <= 500
    assert pl.Series(hour["device_id"]).str.contains(UUID).all()
    assert len(hour["event_category"].unique()) == 6
    assert len(hour["event_type"].unique()) == 18


def test_a_device_stays_what_it_is() -> None:
    hour = pl.DataFrame(read_hour(replace(LARGE, drift=False)))
    fixed = [name for name in DEVICE_COLUMNS if name not in {"battery_level", "network_type"}]
    assert hour.select("device_id", *fixed).unique().height == hour["device_id"].n_unique()


def test_optional_columns_are_sometimes_null() -> None:
    hour = read_hour(replace(LARGE, drift=False))
    assert hour["correlation_id"].null_count / LARGE.rows == pytest.approx(0.5, abs=0.02)
    nullable = {name for name in hour.column_names if hour[name].null_count}
    assert nullable == {"correlation_id", "carrier", "battery_level"}


@pytest.mark.parametrize("payload_bytes", [74, 120, 1_000])
def test_payloads_are_json_of_varying_length(payload_bytes: int) -> None:
    spec = HourSpec("demo", TEN, files=1, rows=10_000, payload_bytes=payload_bytes)
    payloads = read_hour(spec)["payload_json"].to_pylist()
    lengths = np.array([len(payload) for payload in payloads])
    assert lengths.mean() == pytest.approx(payload_bytes, rel=0.05)
    assert len(set(lengths.tolist())) > 5
    assert len(set(payloads)) == spec.rows
    assert all(set(json.loads(payload)) == {"screen", "trace", "ms", "items"} for payload in payloads)


@pytest.mark.parametrize(
    ("rows", "least", "most"), [(50, 12_000, 16_000), (4_000, 300_000, 400_000), (7_000, 520_000, 680_000)]
)
def test_file_size(rows: int, least: int, most: int) -> None:
    spec = replace(SMALL, files=10, rows=10 * rows, drift=False)
    assert least < np.mean([len(file.data) for file in generate_event_files(spec)]) < most


def test_corrupt_file(files: list[EventFile], tmp_path: Path) -> None:
    file = corrupt_event_file(LARGE)
    assert file == corrupt_event_file(LARGE)
    assert NAME.fullmatch(file.name)
    assert file.name not in {other.name for other in files}
    assert file.data.startswith(b"PAR1")
    assert file.data.endswith(b"PAR1")
    path = tmp_path / file.name
    path.write_bytes(file.data)
    with pytest.raises(OSError, match="Couldn't deserialize thrift"):
        pq.read_table(path)
    with pytest.raises(pl.exceptions.ComputeError):
        pl.read_parquet(path)
    with pytest.raises(duckdb.Error):
        duckdb.read_parquet(str(path)).fetchall()


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_corrupt_file_of_a_tiny_hour(rows: int) -> None:
    file = corrupt_event_file(replace(SMALL, files=1, rows=rows))
    with pytest.raises(OSError, match="Couldn't deserialize thrift"):
        read(file)


def test_write_local_hour(tmp_path: Path) -> None:
    size_bytes = write_local_hour(tmp_path, SMALL)
    directory = tmp_path / "app_id=demo" / "year=2026" / "month=01" / "day=15" / "hour=10"
    written = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert written == {file.name: file.data for file in generate_event_files(SMALL)}
    assert size_bytes == sum(map(len, written.values()))


def test_duckdb_reads_a_whole_hour(tmp_path: Path) -> None:
    write_local_hour(tmp_path, LARGE)
    glob = tmp_path / LARGE.prefix / "*.parquet"
    hour = duckdb.read_parquet(str(glob), union_by_name=True, hive_partitioning=False)
    assert set(hour.columns) == set(SCHEMA.names)
    counted = hour.aggregate("count(*), count(distinct id), count(carrier), min(hour), max(hour)").fetchall()
    (rows, ids, carriers, first, last) = counted[0]
    assert (rows, ids, first, last) == (LARGE.rows, LARGE.rows, 10, 10)
    assert 0.5 < carriers / LARGE.rows < 0.9


def test_polars_reads_every_file(tmp_path: Path) -> None:
    write_local_hour(tmp_path, SMALL)
    assert sum(pl.read_parquet(path).height for path in (tmp_path / SMALL.prefix).iterdir()) == SMALL.rows


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"app_id": ""}, "App '' cannot be in a path"),
        ({"app_id": "a/b"}, "App 'a/b' cannot be in a path"),
        ({"app_id": "demo\n"}, "cannot be in a path"),
        ({"hour": TEN.replace(tzinfo=None)}, "2026-01-15T10:00:00 is not in UTC"),
        ({"hour": TEN.astimezone(dt.timezone(dt.timedelta(hours=2)))}, "is not in UTC"),
        ({"hour": TEN.replace(minute=30)}, "is not on the hour"),
        ({"hour": TEN.replace(microsecond=1)}, "is not on the hour"),
        ({"files": 0}, "2000 rows cannot fill 0 files"),
        ({"files": 2_001}, "2000 rows cannot fill 2001 files"),
        ({"rows": 0}, "0 rows cannot fill 40 files"),
        ({"rows": 10**9}, "1000000000 rows are too many for 40 files"),
        ({"seed": -1}, "Seed -1 is negative"),
        ({"payload_bytes": 73}, "payload_bytes 73 is too short"),
    ],
)
def test_impossible_specs_are_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **bad)  # type: ignore[arg-type]
