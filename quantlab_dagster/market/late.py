"""The search for late parts: raw parts that a published day does not hold, or that appear where nothing was.

It costs one plan (about three requests) per symbol-day, so it looks at many side by side, and runs in slices: each ends
at a deadline, and the next goes on after the last symbol-day up to which all were looked at. A round begins at most
once an hour.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.errors import PathError, StoreError, StoreUnavailable
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text, find_symbols_of
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.looks import Look, look_of, note_of
from quantlab_dagster.market.plan import ITS_OWN_FAULT, Requested, broken_plan, plan_symbol_day
from quantlab_dagster.market.settling import Note, note_looks, note_quality
from quantlab_dagster.market.state import LateScan, Round, State, utc_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.quality.reading import Qualities
    from quantlab_dagster.market.state_store import StateStore

__all__ = ["ROUND_EVERY", "SCAN_SECONDS", "look_at", "next_round", "round_name", "scan_slice"]

SCAN_SECONDS = 20.0
"""How long a slice of the sensor's may take: Dagster ends a tick after 60 s, and its other requests need time, too."""

AT_ONCE = 64
"""Most plans in flight; each makes one request at a time."""

ROUND_EVERY = dt.timedelta(hours=1)

_FORGOTTEN_AFTER = dt.timedelta(days=7)


