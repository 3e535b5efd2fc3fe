"""Rows that were selected: nothing of them is read until they are asked for, as often as they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from quantlab_dagster.errors import ObjectChanged, ObjectNotFound
from quantlab_dagster.reader.ahead import AtOnce, Begun, InTurn, side_by_side
from quantlab_dagster.reader.asked import Asked
from quantlab_dagster.reader.errors import (
    REPAIR,
    ColumnsDiffer,
    DayMisordered,
    DayRebuilt,
    TimeUnitUnclear,
    unknown_column,
)
from quantlab_dagster.reader.files import KEY, DayFile, Footer, Wanted
from quantlab_dagster.reader.merging import Brought, Run, steps, united
from quantlab_dagster.reader.times import UNITS, unit_of_ticks
from quantlab_dagster.reader.uniting import united as united_type

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from quantlab_dagster.market.worth import Day
    from quantlab_dagster.reader.times import Bound, Unit

__all__ = ["FILE_ORDERS", "FileOrder", "Opens", "Rows"]

FileOrder = Literal["total", "files"]
FILE_ORDERS: tuple[str, ...] = get_args(FileOrder)

_STEP_ROWS = 1 << 20
_ROWS_AT_ONCE = 2 << 20
_LEAST_STEP_ROWS = 1 << 14
_THREADS = 4
_DAYS_AHEAD = 2
_PIECES_AHEAD = 1
_STEPS_AHEAD = 1


class Opens(Protocol):
    """What opens days: the lake."""

    is_remote: bool

    def open(self, day: Day) -> DayFile:
        """The data of a day."""

    def footer(self, day: Day) -> Footer:
        """What the data of a day says of itself; kept."""

    def name(self, day: Day) -> str:
        """Of a day, for people."""


class Rows:
    """The rows of some symbol-days in a range of time. Made by `Lake.rows`.

    In the total order they come by (`ts_event`, exchange, stream, symbol, day, `seq`); in that of files day by day, of
    one exchange, stream and symbol after the other. Polars, PyArrow, DuckDB and pandas take it as it is, too: it is an
    Arrow stream (`__arrow_c_stream__`), which begins anew each time.

    Args:
        lake: opens the days.
        days: that may have rows in the range, by (exchange, stream, symbol, day).
        start: of the range; None for all.
        end: before which it ends; None for all.
        columns: which columns, in this order; None for all.
        order: of the rows.
        quiet: days that were asked for and have no rows in the range: they have columns, and a unit.
        missing: what tells the days that were asked for, and of which nothing is published.

    Attributes:
        days: see above.

    Raises:
        TimeUnitUnclear: the days have different units of `ts_event`, or one in which a time cannot be said.
    """

    def __init__(
        self,
        lake: Opens,
        days: Sequence[Day],
        *,
        start: Bound | None,
        end: Bound | None,
        columns: Sequence[str] | None,
        order: FileOrder,
        quiet: Sequence[Day],
        missing: Callable[[], dict[tuple[str, str, str], tuple[dt.date, ...]]],
    ) -> None:
        self._lake = lake
        self.days = tuple(days)
        self._missing = missing
        self._quiet = tuple(quiet)
        self._order = order
        self._names = columns
        units = self._units()
        self._ticks = _one(units)
        of_quiet = {day.ticks for day in quiet}
        self._told = self._ticks if units or len(of_quiet) != 1 else of_quiet.pop()
        self._low = _in_ticks(start, self._ticks, units.get(None))
        self._high = _in_ticks(end, self._ticks, units.get(None))

    @property
    def unit(self) -> Unit | None:
        """The unit of `ts_event`: as Polars names it, for `polars.from_epoch`. None without days, or if none fits."""
        return unit_of_ticks(self._told) if self._told else None

    @cached_property
    def missing(self) -> dict[tuple[str, str, str], tuple[dt.date, ...]]:
        """Days that were asked for, and of which nothing is published, by (exchange, stream, symbol)."""
        return self._missing()

    @cached_property
    def schema(self) -> pl.Schema:
        """The columns and their dtypes: the union over the days, in the order of their first appearance.

        Raises:
            ColumnsDiffer: a column has types that cannot be united, or one that was asked for is nowhere.
        """
        return self._every if self._names is None else self._of(self._names)

    @cached_property
    def _every(self) -> pl.Schema:
        """Of all columns. Days that are quiet are asked only where others do not have what is wanted."""
        with self._seen_changes():
            if self._names is not None and self.days:
                schema = _united(self._lake, self.days)
                if schema.keys() >= set(self._names):
                    return schema
            return _united(self._lake, sorted((*self.days, *self._quiet), key=lambda day: day.symbol_day))

    def frames(
        self, *, columns: Sequence[str] | None = None, predicate: pl.Expr | None = None
    ) -> Iterator[pl.DataFrame]:
        """The rows as frames, in order and in bounded memory; none of them is empty.

        Args:
            columns: only these.
            predicate: only rows for which this holds.

        Raises:
            DayRebuilt: a day was replaced since it was looked at. What came before is right.
            DayMisordered: a day is not in the order that it says it is in.
            StoreError: the lake cannot be read.
        """
        return self._frames(columns, predicate, _THREADS)

    def _frames(
        self, columns: Sequence[str] | None, predicate: pl.Expr | None, threads: int
    ) -> Generator[pl.DataFrame]:
        schema = self.schema if columns is None else self._of(columns)
        if predicate is None:
            yield from self._in_order(schema, None, threads)
            return
        inner = self._of(_with_roots(schema, predicate))
        for frame in self._in_order(inner, predicate, threads):
            yield frame if inner == schema else frame.select(schema.names())

    def _of(self, names: Iterable[str]) -> pl.Schema:
        every = self._every
        wanted = list(names)
        for name in wanted:
            if name not in every:
                raise unknown_column(name, every)
        return pl.Schema({name: every[name] for name in wanted})

    def _in_order(self, schema: pl.Schema, predicate: pl.Expr | None, threads: int) -> Iterator[pl.DataFrame]:
        with self._seen_changes():
            if self._order == "files" or len(self.days) == 1:
                yield from self._one_after_the_other(schema, predicate, threads)
                return
            inner = pl.Schema({**schema, KEY: self._every[KEY]})
            wanted = Wanted(self._low, self._high, inner, predicate)
            step = max(_LEAST_STEP_ROWS, min(_STEP_ROWS, _ROWS_AT_ONCE // _most_at_once(self.days)))
            lows = [self._low_of(day) for day in self.days]
            tasks = {
                index: partial(_begin, self._lake, self.days[index], wanted, step)
                for index in sorted(range(len(lows)), key=lows.__getitem__)
            }
            with closing(_Days(tasks, threads)) as days:
                runs = _runs(self._lake, self.days, lows, days)
                with closing(steps(runs)) as taken, closing(days.united(taken)) as frames:
                    for frame in frames:
                        yield frame if inner == schema else frame.select(schema.names())

    def lazy(self) -> pl.LazyFrame:
        """As a Polars LazyFrame: columns and filters reach the files.

        Nothing is decoded ahead. Polars leaves a source that it needs no more to whichever thread comes along next, at
        any later time; to wait there for other threads is to wait for ever.
        """

        def source(
            columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch: int | None
        ) -> Iterator[pl.DataFrame]:
            if n_rows is None:
                return Asked(self._frames(columns, predicate, 0))
            return Asked(self._first(n_rows, columns, predicate))

        return register_io_source(source, schema=self.schema)

    def _first(self, count: int, columns: Sequence[str] | None, predicate: pl.Expr | None) -> Generator[pl.DataFrame]:
        """Of the first rows those for which a predicate holds: that is what Polars means by both."""
        names = list(self.schema if columns is None else columns)
        inner = names if predicate is None else _with_roots(names, predicate)
        for frame in self._frames(inner, None, 0):
            first = frame.head(count)
            count -= first.height
            yield (first if predicate is None else first.filter(predicate)).select(names)
            if not count:
                return

    def polars(self) -> pl.DataFrame:
        """As a Polars DataFrame."""
        frames = list(self.frames())
        return pl.concat(frames) if frames else pl.DataFrame(schema=self.schema)

    def batches(self) -> pa.RecordBatchReader:
        """As a stream of Arrow record batches, which can be read once."""
        schema = self._arrow_schema()

        def found() -> Iterator[pa.RecordBatch]:
            for frame in self.frames():
                yield from _arrow(frame).cast(schema).to_batches()

        return pa.RecordBatchReader.from_batches(schema, found())

    def arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.batches().read_all()

    def duckdb(self, connection: Any) -> Any:
        """As a relation of DuckDB, which reads the lake anew whenever it is executed, and streams.

        Args:
            connection: of DuckDB, or the module `duckdb` for its default one.
        """
        return connection.from_arrow(self)

    def __arrow_c_schema__(self) -> object:
        """The Arrow PyCapsule interface: the columns."""
        return self._arrow_schema().__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The Arrow PyCapsule interface: all rows, from the beginning."""
        return self.batches().__arrow_c_stream__(requested_schema)

    def _arrow_schema(self) -> pa.Schema:
        return _arrow(pl.DataFrame(schema=self.schema)).schema

    def _one_after_the_other(
        self, schema: pl.Schema, predicate: pl.Expr | None, threads: int
    ) -> Iterator[pl.DataFrame]:
        wanted = Wanted(self._low, self._high, schema, predicate)
        tasks = {number: partial(_begin, self._lake, day, wanted, _STEP_ROWS) for number, day in enumerate(self.days)}
        with closing(_Days(tasks, threads)) as days:
            for number in tasks:
                with closing(days.frames(number)) as frames:
                    for frame, _ in frames:
                        yield frame

    def _low_of(self, day: Day) -> int:
        """Before which the day has no row that is wanted."""
        low = day.ts_event_min if day.proved and not day.foreign else None
        if low is None:  # its meta speaks of other data (an uncommitted day), or may say a wrong range (other software)
            span = self._lake.footer(day).span
            low = span[0] if span else self._low or 0
        return low if self._low is None else max(low, self._low)

    def _units(self) -> dict[int | None, Day]:
        """A day of each unit of `ts_event`, among those with rows; None is that of a day whose range tells none."""
        found: dict[int | None, Day] = {}
        with self._seen_changes():
            for day in self.days:
                rows, ticks = day.rows, day.ticks
                says_range = day.ts_event_min is not None and day.ts_event_max is not None
                if not day.proved or (rows and not says_range):  # its meta speaks of other data, or does not tell
                    footer = self._lake.footer(day)
                    rows = footer.rows
                    if footer.span is not None:
                        low, high = footer.span
                        ticks = replace(day, ts_event_min=low, ts_event_max=high).ticks
                if rows:
                    found.setdefault(ticks, day)
        return found

    @contextmanager
    def _seen_changes(self) -> Iterator[None]:
        try:
            yield
        except (ObjectChanged, ObjectNotFound) as error:
            cause = "was rebuilt or removed since it was looked at"
            raise DayRebuilt(error.where, cause, "Select the rows again: late rows renumber seq") from error


