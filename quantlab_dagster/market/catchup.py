"""What is to be caught up: pure decisions from the state, made the same way by the sensor and the command line."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from quantlab_dagster.errors import PathError, QuantlabError, StoreUnavailable
from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.market.eligibility import yesterday
from quantlab_dagster.market.journal import Journal
from quantlab_dagster.market.late import scan_slice
from quantlab_dagster.market.rollup import raw_prefixes
from quantlab_dagster.market.settling import begin, missing_pairs, owing_pairs, unsettled_days
from quantlab_dagster.market.state import State, utc_text
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.rollup import RawPrefixes

__all__ = [
    "CatchUp",
    "CatchUpRules",
    "DayRequest",
    "Decided",
    "Decision",
    "LookedAround",
    "Tries",
    "decide_catch_up",
    "decide_late_days",
    "decide_open_days",
    "look_around",
    "read_or_begin",
    "wait_after",
]

DEFAULT_WAITS = (5, 30, 60)
"""Minutes to wait after the first, second, … failed attempt; the last also after more: five take 2 h 35 min."""

WAIT_AFTER_OTHER_ENDS = dt.timedelta(minutes=10)
"""How long to wait after an attempt that did not fail, and yet the day is due."""

PARTIAL_EVERY = dt.timedelta(hours=1)
"""How long to wait until a PARTIAL day is looked at again."""

_LATE = "late:"
_WRONG_CLOCK = dt.timedelta(hours=1)
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Tries:
    """What became of the attempts at a task.

    Attributes:
        last_number: the largest number (`DayRequest.number`) of those that are still known; 0 if none has one.
        failed: those that failed, since the last one that succeeded. One that somebody cancelled is none of them.
        last_ended: when the last of all ended; None if none has.
        last_failed: whether that one failed.
        last_died: whether its process died, by a signal or with its machine.
    """

    last_number: int = 0
    failed: int = 0
    last_ended: dt.datetime | None = None
    last_failed: bool = True
    last_died: bool = False


@dataclass(frozen=True, slots=True)
class CatchUpRules:
    """What besides the state decides.

    Attributes:
        pairs: configured pairs.
        last_eligible: the latest day that may be compacted.
        now: the present time.
        busy: days with a run that is queued or running.
        tries: what became of earlier attempts at a task; asked only for tasks that are due.
        most_runs: at most so many requests.
        most_attempts: after so many failed ones a day is not requested any more.
        waits: minutes to wait after the first, second, … failed attempt; the last also after more.
        first: the first day that there is a partition for.
    """

    pairs: Sequence[Pair]
    last_eligible: dt.date
    now: dt.datetime
    busy: Collection[dt.date]
    tries: Callable[[str], Tries]
    most_runs: int
    most_attempts: int
    waits: Sequence[int] = DEFAULT_WAITS
    first: dt.date = dt.date.min


@dataclass(frozen=True, slots=True)
class DayRequest:
    """One run to be made: a day, the pairs to compact, and the roll-up after them.

    Attributes:
        day: UTC day.
        pairs: pairs to compact; empty where only the roll-up is missing.
        task: what is to be done, the same for every attempt at it.
        number: 1 for the first run of the task, and larger than that of every run that is still known: Dagster passes
            over a key that one of them has, without a word. How many there are says nothing once some are deleted.
        attempt: 1 for the first try, and one more after each that failed.
        why: for people.
    """

    day: dt.date
    pairs: tuple[Pair, ...]
    task: str
    number: int
    attempt: int
    why: str

    @property
    def key(self) -> str:
        """Identifies this request for ever, so that it is never made twice."""
        return f"{self.task}:{self.number}"


class Decision(StrEnum):
    """What becomes of a day that is due."""

    REQUESTED = "requested"
    RUNNING = "running"
    WAITING = "waiting"
    PARTIAL = "partial"
    EXHAUSTED = "exhausted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided of a day that is due.

    Attributes:
        day: UTC day.
        late: whether it is settled, and due for its late parts.
        decision: what becomes of it.
        failed: attempts that failed; 0 where they were not asked for.
        text: why it is not requested; empty if it is.
    """

    day: dt.date
    late: bool
    decision: Decision
    failed: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What to request now, and why not more.

    Attributes:
        requests: oldest day first; open days before those with late parts.
        skipped: a reason per day that was due and is not requested.
        exhausted: days that failed too often: an operator must look.
        waiting: days that failed, and are tried again later by themselves.
        decided: of each day that was looked at, in this order, what was decided. Those after the last request are none.
    """

    requests: tuple[DayRequest, ...] = ()
    skipped: tuple[str, ...] = ()
    exhausted: tuple[dt.date, ...] = ()
    waiting: tuple[dt.date, ...] = ()
    decided: tuple[Decided, ...] = ()


@dataclass(frozen=True, slots=True)
class _Due:
    day: dt.date
    pairs: tuple[Pair, ...]
    task: str
    why: str
    waits: bool = False


def wait_after(tries: Tries, waits: Sequence[int] = DEFAULT_WAITS) -> dt.timedelta:
    """How long nothing is done after the last attempt at a task has ended; pure.

    One that died uses up an attempt, but no outage explains it: whoever comes next finishes the day.

    An attempt that was cancelled, or succeeded and yet left the task due, uses none up, but must not come back at once:
    who cancelled it needs the time to switch catch-up off, and what success does not mend a hurry does not mend either.
    """
    if tries.last_died:
        return dt.timedelta(0)
    minutes = waits[min(tries.failed, len(waits)) - 1] if tries.failed else 0
    return max(dt.timedelta(minutes=minutes), dt.timedelta(0) if tries.last_failed else WAIT_AFTER_OTHER_ENDS)


def _again_from(tries: Tries, rules: CatchUpRules, at_least: dt.timedelta) -> dt.datetime | None:
    """The moment before which a task is not tried again; None if it may be now."""
    if tries.last_ended is None or tries.last_ended > rules.now + _WRONG_CLOCK:  # a clock was wrong, then or now
        return None
    again = tries.last_ended + max(at_least, wait_after(tries, rules.waits))
    return again if rules.now < again else None


def decide_catch_up(state: State, rules: CatchUpRules) -> CatchUp:
    """Which days to run now: the open ones, then those with late parts; oldest first."""
    return decide_late_days(state, rules, decide_open_days(state, rules))


def decide_open_days(state: State, rules: CatchUpRules) -> CatchUp:
    """Which open days to run now, oldest first: what can be said without looking for late parts."""
    return _decide(
        (
            _Due(
                day,
                tuple(missing_pairs(state, day, rules.pairs)),
                _open_task(state, day, rules.pairs),
                "not settled",
                waits=state.waits(day) is not None,
            )
            for day in unsettled_days(state, rules.last_eligible, rules.pairs)
        ),
        rules,
        CatchUp(),
    )


def _open_task(state: State, day: dt.date, pairs: Collection[Pair]) -> str:
    """What is to be done of an open day. Pairs that come later do not inherit the attempts at those that are done."""
    owing = [str(pair) for pair in owing_pairs(state, day, pairs)]
    some = "" if len(owing) == len(pairs) else f":{_digest(dict.fromkeys(owing, ''))}"
    return f"day:{day:%Y%m%d}{some}"


def decide_late_days(state: State, rules: CatchUpRules, before: CatchUp) -> CatchUp:
    """What was decided before, and which days with late parts to run besides, oldest first."""
    stale = _stale_days(state, rules.pairs)
    asked = {request.day for request in before.requests}  # settled since they were found open
    days = [day for day in sorted(stale.keys() - asked) if day <= rules.last_eligible]
    late = (_late(day, stale[day], rules.pairs) for day in days)
    return _decide((item for item in late if item.pairs), rules, before)


def _late(day: dt.date, found: dict[str, str], pairs: Sequence[Pair]) -> _Due:
    concerned = {SymbolDay.of_state_key(key).pair for key in found}
    selected = tuple(pair for pair in pairs if pair in concerned)
    why = f"{len(found)} symbol-days have late parts or another label, or cannot be read"
    return _Due(day, selected, f"{_LATE}{day:%Y%m%d}:{_digest(found)}", why)


def _decide(due: Iterable[_Due], rules: CatchUpRules, before: CatchUp) -> CatchUp:
    requests, skipped, decided = list(before.requests), list(before.skipped), list(before.decided)
    for item in due:
        if len(requests) >= rules.most_runs and item.day >= rules.first and item.day not in rules.busy:
            skipped.append(f"{item.day} and later: at most {rules.most_runs} runs at a time")
            break
        request, one = _decide_one(item, rules)
        decided.append(one)
        if request is not None:
            requests.append(request)
        else:
            skipped.append(f"{item.day}: {one.text}")
    days = {
        decision: tuple(one.day for one in decided if one.decision is decision)
        for decision in (Decision.EXHAUSTED, Decision.WAITING)
    }
    return CatchUp(tuple(requests), tuple(skipped), days[Decision.EXHAUSTED], days[Decision.WAITING], tuple(decided))


def _decide_one(item: _Due, rules: CatchUpRules) -> tuple[DayRequest | None, Decided]:
    late = item.task.startswith(_LATE)
    if item.day < rules.first:
        text = f"lies before QUANTLAB_START_DATE {rules.first}; set that earlier, or `quantlab state accept`"
        return None, Decided(item.day, late, Decision.REFUSED, text=text)
    if item.day in rules.busy:
        return None, Decided(item.day, late, Decision.RUNNING, text="a run is queued or running")
    tries = rules.tries(item.task)
    if tries.failed >= rules.most_attempts:
        what = "SYMBOL-DAY" if late else f"{item.day}"
        text = f"failed {tries.failed} times; see its runs, then `quantlab state accept {what}`"
        return None, Decided(item.day, late, Decision.EXHAUSTED, tries.failed, text)
    put_off = item.waits and not tries.last_failed
    if again := _again_from(tries, rules, PARTIAL_EVERY if put_off else dt.timedelta(0)):
        if put_off:
            text = f"is PARTIAL, looked at again from {utc_text(again)} on"
            return None, Decided(item.day, late, Decision.PARTIAL, tries.failed, text)
        text = f"{_so_far(tries)}, tried again from {utc_text(again)} on"
        return None, Decided(item.day, late, Decision.WAITING, tries.failed, text)
    request = DayRequest(item.day, item.pairs, item.task, tries.last_number + 1, tries.failed + 1, item.why)
    return request, Decided(item.day, late, Decision.REQUESTED, tries.failed)


def _so_far(tries: Tries) -> str:
    failed = f"failed {tries.failed} time{'s' if tries.failed != 1 else ''}"
    return failed if tries.last_failed else "is due again: it changed since its last run, or that was cancelled"


def _stale_days(state: State, pairs: Collection[Pair]) -> dict[dt.date, dict[str, str]]:
    """What is stale of days that are settled for a configured pair, and was not accepted so."""
    days: dict[dt.date, dict[str, str]] = {}
    for key, what in state.late_scan.stale.items():
        try:
            symbol_day = SymbolDay.of_state_key(key)
        except PathError:
            continue  # no symbol-day: somebody else wrote it; the end of a round drops it
        pair, day = symbol_day.pair, symbol_day.day
        if pair in pairs and state.covers(pair, day) and not state.is_accepted(key):
            days.setdefault(day, {})[key] = what
    return days


def _digest(found: dict[str, str]) -> str:
    text = "".join(f"{key}={value};" for key, value in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


async def read_or_begin(place: MarketPlace, pairs: Sequence[Pair] = (), *, busy: Collection[dt.date] = ()) -> State:
    """The state with all that steps did; where there is none it begins now, with yesterday only.

    What steps did on days that nobody works on any more is folded into the file, in one change.

    Args:
        place: the lakes.
        pairs: configured pairs.
        busy: days with a run that is queued or running: their roll-up will fold what they did.

    Raises:
        StoreError: it cannot be read.
        MalformedObject: it cannot be understood.
    """
    now = place.clock()
    return await StateStore(place.compact).fold(lambda before: begin(before, yesterday(now), now, pairs), but=busy)


@dataclass(frozen=True, slots=True)
class LookedAround:
    """What was seen beyond the state that was read.

    Attributes:
        state: that now stands.
        raw: exchanges and streams of the raw lake; None if they could not be listed.
        entries: by key, entries of the journal that cannot be understood, with the reason.
        error: why late parts, or one of the others, could not be looked for; None if they could.
    """

    state: State
    raw: RawPrefixes | None = None
    entries: Mapping[str, str] = field(default_factory=dict)
    error: QuantlabError | None = None


async def look_around(
    place: MarketPlace,
    pairs: Sequence[Pair],
    state: State,
    look_back_days: int,
    *,
    seconds: float | None,
) -> LookedAround:
    """Look for late parts, and for what else a judgement needs: nothing that the requests of open days may wait for.

    Args:
        place: the lakes.
        pairs: configured pairs.
        state: as read just now.
        look_back_days: how far back late parts are looked for.
        seconds: after so many the search stops, and after some more all of this has ended, whatever the store does;
            None takes the time it needs.
    """
    store = StateStore(place.compact)
    errors: list[QuantlabError] = []
    raw: RawPrefixes | None = None
    entries: Mapping[str, str] = {}
    try:
        async with asyncio.timeout(None if seconds is None else seconds + _GRACE_SECONDS):
            entries = (await Journal(place.compact).read()).unreadable
            try:
                state = await scan_slice(place, store, state, pairs, look_back_days=look_back_days, seconds=seconds)
            except QuantlabError as error:
                errors.append(error)
                state = await store.view() or state  # what was looked at before is recorded
            raw = await raw_prefixes(place, pairs)
    except TimeoutError:
        errors.append(StoreUnavailable(place.raw.url, "did not answer in time", "Nothing was decided; run again later"))
    except QuantlabError as error:
        errors.append(error)
    return LookedAround(state, raw, entries, errors[0] if errors else None)
