"""The search for late parts: raw parts that a published day does not hold, or that appear where nothing was.

It costs one plan (about three requests) per symbol-day, so it looks at many side by side, and runs in slices: each ends
at a deadline, and the next goes on after the last symbol-day up to which all were looked at. A round begins at most
once an hour.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.errors import PathError, StoreError, StoreUnavailable
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text, find_symbols_of
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.plan import ITS_OWN_FAULT, Action, Requested, plan_symbol_day
from quantlab_dagster.market.state import LateScan, State, utc_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.state_store import StateStore

__all__ = ["SCAN_SECONDS", "scan_slice"]

SCAN_SECONDS = 20.0
"""How long a slice of the sensor's may take: Dagster ends a tick after 60 s, and its other requests need time, too."""

AT_ONCE = 64
"""Most plans in flight; each makes one request at a time."""

ROUND_EVERY = dt.timedelta(hours=1)


@dataclass(slots=True)
class _Looked:
    """What became of the symbol-days of a slice.

    Attributes:
        of: all that were to be looked at, in the order of the cursor.
        stale: by position, of those that were: what is stale about it, or None.
        error: what ended the slice early; None if that was the deadline, or nothing.
    """

    of: Sequence[SymbolDay]
    stale: dict[int, str | None] = field(default_factory=dict)
    error: StoreError | None = None

    @property
    def through(self) -> int:
        """How many from the first on were looked at without a gap: only what lies behind these may be passed over."""
        return next((number for number in range(len(self.of)) if number not in self.stale), len(self.of))

    def found(self) -> dict[str, str]:
        """The stale ones, with what is stale about them."""
        return {self.of[number].state_key: what for number, what in self.stale.items() if what is not None}

    def fine(self) -> set[str]:
        """Those that are not stale."""
        return {self.of[number].state_key for number, what in self.stale.items() if what is None}


async def scan_slice(
    place: MarketPlace,
    state_store: StateStore,
    state: State,
    pairs: Sequence[Pair],
    *,
    look_back_days: int,
    seconds: float | None = SCAN_SECONDS,
) -> State:
    """Look at the next symbol-days, if a round is due or under way, and record which are stale.

    Args:
        place: the lakes.
        state_store: where the cursor and the findings are kept.
        state: as read just now.
        pairs: configured pairs.
        look_back_days: how many days back from the last eligible one are looked at; only settled ones.
        seconds: after so many no more are looked at; None looks at all that are left of the round.

    Returns:
        The state that now stands.

    Raises:
        StoreError: a listing or a read failed, or not one symbol-day was looked at in time. What was looked at before
            is recorded.
    """
    now, scan = place.clock(), state.late_scan
    if scan.cursor is None and scan.started_at and _age(scan.started_at, now) < ROUND_EVERY:
        return state
    until = None if seconds is None else asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(until):
            symbols, odd = await find_symbols_of(place.raw, pairs, at_once=place.limits.request_concurrency)
    except TimeoutError:
        raise _too_slow(place, f"the symbols of {len(pairs)} pairs were not listed", seconds) from None
    days = _days(state, now, look_back_days)
    remaining = _remaining(symbols, days, scan.cursor)
    looked = await _look_at(place, remaining, until)
    cursor = _cursor(looked, scan.cursor)
    started = scan.started_at if scan.cursor is not None and scan.started_at else utc_text(now)

    def change(before: State | None) -> State:
        base = before or state
        fine = looked.fine()
        before_it = {key: value for key, value in base.late_scan.stale.items() if key not in fine}
        stale = {key: value for key, value in before_it.items() if _is_listed(key, symbols)} | looked.found()
        late_scan = LateScan(started_at=started, cursor=cursor, stale=stale, odd=odd or None)
        return base.model_copy(update={"late_scan": late_scan, "updated_at": utc_text(now)})

    after = await state_store.update(change)
    if looked.error is not None:
        raise looked.error
    if remaining and not looked.through:
        raise _too_slow(place, f"{remaining[0]}, the next to be searched for late parts, was not looked at", seconds)
    return after


