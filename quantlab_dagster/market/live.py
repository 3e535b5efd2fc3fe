"""Between midnights: is each symbol that had data in the last days still flushed? Pure; who looks is in `listening`.

The newest part of a symbol may be as old as its stream allows (`STREAM_LIMITS`), or as its own pace: some symbols are
quiet for hours, and more so at weekends, and their records say how long they usually are. The newest of a pair of
several may be as old as its quickest symbol's on its better days: a collector that died stops all of them at once.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import Pair, day_text
from quantlab_dagster.market.pace import Gap, days_alike, quick_limit, usual_limit
from quantlab_dagster.market.silence import REMEMBERED_DAYS, USUAL_DAYS, Presence, is_delisted, presences
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from quantlab_dagster.market.state import State

__all__ = [
    "LONGEST_LIMIT",
    "NONE_EXPECTED",
    "NOTHING_KNOWN",
    "PARTS_ARRIVING",
    "STREAM_LIMITS",
    "Hearing",
    "LiveJudgement",
    "LiveLook",
    "LiveSymbol",
    "limit_of",
    "live_symbols",
]

PARTS_ARRIVING = "parts_arriving"

STREAM_LIMITS: dict[str, int] = {
    "bbo": 5,
    "trade": 10,
    "mark_price": 5,
    "open_interest": 15,
    "funding": 510,  # it speaks every eight hours
}
"""Minutes that a stream may be silent, whatever the symbol's own pace. `QUANTLAB_LIVE_LIMITS` changes and adds some."""

OTHER_LIMIT = 60
"""Minutes, of a stream that is not in the table."""

LONGEST_LIMIT = dt.timedelta(days=2)
"""What is silent for longer is the judgement's of days."""


NOTHING_KNOWN = "no symbol is known yet, so there is nothing to listen to"

NONE_EXPECTED = "no symbol is expected: none had data in the last days, or all are delisted or rest today"

SEVERAL = 3
"""Symbols of a pair from which on it is judged as a whole, too: of so many not all are quiet by chance."""


def limit_of(stream: str, gaps: Sequence[int], limits: Mapping[str, int] | None = None) -> dt.timedelta:
    """How old the newest part of a symbol may be.

    Args:
        stream: of the symbol.
        gaps: the longest time between two flushes, in seconds, of each of the last days that are like this one.
        limits: minutes by stream, in the place of the table's.
    """
    return _at_least(stream, usual_limit(gaps), limits)


def _at_least(stream: str, seconds: float | None, limits: Mapping[str, int] | None) -> dt.timedelta:
    """A pace in seconds, or the stream's limit, if that is more."""
    known = STREAM_LIMITS | dict(limits or {})
    limit = dt.timedelta(minutes=known.get(stream, OTHER_LIMIT))
    return min(max(limit, dt.timedelta(seconds=seconds or 0)), LONGEST_LIMIT)


def _limit_of_pair(
    pair: Pair, gaps: Sequence[Sequence[Gap]], today: dt.date, limits: Mapping[str, int] | None
) -> dt.timedelta | None:
    """How old the newest part of all its symbols may be, from the gaps of each; None if only they themselves tell."""
    by_day: dict[dt.date, list[Gap]] = {}
    for gap in (gap for symbol in gaps for gap in symbol):
        by_day.setdefault(gap.day, []).append(gap)
    if len(gaps) < SEVERAL or not by_day:
        return None
    least = [
        Gap(day, min(gap.seconds for gap in of), min(gap.within for gap in of)) for day, of in sorted(by_day.items())
    ]
    return max(_at_least(pair.stream, quick_limit(alike), limits) for alike in days_alike(least, today))


@dataclass(frozen=True, slots=True)
class LiveSymbol:
    """A symbol that is expected to be flushed.

    Attributes:
        name: exchange/stream/symbol.
        pair: which.
        symbol: as in the path.
        limit: how old its newest part may be.
        last: the last day with data that is known of.
        together: how old the newest part of all its pair may be; None if that is not judged.
    """

    name: str
    pair: Pair
    symbol: str
    limit: dt.timedelta
    last: dt.date
    together: dt.timedelta | None = None