@dataclass(frozen=True, slots=True)
class _Day:
    """A day that is begun: its file is open, and its first frame here.

    Attributes:
        file: of it.
        first: what its first piece brought; None without pieces.
        others: the pieces behind it.
    """

    file: DayFile
    first: pl.DataFrame | None
    others: list[Callable[[], pl.DataFrame]]

    def frames(self, pool: Executor, ahead: int) -> Generator[Brought]:
        """Its frames, so many of which are decoded while another is used; closes the file."""
        with self.file:
            if self.first is None:
                return
            with closing(InTurn(pool, self.others, ahead)) as rest:
                for number, frame in self.file.in_order(chain([self.first], rest)):
                    yield Brought(frame, number == len(self.others))


def _begin(lake: Opens, day: Day, wanted: Wanted, step: int) -> _Day:
    file = lake.open(day)
    try:
        pieces = file.pieces(wanted, step)
        return _Day(file, pieces[0]() if pieces else None, pieces[1:])
    except BaseException:
        file.close()
        raise


class _Days:
    """Days by their number, some of which are begun before they are asked for.

    Args:
        tasks: that begin days, in the order in which they are needed.
        threads: that work ahead; 0: nothing is done before it is asked for.
    """

    def __init__(self, tasks: Mapping[int, Callable[[], _Day]], threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "reader") if threads else AtOnce()
        self._ahead = bool(threads)
        self._places = {number: place for place, number in enumerate(tasks)}
        self._begun = Begun(self._pool, list(tasks.values()), _DAYS_AHEAD * self._ahead)

    def frames(self, number: int) -> Generator[Brought]:
        """Of one day; closes its file."""
        return self._begun.result(self._places[number]).frames(self._pool, _PIECES_AHEAD * self._ahead)

    def united(self, taken: Iterable[list[pl.DataFrame]]) -> InTurn[pl.DataFrame]:
        """The rows of steps, each in order, in their order."""
        return InTurn(self._pool, (partial(united, frames) for frames in taken), _STEPS_AHEAD * self._ahead)

    def close(self) -> None:
        """Close the files of days that nobody asked for, and wait for the threads."""
        for day in self._begun.left():
            day.file.close()
        self._pool.shutdown()


