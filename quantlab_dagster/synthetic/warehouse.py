"""Deterministic analytics events, as a warehouse sink writes them: many small Parquet files of one app and hour.

Few devices send many events, in flushes of a few each, and the sink appends them in order of arrival. The files have
what makes real hours hard: events that come hours late, rows without a timestamp, schemas that differ by writer.

The same spec gives the same bytes, for one version of numpy and pyarrow.

Example:
    >>> spec = HourSpec("demo", dt.datetime(2026, 1, 15, 10, tzinfo=dt.UTC), files=40, rows=2_000)
    >>> len(list(generate_event_files(spec)))
    40
"""

import datetime as dt
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = [
    "DEVICE_COLUMNS",
    "SCHEMA",
    "EventFile",
    "HourSpec",
    "corrupt_event_file",
    "generate_event_files",
    "write_local_hour",
]

_Ints = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_T = TypeVar("_T")

_HOUR_MS = 3_600_000
_APP_ID = re.compile(r"[A-Za-z0-9_.-]+")

# So many rows and bytes of payload are drawn at once, or one file where that is more.
_ROWS_AT_ONCE = 200_000
_PAYLOAD_AT_ONCE = 64 * 1024 * 1024
# An Arrow string column ends at 2 GiB, and files and payloads vary in size.
_PAYLOAD_PER_FILE = 1024 * 1024 * 1024
# Each has random numbers of its own, so that the files and their drift do not change the rows.
_DEVICES, _ROWS, _FILES, _CORRUPT = range(4)

_DEVICE_COUNT = 500
# Flushes are Geometric(0.5) in size: a device sends two events at once, on average.
_FLUSH_GEOMETRIC = 0.5
_LATE_SHARE = 0.01
_NULL_TIMESTAMP_SHARE = 1 / 500
_NO_BATTERY_SHARE = 0.05
_CORRELATED_SHARE = 0.5
_RARE_SHARE = 0.02

# The payload of an event without items, and one item in it.
_BARE_PAYLOAD_BYTES = 74
_ITEM_BYTES = 52

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("app_id", pa.string()),
        ("device_id", pa.string()),
        ("timestamp_ms", pa.int64()),
        ("correlation_id", pa.string()),
        ("event_category", pa.string()),
        ("event_type", pa.string()),
        ("os_name", pa.string()),
        ("os_version", pa.string()),
        ("device_model", pa.string()),
        ("device_manufacturer", pa.string()),
        ("app_version", pa.string()),
        ("sdk_version", pa.string()),
        ("locale", pa.string()),
        ("country", pa.string()),
        ("carrier", pa.string()),
        ("network_type", pa.string()),
        ("screen_width", pa.int32()),
        ("screen_height", pa.int32()),
        ("battery_level", pa.int32()),
        ("is_jailbroken", pa.bool_()),
        ("is_emulator", pa.bool_()),
        ("payload_json", pa.string()),
        ("year", pa.int32()),
        ("month", pa.int32()),
        ("day", pa.int32()),
        ("hour", pa.int32()),
    ]
)
"""Columns of a file without drift, in order."""

DEVICE_COLUMNS = tuple(SCHEMA.names[SCHEMA.get_field_index("os_name") : SCHEMA.get_field_index("payload_json")])
"""The optional columns, which some files lack."""

_LABELS = (
    "app_id",
    "event_category",
    "event_type",
    *(n for n in DEVICE_COLUMNS if SCHEMA.field(n).type == pa.string()),
)


