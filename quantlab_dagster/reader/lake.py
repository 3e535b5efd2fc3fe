"""A compact lake, opened for reading: what is there and what it is worth, and its rows."""

from __future__ import annotations

import datetime as dt
import os
import time
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from quantlab_dagster.errors import ObjectChanged, ObjectNotFound, PathError
from quantlab_dagster.lake.market import META, QUARANTINE, Pair, SymbolDay, day_text, parse_day
from quantlab_dagster.lake.paths import segment, value_of
from quantlab_dagster.market.worth import Day, Flaw, judge
from quantlab_dagster.reader.ahead import side_by_side
from quantlab_dagster.reader.errors import DayRebuilt, DayUncommitted, NothingPublished, one_of
from quantlab_dagster.reader.files import DayFile, Footer
from quantlab_dagster.reader.paging import ON_REBUILT, Cursor, Page, read_page
from quantlab_dagster.reader.places import open_place
from quantlab_dagster.reader.rows import FILE_ORDERS, Rows
from quantlab_dagster.reader.times import bound_of, span_of_days
from quantlab_dagster.reader.withholding import withheld

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.reader.paging import OnRebuilt
    from quantlab_dagster.reader.places import Place
    from quantlab_dagster.reader.rows import FileOrder
    from quantlab_dagster.reader.times import Bound, Instant

__all__ = ["Lake", "Names", "open_lake", "worth"]

Names = str | tuple[str, ...] | list[str] | set[str] | frozenset[str] | None
"""One name, several, or None for all."""

_PATIENCE_SECONDS = 1.5
_FIRST_WAIT_SECONDS = 0.05
_ONE_DAY = dt.timedelta(days=1)
_SHOWN = 3


def open_lake(url: str | os.PathLike[str], *, patience: float = _PATIENCE_SECONDS) -> Lake:
    """Open a compact lake for reading.

    Args:
        url: `s3://bucket/prefix`, `file:///directory` or a path, also as a `Path`. S3 is reached by the standard
            `AWS_*` variables, or those of this lake alone, `QUANTLAB_COMPACT_AWS_*`.
        patience: seconds for which a day whose data and meta do not match is looked at again, before it counts as
            uncommitted: a publication takes a moment from the one to the other.

    Raises:
        SettingsError: the URL or its credentials cannot be used.

    Example:
        ```python
        from quantlab_dagster import reader

        lake = reader.open_lake("s3://quantlab-compact")
        rows = lake.rows(exchange="binance", stream="bbo", symbol="ADAUSDT", start="2026-01-08", end="2026-01-09")
        frame = rows.polars()
        ```
    """
    return Lake(open_place(os.fspath(url)), patience=patience)


