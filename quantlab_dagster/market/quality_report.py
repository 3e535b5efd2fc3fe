"""What days and their symbol-days are worth, gathered for people: `quantlab quality`. Nothing is written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.market import QUALITY, SymbolDay, day_text, find_symbols_of
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.quality.records import QualityDay
from quantlab_dagster.market.quality.rules import Label
from quantlab_dagster.market.state import ACCEPTED, State
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.quality.records import DayQuality

__all__ = ["DayReport", "SymbolReport", "report_quality"]


_NOT_FINE = (Label.BAD, Label.PARTIAL)


@dataclass(frozen=True, slots=True)
class SymbolReport:
    """What is said beside a published symbol-day.

    Attributes:
        symbol_day: which.
        said: its quality_day.json; None if that cannot be understood.
        problem: why not.
    """

    symbol_day: SymbolDay
    said: QualityDay | None
    problem: str = ""

    @property
    def findings(self) -> dict[str, str]:
        """What is not as it should be in its rows, by check."""
        return self.said.findings if self.said is not None else {}


@dataclass(frozen=True, slots=True)
class DayReport:
    """What a day is worth.

    Attributes:
        day: UTC day.
        quality: by its windows, as they are now.
        evidence: in numbers.
        symbols: published symbol-days that have a quality_day.json, sorted.
        accepted: why an operator let it be although it is BAD or PARTIAL; empty if nobody did, or it is neither.
    """

    day: dt.date
    quality: DayQuality
    evidence: QualityDay
    symbols: tuple[SymbolReport, ...]
    accepted: str = ""

    @property
    def has_windows(self) -> bool:
        """Whether collectors told anything of it."""
        return self.quality.verdict.windows > 0

    @property
    def fine(self) -> bool:
        """Whether nobody need look at it. What an operator accepted `status` lets be, too."""
        bad = self.quality.label in _NOT_FINE and not self.accepted
        return not bad and not self.quality.verdict.unreadable and not any(item.problem for item in self.symbols)


async def report_quality(
    place: MarketPlace, pairs: Sequence[Pair], days: Sequence[dt.date], *, symbols: Sequence[str] = ()
) -> list[DayReport]:
    """Look at days: at their windows, and at what is said beside their published symbol-days.

    Args:
        place: the lakes.
        pairs: whose symbol-days.
        days: which.
        symbols: only these; empty for all that the compact lake has.

    Raises:
        MalformedObject: what was kept of a day's windows cannot be understood.
        StoreError: a listing or a read failed.
    """
    qualities = place.qualities(keep=False)
    await qualities.look_up(days)
    found = dict.fromkeys(pairs, tuple(symbols))
    if not symbols:
        found, _ = await find_symbols_of(place.compact, pairs, at_once=place.limits.request_concurrency)
    gate = asyncio.Semaphore(place.limits.request_concurrency)

    async def one(symbol_day: SymbolDay) -> SymbolReport | None:
        async with gate:
            return await _said(place, symbol_day)

    tasks: dict[dt.date, list[asyncio.Task[SymbolReport | None]]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for day in days:
                wanted = [SymbolDay(pair.exchange, pair.stream, name, day) for pair in pairs for name in found[pair]]
                tasks[day] = [group.create_task(one(symbol_day)) for symbol_day in wanted]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    state = await _state(place)
    reports = []
    for day in days:
        quality = await qualities.of(day)
        said = [report for task in tasks[day] if (report := task.result()) is not None]
        said.sort(key=lambda report: report.symbol_day)
        why = _why_accepted(state, pairs, day, said) if quality.label in _NOT_FINE else ""
        reports.append(DayReport(day, quality, QualityDay.of(day, quality), tuple(said), why))
    return reports


async def _state(place: MarketPlace) -> State:
    try:
        return await StateStore(place.compact).view() or State()
    except MalformedObject:  # it accepts nothing; whoever judges the lake says what is wrong with it
        return State()


def _why_accepted(state: State, pairs: Sequence[Pair], day: dt.date, said: Sequence[SymbolReport]) -> str:
    """Why an operator accepted a day, or had it published as it is; empty while a symbol-day of it is withheld."""
    names, end = {str(pair) for pair in pairs}, f"/{day_text(day)}"
    withheld = [key for key, record in state.partitions.items() if key.endswith(end) and record.withheld]
    reasons = [state.why_accepted(key) for key in withheld if key.rsplit("/", 2)[0] in names]
    record = state.day(day)
    if record is not None and record.accepted:
        reasons.append((record.reason or "").removeprefix(ACCEPTED))
    reasons += [one.said.accepted_because for one in said if one.said is not None and one.said.accepted_because]
    found = [reason for reason in reasons if reason is not None]
    return "; ".join(dict.fromkeys(found)) if len(found) == len(reasons) else ""


async def _said(place: MarketPlace, symbol_day: SymbolDay) -> SymbolReport | None:
    key = symbol_day.key(QUALITY)
    found = await place.compact.get_if_exists(key)
    if found is None:
        return None
    try:
        return SymbolReport(symbol_day, QualityDay.read(found[0], place.compact.name(key)))
    except MalformedObject as error:
        return SymbolReport(symbol_day, None, str(error))