@dataclass(frozen=True, slots=True)
class HourSpec:
    """What one generated hour of one app looks like.

    Attributes:
        app_id: App as in the path and the rows: letters, digits, `_`, `.`, `-`.
        hour: Start of the hour, aware and in UTC.
        files: Number of files, each of at least one row.
        rows: Number of rows in all files together.
        seed: Another seed gives another hour of the same shape.
        drift: Whether half of the files differ in schema, and one row in 500 has no timestamp.
        payload_bytes: Average length of `payload_json`.

    Raises:
        ValueError: If the app or the hour cannot be a partition, or the rows cannot fill the files.
    """

    app_id: str
    hour: dt.datetime
    files: int
    rows: int
    seed: int = 0
    drift: bool = True
    payload_bytes: int = 120

    def __post_init__(self) -> None:
        if not _APP_ID.fullmatch(self.app_id):
            raise ValueError(f"App {self.app_id!r} cannot be in a path. Use letters, digits, '_', '.' and '-'.")
        if self.hour.utcoffset() != dt.timedelta(0):
            raise ValueError(f"Hour {self.hour.isoformat()} is not in UTC. Give it tzinfo=dt.UTC.")
        if self.hour != self.hour.replace(minute=0, second=0, microsecond=0):
            raise ValueError(f"Hour {self.hour.isoformat()} is not on the hour. Leave out its minutes.")
        if not 1 <= self.files <= self.rows:
            raise ValueError(f"{self.rows} rows cannot fill {self.files} files. Use 1 <= files <= rows.")
        if self.seed < 0:
            raise ValueError(f"Seed {self.seed} is negative. Use 0 or more.")
        if self.payload_bytes < _BARE_PAYLOAD_BYTES:
            raise ValueError(f"payload_bytes {self.payload_bytes} is too short. Use {_BARE_PAYLOAD_BYTES} or more.")
        if self.rows // self.files * self.payload_bytes > _PAYLOAD_PER_FILE:
            raise ValueError(f"{self.rows} rows are too many for {self.files} files. Use more files or less payload.")

    @property
    def prefix(self) -> str:
        """Partition below the root of the events, without a slash at either end."""
        return f"app_id={self.app_id}/year={self.hour:%Y}/month={self.hour:%m}/day={self.hour:%d}/hour={self.hour:%H}"

    @property
    def start_ms(self) -> int:
        """Start of the hour, in milliseconds since the Unix epoch (UTC)."""
        return int(self.hour.timestamp()) * 1_000


@dataclass(frozen=True, slots=True)
class EventFile:
    """One small file as the sink writes it.

    Attributes:
        name: File name, `events_<uuid>.parquet`.
        data: Parquet bytes.
    """

    name: str
    data: bytes