class Lake:
    """A compact lake, for reading. Made by `open_lake`; may be used by several threads.

    Args:
        place: where it is.
        patience: see `open_lake`.
    """

    def __init__(self, place: Place, *, patience: float) -> None:
        self._place = place
        self._patience = patience
        self._sums: dict[tuple[str, str], str] = {}
        self._footers: dict[tuple[str, str], Footer] = {}
        self.is_remote = place.is_remote

    @property
    def url(self) -> str:
        """As it was given."""
        return self._place.url

    # ---- what is there ---------------------------------------------------------------------------------------------

    def exchanges(self) -> tuple[str, ...]:
        """The exchanges, sorted.

        Raises:
            StoreError: the lake cannot be listed.
        """
        return self._values("exchange", "")

    def streams(self, exchange: str) -> tuple[str, ...]:
        """The streams of an exchange, in any spelling of upper and lower case, sorted.

        Raises:
            NothingPublished: the lake has no such exchange.
            StoreError: the lake cannot be listed.
        """
        return tuple(sorted({pair.stream for pair in self._pairs(exchange, None)}))

    def symbols(self, exchange: str, stream: str) -> tuple[str, ...]:
        """The symbols of a stream, as in the path (lower case), sorted; same errors."""
        return tuple(sorted({name for pair in self._pairs(exchange, stream) for name in self._symbols(pair)}))

    def days(
        self,
        *,
        exchange: Names = None,
        stream: Names = None,
        symbol: Names = None,
        start: Instant | None = None,
        end: Instant | None = None,
    ) -> list[Day]:
        """What is there and what it is worth: every symbol-day whose directory's day lies in the range.

        One listing per symbol, and one small GET per day. No data is read.

        Args:
            exchange: which; in any spelling of upper and lower case.
            stream: which.
            symbol: which: `adausdt` and `ADAUSDT` are the same.
            start: of the range; see `Instant`.
            end: before which it ends.

        Returns:
            By (exchange, stream, symbol, day). Uncommitted, quarantined and BAD ones are among them, and say so.

        Raises:
            NothingPublished: the lake has no such exchange, stream or symbol.
            StoreError: the lake cannot be read.
        """
        first, last = span_of_days(_bound(start, "start"), _bound(end, "end"))
        return self._looked(self._series(exchange, stream, symbol), first, last, patience=0.0)

    # ---- rows ------------------------------------------------------------------------------------------------------

    def rows(
        self,
        *,
        exchange: Names = None,
        stream: Names = None,
        symbol: Names = None,
        start: Instant | None = None,
        end: Instant | None = None,
        columns: Sequence[str] | None = None,
        order: FileOrder = "total",
        allow: Iterable[Flaw | str] = (),
    ) -> Rows:
        """The rows with `start <= ts_event < end`, in whichever day's directory they lie.

        Rows of a day may lie in the directory of a neighbouring one, so that is looked at, too. Only footers are read
        until the rows are asked for.

        Args:
            exchange: which; None for all. In any spelling of upper and lower case.
            stream: which; None for all.
            symbol: which; None for all. `adausdt` and `ADAUSDT` are the same.
            start: of the range; see `Instant`. None for all.
            end: before which it ends.
            columns: only these, in this order; a text is one name.
            order: `total`: (`ts_event`, exchange, stream, symbol, day, `seq`), streamed from all at once; `files`: one
                symbol-day after the other, which is faster.
            allow: days that are read although they are `uncommitted`, `quarantined` or `bad`.

        Raises:
            NothingPublished: there is no such exchange, stream or symbol, or none of its days in the range.
            DayWithheld: a day that may have such rows is uncommitted, quarantined or BAD, and that is not allowed.
            TimeUnitUnclear: a time cannot be said in the unit of the days, or they differ in it.
            PathError: an order, or what is allowed, is none that is known.
            StoreError: the lake cannot be read.
        """
        one_of("order", order, FILE_ORDERS)
        lower, upper = _bound(start, "start"), _bound(end, "end")
        allowed = _flaws(allow)
        first, last = span_of_days(lower, upper)
        series = self._series(exchange, stream, symbol)
        found = self._looked(series, _before(first), _after(last), patience=self._patience)
        asked = [day for day in found if first <= day.date <= last]
        near = self._near(found, lower, upper)
        if not asked and not near:
            cause = f"has no day of {_some([f'{pair}/{name}' for pair, name in series])} in that range"
            raise NothingPublished(self.url, cause, "See `days()` for what there is")
        proved = [self._proved(day, self._patience) for day in near]
        kept = {day.symbol_day for day in proved}
        for day in proved:
            error = withheld(day, allowed, self._place.name)
            if error is not None:
                raise error
        return Rows(
            self,
            [day for day in proved if day.data is not None],
            start=lower,
            end=upper,
            columns=_several(columns),
            order=order,
            quiet=[day for day in asked if day.data is not None and day.symbol_day not in kept],
            missing=partial(_missing, series, asked, first, last),
        )

    def page(
        self,
        exchange: str,
        stream: str,
        symbol: str,
        day: dt.date | str,
        *,
        after: Cursor | str | None = None,
        limit: int = 100_000,
        columns: Sequence[str] | None = None,
        on_rebuilt: OnRebuilt = "refuse",
        allow: Iterable[Flaw | str] = (),
    ) -> Page:
        """Some rows of one day in the order of (`ts_event`, `seq`), behind a cursor.

        Args:
            exchange: which.
            stream: which.
            symbol: which, in either spelling.
            day: of the directory; of an aware datetime its UTC day.
            after: the cursor of the page before, or its text; None for the beginning.
            limit: so many rows at most.
            columns: only these.
            on_rebuilt: where the day has other content than the cursor's: `refuse`, or `restart` from its first row.
            allow: as in `rows`.

        Raises:
            NothingPublished: there is no such day.
            PathError: the symbol is there in several spellings, none of which is the one that was given; or
                `on_rebuilt` or what is allowed is none that is known.
            DayWithheld: it is uncommitted, quarantined or BAD.
            DayRebuilt: it was rebuilt since the cursor was taken, or while it was read.
            CursorError: the cursor is none of this day.
            DayMisordered: its rows are not numbered in order, or not at all.
            ColumnsDiffer: it has no such column.
            TimeUnitUnclear: the day is a datetime without a zone.
            StoreError: the lake cannot be read.
        """
        one_of("on_rebuilt", on_rebuilt, ON_REBUILT)
        wanted = parse_day(day) if isinstance(day, str) else bound_of(day, "day").day
        after = Cursor.parse(after) if isinstance(after, str) else after
        pair, name = self._one_series(exchange, stream, symbol)
        found = self._looked([(pair, name)], wanted, wanted, patience=self._patience)
        symbol_day = SymbolDay(pair.exchange, pair.stream, name, wanted)
        if not found:
            raise NothingPublished(self._place.name(symbol_day.prefix), "is not published", "See `days()`")
        proved = self._proved(found[0], self._patience)
        error = withheld(proved, _flaws(allow), self._place.name)
        if error is not None:
            raise error
        if proved.data is None:
            raise NothingPublished(self._place.name(symbol_day.prefix), "has no data.parquet", "See `days()`")
        where = self._place.name(proved.data.key)
        try:
            with self.open(proved) as file:
                sha256 = self._sum(proved)
                return read_page(
                    file,
                    symbol_day,
                    sha256,
                    after=after,
                    limit=limit,
                    columns=_several(columns),
                    on_rebuilt=on_rebuilt,
                    name=where,
                )
        except (ObjectChanged, ObjectNotFound) as changed:
            raise DayRebuilt(where, "was replaced while it was read", "Read the page again") from changed

    def pages(
        self,
        exchange: str,
        stream: str,
        symbol: str,
        day: dt.date | str,
        *,
        after: Cursor | str | None = None,
        limit: int = 100_000,
        columns: Sequence[str] | None = None,
        on_rebuilt: OnRebuilt = "refuse",
        allow: Iterable[Flaw | str] = (),
    ) -> Iterator[Page]:
        """All pages of one day behind a cursor; see `page`, which has the same errors."""
        allow = _flaws(allow)
        while True:
            page = self.page(
                exchange,
                stream,
                symbol,
                day,
                after=after,
                limit=limit,
                columns=columns,
                on_rebuilt=on_rebuilt,
                allow=allow,
            )
            yield page
            if page.is_last:
                return
            after = page.cursor

    # ---- for `Rows` ------------------------------------------------------------------------------------------------

    def open(self, day: Day) -> DayFile:
        """The data of a day, this version of it.

        Raises:
            ObjectChanged: another version is there now.
            DayUncommitted: it is no Parquet file, or has other rows than its meta says.
            StoreError: it cannot be read.
        """
        assert day.data is not None
        pinned = self._place.pin(day.data)
        rows = day.rows if day.proved else None
        try:
            return DayFile(pinned, self._place.name(day.data.key), rows, is_remote=self.is_remote)
        except BaseException:
            pinned.close()
            raise

    def footer(self, day: Day) -> Footer:
        """What the data of a day says of itself; same errors. Kept."""
        assert day.data is not None
        key = (day.data.key, day.data.etag)
        if key not in self._footers:
            with self.open(day) as file:
                self._footers[key] = file.footer
        return self._footers[key]

    def name(self, day: Day) -> str:
        """Of a day's directory, for people."""
        return self._place.name(day.symbol_day.prefix)

    # ---- looking ---------------------------------------------------------------------------------------------------

    def _values(self, name: str, prefix: str) -> tuple[str, ...]:
        found = (value_of(name, text) for text in self._place.directories(prefix))
        return tuple(value for value in found if value)

    def _symbols(self, pair: Pair) -> tuple[str, ...]:
        return self._values("symbol", pair.prefix)

    def _pairs(self, exchange: Names, stream: Names) -> list[Pair]:
        """The pairs that are meant: what is named must be somewhere."""
        exchanges = _chosen("exchange", exchange, self.exchanges(), self.url)
        streams = {name: self._values("stream", f"{segment('exchange', name)}/") for name in exchanges}
        known = sorted({text for found in streams.values() for text in found})
        where = self.url if exchange is None else f"{_some(exchanges)} of {self.url}"
        chosen = _chosen("stream", stream, known, where)
        return [Pair(name, text) for name, found in streams.items() for text in found if text in chosen]

    def _series(self, exchange: Names, stream: Names, symbol: Names) -> list[tuple[Pair, str]]:
        """The symbols of the pairs that are meant, sorted: what is named must be somewhere in them."""
        pairs = self._pairs(exchange, stream)
        symbols = side_by_side(self._symbols, pairs, is_remote=self.is_remote)
        known = sorted({text for found in symbols for text in found})
        where = self.url if exchange is None and stream is None else f"{_some(pairs)} of {self.url}"
        wanted = set(_chosen("symbol", symbol, known, where))
        return sorted(
            (pair, text) for pair, found in zip(pairs, symbols, strict=True) for text in found if text in wanted
        )

    def _one_series(self, exchange: str, stream: str, symbol: str) -> tuple[Pair, str]:
        """The one symbol that is meant.

        Raises:
            PathError: it is there in several spellings, none of which is the one that was given.
        """
        found = self._series(exchange, stream, symbol)
        if len(found) > 1:
            texts = _some([f"{pair}/{name}" for pair, name in found])
            raise PathError(f"{exchange}/{stream}/{symbol}", f"may be any of {texts}", "Name one as it is spelt there")
        return found[0]

    def _looked(
        self, series: Sequence[tuple[Pair, str]], first: dt.date, last: dt.date, *, patience: float
    ) -> list[Day]:
        def one(item: tuple[Pair, str]) -> list[tuple[SymbolDay, list[ObjectInfo]]]:
            pair, symbol = item
            prefix = f"{pair.prefix}{segment('symbol', symbol)}/"
            found = self._place.within(prefix, segment("date", day_text(first)), segment("date", day_text(last)))
            days = []
            for name, objects in sorted(found.items()):
                try:
                    day = parse_day(value_of("date", name) or "", compact_only=True)
                except PathError:
                    continue  # no day's directory
                days.append((SymbolDay(pair.exchange, pair.stream, symbol, day), objects))
            return days

        listed = [item for found in side_by_side(one, series, is_remote=self.is_remote) for item in found]
        days = side_by_side(lambda item: self._look(*item, patience=patience), listed, is_remote=self.is_remote)
        return [day for day in days if day is not None]

    def _look(self, symbol_day: SymbolDay, listed: list[ObjectInfo], *, patience: float) -> Day | None:
        """What a directory says; looked at again while that contradicts itself, as it does during a publication."""
        deadline, wait = time.monotonic() + patience, _FIRST_WAIT_SECONDS
        while True:
            names = {info.name for info in listed}
            contents = {name: self._place.get(symbol_day.key(name)) for name in (META, QUARANTINE) if name in names}
            records = {name: content for name, content in contents.items() if content is not None}
            day = judge(symbol_day, listed, records)
            if day is None or day.proved is not False or time.monotonic() + wait > deadline:
                return day
            if Flaw.QUARANTINED in dict(day.flaws) and day.data is None:
                return day
            time.sleep(wait)
            wait *= 2
            listed = self._listed(symbol_day)

    def _listed(self, symbol_day: SymbolDay) -> list[ObjectInfo]:
        directory = symbol_day.prefix.rstrip("/").rpartition("/")
        name = directory[2]
        return self._place.within(f"{directory[0]}/", name, name).get(name, [])

    def _near(self, days: Sequence[Day], lower: Bound | None, upper: Bound | None) -> list[Day]:
        """The days that may have rows in a range."""

        def may_overlap(day: Day) -> bool:
            return _may_overlap(day, lower, upper) or (day.foreign and self._has_within(day, lower, upper))

        kept = side_by_side(may_overlap, days, is_remote=self.is_remote)
        return [day for day, keep in zip(days, kept, strict=True) if keep]

    def _has_within(self, day: Day, lower: Bound | None, upper: Bound | None) -> bool:
        """Whether a day of other software may have rows in a range by what its data says: metas said it wrongly."""
        if day.data is None:
            return False
        try:
            groups = self.footer(day).groups
        except (ObjectChanged, ObjectNotFound, DayUncommitted):
            return True  # what is wrong with it is said when it is read
        low, high = _range_of(day, lower, upper) or (None, None)
        return any(group.may_overlap(low, high) for group in groups)

    def _proved(self, day: Day, patience: float) -> Day:
        """The day, with its data compared with its meta by content where nothing else tells."""
        deadline, wait = time.monotonic() + patience, _FIRST_WAIT_SECONDS
        while day.proved is None:
            try:
                if self._sum(day) == day.sha256:
                    return replace(day, proved=True)
            except (ObjectChanged, ObjectNotFound):
                pass  # another version since it was listed
            if time.monotonic() + wait > deadline:
                flaw = (Flaw.UNCOMMITTED, "data.parquet has not the sha256 that meta.json says")
                return replace(day, proved=False, flaws=(flaw, *day.flaws))
            time.sleep(wait)
            wait *= 2
            again = self._look(day.symbol_day, self._listed(day.symbol_day), patience=0.0)
            if again is None:
                break
            day = again
        return day

    def _sum(self, day: Day) -> str:
        """The SHA-256 of this version of a day's data: computed once."""
        assert day.data is not None
        key = (day.data.key, day.data.etag)
        if key not in self._sums:
            if day.proved and day.sha256 is not None:
                return day.sha256
            pinned = self._place.pin(day.data)
            try:
                self._sums[key] = pinned.sha256()
            finally:
                pinned.close()
        return self._sums[key]


