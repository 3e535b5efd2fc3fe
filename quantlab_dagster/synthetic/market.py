"""Deterministic raw market data: a whole symbol-day of small Parquet parts from a seed and a size.

A day is drawn as arrays in event order, put into order of arrival, and cut into parts. It has what makes real raw
days hard: events that tie, parts that overlap, late backlogs after a reconnect, rows of the neighbouring day, a
collector that restarts.

The same spec gives the same bytes, for one version of numpy and pyarrow.

Example:
    >>> spec = DaySpec("binance", "bbo", "adausdt", dt.date(2026, 1, 8), parts=3, rows=3_000)
    >>> len(list(generate_parts(spec)))
    3
"""

import datetime as dt
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = [
    "FOREIGN_FILES",
    "REAL_DAY",
    "STREAMS",
    "DaySpec",
    "RawPart",
    "corrupt_part",
    "empty_part",
    "generate_parts",
    "write_local_day",
]

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]

_DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_FUNDING_INTERVAL_MS = 8 * 3_600_000
_MAX_COUNTER = 999_999

# Burst sizes are 1 + Geometric(0.6), 2.67 rows on average; with this share of bursts a third of all rows tie.
_BURST_GEOMETRIC = 0.6
_BURST_SHARE = 1 / (2 * (1 + 1 / _BURST_GEOMETRIC) + 1)
_HELD_BACK_SHARE = 0.02
# Backlogs per part. Some are cut in two, so that a little more than this share of parts is late.
_LATE_PART_SHARE = 0.01
_DICTIONARY_PART_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class DaySpec:
    """What one generated symbol-day looks like.

    Attributes:
        exchange: Exchange as in the path, for example `binance`.
        stream: One of `STREAMS`.
        symbol: Symbol as in the path, lower case; the rows carry it in upper case.
        day: UTC day on which the collector received the rows.
        parts: Number of parts, each of at least one row.
        rows: Number of rows in all parts together.
        seed: Another seed gives another day of the same shape.

    Raises:
        ValueError: If the stream is unknown or the rows cannot fill the parts.
    """

    exchange: str
    stream: str
    symbol: str
    day: dt.date
    parts: int
    rows: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise ValueError(f"Unknown stream {self.stream!r}. Use one of: {', '.join(STREAMS)}.")
        # The last two counters belong to the empty and the corrupt part.
        most = min(self.rows, _MAX_COUNTER - 2)
        if not 1 <= self.parts <= most:
            raise ValueError(f"{self.rows} rows fill 1 to {most} parts, not {self.parts}. Change parts or rows.")

    @property
    def prefix(self) -> str:
        """Directory of the symbol-day in the raw bucket, without a slash at either end."""
        return f"exchange={self.exchange}/stream={self.stream}/symbol={self.symbol}/date={self.day:%Y%m%d}"

    @property
    def midnight_ms(self) -> int:
        """Start of the day, in milliseconds since the Unix epoch (UTC)."""
        return (self.day - dt.date(1970, 1, 1)).days * _DAY_MS


@dataclass(frozen=True, slots=True)
class RawPart:
    """One small file as a collector flushes it.

    Attributes:
        name: File name, `part-<unix seconds of the flush>-<flush counter, 6 digits>.parquet`.
        data: Parquet bytes.
    """

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Instrument:
    """Grid and level of one symbol's prices (quote currency) and quantities (base currency)."""

    price: float
    price_decimals: int
    quantity: float
    quantity_decimals: int


_INSTRUMENTS = {
    "adausdt": _Instrument(price=0.39, price_decimals=4, quantity=50_000, quantity_decimals=0),
    "btcusdt": _Instrument(price=91_000, price_decimals=1, quantity=2.5, quantity_decimals=3),
    "ethusdt": _Instrument(price=3_150, price_decimals=2, quantity=30, quantity_decimals=3),
    "solusdt": _Instrument(price=138, price_decimals=2, quantity=400, quantity_decimals=2),
}
_OTHER_INSTRUMENT = _Instrument(price=2, price_decimals=4, quantity=5_000, quantity_decimals=1)