def round_name(pairs: Iterable[Pair]) -> str:
    """Whose round it is: deployments with other pairs look on their own."""
    return hashlib.sha256("\n".join(sorted(map(str, pairs))).encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Looked:
    """What became of the symbol-days of a slice.

    Attributes:
        of: all that were to be looked at, in the order of the cursor.
        looks: by position, those that were, with what was seen.
        error: what ended the slice early; None if that was the deadline, or nothing.
    """

    of: Sequence[SymbolDay]
    looks: dict[int, Look] = field(default_factory=dict)
    error: StoreError | None = None

    @property
    def through(self) -> int:
        """How many from the first on were looked at without a gap: only what lies behind these may be passed over."""
        return next((number for number in range(len(self.of)) if number not in self.looks), len(self.of))

    def notes(self, now: dt.datetime) -> dict[str, Note]:
        """By state key what is to be noted."""
        return {self.of[number].state_key: note_of(look, now) for number, look in self.looks.items()}


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
    now, name = place.clock(), round_name(pairs)
    scan = state.late_scan.rounds.get(name, Round())
    if next_round(state, pairs, now) is not None:
        return state
    until = None if seconds is None else asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(until):
            symbols, odd = await find_symbols_of(place.raw, pairs, at_once=place.limits.request_concurrency)
    except TimeoutError:
        raise _too_slow(place, f"the symbols of {len(pairs)} pairs were not listed", seconds) from None
    days = _days(state, now, look_back_days)
    wanted = set(_of_days(state, symbols, days))
    remaining = _remaining(wanted | _troubled(state, symbols, days), scan.cursor)
    qualities = place.qualities()
    looked = await _look_at(place, remaining, until, qualities)
    cursor = _cursor(looked, scan.cursor)
    started = scan.started_at if scan.cursor is not None and scan.started_at else utc_text(now)

    def change(before: State | None) -> State:
        base = note_looks(before or state, looked.notes(now), troubled_only=True)
        base = _with_qualities(base, qualities, days)
        others = {other: one for other, one in _recent(base.late_scan.rounds, now).items() if other != name}
        stale = {
            key: what
            for key, what in base.late_scan.stale.items()
            if _may_be_looked_at(key, symbols, by_others=bool(others))
        }
        rounds = {**others, name: Round(started_at=started, cursor=cursor)}
        late_scan = LateScan(rounds=rounds, stale=stale, odd=odd or None)
        return base.model_copy(update={"late_scan": late_scan, "updated_at": utc_text(now)})

    after = await state_store.update(change)
    if looked.error is not None:
        raise looked.error
    if remaining and not looked.through:
        raise _too_slow(place, f"{remaining[0]}, the next to be searched for late parts, was not looked at", seconds)
    return after


def next_round(state: State, pairs: Sequence[Pair], now: dt.datetime) -> dt.datetime | None:
    """When the next round may begin; None if one may now, or is under way."""
    scan = state.late_scan.rounds.get(round_name(pairs), Round())
    if scan.cursor is not None or not scan.started_at or _age(scan.started_at, now) >= ROUND_EVERY:
        return None
    return dt.datetime.fromisoformat(scan.started_at) + ROUND_EVERY


def _is_settled(state: State, text: str) -> bool:
    record = state.days.get(text)
    return record is not None and record.settled


def _may_be_looked_at(state_key: str, symbols: dict[Pair, tuple[str, ...]], *, by_others: bool) -> bool:
    """Whether some round would look at a symbol-day again: it is in the raw lake, or is another deployment's."""
    try:
        symbol_day = SymbolDay.of_state_key(state_key)
    except PathError:
        return False
    return symbol_day.symbol in symbols[symbol_day.pair] if symbol_day.pair in symbols else by_others


def _recent(rounds: dict[str, Round], now: dt.datetime) -> dict[str, Round]:
    """The rounds of deployments that still look."""
    return {
        name: one for name, one in rounds.items() if one.started_at and _age(one.started_at, now) < _FORGOTTEN_AFTER
    }


def _days(state: State, now: dt.datetime, look_back_days: int) -> list[dt.date]:
    """The days of the look-back. What lies before the beginning is history: an operator's matter, not ours."""
    last, first = last_eligible_day(now), state.catch_up_from
    days = (last - dt.timedelta(days=number) for number in reversed(range(look_back_days)))
    return [day for day in days if first is not None and day_text(day) >= first]


def _of_days(state: State, symbols: dict[Pair, tuple[str, ...]], days: Sequence[dt.date]) -> Iterator[SymbolDay]:
    """The symbol-days of days that are settled for their pair: others are run anyway."""
    for pair, found in symbols.items():
        settled = [day for day in days if state.covers(pair, day)]
        yield from (SymbolDay(pair.exchange, pair.stream, symbol, day) for symbol in found for day in settled)


def _troubled(state: State, symbols: dict[Pair, tuple[str, ...]], days: Collection[dt.date]) -> set[SymbolDay]:
    """The quarantined and failed symbol-days of settled days, however old: whether their cause is gone.

    Not those of a BAD day before the look-back: no windows come for it any more, and it has hundreds of them.
    """
    found = set()
    for key, record in state.partitions.items():
        if record.troubled:
            with suppress(PathError):
                symbol_day = SymbolDay.of_state_key(key)
                old = record.withheld and symbol_day.day not in days
                if symbol_day.pair in symbols and state.covers(symbol_day.pair, symbol_day.day) and not old:
                    found.add(symbol_day)
    return found


def _with_qualities(state: State, qualities: Qualities, days: Collection[dt.date]) -> State:
    """A state with what was seen of the days' windows; what was noted of days before the look-back is forgotten."""
    for day, quality in qualities.seen.items():
        if day in days:
            state = note_quality(state, day, quality)
    first = day_text(min(days)) if days else ""
    kept = {
        text: note
        for text, note in (state.quality or {}).items()
        if text >= first or (note.waits and not _is_settled(state, text))
    }
    return state.model_copy(update={"quality": kept or None})


def _remaining(wanted: Iterable[SymbolDay], cursor: str | None) -> list[SymbolDay]:
    """What of a round is to be looked at yet, in the order of the cursor."""
    return sorted((item for item in wanted if cursor is None or item.prefix > cursor), key=_place_in_round)


def _place_in_round(symbol_day: SymbolDay) -> str:
    return symbol_day.prefix


def _cursor(looked: _Looked, before: str | None) -> str | None:
    """Where the next slice goes on: after the last symbol-day up to which all were looked at; None at the end."""
    through = looked.through
    if through == len(looked.of):
        return None
    # A round that has begun must not look as if it had not: "" is before everything.
    return _place_in_round(looked.of[through - 1]) if through else (before or "")


async def _look_at(
    place: MarketPlace, symbol_days: Sequence[SymbolDay], until: float | None, qualities: Qualities
) -> _Looked:
    """Look at symbol-days side by side, begun in their order, until an error or a moment of the loop's clock."""
    looked = _Looked(symbol_days)
    next_ones = iter(enumerate(symbol_days))

    async def work() -> None:
        for number, symbol_day in next_ones:  # shared by all workers, who begin in order
            looked.looks[number] = await look_at(place, symbol_day, qualities)

    try:
        async with asyncio.timeout_at(until), asyncio.TaskGroup() as group:
            await qualities.look_up({symbol_day.day for symbol_day in symbol_days})
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


async def look_at(place: MarketPlace, symbol_day: SymbolDay, qualities: Qualities | None = None) -> Look:
    """Look at a symbol-day. One that cannot be looked at for a reason of its own is open, and stale by that reason.

    Raises:
        StoreError: a listing or a read failed for another reason.
    """
    try:
        quality = await (qualities or place.qualities()).of(symbol_day.day)
        return look_of(await plan_symbol_day(place.raw, place.compact, symbol_day, Requested(), quality))
    except ITS_OWN_FAULT as error:  # its run fails, and says what is wrong
        return look_of(broken_plan(symbol_day, error))  # in the words of a roll-up: an operator accepts one text


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