def live_symbols(
    state: State,
    pairs: Iterable[Pair],
    today: dt.date,
    *,
    least: int = USUAL_DAYS,
    limits: Mapping[str, int] | None = None,
) -> list[LiveSymbol]:
    """The symbols of the configured pairs that had data in the last days, those that are delisted left out.

    These are those that had some on the latest settled day or since, and those whose silence is a finding already; not
    those that rest on this day of the week.
    """
    wanted = set(pairs)
    expected: dict[Pair, dict[str, tuple[Presence, list[Gap]]]] = {}
    for presence in presences(state):
        known = not presence.absent or (presence.silent and presence.is_usual(least))
        rests = presence.rests(today) and not presence.silent
        if presence.pair in wanted and known and not rests and not is_delisted(state, presence):
            expected.setdefault(presence.pair, {})[presence.name] = presence, _gaps(state, presence)
    found = []
    for pair, symbols in expected.items():
        together = _limit_of_pair(pair, [gaps for _, gaps in symbols.values()], today, limits)
        for name, (presence, gaps) in symbols.items():
            limit = max(limit_of(pair.stream, alike, limits) for alike in days_alike(gaps, today))
            found.append(LiveSymbol(name, pair, name.rpartition("/")[2], limit, presence.last, together))
    return sorted(found, key=lambda symbol: symbol.name)


def _gaps(state: State, presence: Presence) -> list[Gap]:
    found = []
    for day in presence.days[-REMEMBERED_DAYS:]:
        record = state.partitions.get(f"{presence.name}/{day_text(day)}")
        if record is not None and (seconds := record.longest_gap_seconds) is not None:
            within = record.longest_gap_within_seconds
            found.append(Gap(day, seconds, seconds if within is None else within))
    return found


class Hearing(StrEnum):
    """How a symbol is."""

    SPEAKING = "speaking"
    SILENT = "silent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LiveLook:
    """What a look at a live symbol found.

    Attributes:
        of: which.
        flushed: when its newest part was; None if no part of today or yesterday was found.
        problem: why that cannot be told; empty if it can.
    """

    of: LiveSymbol
    flushed: dt.datetime | None = None
    problem: str = ""

    def age(self, now: dt.datetime) -> dt.timedelta | None:
        """How old the newest part is; None if there is none, or it is not known."""
        return None if self.flushed is None else max(now - self.flushed, dt.timedelta(0))

    def hearing(self, now: dt.datetime) -> Hearing:
        """How the symbol is by its own limit. What could not be looked at neither speaks nor is silent."""
        if self.problem:
            return Hearing.UNKNOWN
        age = self.age(now)
        return Hearing.SILENT if age is None or age > self.of.limit else Hearing.SPEAKING

    @property
    def text(self) -> str:
        """What is wrong, for people; the same at every look while nothing comes."""
        if self.problem:
            return f"{self.of.name} ({self.problem})"
        if self.flushed is None:
            return f"{self.of.name} (no part today or yesterday; it had data on {self.of.last})"
        return (
            f"{self.of.name} (no part since {self.flushed:%Y-%m-%d %H:%M:%S} UTC, {_minutes(self.of.limit)} are usual)"
        )