def generate_parts(spec: DaySpec) -> Iterator[RawPart]:
    """Generate the parts of one symbol-day.

    Every part has the columns `ts_event`, `ts_recv` (int64, milliseconds since the Unix epoch), `exchange`, `symbol`,
    `stream` (string; dictionary-encoded in about one part of five), `stream_version` (int8), then the stream's own.
    Rows are in order of `ts_recv`, so not of `ts_event`.

    Args:
        spec: The day to generate.

    Yields:
        Exactly `spec.parts` parts with `spec.rows` rows in all, in a shuffled order. The byte order of their names is
        the order of their flushes.
    """
    rng = _rng(spec)
    plain = _day_table(spec, rng)
    encoded = _dictionary_encoded(plain)
    bounds = _part_bounds(spec, rng)
    last_recv_ms = plain.column("ts_recv").to_numpy()[bounds[1:] - 1]
    names = _part_names(spec, last_recv_ms, rng)
    is_encoded = rng.random(spec.parts) < _DICTIONARY_PART_SHARE
    for index in rng.permutation(spec.parts).tolist():
        table = encoded if is_encoded[index] else plain
        start, stop = int(bounds[index]), int(bounds[index + 1])
        yield RawPart(names[index], _parquet(table.slice(start, stop - start)))


def empty_part(spec: DaySpec) -> RawPart:
    """Make a part without rows, in the schema of the day; no generated part has its name."""
    one_row = replace(spec, parts=1, rows=1)
    table = _day_table(one_row, _rng(one_row))
    return RawPart(_noon_name(spec, _MAX_COUNTER), _parquet(table.slice(0, 0)))