def generate_event_files(spec: HourSpec) -> Iterator[EventFile]:
    """Generate the files of one hour.

    Every file has the columns of `SCHEMA`, in zstd. Rows are in order of arrival, so not of `timestamp_ms`. With drift,
    of ten files each: one lacks some of `DEVICE_COLUMNS`, one has its labels dictionary-encoded, one has large strings,
    one has `battery_level` as int16, one has `carrier` as null. An hour of two files has drift already.

    Args:
        spec: The hour to generate.

    Yields:
        Exactly `spec.files` files with `spec.rows` rows in all, in order of arrival; their names are in no order.
    """
    rng = _rng(spec, _FILES)
    bounds = _file_bounds(spec, rng)
    names = _file_names(spec.files, rng)
    schemas = _schemas(spec, rng)
    row_rng = _rng(spec, _ROWS)
    for first, last in _runs_of_files(bounds, min(_ROWS_AT_ONCE, _PAYLOAD_AT_ONCE // spec.payload_bytes)):
        origin = bounds[first]
        table = _rows(spec, origin, bounds[last], row_rng)
        for name, schema, (start, stop) in zip(
            names[first:last], schemas[first:last], pairwise(bounds[first : last + 1]), strict=True
        ):
            yield EventFile(name, _parquet(_with_schema(table.slice(start - origin, stop - start), schema)))


def corrupt_event_file(spec: HourSpec) -> EventFile:
    """Make a file whose second half was lost in a crash; no generated file has its name.

    It is as long as a whole file, and begins and ends with Parquet's magic bytes, but its footer is all zeros.
    """
    whole = next(generate_event_files(replace(spec, files=1, rows=min(spec.rows, 1_000)))).data
    half = len(whole) // 2
    # The last eight bytes are the length of the footer and the magic.
    data = whole[:half] + bytes(len(whole) - half - 8) + whole[-8:]
    return EventFile(_file_names(1, _rng(spec, _CORRUPT))[0], data)


def write_local_hour(root: Path, spec: HourSpec) -> int:
    """Write the files of one hour below a local root.

    Args:
        root: Directory that stands for the root of the events; `spec.prefix` is created below it.
        spec: The hour to generate.

    Returns:
        Size of all written files, in bytes.
    """
    directory = root / spec.prefix
    directory.mkdir(parents=True, exist_ok=True)
    return sum((directory / file.name).write_bytes(file.data) for file in generate_event_files(spec))


def _rng(spec: HourSpec, purpose: int) -> np.random.Generator:
    # Two apps or hours of one seed must not share ids, so the partition is part of the seed.
    return np.random.default_rng([spec.seed, zlib.crc32(spec.prefix.encode()), purpose])


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


# -- Files -----------------------------------------------------------------------------------------------------------


def _file_bounds(spec: HourSpec, rng: np.random.Generator) -> list[int]:
    """Cut the rows into non-empty files of similar size: `files + 1` ascending row numbers."""
    shares = np.concatenate([[0.0], np.cumsum(rng.uniform(0.8, 1.2, spec.files))])
    spare = spec.rows - spec.files
    bounds: list[int] = (np.rint(shares / shares[-1] * spare).astype(np.int64) + np.arange(spec.files + 1)).tolist()
    return bounds


def _file_names(count: int, rng: np.random.Generator) -> list[str]:
    return [f"events_{uuid}.parquet" for uuid in _uuids(count, rng).to_pylist()]


def _runs_of_files(bounds: list[int], most_rows: int) -> Iterator[tuple[int, int]]:
    """Group neighbouring files into runs of at most `most_rows` rows, or of one file."""
    files = len(bounds) - 1
    first = 0
    for last in range(1, files + 1):
        if last == files or bounds[last + 1] - bounds[first] > most_rows:
            yield first, last
            first = last


def _schemas(spec: HourSpec, rng: np.random.Generator) -> list[pa.Schema]:
    """The schema of each file; every kind of drift occurs in ten files of any hour."""
    schemas = [SCHEMA] * spec.files
    if spec.drift:
        for file, place in enumerate(rng.permutation(spec.files).tolist()):
            if place % 10 == _LACKING:
                lacking = set(rng.choice(DEVICE_COLUMNS, int(rng.integers(1, 5)), replace=False).tolist())
                schemas[file] = pa.schema([field for field in SCHEMA if field.name not in lacking])
            else:
                schemas[file] = _DRIFTED.get(place % 10, SCHEMA)
    return schemas


def _retyped(types: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema([(field.name, types.get(field.name, field.type)) for field in SCHEMA])


_LACKING = 1
_DRIFTED = {
    3: _retyped(dict.fromkeys(_LABELS, pa.dictionary(pa.int32(), pa.string()))),
    5: _retyped({field.name: pa.large_string() for field in SCHEMA if field.type == pa.string()}),
    7: _retyped({"battery_level": pa.int16()}),
    9: _retyped({"carrier": pa.null()}),
}
"""Schemas by the last digit of a file's place in a shuffled order of the hour's files."""


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if schema is SCHEMA:
        return table
    columns = []
    for field in schema:
        column = table.column(field.name)
        columns.append(pa.nulls(table.num_rows) if pa.types.is_null(field.type) else column.cast(field.type))
    return pa.table(columns, schema=schema)


# -- Columns ---------------------------------------------------------------------------------------------------------


def _rows(spec: HourSpec, start: int, stop: int, rng: np.random.Generator) -> pa.Table:
    """Draw the rows `start` to `stop` of an hour, in order of arrival."""
    rows = stop - start
    flush = np.repeat(np.arange(rows), rng.geometric(_FLUSH_GEOMETRIC, rows))[:rows]
    flushes = int(flush[-1]) + 1
    # What all events of a flush have in common is drawn once.
    batteries = rng.integers(1, 101, flushes).astype(np.int32)
    correlations = _uuids(flushes, rng)
    shared: pa.Table = _device_pool(spec.app_id, spec.seed).take(pa.array(_skewed(_DEVICE_COUNT, flushes, rng)))
    for name, values in {
        "battery_level": pa.array(batteries, mask=rng.random(flushes) < _NO_BATTERY_SHARE),
        "network_type": _NETWORKS.take(pa.array(_skewed(len(_NETWORKS), flushes, rng))),
        "correlation_id": pc.if_else(pa.array(rng.random(flushes) < _CORRELATED_SHARE), correlations, None),
    }.items():
        shared = shared.append_column(name, values)
    shared = shared.take(pa.array(flush))
    events = _EVENTS.take(pa.array(_skewed(_EVENTS.num_rows, rows, rng)))
    hour = spec.hour
    partition = {"app_id": spec.app_id, "year": hour.year, "month": hour.month, "day": hour.day, "hour": hour.hour}
    columns = {
        **{name: shared.column(name) for name in shared.column_names},
        **{name: events.column(name) for name in events.column_names},
        **{name: pa.repeat(pa.scalar(value, SCHEMA.field(name).type), rows) for name, value in partition.items()},
        "id": _uuids(rows, rng),
        "timestamp_ms": _timestamps(spec, start, flush, rng),
        "payload_json": _payloads(spec, rows, rng),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _timestamps(spec: HourSpec, start: int, flush: _Ints, rng: np.random.Generator) -> pa.Array:
    """Draw when the events happened: seconds before they arrive, or hours if the device was offline."""
    flushes = int(flush[-1]) + 1
    delay = rng.lognormal(8.0, 1.0, flushes)
    late = rng.random(flushes) < _LATE_SHARE
    delay[late] += _HOUR_MS + rng.exponential(3 * _HOUR_MS, int(late.sum()))
    # A flush arrives as a whole; the clock of the sink runs evenly through the hour.
    first_rows = start + np.flatnonzero(np.diff(flush, prepend=-1))
    arrival = (first_rows + 1) / spec.rows * (_HOUR_MS - 1)
    happened = (arrival - delay)[flush] - rng.exponential(2_000.0, flush.size)
    no_timestamp = rng.random(flush.size) < _NULL_TIMESTAMP_SHARE
    return pa.array(happened.astype(np.int64) + spec.start_ms, mask=no_timestamp if spec.drift else None)


def _payloads(spec: HourSpec, rows: int, rng: np.random.Generator) -> pa.Array:
    """Draw JSON objects: the same keys everywhere, some labels, some tokens, a list of varying length."""
    mean_items = (spec.payload_bytes - _BARE_PAYLOAD_BYTES) / _ITEM_BYTES
    counts = rng.negative_binomial(2, 2 / (2 + mean_items), rows)
    total = int(counts.sum())
    prices, quantities = _numbers(99, 99_999, total, rng), _numbers(1, 4, total, rng)
    items = _join('{"sku":"', _tokens(14, total, rng), '","price":', prices, ',"quantity":', quantities, "}")
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lists = pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), items), ",")
    screens = _SCREENS.take(pa.array(_skewed(len(_SCREENS), rows, rng)))
    traces, durations = _tokens(24, rows, rng), _numbers(1, 9_999, rows, rng)
    return _join('{"screen":"', screens, '","trace":"', traces, '","ms":', durations, ',"items":[', lists, "]}")


def _join(*pieces: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*pieces, "")


def _skewed(labels: int, count: int, rng: np.random.Generator) -> _Ints:
    """Draw numbers below `labels`, the lower the more often."""
    return (labels * rng.random(count) ** 2).astype(np.int64)


def _numbers(low: int, high: int, count: int, rng: np.random.Generator) -> pa.Array:
    return pa.array(rng.integers(low, high + 1, count)).cast(pa.string())


def _tokens(length: int, count: int, rng: np.random.Generator) -> pa.Array:
    """Draw strings of random letters and digits."""
    return _strings(_TOKEN_LETTERS[rng.integers(0, _TOKEN_LETTERS.size, (count, length))])


def _uuids(count: int, rng: np.random.Generator) -> pa.Array:
    """Draw UUIDs of version 4."""
    drawn = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    drawn[:, 6] = drawn[:, 6] & 0x0F | 0x40
    drawn[:, 8] = drawn[:, 8] & 0x3F | 0x80
    text = np.full((count, 36), ord("-"), dtype=np.uint8)
    text[:, _UUID_DIGITS[0::2]] = _HEX_DIGITS[drawn >> 4]
    text[:, _UUID_DIGITS[1::2]] = _HEX_DIGITS[drawn & 15]
    return _strings(text)


def _strings(letters: _Bytes) -> pa.Array:
    """Make a string of each row of ASCII letters."""
    count, length = letters.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(length)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(letters)))


