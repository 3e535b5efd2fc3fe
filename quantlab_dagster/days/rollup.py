"""Rolling a day up: is every symbol-day of every configured pair settled? Decided by the lake, never by events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.days.compact import Status, Workplace
from quantlab_dagster.days.plan import Action, Plan, Requested, plan_symbol_day
from quantlab_dagster.lake.discovery import find_pairs, find_symbols
from quantlab_dagster.lake.layout import SymbolDay
from quantlab_dagster.lake.store import first_error

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.layout import Pair

__all__ = ["DayRollUp", "plan_days", "roll_up_day", "unclaimed_pairs"]


@dataclass(frozen=True, slots=True)
class DayRollUp:
    """What the lake says of a day.

    Attributes:
        day: UTC day.
        status: what the day would be settled as.
        plans: one per symbol-day that has raw parts or a published file.
        open: those that are neither published nor quarantined.
        stale: those that are published, but have raw parts that the published file does not hold.
    """

    day: dt.date
    status: Status
    plans: tuple[Plan, ...]
    open: tuple[Plan, ...]
    stale: tuple[Plan, ...]

    @property
    def settled(self) -> bool:
        """Whether nothing is open."""
        return not self.open


async def roll_up_day(place: Workplace, pairs: Iterable[Pair], day: dt.date) -> DayRollUp:
    """Look at every symbol-day of a day.

    Raises:
        StoreError: a listing or a read failed: then nothing can be said.
    """
    plans = await plan_days(place, pairs, [day])
    stale = tuple(plan for plan in plans if is_stale(plan))
    open_ = tuple(plan for plan in plans if plan.action in (Action.BUILD, Action.BROKEN) and plan not in stale)
    if any(plan.action is Action.QUARANTINED for plan in plans):
        status = Status.QUARANTINE
    else:
        status = Status.SUCCESS if plans else Status.NO_FILES
    return DayRollUp(day, status, tuple(plans), open_, stale)


def is_stale(plan: Plan) -> bool:
    """Whether a published day lacks raw parts that are there now."""
    return plan.action is Action.BUILD and plan.published.committed


async def plan_days(
    place: Workplace,
    pairs: Iterable[Pair],
    days: Sequence[dt.date],
    *,
    symbols: Sequence[str] = (),
    requested: Requested | None = None,
) -> list[Plan]:
    """Plan every symbol-day of the pairs and days that has raw parts or a published file, many at a time."""
    gate = asyncio.Semaphore(place.request_concurrency)

    async def one(symbol_day: SymbolDay) -> Plan:
        async with gate:
            return await plan_symbol_day(place.raw, place.compact, symbol_day, requested or Requested())

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(one(SymbolDay(pair.exchange, pair.stream, symbol, day)))
                for pair in pairs
                for symbol in (symbols or await find_symbols(place.raw, pair))
                for day in days
            ]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return [plan for task in tasks if (plan := task.result()).action is not Action.NO_FILES]


async def unclaimed_pairs(place: Workplace, pairs: Iterable[Pair]) -> list[Pair]:
    """Pairs of the raw lake that no asset claims."""
    claimed = set(pairs)
    return [pair for pair in await find_pairs(place.raw) if pair not in claimed]