def worth(days: Iterable[Day]) -> pl.DataFrame:
    """Days as a table, one row each: which, status, label, rows, range (as times, UTC, too), bytes, revision, hash."""
    return pl.DataFrame(
        [
            (
                day.exchange,
                day.stream,
                day.symbol,
                day.date,
                day.status,
                day.quality,
                day.rows,
                day.ts_event_min,
                day.ts_event_max,
                day.first,
                day.last,
                day.size_bytes,
                day.revision,
                day.sha256,
                "; ".join(why for _, why in day.flaws),
            )
            for day in days
        ],
        schema={
            "exchange": pl.String,
            "stream": pl.String,
            "symbol": pl.String,
            "date": pl.Date,
            "status": pl.String,
            "quality": pl.String,
            "rows": pl.Int64,
            "ts_event_min": pl.Int64,
            "ts_event_max": pl.Int64,
            "first": pl.Datetime("us", "UTC"),
            "last": pl.Datetime("us", "UTC"),
            "bytes": pl.Int64,
            "revision": pl.Int64,
            "sha256": pl.String,
            "why": pl.String,
        },
        orient="row",
    )


def _bound(instant: Instant | None, what: str) -> Bound | None:
    return None if instant is None else bound_of(instant, what)


def _several(names: Iterable[str] | None) -> list[str] | None:
    """Names; a text is one, and not its letters."""
    if names is None:
        return None
    return [names] if isinstance(names, str) else list(names)


