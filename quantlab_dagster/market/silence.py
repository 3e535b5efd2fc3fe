"""Who had data in the last days and has none now: nothing is a finding, too. Pure.

What is known comes from the records of symbol-days in the state, so asking costs no request. A symbol counts as one
that speaks if it had data on some of the days before its last ones; it is silent if the latest settled day of its
pair has none of it, and stays so until data come again or an operator says that it is delisted. A day on which it
rests every week is no silence: what is traded from Monday to Friday is not missed on a Saturday.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import PathError
from quantlab_dagster.lake.market import Pair, day_text, parse_day
from quantlab_dagster.market.outcome import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from quantlab_dagster.market.state import Delisted, PartitionRecord, State

__all__ = [
    "REMEMBERED_DAYS",
    "USUAL_DAYS",
    "WINDOW_DAYS",
    "Presence",
    "Silence",
    "has_data",
    "is_delisted",
    "presences",
    "silences",
    "still_delisted",
]

WINDOW_DAYS = 7
"""Days, up to the last one with data, in which those with data are counted."""

USUAL_DAYS = 3
"""With data on so many of them a symbol is missed on the next settled day; the default of a setting."""

REMEMBERED_DAYS = 14
"""So many of a symbol's last days with data tell on which days of the week it rests."""

_WEEK = dt.timedelta(days=7)

_ONE_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Presence:
    """On which days a symbol had data, or a pair as a whole.

    Attributes:
        name: exchange/stream/symbol, or exchange/stream.
        pair: which.
        days: with data, ascending; not empty.
        observed: the latest settled day of the pair; None if none is.
    """

    name: str
    pair: Pair
    days: tuple[dt.date, ...]
    observed: dt.date | None

    @property
    def last(self) -> dt.date:
        """The last day with data."""
        return self.days[-1]

    @property
    def absent(self) -> bool:
        """Whether the latest settled day has no data of it, nor has any day since."""
        return self.observed is not None and self.last < self.observed

    @property
    def silent(self) -> bool:
        """Whether it is absent, and one of the days since its last one is none of its days of rest."""
        if self.observed is None:
            return False
        # A week after its last day none can be one of rest.
        since = range(1, min((self.observed - self.last).days, WINDOW_DAYS) + 1)
        return any(not self.rests(self.last + number * _ONE_DAY) for number in since)

    def rests(self, day: dt.date) -> bool:
        """Whether it had no data on the same day of the week, a week and two weeks before, but on others of both weeks.

        Without these it was not known then, or nothing was: that is no rhythm.
        """
        spoke = set(self.days)
        weeks = [{day - number * _WEEK + at * _ONE_DAY for at in range(1, WINDOW_DAYS)} for number in (1, 2)]
        known = self.days[0] <= day - 2 * _WEEK
        return known and not {day - _WEEK, day - 2 * _WEEK} & spoke and all(week & spoke for week in weeks)

    def is_usual(self, least: int) -> bool:
        """Whether it had data on so many of the days up to its last one."""
        return sum(day > self.last - WINDOW_DAYS * _ONE_DAY for day in self.days) >= least


@dataclass(frozen=True, slots=True)
class Silence:
    """A symbol, or a whole pair, that had data in the last days and has none on the latest settled day.

    Attributes:
        name: exchange/stream/symbol, or exchange/stream where all of the pair is silent.
        symbols: how many symbols that are; 1 for a symbol.
        last: the last day with data.
        observed: the latest settled day, which has none.
    """

    name: str
    symbols: int
    last: dt.date
    observed: dt.date

    @property
    def text(self) -> str:
        """One line for people."""
        symbols = "1 symbol" if self.symbols == 1 else f"{self.symbols} symbols"
        who = f"{self.name} (all of it, {symbols})" if self.name.count("/") == 1 else self.name
        return f"{who}: none on {self.observed}, the last on {self.last}"


def has_data(record: PartitionRecord) -> bool:
    """Whether a symbol-day had data. One without a single row had none, but what cannot be read is there."""
    return record.status != Status.NO_FILES and (record.status != Status.SUCCESS or record.rows > 0)