def corrupt_part(spec: DaySpec) -> RawPart:
    """Make a part whose upload broke off: its first bytes are Parquet, its footer is missing."""
    one_part = replace(spec, parts=1, rows=min(spec.rows, 1_000))
    whole = next(generate_parts(one_part)).data
    return RawPart(_noon_name(spec, _MAX_COUNTER - 1), whole[: len(whole) * 3 // 5])


def write_local_day(root: Path, spec: DaySpec) -> int:
    """Write the parts of one symbol-day below a local raw lake.

    Args:
        root: Directory that stands for the raw bucket; `spec.prefix` is created below it.
        spec: The day to generate.

    Returns:
        Size of all written parts, in bytes.
    """
    directory = root / spec.prefix
    directory.mkdir(parents=True, exist_ok=True)
    return sum((directory / part.name).write_bytes(part.data) for part in generate_parts(spec))


def _rng(spec: DaySpec) -> np.random.Generator:
    # Two symbols of one seed must not move together, so the directory is part of the seed.
    return np.random.default_rng([spec.seed, zlib.crc32(spec.prefix.encode())])


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


# -- Time ------------------------------------------------------------------------------------------------------------


def _event_times(rows: int, rng: np.random.Generator) -> _Ints:
    """Draw `rows` event times in ascending order, in ms since midnight; a third of them tie with another."""
    sizes = np.where(rng.random(rows) < _BURST_SHARE, 1 + rng.geometric(_BURST_GEOMETRIC, rows), 1)
    instants = int(np.searchsorted(np.cumsum(sizes), rows)) + 1
    # Exponential gaps are uniform order statistics; the quantile function of the day's activity bends them.
    gaps = np.cumsum(rng.standard_exponential(instants + 1))
    activity = np.concatenate([[0.0], np.cumsum(_activity_by_minute(rng))])
    minutes = np.interp(gaps[:-1] / gaps[-1], activity / activity[-1], np.arange(activity.size))
    # Instants become distinct, so that ties come from bursts alone and their share does not hang on the size.
    ranks = np.arange(instants)
    times = np.maximum.accumulate((minutes * _MINUTE_MS).astype(np.int64) - ranks) + ranks
    # A few rows of the neighbouring days: on the way over midnight, and from an exchange clock that is ahead.
    strays = min(3, instants // 10)
    times[:strays] = 40 * np.arange(-strays, 0)
    times[instants - strays :] = _DAY_MS + 3 * np.arange(strays)
    return np.repeat(times, sizes[:instants])[:rows]


def _activity_by_minute(rng: np.random.Generator) -> _Floats:
    minute = np.arange(1_440)
    busy_hours = 1 + 0.5 * np.sin(2 * np.pi * (minute - 540) / 1_440) + 0.2 * np.sin(4 * np.pi * minute / 1_440)
    rushes = np.where(rng.random(minute.size) < 0.01, 4.0, 1.0)  # noqa: PLR2004 - one minute in a hundred
    return np.asarray(busy_hours * rushes * rng.lognormal(0.0, 0.4, minute.size))


def _arrival_times(spec: DaySpec, events: _Ints, rng: np.random.Generator) -> _Ints:
    """Draw when each row reaches the collector, in ms since midnight and always within the day."""
    part_ms = _DAY_MS / spec.parts
    delay = 2 + rng.lognormal(2.0, 0.8, spec.rows)
    # Delays that scale with the parts let small days overlap like real ones.
    held_back = rng.random(spec.rows) < _HELD_BACK_SHARE
    delay[held_back] += rng.exponential(part_ms / 8, int(held_back.sum()))
    backlog_rows = max(1, spec.rows // spec.parts // 3)
    late_parts = max(1, round(spec.parts * _LATE_PART_SHARE)) if spec.parts > 1 else 0
    for start in rng.integers(0, max(1, int(spec.rows * 0.9)), late_parts).tolist():
        # All that an outage held back arrives at once, when the connection is there again.
        missed = slice(start, start + backlog_rows)
        delay[missed] += part_ms + rng.uniform(2, 10) * _MINUTE_MS + events[missed][-1] - events[missed]
    return np.clip(events + delay.astype(np.int64), 0, _DAY_MS - 1)


# -- Parts -----------------------------------------------------------------------------------------------------------


def _part_bounds(spec: DaySpec, rng: np.random.Generator) -> _Ints:
    """Cut the rows into non-empty parts of nearly equal size: `parts + 1` ascending row numbers."""
    shares = np.concatenate([[0.0], np.cumsum(rng.uniform(0.9, 1.1, spec.parts))])
    spare = spec.rows - spec.parts
    bounds = np.rint(shares / shares[-1] * spare).astype(np.int64)
    return np.asarray(bounds + np.arange(spec.parts + 1))


def _part_names(spec: DaySpec, last_recv_ms: _Ints, rng: np.random.Generator) -> list[str]:
    flushed = last_recv_ms // 1_000 + 1
    counters = np.arange(1, spec.parts + 1)
    if spec.parts > 1:
        restart = int(rng.integers(spec.parts // 3, spec.parts * 2 // 3)) + 1
        counters[restart:] -= restart
        # A restarted collector never flushes in the second of its last flush: names stay unique and in flush order.
        flushed[restart:] = np.maximum(flushed[restart:], flushed[restart - 1] + 1)
    return [_part_name(second, counter) for second, counter in zip(flushed.tolist(), counters.tolist(), strict=True)]


def _part_name(flushed_s: int, counter: int) -> str:
    return f"part-{flushed_s}-{counter:06d}.parquet"


def _noon_name(spec: DaySpec, counter: int) -> str:
    return _part_name((spec.midnight_ms + _DAY_MS // 2) // 1_000, counter)


# -- Columns ---------------------------------------------------------------------------------------------------------


def _day_table(spec: DaySpec, rng: np.random.Generator) -> pa.Table:
    """Draw the whole day as one table in order of arrival."""
    events = _event_times(spec.rows, rng)
    arrivals = _arrival_times(spec, events, rng)
    ts_event = events + spec.midnight_ms
    columns: dict[str, object] = {
        "ts_event": ts_event,
        "ts_recv": arrivals + spec.midnight_ms,
        "exchange": pa.repeat(spec.exchange, spec.rows),
        "symbol": pa.repeat(spec.symbol.upper(), spec.rows),
        "stream": pa.repeat(spec.stream, spec.rows),
        "stream_version": np.ones(spec.rows, dtype=np.int8),
    }
    columns |= _DRAW[spec.stream](ts_event, _INSTRUMENTS.get(spec.symbol, _OTHER_INSTRUMENT), rng)
    return pa.table(columns).take(pa.array(np.argsort(arrivals, kind="stable"))).combine_chunks()


def _dictionary_encoded(table: pa.Table) -> pa.Table:
    for name in ("exchange", "symbol", "stream"):
        column = table.column(name).dictionary_encode()
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _bbo(ts_event: _Ints, instrument: _Instrument, rng: np.random.Generator) -> dict[str, object]:
    rows = ts_event.size
    bid = _price_ticks(rows, instrument, rng) - (rng.random(rows) < 0.3)  # noqa: PLR2004 - the touch flickers
    ask = bid + rng.choice(np.array([1, 2, 3]), rows, p=[0.85, 0.12, 0.03])
    return {
        "bid_price": bid / 10**instrument.price_decimals,
        "bid_qty": _quantities(rows, instrument, rng),
        "ask_price": ask / 10**instrument.price_decimals,
        "ask_qty": _quantities(rows, instrument, rng),
    }


def _trade(ts_event: _Ints, instrument: _Instrument, rng: np.random.Generator) -> dict[str, object]:
    rows = ts_event.size
    side = np.where(rng.random(rows) < 0.5, 1, -1).astype(np.int8)  # noqa: PLR2004 - a fair coin
    ticks = _price_ticks(rows, instrument, rng) + (side > 0)
    first_id = int(rng.integers(10**8, 10**9))
    return {
        "price": ticks / 10**instrument.price_decimals,
        "qty": _quantities(rows, instrument, rng),
        "side": side,
        "trade_id": pa.array(np.arange(first_id, first_id + rows)).cast(pa.string()),
    }


def _mark_price(ts_event: _Ints, instrument: _Instrument, rng: np.random.Generator) -> dict[str, object]:
    rows = ts_event.size
    decimals = instrument.price_decimals + 3
    index = _price_ticks(rows, instrument, rng) / 10**instrument.price_decimals
    basis = 1 + rng.normal(0.0, 1e-4, rows)
    return {
        "mark_price": np.round(index * basis, decimals),
        "index_price": pa.array(index, mask=rng.random(rows) < 0.02),  # noqa: PLR2004 - index feeds drop out
    }


def _funding(ts_event: _Ints, _: _Instrument, rng: np.random.Generator) -> dict[str, object]:
    rates = np.round(rng.normal(1e-4, 5e-5, 3), 8)
    interval = ts_event // _FUNDING_INTERVAL_MS
    return {
        "funding_rate": rates[interval % rates.size],
        "next_funding_ts": (interval + 1) * _FUNDING_INTERVAL_MS,
    }


def _open_interest(ts_event: _Ints, instrument: _Instrument, rng: np.random.Generator) -> dict[str, object]:
    flows = _quantities(ts_event.size, instrument, rng) * rng.choice(np.array([-1, 0, 1]), ts_event.size)
    level = instrument.quantity * 1e5 + np.cumsum(flows)
    return {"open_interest": np.round(level, instrument.quantity_decimals)}


def _price_ticks(rows: int, instrument: _Instrument, rng: np.random.Generator) -> _Ints:
    """Walk in whole ticks; whatever the number of rows, a day ends a few percent from where it began."""
    start = round(instrument.price * 10**instrument.price_decimals)
    moving = min(0.25, 10_000 / rows)
    draw = rng.random(rows)
    direction = (draw < moving).astype(np.int64) - (draw > 1 - moving)
    largest = max(1, start // 2_000)
    return np.asarray(np.maximum(start + np.cumsum(direction * rng.integers(1, largest + 1, rows)), 2))


def _quantities(rows: int, instrument: _Instrument, rng: np.random.Generator) -> _Floats:
    step = 10.0**-instrument.quantity_decimals
    drawn = np.round(rng.lognormal(np.log(instrument.quantity), 1.0, rows), instrument.quantity_decimals)
    return np.maximum(drawn, step)


_Columns = Callable[[_Ints, _Instrument, np.random.Generator], dict[str, object]]

_DRAW: dict[str, _Columns] = {
    "bbo": _bbo,
    "trade": _trade,
    "mark_price": _mark_price,
    "funding": _funding,
    "open_interest": _open_interest,
}

STREAMS = tuple(_DRAW)
"""The streams that can be generated."""

REAL_DAY = DaySpec("binance", "bbo", "adausdt", dt.date(2026, 1, 8), parts=3_252, rows=3_272_498, seed=20260108)
"""The size of one ordinary symbol-day, as observed."""

FOREIGN_FILES = (
    "._part-1767830426-000001.parquet",
    "part-1767830426-000001.parquet.tmp",
    "_SUCCESS",
)
"""Names that occur beside parts and that a compactor ignores."""
