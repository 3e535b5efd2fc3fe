"""Making `_state.json` again from the lake: it is only a summary of what the meta and quarantine files say."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.market import Pair, SymbolDay, find_days, find_pairs, find_symbols
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.inventory import move_oldest
from quantlab_dagster.market.journal import Journal
from quantlab_dagster.market.looks import look_of, note_of
from quantlab_dagster.market.plan import plan_each
from quantlab_dagster.market.rollup import roll_up_day
from quantlab_dagster.market.settling import (
    Note,
    advance,
    begin,
    fold,
    leave_open,
    leave_waiting,
    note_looks,
    note_quality,
    owing_pairs,
    settle_day,
)
from quantlab_dagster.market.state import DayRecord, State, utc_text
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from quantlab_dagster.market.outcome import Status
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.quality.records import DayQuality
    from quantlab_dagster.market.rollup import DayRollUp

__all__ = ["REBUILT_DAYS", "rebuild_state"]

REBUILT_DAYS = 30
"""How many days back, from the last eligible one, are looked at."""

_AT_ONCE = 1_000


async def rebuild_state(place: MarketPlace, pairs: Sequence[Pair]) -> State:
    """Look at every day of the look-back, and note what was found.

    Of a state that can be read everything else stays: the watermark and the beginning, days, decisions, and what it
    says of older symbol-days. Of one that cannot be read as a whole stays what is valid by itself. Where nothing is,
    catch-up begins with the oldest day of the look-back that has raw parts or something published, so that no open day
    is passed over, and the inventory is made of all that the compact lake holds.

    Raises:
        StoreError: the lake cannot be read.
    """
    now = place.clock()
    last = last_eligible_day(now)
    days = [last - dt.timedelta(days=number) for number in reversed(range(REBUILT_DAYS))]
    found = [_found(await roll_up_day(place, pairs, day), now) for day in days]
    states, journal = StateStore(place.compact), Journal(place.compact)
    kept = await journal.read()

    def change(before: State | None) -> State:
        touched = [item.day for item in found if item.notes]  # open ones, too
        state = fold(begin(before, min(touched, default=last), now, pairs), kept.entries.values())
        for item in found:
            state = _noted(state, item, pairs, now)
        return advance(state, now)

    try:
        after = await states.update(change, recall=kept.troubled)
    except MalformedObject:
        everything = [notes async for notes in _inventory(place, now)]

        def anew(believed: State | None) -> State:
            state = change(believed)
            for notes in everything:
                unknown = {key: note for key, note in notes.items() if key not in state.partitions}
                state = note_looks(state, {key: (record, None) for key, (record, _) in unknown.items()})
            return state

        after = await states.replace_unreadable(anew)
    after = await move_oldest(place.compact, after, states.update)
    await journal.forget(kept)
    return after


@dataclass(frozen=True, slots=True)
class _Found:
    """What a day's roll-up found; small."""

    day: dt.date
    status: Status
    nowhere: bool
    open: dict[str, Pair]
    why_open: str
    notes: dict[str, Note]
    waiting: bool
    quality: DayQuality | None


def _found(rolled: DayRollUp, now: dt.datetime) -> _Found:
    return _Found(
        rolled.day,
        rolled.status,
        bool(rolled.nowhere),
        {look.symbol_day.state_key: look.symbol_day.pair for look in rolled.open},
        "" if rolled.settled else rolled.open_text,
        {look.symbol_day.state_key: note_of(look, now) for look in rolled.looks},
        rolled.waiting,
        rolled.quality,
    )


def _noted(state: State, found: _Found, pairs: Sequence[Pair], now: dt.datetime) -> State:
    state = note_looks(state, found.notes)
    if found.quality is not None:
        state = note_quality(state, found.day, found.quality)
    blocking = {pair for key, pair in found.open.items() if not state.is_accepted(key)}
    settled = not blocking and not found.nowhere
    if owing_pairs(state, found.day, pairs):
        if settled:
            return settle_day(state, found.day, found.status, now, pairs)
        if found.waiting:
            return leave_waiting(state, found.day, blocking, now)
        return leave_open(state, found.day, blocking or set(pairs), found.why_open, now)
    record = state.day(found.day)
    if record is None or not record.settled or record.reason or not settled or record.status == found.status:
        return state  # an operator's decision stays, and so does what was settled by others
    renewed = DayRecord(status=found.status.value, updated_at=utc_text(now))
    return state.model_copy(update={"days": {**state.days, f"{found.day:%Y%m%d}": renewed}})


async def _inventory(place: MarketPlace, now: dt.datetime) -> AsyncIterator[dict[str, Note]]:
    """Every symbol-day that the compact lake has a directory for, of whatever pair."""
    qualities = place.qualities()
    for pair in (await find_pairs(place.compact)).items:
        for symbol in await find_symbols(place.compact, pair):
            days = await find_days(place.compact, pair, symbol)
            wanted = [SymbolDay(pair.exchange, pair.stream, symbol, day) for day in days]
            looks = await plan_each(place, wanted, look_of, qualities=qualities)
            yield {look.symbol_day.state_key: note_of(look, now) for look in looks}
