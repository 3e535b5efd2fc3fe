"""Summing up the rows of a symbol-day, window by window in their order; the windows do not show in the sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from quantlab_dagster.market.stream_rules import EARLY_SECONDS
from quantlab_dagster.market.stream_seen import Seen
from quantlab_dagster.market.timeunit import ticks_per_second

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantlab_dagster.market.stream_seen import Watched

__all__ = ["StreamSums"]

_RECEIVED = "ts_recv"
_KEPT_GAPS = 64
_KEPT_VALUES = 1 << 20
"""Of one instant so many different values are remembered across windows: 8 MiB."""
_KEPT_INTERVALS = 1 << 16
"""So many runs of ids without a hole are remembered: 1 MiB."""

_Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
_Bools = np.ndarray[tuple[int], np.dtype[np.bool_]]


class StreamSums:
    """The sums so far.

    Args:
        observer: whose rules they follow.
        constants: columns that are in no window, with their value.
    """

    def __init__(self, observer: Watched, constants: Mapping[str, Any]) -> None:
        self._observer = observer
        self._rules = observer.rules
        self._constants = constants
        self._rows = 0
        self._gaps = _Gaps(observer)
        self._repeated, self._ids = _Repeats(), _Ids()
        self._crossed: int | None = None
        self._not_positive: dict[str, int] = {}
        self._early: int | None = None
        self._earliest = 0
        self._received_ticks: int | None = None
        self._problem = ""

    def see(self, frame: pl.DataFrame, hashes: pl.Series) -> None:
        """Look at the next rows, which are not changed.

        Args:
            frame: of them, in order, with the columns that vary.
            hashes: one UInt64 a row: rows with equal ones are equal.
        """
        if not frame.height:
            return
        self._rows += frame.height
        try:
            self._see(frame, hashes)
        except (pl.exceptions.PolarsError, ArithmeticError, TypeError, ValueError) as error:
            # Data that nobody thought of must not keep a day from being published; that it was not checked is told.
            self._problem = self._problem or f"{type(error).__name__}: {error}".splitlines()[0]

    def result(self) -> Seen:
        """What was counted."""
        gaps = self._gaps
        kept = gaps.ended()
        ids_missing, ids_jumps, ids_repeated = self._ids.result()
        if self._rules.ids in self._constants:  # one id for all
            ids_missing, ids_repeated = 0, max(0, self._rows - 1)
        return Seen(
            rows=self._rows,
            gaps=kept,
            gaps_number=gaps.number,
            gaps_ticks=gaps.ticks,
            repeated=self._repeated.number,
            crossed=self._crossed,
            not_positive=tuple(sorted(self._not_positive.items())),
            ids_missing=ids_missing,
            ids_jumps=ids_jumps,
            ids_repeated=ids_repeated,
            early=self._early,
            earliest_ticks=self._earliest,
            before=gaps.before,
            after=gaps.after,
            problem=self._problem,
        )

    def _see(self, frame: pl.DataFrame, hashes: pl.Series) -> None:
        column = frame[self._observer.column]
        keys: _Ints = column.fill_null(np.iinfo(np.int64).min).to_numpy() if column.null_count() else column.to_numpy()
        tied = _tied(keys)
        self._gaps.see(keys)
        self._repeated.see(keys, tied, hashes)
        if self._rules.ids in frame.columns:
            self._ids.see(keys, tied, frame[str(self._rules.ids)])
        self._see_prices(frame)
        self._see_received(frame, keys)

    def _see_prices(self, frame: pl.DataFrame) -> None:
        rules = self._rules
        constant = {name: value for name, value in self._constants.items() if name in rules.prices}
        if constant:
            frame = frame.with_columns(pl.lit(value).alias(name) for name, value in constant.items())
        numbers = {name for name in rules.prices if name in frame.columns and frame[name].dtype.is_numeric()}
        # NaN is above every number to Polars.
        asked = {f"+{name}": ~_above(pl.col(name), pl.lit(0)) for name in rules.positive if name in numbers}
        if rules.bid_ask and numbers.issuperset(rules.bid_ask):
            bid, ask = rules.bid_ask
            asked["crossed"] = _above(pl.col(bid), pl.col(ask))
        if not asked:
            return
        sums = frame.select(expression.sum().alias(name) for name, expression in asked.items()).row(0, named=True)
        if "crossed" in sums:
            self._crossed = (self._crossed or 0) + int(sums.pop("crossed"))
        for name, number in sums.items():
            self._not_positive[name[1:]] = self._not_positive.get(name[1:], 0) + int(number)

    def _see_received(self, frame: pl.DataFrame, keys: _Ints) -> None:
        ticks = self._observer.ticks
        if ticks is None or _RECEIVED not in frame.columns or not frame[_RECEIVED].dtype.is_integer():
            return
        received = frame[_RECEIVED]
        if received.null_count():
            known = received.is_not_null().to_numpy()
            received, keys = received.drop_nulls(), keys[known]
        values: _Ints = received.to_numpy()
        if not values.size:
            return
        if self._received_ticks is None:
            self._received_ticks = ticks_per_second(int(values[0]), int(values[-1]), self._observer.day)
        if not self._received_ticks:
            return
        if self._received_ticks != ticks:  # another unit than the event's
            values = (values * (ticks / self._received_ticks)).astype(np.int64)
        ahead = keys - values
        bound = round(EARLY_SECONDS * ticks)
        self._early = (self._early or 0) + int(np.count_nonzero(ahead > bound))
        most = int(ahead.max())
        if most > bound:
            self._earliest = max(self._earliest, most)


def _above(value: pl.Expr, other: pl.Expr) -> pl.Expr:
    return (value > other) & value.is_not_nan()


def _tied(keys: _Ints) -> _Bools:
    """Which rows share their instant with a neighbour: bool of the length of the keys."""
    same = keys[1:] == keys[:-1]
    tied = np.zeros(keys.size, dtype=np.bool_)
    tied[1:] = same
    tied[:-1] |= same
    return tied


class _Gaps:
    """Silences above the limit within the day, from its first to its last moment; and rows that lie outside it."""

    def __init__(self, observer: Watched) -> None:
        self.number = 0
        self.ticks = 0
        self.before: int | None = None
        self.after: int | None = None
        self._longest: list[tuple[int, int]] = []
        self._begin = self._last = observer.midnight
        self._end, self._limit = 0, None
        if observer.ticks is not None and observer.midnight is not None:
            self.before, self.after = 0, 0
            self._end = observer.midnight + 86_400 * observer.ticks
            seconds = observer.rules.gap_seconds
            self._limit = None if seconds is None else round(seconds * observer.ticks)

    def see(self, keys: _Ints) -> None:
        if self._begin is None or self._last is None:
            return
        low, high = (int(np.searchsorted(keys, edge)) for edge in (self._begin, self._end))
        assert self.before is not None
        assert self.after is not None
        self.before += low
        self.after += keys.size - high
        inside = keys[low:high]
        if not inside.size or self._limit is None:
            return
        self._note(self._last, int(inside[0]))
        steps = np.diff(inside)
        found = np.flatnonzero(steps > self._limit)
        if found.size:
            self.number += int(found.size)
            self.ticks += int(steps[found].sum())
            longest = found[np.argsort(-steps[found], kind="stable")[:_KEPT_GAPS]]
            self._keep(zip(inside[longest].tolist(), steps[longest].tolist(), strict=True))
        self._last = int(inside[-1])

    def ended(self) -> tuple[tuple[int, int], ...] | None:
        """The longest ones, that to the end of the day included; None where they are not judged."""
        if self._limit is None or self._last is None:
            return None
        self._note(self._last, self._end)
        self._last = self._end
        return tuple(self._longest)

    def _note(self, start: int, end: int) -> None:
        if self._limit is not None and end - start > self._limit:
            self.number += 1
            self.ticks += end - start
            self._keep([(start, end - start)])

    def _keep(self, found: Any) -> None:
        self._longest = sorted([*self._longest, *found], key=lambda gap: (-gap[1], gap[0]))[:_KEPT_GAPS]


class _Repeats:
    """How many values repeat another one of the same instant. Equal rows have equal instants."""

    def __init__(self) -> None:
        self.number = 0
        self._key: int | None = None
        self._seen: pl.Series | None = None  # different values of the last instant

    def see(self, keys: _Ints, tied: _Bools, values: pl.Series) -> None:
        first, size = 0, keys.size
        if self._seen is not None and self._key is not None and keys[0] == self._key:
            first = int(np.searchsorted(keys, self._key, side="right"))
            self._add(values.slice(0, first))
            if first == size:
                return
        last = int(np.searchsorted(keys, keys[-1], side="left"))
        inner = values.slice(first, last - first).filter(pl.Series(tied[first:last]))
        self.number += inner.len() - inner.n_unique()
        self._key, self._seen = int(keys[-1]), None
        self._add(values.slice(last))

    def _add(self, more: pl.Series) -> None:
        before = self._seen.len() if self._seen is not None else 0
        together = more if self._seen is None else pl.concat([self._seen, more])
        unique = together.unique(maintain_order=True)
        self.number += more.len() - (unique.len() - before)
        self._seen = unique.head(_KEPT_VALUES)


class _Ids:
    """Ids that count up: how many are missing between the first and the last, and how many repeat another one."""

    def __init__(self) -> None:
        self._repeats = _Repeats()
        self._numbers = True
        self._any = False
        self._known = _Intervals()
        self._repeated = 0

    def see(self, keys: _Ints, tied: _Bools, ids: pl.Series) -> None:
        if ids.null_count():
            known = ids.is_not_null()
            ids, keys = ids.drop_nulls(), keys[known.to_numpy()]
            if not ids.len():
                return
            tied = _tied(keys)
        self._repeats.see(keys, tied, ids.hash())
        if self._numbers:
            texts_or_integers = ids if ids.dtype.is_integer() else ids.cast(pl.String)
            numbers = texts_or_integers.cast(pl.Int64, strict=False)
            self._numbers = not numbers.null_count()
            if self._numbers:
                self._repeated += numbers.len() - self._known.add(numbers.to_numpy())
        self._any = True

    def result(self) -> tuple[int | None, int, int | None]:
        """Missing, in how many places, and repeated; None what is not judged."""
        if not self._any:
            return None, 0, None
        if not self._numbers:
            return None, 0, self._repeats.number
        return self._known.missing, self._known.holes, self._repeated


class _Intervals:
    """A set of integers as closed intervals, ascending, none of them touching the next.

    Of a set with too many holes the lowest intervals are let go: what comes below the others later is taken for new.
    """

    def __init__(self) -> None:
        self._starts = self._ends = np.empty(0, dtype=np.int64)
        self._least: int | None = None
        self._below = 0  # values that were let go, or came below
        self._holes_below = 0

    def add(self, values: _Ints) -> int:
        """Add values; returns how many of them were not there."""
        ordered = _ascending(values)
        self._least = int(ordered[0]) if self._least is None else min(self._least, int(ordered[0]))
        below = int(np.searchsorted(ordered, self._starts[0])) if self._holes_below else 0
        self._below += below
        ordered = ordered[below:]
        before = self._size
        if ordered.size:
            self._unite(*_runs(ordered))
        new = below + self._size - before
        spare = self._starts.size - _KEPT_INTERVALS
        if spare > 0:
            size = self._size
            self._starts, self._ends = self._starts[spare:], self._ends[spare:]
            self._below += size - self._size
            self._holes_below += spare
        return new

    def _unite(self, starts: _Ints, ends: _Ints) -> None:
        starts, ends = np.concatenate([self._starts, starts]), np.concatenate([self._ends, ends])
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        apart = (starts[1:] > ends[:-1]) & (starts[1:] - 1 > ends[:-1])  # the least integer has none before it
        self._starts, self._ends = starts[np.append(True, apart)], ends[np.append(apart, True)]

    @property
    def _size(self) -> int:
        return int((self._ends - self._starts).sum()) + self._starts.size

    @property
    def holes(self) -> int:
        """In how many places values are missing between the least and the greatest."""
        return self._holes_below + max(0, self._starts.size - 1) if self.missing else 0

    @property
    def missing(self) -> int:
        """How many values are missing between the least and the greatest."""
        if self._least is None:
            return 0
        return max(0, int(self._ends[-1]) - self._least + 1 - self._below - self._size)


def _ascending(values: _Ints) -> _Ints:
    """The values, each once. NumPy's `unique` takes ten times as long."""
    if bool((values[1:] > values[:-1]).all()):
        return values
    ordered = np.sort(values)
    once: _Ints = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return once


def _runs(ordered: _Ints) -> tuple[_Ints, _Ints]:
    """The first and the last values of the runs without a hole in ascending values, each once."""
    apart = np.diff(ordered) != 1
    return ordered[np.append(True, apart)], ordered[np.append(apart, True)]
