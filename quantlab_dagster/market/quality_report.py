"""What days and their symbol-days are worth, gathered for people: `quantlab quality`. Nothing is written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.market import QUALITY, SymbolDay, find_symbols_of
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.quality.records import QualityDay
from quantlab_dagster.market.quality.rules import Label

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.quality.records import DayQuality

__all__ = ["DayReport", "SymbolReport", "report_quality"]


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
    """

    day: dt.date
    quality: DayQuality
    evidence: QualityDay
    symbols: tuple[SymbolReport, ...]

    @property
    def has_windows(self) -> bool:
        """Whether collectors told anything of it."""
        return self.quality.verdict.windows > 0

    @property
    def fine(self) -> bool:
        """Whether nobody need look at it."""
        bad = self.quality.label in (Label.BAD, Label.PARTIAL)
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
    reports = []
    for day in days:
        quality = await qualities.of(day)
        said = [report for task in tasks[day] if (report := task.result()) is not None]
        said.sort(key=lambda report: report.symbol_day)
        reports.append(DayReport(day, quality, QualityDay.of(day, quality), tuple(said)))
    return reports


async def _said(place: MarketPlace, symbol_day: SymbolDay) -> SymbolReport | None:
    key = symbol_day.key(QUALITY)
    found = await place.compact.get_if_exists(key)
    if found is None:
        return None
    try:
        return SymbolReport(symbol_day, QualityDay.read(found[0], place.compact.name(key)))
    except MalformedObject as error:
        return SymbolReport(symbol_day, None, str(error))
