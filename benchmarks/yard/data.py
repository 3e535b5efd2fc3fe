"""Data to measure with: two kinds, five sizes, the same bytes whenever the same versions make them.

*ours* is what the project's own generator draws. *wide* is drawn here, by other rules, so that an encoder that was
tuned on the first kind shows it: integer-valued quantities, wide spreads, nulls, a `trade_id`, rows that are not in
order even within a part, parts that replay an earlier hour. Both are laid out as a raw lake.
"""

from __future__ import annotations

import datetime as dt
import io
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.yard.columns import columns
from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.synthetic.market import REAL_DAY, DaySpec, generate_parts, write_local_day

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DAY", "KINDS", "SIZES", "Dataset", "Shape", "dataset"]

DAY = REAL_DAY.day
KINDS = ("ours", "wide")

_DAY_MS = 86_400_000
_MIDNIGHT_MS = (DAY - dt.date(1970, 1, 1)).days * _DAY_MS
_EXCHANGE, _STREAM = "binance", "bbo"
_SYMBOLS = {"ours": REAL_DAY.symbol, "wide": "wideusdt"}

_TIMES = ("ts_event", "ts_recv")


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a data set is: symbol-days, parts of each, rows of each; slices a day is drawn in, one at a time."""

    days: int
    parts: int
    rows: int
    slices: int = 1


SIZES = {
    "smoke": Shape(2, 6, 600),
    "few": Shape(30, 200, 40_000),
    "tiny": Shape(300, 200, 40_000),
    "small": Shape(1, REAL_DAY.parts, REAL_DAY.rows),
    "medium": Shape(1, 10 * 325, 10 * REAL_DAY.rows, 10),
    "large": Shape(1, 40 * 325, 40 * REAL_DAY.rows, 40),
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set on the disk.

    Attributes:
        kind: one of `KINDS`.
        size: one of `SIZES`.
        directory: holds it, and what is known of it.
    """

    kind: str
    size: str
    directory: Path

    @property
    def shape(self) -> Shape:
        """How large it is."""
        return SIZES[self.size]

    @property
    def raw(self) -> Path:
        """The raw lake."""
        return self.directory / "raw"

    @property
    def days(self) -> list[SymbolDay]:
        """Its symbol-days."""
        return [SymbolDay(_EXCHANGE, _STREAM, symbol, DAY) for symbol in _symbols(self.kind, self.shape.days)]

    def parts(self, day: SymbolDay) -> list[Path]:
        """The parts of one symbol-day, in key order."""
        return sorted((self.raw / day.prefix).glob("part-*.parquet"))

    def all_parts(self) -> list[Path]:
        """The parts of all symbol-days."""
        return [part for day in self.days for part in self.parts(day)]


def dataset(base: Path, kind: str, size: str) -> Dataset:
    """The data set, made if it is not there yet. What was cut off half-way is made again."""
    made = Dataset(kind, size, base / f"{kind}-{size}")
    mark = made.directory / "complete"
    if not mark.exists():
        shutil.rmtree(made.directory, ignore_errors=True)
        made.raw.mkdir(parents=True)
        print(f"making {kind} {size}: {made.shape.days * made.shape.rows:,} rows", flush=True)
        for number, day in enumerate(made.days):
            _write_day(made, day, seed=number)
        mark.touch()
    return made


def _symbols(kind: str, days: int) -> list[str]:
    return [_SYMBOLS[kind]] if days == 1 else [f"{kind}{number:03d}usdt" for number in range(days)]


def _write_day(made: Dataset, day: SymbolDay, *, seed: int) -> None:
    shape = made.shape
    if made.kind == "wide":
        directory = made.raw / day.prefix
        directory.mkdir(parents=True)
        for number in range(shape.parts):
            table = _wide_part(day, shape, number, seed)
            name = f"part-{(_MIDNIGHT_MS + _DAY_MS * (number + 1) // shape.parts) // 1_000}-{number + 1:06d}.parquet"
            pq.write_table(table, directory / name)
        return
    spec = replace(REAL_DAY, symbol=day.symbol, parts=shape.parts, rows=shape.rows, seed=REAL_DAY.seed + seed)
    if shape.slices == 1:
        write_local_day(made.raw, spec)
    else:
        _write_slices(made.raw / day.prefix, spec, shape.slices)


