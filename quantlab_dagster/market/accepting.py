"""An operator's decision that something may stay as it is. What it is, is looked up in the lake first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject, ObjectNotFound
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text
from quantlab_dagster.market.eligibility import check_eligible
from quantlab_dagster.market.late import look_at
from quantlab_dagster.market.looks import note_of
from quantlab_dagster.market.rollup import DayRollUp, note_rolled, roll_up_day
from quantlab_dagster.market.settling import (
    accept_bad_day,
    accept_day,
    accept_symbol_day,
    bad_symbol_days,
    delist,
    is_open,
    note_looks,
)
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Sequence

    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.state import State

__all__ = ["accept", "accepted_now", "acknowledge_delisted"]


async def accept(place: MarketPlace, what: dt.date | SymbolDay, reason: str, pairs: Sequence[Pair]) -> State:
    """Accept a day that is not settled, or a symbol-day that is quarantined or stale.

    A symbol-day is accepted with the raw parts that it has now; when these change, the decision is void. With a day its
    symbol-days that are neither published nor quarantined are accepted in this way, so that they are let be; of a BAD
    day, settled or not, also those that are quarantined for that.

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

    if not isinstance(what, SymbolDay):
        before = _begun(await states.view())
        if not is_open(before, day, pairs):
            return await states.fold(_begun, day=day, then=lambda state: accept_bad_day(state, day, reason, now))
        failed = [Pair(*name.split("/", 1)) for name in before.open_days.get(day_text(day), {})]
        rolled = await roll_up_day(place, list(dict.fromkeys([*pairs, *failed])), day)
        return await states.fold(
            _begun,
            day=day,
            then=lambda state: _accept_open(accept_day(state, day, reason, now, pairs), rolled, reason, now),
        )
    notes = {what.state_key: note_of(await look_at(place, what), now)}
    return await states.fold(
        _begun, day=day, then=lambda state: accept_symbol_day(note_looks(state, notes), what, reason, now)
    )


async def accepted_now(place: MarketPlace, symbol_days: Collection[SymbolDay]) -> dict[SymbolDay, str]:
    """Which of these an operator has accepted as they are now, with the reasons. Of none the state is not read.

    A state that cannot be understood accepts nothing; whoever judges the lake says what is wrong with it.

    Raises:
        StoreError: the state cannot be read.
    """
    if not symbol_days:
        return {}
    try:
        state = await StateStore(place.compact).view()
    except MalformedObject:
        return {}
    if state is None:
        return {}
    found = {symbol_day: state.why_accepted(symbol_day.state_key) for symbol_day in symbol_days}
    return {symbol_day: why for symbol_day, why in found.items() if why is not None}


async def acknowledge_delisted(place: MarketPlace, names: Sequence[str], reason: str) -> State:
    """Acknowledge that symbols, or all of a pair, have no data any more; data of a later day end that by themselves.

    Args:
        place: the lakes.
        names: as exchange/stream/symbol or exchange/stream.
        reason: why; kept in the state.

    Raises:
        ObjectNotFound: there is no state yet.
        NothingToAccept: no record speaks of one of them.
        StoreError: the state cannot be read or written.
    """
    states = StateStore(place.compact)
    if not await states.exists():
        raise ObjectNotFound(states.name, "there is no state yet", "There is nothing to acknowledge")
    return await states.fold(_begun, then=lambda state: delist(state, names, reason, place.clock()))


def _begun(before: State | None) -> State:
    assert before is not None  # a state is never removed
    return before


def _accept_open(state: State, rolled: DayRollUp, reason: str, now: dt.datetime) -> State:
    """Accept the open symbol-days of a day that has just been accepted. Without that they would count as late."""
    state = note_rolled(state, rolled, now)
    for look in rolled.open:
        if state.noted(look.symbol_day.state_key) is not None:
            state = accept_symbol_day(state, look.symbol_day, reason, now)
    return accept_bad_day(state, rolled.day, reason, now) if bad_symbol_days(state, rolled.day) else state