def _runs(lake: Opens, days: Sequence[Day], lows: Sequence[int], brought: _Days) -> Iterator[Run]:
    def begin(number: int) -> Generator[Brought]:
        with closing(brought.frames(number)) as frames:
            for index, found in enumerate(frames):
                first, low = found.frame[KEY][0], lows[number]
                if index == 0 and first < low:  # then it was begun too late
                    cause = f"its rows begin at {first}, before the ts_event_min {low} that meta.json says"
                    raise DayMisordered(lake.name(days[number]), cause, REPAIR)
                yield found

    for number, low in enumerate(lows):
        yield Run(low, partial(begin, number))


def _united(lake: Opens, days: Sequence[Day]) -> pl.Schema:
    found: dict[str, list[pl.DataType]] = {}
    for footer in side_by_side(lake.footer, days, is_remote=lake.is_remote):
        for name, dtype in footer.schema.items():
            dtypes = found.setdefault(name, [])
            if dtype not in dtypes:
                dtypes.append(dtype)
    schema = pl.Schema()
    for name, dtypes in (found or {KEY: [pl.Int64()]}).items():
        common = united_type(dtypes)
        if common is None:
            where, texts = f"{lake.name(days[0])} … {lake.name(days[-1])}", ", ".join(sorted(map(str, dtypes)))
            cause = f"have types of the column {name} that cannot be united ({texts})"
            raise ColumnsDiffer(where, cause, "Read them apart")
        schema[name] = common
    return schema