def _flaws(allow: Iterable[Flaw | str]) -> set[Flaw]:
    return {_flaw(text) for text in _several(allow) or ()}


def _flaw(text: Flaw | str) -> Flaw:
    try:
        return Flaw(text.lower())
    except ValueError:
        known = ", ".join(flaw.value for flaw in Flaw)
        raise PathError(f"allow {text!r}", "is nothing that could be allowed", f"Known are: {known}") from None


def _some(names: Sequence[object]) -> str:
    return f"{', '.join(map(str, names[:_SHOWN]))}{' …' if len(names) > _SHOWN else ''}"


def _chosen(what: str, given: Names, known: Sequence[str], where: str) -> list[str]:
    """The names that are meant, in the spelling of the paths.

    Raises:
        NothingPublished: one is nowhere.
    """
    if given is None:
        return list(known)
    chosen = []
    for name in [given] if isinstance(given, str) else sorted(given):
        same = [name] if name in known else [text for text in known if text.lower() == name.lower()]
        if not same:
            near = get_close_matches(name.lower(), known, 3) or list(known[:3])
            remedy = f"Nearest are: {', '.join(near)}" if near else "There are none at all: check the URL"
            raise NothingPublished(f"{what} {name}", f"is not in {where}", remedy)
        chosen += same
    return chosen


