"""Rolling a day up: is every symbol-day of every configured pair settled? Decided by the lake, never by events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import Pair, find_pairs
from quantlab_dagster.market.checks import findings
from quantlab_dagster.market.eligibility import check_eligible, yesterday
from quantlab_dagster.market.outcome import Status, standing, worst
from quantlab_dagster.market.plan import Plan, plan_days
from quantlab_dagster.market.state import State, begin, leave_open, settle_day
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.work.finding import Finding

__all__ = ["DayRollUp", "roll_up_and_settle", "roll_up_day", "unclaimed_prefixes"]


@dataclass(frozen=True, slots=True)
class DayRollUp:
    """What the lake says of a day.

    Attributes:
        day: UTC day.
        status: what the day would be settled as.
        plans: one per symbol-day that has raw parts or a published file.
        open: those that are neither published nor quarantined.
        stale: those that are published, but have raw parts that the published file does not hold.
        nowhere: why the raw lake cannot be the right one; empty if it can.
    """

    day: dt.date
    status: Status
    plans: tuple[Plan, ...]
    open: tuple[Plan, ...]
    stale: tuple[Plan, ...]
    nowhere: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing is open, and the raw lake is the one that was meant."""
        return not self.open and not self.nowhere

    @property
    def open_text(self) -> str:
        """Which symbol-days are open, and why."""
        if self.nowhere:
            return self.nowhere
        named = [f"{plan.symbol_day}: {plan.reason}" for plan in self.open]
        return (
            f"{len(named)} of {len(self.plans)} symbol-days are neither published nor quarantined: "
            f"{name_some(named, separator='; ')}"
        )


async def roll_up_and_settle(
    place: MarketPlace, pairs: Sequence[Pair], day: dt.date
) -> tuple[DayRollUp, State, list[Finding]]:
    """Look at every symbol-day of a day; if nothing is open, settle it, and advance the watermark.

    Else the day is recorded as failed, and the pairs that were found open are to run again, however their steps ended:
    a part may have been replaced, or a symbol come, between a step and this look.

    Returns:
        What was found; the state that now stands; the lake's findings, or none if the day is open.

    Raises:
        DayRefused: the day is not eligible yet.
        StoreError: a listing or a read failed: then nothing can be said.
    """
    now = place.clock()
    check_eligible(day, now)
    rolled = await roll_up_day(place, pairs, day)
    if not rolled.settled:
        pairs_open = {plan.symbol_day.pair for plan in rolled.open} or set(pairs)
        return rolled, await _left_open(place, rolled, pairs_open, now), []
    stale = {plan.symbol_day.state_key: plan.raw_fingerprint for plan in rolled.stale}

    def change(before: State | None) -> State:
        state = begin(before, yesterday(now), now)
        scan = state.late_scan.model_copy(update={"stale": {**state.late_scan.stale, **stale}})
        return settle_day(state.model_copy(update={"late_scan": scan}), day, rolled.status, now)

    after = await StateStore(place.compact).update(change)
    return rolled, after, findings(after, await unclaimed_prefixes(place, pairs), now)


async def _left_open(place: MarketPlace, rolled: DayRollUp, pairs: set[Pair], now: dt.datetime) -> State:
    def change(before: State | None) -> State:
        return leave_open(begin(before, yesterday(now), now), rolled.day, pairs, rolled.open_text, now)

    return await StateStore(place.compact).update(change)


async def _nowhere(place: MarketPlace, pairs: Iterable[Pair]) -> str:
    """Why a day without any raw part says nothing: no configured pair has a prefix at all, as behind a wrong URL."""
    found = await find_pairs(place.raw)
    if set(pairs) & set(found.items):
        return ""
    return (
        f"none of the configured exchanges and streams has a prefix in {place.raw.url}, so nothing is settled: is that "
        "the raw lake?"
    )


async def roll_up_day(place: MarketPlace, pairs: Sequence[Pair], day: dt.date) -> DayRollUp:
    """Look at every symbol-day of a day.

    Raises:
        StoreError: a listing or a read failed: then nothing can be said.
    """
    plans = await plan_days(place, pairs, [day])
    stands = [(plan, standing(plan)) for plan in plans]
    settled = [outcome for _, outcome in stands if outcome is not None and outcome.status is not Status.FAILED]
    open_ = tuple(plan for plan, outcome in stands if outcome is None or outcome.status is Status.FAILED)
    stale = tuple(plan for plan in plans if plan.stale)
    return DayRollUp(
        day, worst(settled), tuple(plans), open_, stale, nowhere="" if plans else await _nowhere(place, pairs)
    )


async def unclaimed_prefixes(place: MarketPlace, pairs: Iterable[Pair]) -> list[str]:
    """Pairs of the raw lake that no asset claims; and what stands in the place of one, but cannot be addressed."""
    claimed = set(pairs)
    found = await find_pairs(place.raw)
    return [str(pair) for pair in found.items if pair not in claimed] + list(found.odd)
