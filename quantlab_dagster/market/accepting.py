"""An operator's decision that something may stay as it is. What it is, is looked up in the lake first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.errors import ObjectNotFound
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text
from quantlab_dagster.market.eligibility import check_eligible
from quantlab_dagster.market.late import look_at
from quantlab_dagster.market.looks import note_of
from quantlab_dagster.market.rollup import DayRollUp, note_rolled, roll_up_day
from quantlab_dagster.market.settling import accept_day, accept_symbol_day, note_looks
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.state import State

__all__ = ["accept"]


async def accept(place: MarketPlace, what: dt.date | SymbolDay, reason: str, pairs: Sequence[Pair]) -> State:
    """Accept a day that is not settled, or a symbol-day that is quarantined or stale.

    A symbol-day is accepted with the raw parts that it has now; when these change, the decision is void. With a day its
    symbol-days that are neither published nor quarantined are accepted in this way, so that they are let be.

    Args:
        place: the lakes.
        what: the day or symbol-day.
        reason: why; kept in the state.
        pairs: configured pairs.

    Raises:
        DayRefused: the day is not eligible yet.
        ObjectNotFound: there is no state yet.
        NothingToAccept: the day is settled, or the symbol-day neither quarantined nor stale.
        StoreError: the day or symbol-day cannot be looked at.
    """
    now = place.clock()
    day = what.day if isinstance(what, SymbolDay) else what
    check_eligible(day, now)
    states = StateStore(place.compact)
    if not await states.exists():
        raise ObjectNotFound(states.name, "there is no state yet", "There is nothing to accept")

    def begun(before: State | None) -> State:
        assert before is not None  # a state is never removed
        return before

    if not isinstance(what, SymbolDay):
        before = begun(await states.view())
        failed = [Pair(*name.split("/", 1)) for name in before.open_days.get(day_text(day), {})]
        rolled = await roll_up_day(place, list(dict.fromkeys([*pairs, *failed])), day)
        return await states.fold(
            begun,
            day=day,
            then=lambda state: _accept_open(accept_day(state, day, reason, now, pairs), rolled, reason, now),
        )
    notes = {what.state_key: note_of(await look_at(place, what), now)}
    return await states.fold(
        begun, day=day, then=lambda state: accept_symbol_day(note_looks(state, notes), what, reason, now)
    )


def _accept_open(state: State, rolled: DayRollUp, reason: str, now: dt.datetime) -> State:
    """Accept the open symbol-days of a day that has just been accepted. Without that they would count as late."""
    state = note_rolled(state, rolled, now)
    for look in rolled.open:
        if state.noted(look.symbol_day.state_key) is not None:
            state = accept_symbol_day(state, look.symbol_day, reason, now)
    return state
