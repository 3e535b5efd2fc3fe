"""The search for late parts: raw parts that a published day does not hold, or that appear where nothing was.

It costs one plan (about three requests) per symbol-day, so it runs in slices: each looks at so many symbol-days, and
the next goes on where it stopped. A round begins at most once an hour.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text, find_symbols
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.plan import Action, Requested, plan_symbol_day
from quantlab_dagster.market.state import LateScan, State, utc_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.state_store import StateStore

__all__ = ["SYMBOL_DAYS_PER_SLICE", "scan_slice"]

SYMBOL_DAYS_PER_SLICE = 300
"""The cap: about three requests each, so about a thousand requests a slice."""

ROUND_EVERY = dt.timedelta(hours=1)


async def scan_slice(
    place: MarketPlace,
    state_store: StateStore,
    state: State,
    pairs: Sequence[Pair],
    *,
    look_back_days: int,
    cap: int = SYMBOL_DAYS_PER_SLICE,
) -> State:
    """Look at the next symbol-days, if a round is due or under way, and record which are stale.

    Args:
        place: the lakes.
        state_store: where the cursor and the findings are kept.
        state: as read just now.
        pairs: configured pairs.
        look_back_days: how many days back from the last eligible one are looked at; only settled ones.
        cap: most symbol-days to look at.

    Returns:
        The state that now stands.
    """
    now = place.clock()
    scan = state.late_scan
    if scan.cursor is None and scan.started_at and _age(scan.started_at, now) < ROUND_EVERY:
        return state
    last = last_eligible_day(now)
    days = [last - dt.timedelta(days=number) for number in range(look_back_days)]
    # What lies before the beginning is history: an operator's matter, not ours.
    settled = [
        day
        for day in reversed(days)
        if state.is_settled(day) and state.catch_up_from is not None and day_text(day) >= state.catch_up_from
    ]
    symbol_days = [
        SymbolDay(pair.exchange, pair.stream, symbol, day)
        for pair in sorted(pairs)
        for symbol in await find_symbols(place.raw, pair)
        for day in settled
    ]
    ordered = sorted(symbol_days, key=_cursor_of)
    remaining = [item for item in ordered if scan.cursor is None or _cursor_of(item) > scan.cursor]
    looked_at, found, fine = remaining[:cap], {}, []
    for symbol_day in looked_at:
        try:
            plan = await plan_symbol_day(place.raw, place.compact, symbol_day, Requested())
        except MalformedObject:
            found[symbol_day.state_key] = "unreadable record"  # its run fails, and says what is wrong
            continue
        if plan.action is Action.BUILD:
            found[symbol_day.state_key] = plan.raw_fingerprint
        else:
            fine.append(symbol_day.state_key)
    started = scan.started_at if scan.cursor is not None and scan.started_at else utc_text(now)
    cursor = _cursor_of(looked_at[-1]) if len(remaining) > len(looked_at) else None

    def change(before: State | None) -> State:
        base = before or state
        stale = {key: value for key, value in base.late_scan.stale.items() if key not in fine} | found
        return base.model_copy(
            update={"late_scan": LateScan(started_at=started, cursor=cursor, stale=stale), "updated_at": utc_text(now)}
        )

    return await state_store.update(change)


def _cursor_of(symbol_day: SymbolDay) -> str:
    return symbol_day.prefix


def _age(moment: str, now: dt.datetime) -> dt.timedelta:
    return now - dt.datetime.fromisoformat(moment)
