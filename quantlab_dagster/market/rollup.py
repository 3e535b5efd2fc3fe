"""Rolling a day up: is every symbol-day of every configured pair settled? Decided by the lake, never by events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import Pair, SymbolDay, find_pairs
from quantlab_dagster.market.eligibility import check_eligible, yesterday
from quantlab_dagster.market.looks import Look, look_of, note_of
from quantlab_dagster.market.outcome import Status, worst
from quantlab_dagster.market.plan import Action, each_plan
from quantlab_dagster.market.settling import begin, leave_open, leave_waiting, note_looks, note_quality, settle_day
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.quality.records import DayQuality
    from quantlab_dagster.market.state import State

__all__ = ["NO_PREFIX", "DayRollUp", "RawPrefixes", "note_rolled", "raw_prefixes", "roll_up_and_settle", "roll_up_day"]

NO_PREFIX = "none of the configured exchanges and streams has a prefix"


@dataclass(frozen=True, slots=True)
class DayRollUp:
    """What the lake says of a day.

    Attributes:
        day: UTC day.
        looks: one per symbol-day that has raw parts or a published file.
        nowhere: why the raw lake cannot be the right one; empty if it can.
        let_be: open ones that keep nothing from being settled: an operator has accepted them as they are.
        quality: what the day is worth.
    """

    day: dt.date
    looks: tuple[Look, ...]
    nowhere: str = ""
    let_be: frozenset[SymbolDay] = frozenset()
    quality: DayQuality | None = None

    @property
    def status(self) -> Status:
        """What the day would be settled as."""
        return worst([look.outcome for look in self.looks if look.outcome is not None and not look.open])

    @property
    def open(self) -> tuple[Look, ...]:
        """Those that are neither published nor quarantined, and were not accepted so."""
        return tuple(look for look in self.looks if look.open and look.symbol_day not in self.let_be)

    @property
    def stale(self) -> tuple[Look, ...]:
        """Those that are published, but have raw parts that the published file does not hold."""
        return tuple(look for look in self.looks if look.stale is not None and not look.open)

    @property
    def actions(self) -> dict[Action, int]:
        """How many symbol-days there are by what is to be done with them."""
        return dict(Counter(look.action for look in self.looks))

    @property
    def settled(self) -> bool:
        """Whether nothing is open, and the raw lake is the one that was meant."""
        return not self.open and not self.nowhere

    @property
    def waiting(self) -> bool:
        """Whether it is open only because it is PARTIAL, and looked at again."""
        return bool(self.open) and not self.nowhere and all(look.waits for look in self.open)

    @property
    def open_text(self) -> str:
        """Which symbol-days are open, and why."""
        if self.nowhere:
            return self.nowhere
        named = [f"{look.symbol_day}: {look.reason}" for look in self.open]
        return (
            f"{len(named)} of {len(self.looks)} symbol-days are neither published nor quarantined: "
            f"{name_some(named, separator='; ')}"
        )


async def roll_up_and_settle(place: MarketPlace, pairs: Sequence[Pair], day: dt.date) -> tuple[DayRollUp, State]:
    """Look at every symbol-day of a day; if nothing is open, settle it for the pairs, and advance the watermark.

    A PARTIAL day that is looked at again stays open, and has not failed. Else the day is recorded as failed, and the
    pairs that were found open are to run again, however their steps ended: a part may have been replaced, or a symbol
    come, between a step and this look. What steps recorded of the day is folded into the state, and what the lake shows
    is recorded in the place of what they said.

    Returns:
        What was found; and the state that now stands.

    Raises:
        DayRefused: the day is not eligible yet.
        StoreError: a listing or a read failed: then nothing can be said.
    """
    now = place.clock()
    check_eligible(day, now)
    rolled = await roll_up_day(place, pairs, day)

    def look_again(state: State) -> State:
        state = note_rolled(state, rolled, now)
        judged = without_accepted(rolled, state)
        if not judged.settled:
            pairs_open = {look.symbol_day.pair for look in judged.open} or set(pairs)
            if judged.waiting:
                return leave_waiting(state, day, pairs_open, now)
            return leave_open(state, day, pairs_open, judged.open_text, now)
        return settle_day(state, day, judged.status, now, pairs)

    states = StateStore(place.compact)
    after = await states.fold(lambda before: begin(before, yesterday(now), now, pairs), day=day, then=look_again)
    return without_accepted(rolled, after), after


def note_rolled(state: State, rolled: DayRollUp, now: dt.datetime) -> State:
    """Note what a roll-up found of each symbol-day; pure. Of an open one what its step said stays.

    One that is open runs again with its day; only where the day is settled it must be told apart.
    """
    notes = {}
    for look in rolled.looks:
        record, stale = note_of(look, now)
        runs_anyway = look.open and state.owes(look.symbol_day.pair, rolled.day)
        notes[look.symbol_day.state_key] = (record, None if runs_anyway else stale)
    state = note_looks(state, notes)
    return note_quality(state, rolled.day, rolled.quality) if rolled.quality is not None else state


def without_accepted(rolled: DayRollUp, state: State) -> DayRollUp:
    """A roll-up in which what an operator has accepted, and is still as it was, keeps nothing open; pure."""
    open_ = (look.symbol_day for look in rolled.looks if look.open)
    return replace(rolled, let_be=frozenset(item for item in open_ if state.is_accepted(item.state_key)))


async def _nowhere(place: MarketPlace, pairs: Iterable[Pair]) -> str:
    """Why a day without any raw part says nothing: no configured pair has a prefix at all, as behind a wrong URL."""
    if (await raw_prefixes(place, pairs)).claimed:
        return ""
    return f"{NO_PREFIX} in {place.raw.url}, so nothing is settled: is that the raw lake?"


async def roll_up_day(place: MarketPlace, pairs: Sequence[Pair], day: dt.date) -> DayRollUp:
    """Look at every symbol-day of a day.

    Raises:
        StoreError: a listing or a read failed: then nothing can be said.
    """
    qualities = place.qualities()
    await qualities.look_up([day])
    looks = await each_plan(place, pairs, [day], look_of, qualities=qualities)
    return DayRollUp(
        day, tuple(looks), nowhere="" if looks else await _nowhere(place, pairs), quality=qualities.seen.get(day)
    )


@dataclass(frozen=True, slots=True)
class RawPrefixes:
    """Which exchanges and streams the raw lake has.

    Attributes:
        claimed: those that are configured.
        unclaimed: those that no asset claims; and what stands in the place of one, but cannot be addressed.
    """

    claimed: tuple[str, ...]
    unclaimed: tuple[str, ...]


async def raw_prefixes(place: MarketPlace, pairs: Iterable[Pair]) -> RawPrefixes:
    """Which exchanges and streams the raw lake has, configured or not.

    Raises:
        StoreError: they cannot be listed.
    """
    configured = set(pairs)
    found = await find_pairs(place.raw)
    claimed = tuple(str(pair) for pair in found.items if pair in configured)
    unclaimed = [str(pair) for pair in found.items if pair not in configured]
    return RawPrefixes(claimed, (*unclaimed, *found.odd))
