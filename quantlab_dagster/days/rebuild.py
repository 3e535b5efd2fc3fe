"""Making `_state.json` again from the lake: it is only a summary of what the meta and quarantine files say."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.days.compact import Outcome, Status
from quantlab_dagster.days.eligibility import last_eligible_day
from quantlab_dagster.days.plan import Action, Plan
from quantlab_dagster.days.rollup import roll_up_day
from quantlab_dagster.days.state import LOOK_BACK_DAYS, State, StateStore, advance, begin, record_outcomes, settle_day
from quantlab_dagster.errors import MalformedObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.days.compact import Workplace
    from quantlab_dagster.days.rollup import DayRollUp
    from quantlab_dagster.lake.layout import Pair

__all__ = ["rebuild_state"]


async def rebuild_state(place: Workplace, pairs: Sequence[Pair]) -> State:
    """Look at every day of the look-back, and write what was found.

    The watermark and the beginning are kept where the present state can be read. Where it cannot, catch-up begins with
    the oldest day of the look-back that has something published or quarantined, so that no open day is passed over.

    Raises:
        StoreError: the lake cannot be read.
    """
    now = place.clock()
    last = last_eligible_day(now)
    days = [last - dt.timedelta(days=number) for number in reversed(range(LOOK_BACK_DAYS))]
    rolled = [await roll_up_day(place, pairs, day) for day in days]
    store = StateStore(place.compact)

    def change(before: State | None) -> State:
        touched = [item.day for item in rolled if any(_settled_as(plan) for plan in item.plans)]
        state = begin(before, min(touched, default=last), now)
        kept = {day: record for day, record in state.days.items() if record.reason}  # an operator's decisions
        state = state.model_copy(update={"days": kept, "partitions": {}, "open_days": {}})
        for item in rolled:
            state = _fold(state, item, now)
        return advance(state, now)

    try:
        return await store.update(change)
    except MalformedObject:
        return await store.replace_unreadable(change(None))


def _fold(state: State, rolled: DayRollUp, now: dt.datetime) -> State:
    by_pair: dict[Pair, list[Outcome]] = {}
    for plan in rolled.plans:
        status = _settled_as(plan)
        if status is not None:
            by_pair.setdefault(plan.symbol_day.pair, []).append(_outcome(plan, status))
    for pair, outcomes in by_pair.items():
        state = record_outcomes(state, pair, rolled.day, outcomes, now, whole=False)
    first_open = state.first_open_day
    if rolled.settled and first_open is not None and rolled.day >= first_open:
        state = settle_day(state, rolled.day, rolled.status, now)
    return state


def _settled_as(plan: Plan) -> Status | None:
    if plan.action is Action.QUARANTINED:
        return Status.QUARANTINE
    return Status.SUCCESS if plan.published.committed else None


def _outcome(plan: Plan, status: Status) -> Outcome:
    meta, data = plan.published.meta, plan.published.data
    published = status is Status.SUCCESS
    return Outcome(
        plan.symbol_day,
        status,
        plan.action,
        plan.reason,
        rows=meta.rows if meta and published else 0,
        parts=len(plan.parts),
        data_bytes=data.size_bytes if data and published else 0,
    )