# -- Labels ----------------------------------------------------------------------------------------------------------

_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_UUID_DIGITS = np.array([place for place in range(36) if place not in {8, 13, 18, 23}])
_TOKEN_LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", dtype=np.uint8)

_NETWORKS = pa.array(["wifi", "5g", "4g", "3g", "offline"])
_SCREENS = pa.array(["home", "product", "search", "cart", "checkout", "profile", "settings", "orders", "login", "help"])
_EVENT_TYPES = {
    "navigation": ["screen_view", "tab_change", "deep_link"],
    "interaction": ["tap", "scroll", "swipe", "long_press"],
    "commerce": ["product_view", "add_to_cart", "remove_from_cart", "purchase"],
    "session": ["session_start", "session_end", "heartbeat"],
    "performance": ["network_request", "slow_frame"],
    "error": ["exception", "crash"],
}
_EVENTS = pa.table(
    {
        "event_category": [category for category, types in _EVENT_TYPES.items() for _ in types],
        "event_type": [event_type for types in _EVENT_TYPES.values() for event_type in types],
    }
)

_MODELS = (
    ("iOS", "iPhone15,3", "Apple", 1290, 2796),
    ("iOS", "iPhone14,5", "Apple", 1170, 2532),
    ("Android", "SM-S918B", "Samsung", 1440, 3088),
    ("Android", "Pixel 8", "Google", 1080, 2400),
    ("Android", "SM-A546B", "Samsung", 1080, 2340),
    ("iOS", "iPad13,4", "Apple", 1668, 2388),
    ("Android", "23021RAAEG", "Xiaomi", 1080, 2400),
    ("Android", "CPH2449", "OnePlus", 1440, 3216),
)
_OS_VERSIONS = {"iOS": ("18.2", "18.1.1", "17.6.1", "16.7.10"), "Android": ("15", "14", "13", "12")}
_PLACES = (
    ("en_US", "US", "Verizon"),
    ("en_US", "US", "T-Mobile"),
    ("de_DE", "DE", "Telekom.de"),
    ("en_GB", "GB", "EE"),
    ("fr_FR", "FR", "Orange F"),
    ("de_DE", "DE", None),
    ("es_ES", "ES", "Movistar"),
    ("ja_JP", "JP", "NTT DOCOMO"),
    ("pt_BR", "BR", "Vivo"),
    ("en_US", "US", None),
)
_APP_VERSIONS = (("4.12.0", "2.8.1"), ("4.11.3", "2.8.1"), ("4.11.0", "2.8.0"), ("4.9.2", "2.6.4"), ("3.20.5", "2.1.0"))