@dataclass(frozen=True, slots=True)
class LiveJudgement:
    """Whether what had data in the last days is still flushed.

    Attributes:
        now: when that was looked at.
        pairs: configured ones.
        looks: one for each live symbol, sorted by name.
        known: whether the state knows any symbol, of whatever pair; where there are looks it does.
    """

    now: dt.datetime
    pairs: tuple[Pair, ...]
    looks: tuple[LiveLook, ...]
    known: bool = False

    @property
    def fine(self) -> bool:
        """Whether nobody need look: something is known, and nothing of it is silent that should not be."""
        return not self.unheard and not self.having(Hearing.SILENT) and not self.having(Hearing.UNKNOWN)

    @property
    def unheard(self) -> bool:
        """Whether no symbol at all is known. Where some are, but all are delisted or rest, nothing is wrong."""
        return not self.looks and not self.known

    def having(self, hearing: Hearing, pair: Pair | None = None) -> list[LiveLook]:
        """The looks that ended so, of all pairs or of one."""
        return [look for look, heard in self.hearings(pair) if heard is hearing]

    def hearings(self, pair: Pair | None = None) -> list[tuple[LiveLook, Hearing]]:
        """How each symbol is: one of a pair that has stopped is silent, whatever its own pace."""
        stopped = self.stopped
        return [(look, Hearing.SILENT if look.of.pair in stopped else look.hearing(self.now)) for look in self.of(pair)]

    @property
    def stopped(self) -> frozenset[Pair]:
        """The pairs of which nothing was flushed for longer than all of one may be silent."""
        newest: dict[Pair, dt.timedelta | None] = {}
        problems = set()  # what could not be looked at may speak
        for look in self.looks:
            pair, age = look.of.pair, look.age(self.now)
            before = newest.get(pair)
            newest[pair] = before if age is None or (before is not None and before < age) else age
            if look.problem:
                problems.add(pair)
        limits = {look.of.pair: look.of.together for look in self.looks}
        return frozenset(
            pair
            for pair, age in newest.items()
            if pair not in problems and (limit := limits[pair]) is not None and (age is None or age > limit)
        )

    def of(self, pair: Pair | None) -> list[LiveLook]:
        """The looks of a pair; of all for None."""
        return [look for look in self.looks if pair in (None, look.of.pair)]

    def newest(self, pair: Pair | None = None) -> dt.timedelta | None:
        """The age of the newest part of a pair, or of all."""
        return min((age for look in self.of(pair) if (age := look.age(self.now)) is not None), default=None)

    def finding(self, pair: Pair) -> Finding:
        """What is to be said of a pair: the asset check of `raw/<exchange>/<stream>`."""
        looks = self.of(pair)
        silent, unknown = self.having(Hearing.SILENT, pair), self.having(Hearing.UNKNOWN, pair)
        texts = []
        if pair in self.stopped:
            texts.append(
                f"all {len(looks)} symbols are silent{_since(looks)}: {name_some([x.of.name for x in looks], 3)}"
            )
        elif silent and len(silent) == len(looks):
            texts.append(f"all {len(looks)} symbols are silent: {name_some([look.text for look in silent], 3)}")
        elif silent:
            texts.append(f"{len(silent)} of {len(looks)} symbols are silent: {name_some([one.text for one in silent])}")
        if unknown:
            named = name_some([look.text for look in unknown], 3)
            texts.append(f"{len(unknown)} of {len(looks)} symbols could not be looked at: {named}")
        if self.unheard:
            texts.append(NOTHING_KNOWN)
        well = "every symbol is flushed" if looks else NONE_EXPECTED
        return Finding(PARTS_ARRIVING, not texts, "; ".join(texts) or well, number=len(silent) + len(unknown))

    def gauges(self, pair: Pair) -> dict[str, float]:
        """What is to be said of a pair in numbers, by the name of the metric."""
        newest = self.newest(pair)
        return {
            "symbols": len(self.of(pair)),
            "silent_symbols": len(self.having(Hearing.SILENT, pair)),
            "unknown_symbols": len(self.having(Hearing.UNKNOWN, pair)),
            **({} if newest is None else {"newest_part_age_seconds": newest.total_seconds()}),
        }


def _since(looks: Sequence[LiveLook]) -> str:
    """Since when nothing of a pair that has stopped came, and what is usual."""
    newest = max((look.flushed for look in looks if look.flushed is not None), default=None)
    usual = "" if looks[0].of.together is None else f", {_minutes(looks[0].of.together)} are usual of all together"
    return (
        " (no part today or yesterday)" if newest is None else f" (no part since {newest:%Y-%m-%d %H:%M:%S} UTC{usual})"
    )


def _minutes(limit: dt.timedelta) -> str:
    minutes = limit.total_seconds() / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"  # noqa: PLR2004
