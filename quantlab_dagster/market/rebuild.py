"""Making `_state.json` again from the lake: it is only a summary of what the meta and quarantine files say."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.outcome import Outcome, Status, standing
from quantlab_dagster.market.rollup import roll_up_day
from quantlab_dagster.market.state import LOOK_BACK_DAYS, State, advance, begin, record_outcomes, settle_day
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.rollup import DayRollUp

__all__ = ["rebuild_state"]


async def rebuild_state(place: MarketPlace, pairs: Sequence[Pair]) -> State:
    """Look at every day of the look-back, and write what was found.

    The watermark and the beginning are kept where the present state can be read. Where it cannot, catch-up begins with
    the oldest day of the look-back that has raw parts or something published, so that no open day is passed over.

    Raises:
        StoreError: the lake cannot be read.
    """
    now = place.clock()
    last = last_eligible_day(now)
    days = [last - dt.timedelta(days=number) for number in reversed(range(LOOK_BACK_DAYS))]
    rolled = [await roll_up_day(place, pairs, day) for day in days]
    store = StateStore(place.compact)

    def change(before: State | None) -> State:
        touched = [item.day for item in rolled if item.plans]  # open ones, too
        state = begin(before, min(touched, default=last), now)
        kept = {day: record for day, record in state.days.items() if record.reason}  # an operator's decisions
        state = state.model_copy(update={"days": kept, "open_days": {}})
        for item in rolled:
            state = _fold(state, item, now)
        return advance(state, now)

    try:
        return await store.update(change)
    except MalformedObject:
        return await store.replace_unreadable(change(None))


def _fold(state: State, rolled: DayRollUp, now: dt.datetime) -> State:
    by_pair: dict[Pair, list[Outcome]] = {}
    for outcome in _recorded(rolled):
        by_pair.setdefault(outcome.symbol_day.pair, []).append(outcome)
    for pair, outcomes in by_pair.items():
        state = record_outcomes(state, pair, rolled.day, outcomes, now, whole=False)
    first_open = state.first_open_day
    if rolled.settled and first_open is not None and rolled.day >= first_open:
        state = settle_day(state, rolled.day, rolled.status, now)
    return state


def _recorded(rolled: DayRollUp) -> list[Outcome]:
    """What is published or quarantined of a day: what a state made anew can tell."""
    stands = [standing(plan) for plan in rolled.plans]
    return [outcome for outcome in stands if outcome and outcome.status in (Status.SUCCESS, Status.QUARANTINE)]