@lru_cache(maxsize=64)
def _device_pool(app_id: str, seed: int) -> pa.Table:
    """Draw the devices of an app, which are the same in all hours."""
    rng = np.random.default_rng([seed, zlib.crc32(app_id.encode()), _DEVICES])
    models, versions = _chosen(_MODELS, rng), _chosen(range(4), rng)
    places, apps = _chosen(_PLACES, rng), _chosen(_APP_VERSIONS, rng)
    columns = {
        "device_id": _uuids(_DEVICE_COUNT, rng),
        "os_version": [_OS_VERSIONS[model[0]][version] for model, version in zip(models, versions, strict=True)],
        "is_jailbroken": rng.random(_DEVICE_COUNT) < _RARE_SHARE,
        "is_emulator": rng.random(_DEVICE_COUNT) < _RARE_SHARE,
    }
    for names, rows in (
        (("os_name", "device_model", "device_manufacturer", "screen_width", "screen_height"), models),
        (("locale", "country", "carrier"), places),
        (("app_version", "sdk_version"), apps),
    ):
        columns |= dict(zip(names, zip(*rows, strict=True), strict=True))
    return pa.table(columns, schema=pa.schema([SCHEMA.field(name) for name in columns]))


def _chosen(choices: Sequence[_T], rng: np.random.Generator) -> list[_T]:
    return [choices[place] for place in _skewed(len(choices), _DEVICE_COUNT, rng).tolist()]