def presences(state: State) -> list[Presence]:
    """On which days each symbol had data, whosever pair it is; sorted by name. In one pass over the records.

    What spoke last long before the beginning is left out: that is others' history, or was compacted by hand.
    """
    if state.catch_up_from is None:
        return []
    earliest = parse_day(state.catch_up_from) - WINDOW_DAYS * _ONE_DAY
    days: dict[str, dt.date | None] = {}
    spoke: dict[str, list[dt.date]] = {}
    recorded: dict[str, set[dt.date]] = {}
    for key, record in state.partitions.items():
        name, _, text = key.rpartition("/")
        if text not in days:
            days[text] = _day(text)
        day = days[text]
        if day is None or name.count("/") != 2:  # noqa: PLR2004  # exchange/stream/symbol
            continue
        recorded.setdefault(name.rpartition("/")[0], set()).add(day)
        if has_data(record):
            spoke.setdefault(name, []).append(day)
    rolled = {day for text, record in state.days.items() if record.settled and (day := _day(text)) is not None}
    pairs = {text: Pair(*text.split("/")) for text in recorded}
    observed = {text: _observed(state, pair, recorded[text] | rolled) for text, pair in pairs.items()}
    found = []
    for name, on in sorted(spoke.items()):
        of = name.rpartition("/")[0]
        found.append(Presence(name, pairs[of], tuple(sorted(on)), observed[of]))
    return [presence for presence in found if presence.last >= earliest]


def _day(text: str) -> dt.date | None:
    try:
        return parse_day(text, compact_only=True)
    except PathError:
        return None  # the judgement says of it that it cannot be understood


def _observed(state: State, pair: Pair, days: Iterable[dt.date]) -> dt.date | None:
    """The latest settled day of a pair of which there is a record. An accepted day proves nothing: nobody looked."""
    for day in sorted(days, reverse=True):
        record = state.day(day)
        if state.covers(pair, day) and not (record is not None and record.accepted):
            return day
    return None


def silences(state: State, *, least: int = USUAL_DAYS) -> tuple[Silence, ...]:
    """Who is silent and was not acknowledged as delisted; a pair of which all is, in the place of its symbols.

    Args:
        state: as it is now, with all that steps did.
        least: of the seven days up to the last one with data, so many must have had some.
    """
    by_pair: dict[Pair, list[Presence]] = {}
    for presence in presences(state):
        if not is_delisted(state, presence):
            by_pair.setdefault(presence.pair, []).append(presence)
    found: list[Silence] = []
    for pair, symbols in by_pair.items():
        whole = Presence(
            str(pair), pair, tuple(sorted({day for one in symbols for day in one.days})), symbols[0].observed
        )
        if whole.silent and whole.is_usual(least) and whole.observed is not None:
            lately = [one for one in symbols if one.last > whole.last - WINDOW_DAYS * _ONE_DAY]
            found.append(Silence(whole.name, len(lately), whole.last, whole.observed))
            continue
        found += [
            Silence(one.name, 1, one.last, one.observed)
            for one in symbols
            if one.silent and one.is_usual(least) and one.observed is not None
        ]
    return tuple(sorted(found, key=lambda silence: silence.name))


def is_delisted(state: State, presence: Presence) -> bool:
    """Whether an operator said that a symbol, or its pair, is delisted, and no data came since."""
    decisions = state.delisted or {}
    texts = (decisions[name].day for name in (presence.name, str(presence.pair)) if name in decisions)
    return any(day_text(presence.last) <= text for text in texts)


def still_delisted(
    decisions: Mapping[str, Delisted] | None, records: Mapping[str, PartitionRecord]
) -> dict[str, Delisted] | None:
    """The decisions that hold after these symbol-days were recorded: data of a later day end one for good.

    Of a pair as of a symbol: one symbol that speaks again ends the decision on all of its pair.
    """
    if not decisions:
        return None
    back = set()
    for key, record in records.items():
        name, _, text = key.rpartition("/")
        for one in (name, name.rpartition("/")[0]):
            if one in decisions and text > decisions[one].day and has_data(record):
                back.add(one)
    return {name: decision for name, decision in decisions.items() if name not in back} or None