def _is_listed(state_key: str, symbols: dict[Pair, tuple[str, ...]]) -> bool:
    """Whether a symbol-day still has a place in the raw lake: else no round would ever look at it again."""
    try:
        symbol_day = SymbolDay.of_state_key(state_key)
    except PathError:
        return False
    return symbol_day.symbol in symbols.get(symbol_day.pair, ())


def _days(state: State, now: dt.datetime, look_back_days: int) -> list[dt.date]:
    """The settled days of the look-back. What lies before the beginning is history: an operator's matter, not ours."""
    last, first = last_eligible_day(now), state.catch_up_from
    days = (last - dt.timedelta(days=number) for number in reversed(range(look_back_days)))
    return [day for day in days if first is not None and day_text(day) >= first and state.is_settled(day)]


def _remaining(symbols: dict[Pair, tuple[str, ...]], days: Iterable[dt.date], cursor: str | None) -> list[SymbolDay]:
    """What of a round is to be looked at yet, in the order of the cursor."""
    days = list(days)
    symbol_days = [
        SymbolDay(pair.exchange, pair.stream, symbol, day)
        for pair, found in symbols.items()
        for symbol in found
        for day in days
    ]
    return sorted((item for item in symbol_days if cursor is None or item.prefix > cursor), key=_place_in_round)


def _place_in_round(symbol_day: SymbolDay) -> str:
    return symbol_day.prefix


def _cursor(looked: _Looked, before: str | None) -> str | None:
    """Where the next slice goes on: after the last symbol-day up to which all were looked at; None at the end."""
    through = looked.through
    if through == len(looked.of):
        return None
    # A round that has begun must not look as if it had not: "" is before everything.
    return _place_in_round(looked.of[through - 1]) if through else (before or "")


async def _look_at(place: MarketPlace, symbol_days: Sequence[SymbolDay], until: float | None) -> _Looked:
    """Look at symbol-days side by side, begun in their order, until an error or a moment of the loop's clock."""
    looked = _Looked(symbol_days)
    next_ones = iter(enumerate(symbol_days))

    async def work() -> None:
        for number, symbol_day in next_ones:  # shared by all workers
            looked.stale[number] = await _stale(place, symbol_day)

    try:
        async with asyncio.timeout_at(until), asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, place.limits.request_concurrency)):
                group.create_task(work())
    except TimeoutError:
        pass  # the next slice goes on
    except BaseExceptionGroup as errors:
        error = first_error(errors)
        if not isinstance(error, StoreError):
            raise error from errors
        looked.error = error
    return looked


async def _stale(place: MarketPlace, symbol_day: SymbolDay) -> str | None:
    """What is stale about a settled symbol-day: the fingerprint of its parts, or why it cannot be looked at."""
    try:
        plan = await plan_symbol_day(place.raw, place.compact, symbol_day, Requested())
    except ITS_OWN_FAULT as error:
        return f"{error.where}: {error.cause}"  # its run fails, and says what is wrong
    if plan.action is Action.BROKEN:
        return f"{symbol_day}: {plan.reason}"
    return plan.raw_fingerprint if plan.action is Action.BUILD else None


def _too_slow(place: MarketPlace, what: str, seconds: float | None) -> StoreUnavailable:
    return StoreUnavailable(
        place.raw.url, f"{what} within {seconds:g} s", "`quantlab catch-up` takes the time it needs"
    )


def _age(moment: str, now: dt.datetime) -> dt.timedelta:
    """How long ago a round began. A moment that makes no sense, or is yet to come, must not put the next one off."""
    try:
        age = now - dt.datetime.fromisoformat(moment)
    except (ValueError, TypeError):  # no moment, or one without a zone
        return dt.timedelta.max
    return age if age >= dt.timedelta(0) else dt.timedelta.max
