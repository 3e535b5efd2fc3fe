"""Between midnights: is each symbol that had data in the last days still flushed? Pure; who looks is in `listening`.

The newest part of a symbol may be as old as its stream allows (`STREAM_LIMITS`), or as its own pace: some symbols are
quiet for hours, and more so at weekends, and their records say how long they usually are.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import Pair, day_text
from quantlab_dagster.market.pace import usual_limit
from quantlab_dagster.market.silence import USUAL_DAYS, WINDOW_DAYS, Presence, is_delisted, presences
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from quantlab_dagster.market.state import State

__all__ = [
    "LONGEST_LIMIT",
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


def limit_of(stream: str, gaps: Sequence[int], limits: Mapping[str, int] | None = None) -> dt.timedelta:
    """How old the newest part of a symbol may be.

    Args:
        stream: of the symbol.
        gaps: the longest time between two flushes, in seconds, of each of the last days that are known.
        limits: minutes by stream, in the place of the table's.
    """
    known = STREAM_LIMITS | dict(limits or {})
    limit = dt.timedelta(minutes=known.get(stream, OTHER_LIMIT))
    own = usual_limit(gaps)
    return min(max(limit, dt.timedelta(seconds=own or 0)), LONGEST_LIMIT)


@dataclass(frozen=True, slots=True)
class LiveSymbol:
    """A symbol that is expected to be flushed.

    Attributes:
        name: exchange/stream/symbol.
        pair: which.
        symbol: as in the path.
        limit: how old its newest part may be.
        last: the last day with data that is known of.
    """

    name: str
    pair: Pair
    symbol: str
    limit: dt.timedelta
    last: dt.date


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
    found = []
    for presence in presences(state):
        expected = not presence.absent or (presence.silent and presence.is_usual(least))
        rests = presence.rests(today) and not presence.silent
        if presence.pair in wanted and expected and not rests and not is_delisted(state, presence):
            limit = limit_of(presence.pair.stream, _gaps(state, presence), limits)
            symbol = presence.name.rpartition("/")[2]
            found.append(LiveSymbol(presence.name, presence.pair, symbol, limit, presence.last))
    return found


def _gaps(state: State, presence: Presence) -> list[int]:
    records = (state.partitions.get(f"{presence.name}/{day_text(day)}") for day in presence.days[-WINDOW_DAYS:])
    return [gap for record in records if record is not None and (gap := record.longest_gap_seconds) is not None]


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
        """How the symbol is. What could not be looked at neither speaks nor is silent."""
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
    """

    now: dt.datetime
    pairs: tuple[Pair, ...]
    looks: tuple[LiveLook, ...]

    @property
    def fine(self) -> bool:
        """Whether nobody need look: there is something that speaks, and nothing that does not."""
        return bool(self.looks) and not self.having(Hearing.SILENT) and not self.having(Hearing.UNKNOWN)

    def having(self, hearing: Hearing, pair: Pair | None = None) -> list[LiveLook]:
        """The looks that ended so, of all pairs or of one."""
        return [look for look in self.of(pair) if look.hearing(self.now) is hearing]

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
        if silent and len(silent) == len(looks):
            texts.append(f"all {len(looks)} symbols are silent: {name_some([look.text for look in silent], 3)}")
        elif silent:
            texts.append(f"{len(silent)} of {len(looks)} symbols are silent: {name_some([one.text for one in silent])}")
        if unknown:
            named = name_some([look.text for look in unknown], 3)
            texts.append(f"{len(unknown)} of {len(looks)} symbols could not be looked at: {named}")
        well = "every symbol is flushed" if looks else "no symbol had data in the last days"
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


def _minutes(limit: dt.timedelta) -> str:
    minutes = limit.total_seconds() / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"  # noqa: PLR2004