def _before(day: dt.date) -> dt.date:
    return day if day == dt.date.min else day - _ONE_DAY


def _after(day: dt.date) -> dt.date:
    return day if day == dt.date.max else day + _ONE_DAY


def _may_overlap(day: Day, lower: Bound | None, upper: Bound | None) -> bool:
    """Whether a day may have rows in a range: by its meta, where that tells."""
    if day.proved is False or day.rows is None:
        return True
    if day.ts_event_min is None or day.ts_event_max is None:
        return True  # without rows it still says which columns there are
    span = _range_of(day, lower, upper)
    if span is None:
        return True
    low, high = span
    return (high is None or day.ts_event_min < high) and (low is None or day.ts_event_max >= low)


def _range_of(day: Day, lower: Bound | None, upper: Bound | None) -> tuple[int | None, int | None] | None:
    """A range in the unit of a day's `ts_event`; None where that cannot be said."""
    if day.ticks is not None:
        return (lower.in_ticks(day.ticks) if lower else None, upper.in_ticks(day.ticks) if upper else None)
    low, high = (bound.number if bound else None for bound in (lower, upper))
    return None if (lower and low is None) or (upper and high is None) else (low, high)


def _missing(
    series: Sequence[tuple[Pair, str]], asked: Sequence[Day], first: dt.date, last: dt.date
) -> dict[tuple[str, str, str], tuple[dt.date, ...]]:
    """Days without data, from the first to the last that were asked for; where an end is open, of what is there."""
    found: dict[tuple[str, str, str], set[dt.date]] = {}
    for day in asked:
        if day.data is not None:
            found.setdefault((day.exchange, day.stream, day.symbol), set()).add(day.date)
    missing = {}
    for pair, symbol in series:
        key = (pair.exchange, pair.stream, symbol)
        have = found.get(key, set())
        begin = first if first != dt.date.min else min(have, default=None)
        end = last if last != dt.date.max else max(have, default=None)
        if begin is None or end is None:
            continue
        span = (begin + _ONE_DAY * number for number in range((end - begin).days + 1))
        if gaps := tuple(day for day in span if day not in have):
            missing[key] = gaps
    return missing