def _with_roots(names: Iterable[str], predicate: pl.Expr) -> list[str]:
    """Names, and behind them those that a predicate needs, too."""
    return list(dict.fromkeys([*names, *predicate.meta.root_names()]))


def _one(units: Mapping[int | None, Day]) -> int | None:
    """The unit that all days with rows share; None if they have none."""
    if len(units) > 1:
        found = sorted(units.items(), key=lambda item: item[0] or 0)
        texts = [f"{day} in {UNITS[ticks] if ticks else 'no usual unit'}" for ticks, day in found]
        raise TimeUnitUnclear(" and ".join(texts), "have ts_event in different units", "Read them apart")
    return next(iter(units), None)


def _in_ticks(bound: Bound | None, ticks: int | None, unclear: Day | None) -> int | None:
    if bound is None:
        return None
    if ticks is not None:
        return bound.in_ticks(ticks)
    if bound.number is not None or unclear is None:
        return bound.number
    cause = "has a range of ts_event that is near its day in no usual unit"
    raise TimeUnitUnclear(str(unclear), cause, "Give start and end as numbers of ts_event, or leave them out")


def _most_at_once(days: Sequence[Day]) -> int:
    """How many days may have rows at one time for long: one of each series. Around midnight it may be two."""
    return max(1, len({(day.exchange, day.stream, day.symbol) for day in days}))


def _arrow(frame: pl.DataFrame) -> pa.Table:
    # Without views: pandas, and PyArrow's own functions, do not take them all yet.
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