# -- ours, too large to be drawn at once -----------------------------------------------------------------------------


def _write_slices(directory: Path, spec: DaySpec, slices: int) -> None:
    """Draw a day per slice, and put it into its share of the one day: memory stays that of one slice."""
    directory.mkdir(parents=True)
    for at in range(slices):
        part_spec = replace(spec, parts=spec.parts // slices, rows=spec.rows // slices, seed=spec.seed + 1_000 + at)
        parts = sorted(generate_parts(part_spec), key=lambda part: part.name.encode())
        for number, part in enumerate(parts, at * part_spec.parts + 1):
            table = pq.read_table(io.BytesIO(part.data))
            for name in _TIMES:
                values = (table[name].to_numpy() - _MIDNIGHT_MS + at * _DAY_MS) // slices + _MIDNIGHT_MS
                table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
            flushed = (_MIDNIGHT_MS + _DAY_MS * number // spec.parts) // 1_000
            pq.write_table(table, directory / f"part-{flushed}-{number:06d}.parquet")


# -- wide ------------------------------------------------------------------------------------------------------------

_TIES = 0.3
_LATE = 0.004
_REPLAYED = 200
_TICKS = 100
_NULLS = 0.01


def _wide_part(day: SymbolDay, shape: Shape, number: int, seed: int) -> pa.Table:
    """One part. Its rows fall into the time of about five parts; some are late by minutes, some parts by an hour."""
    rng = np.random.default_rng([77, seed, number])
    rows = shape.rows * (number + 1) // shape.parts - shape.rows * number // shape.parts
    part_ms = _DAY_MS / shape.parts
    flushed = _DAY_MS * (number + 1) / shape.parts
    age = rng.uniform(0, 2 * part_ms, rows) + rng.exponential(part_ms / 2, rows)
    age[rng.random(rows) < _LATE] += rng.exponential(15 * 60_000)
    if number % _REPLAYED == _REPLAYED - 1:
        age += 3_600_000
    events = np.clip((flushed - age).astype(np.int64), 0, _DAY_MS - 1)
    tied = np.flatnonzero(rng.random(rows) < _TIES)
    events[tied] = events[np.maximum(tied - 1, 0)]
    received = np.maximum(events, np.int64(flushed) - rng.integers(0, max(1, int(part_ms)), rows))
    tick_walk = np.cumsum(rng.integers(-40, 41, rows))
    bid = 1_000_000 + 200_000 * np.sin(6.3 * number / shape.parts) + tick_walk
    bid = np.maximum(np.rint(bid), 1)
    spread = np.minimum(rng.geometric(0.0008, rows), 20_000)
    first_id = 4_000_000_000 + 7 * (shape.rows * number // shape.parts)
    drawn: dict[str, Any] = {
        "ts_event": _MIDNIGHT_MS + events,
        "ts_recv": _MIDNIGHT_MS + received,
        "exchange": pa.repeat(day.exchange, rows),
        "symbol": pa.repeat(day.symbol.upper(), rows),
        "stream": pa.repeat(day.stream, rows),
        "stream_version": np.full(rows, 3, dtype=np.int8),
        "bid_price": bid / _TICKS,
        "bid_qty": _whole_quantities(rows, rng),
        "ask_price": (bid + spread) / _TICKS,
        "ask_qty": pa.array(_whole_quantities(rows, rng), mask=rng.random(rows) < _NULLS),
        "side": pa.array(np.where(rng.random(rows) < 0.5, "buy", "sell")),
        "trade_id": pa.array(first_id + np.cumsum(rng.integers(1, 8, rows))).cast(pa.string()),
    }
    return pa.table(drawn, schema=pa.schema([*columns("wide").items()]))


def _whole_quantities(rows: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Whole numbers over five orders of magnitude, round ones more often than others."""
    drawn = np.maximum(np.rint(rng.lognormal(8.0, 2.0, rows)), 1)
    round_ones = rng.random(rows) < 0.25
    drawn[round_ones] = np.maximum(np.rint(drawn[round_ones] / 1_000) * 1_000, 100)
    return drawn
