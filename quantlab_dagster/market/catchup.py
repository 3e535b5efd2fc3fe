"""What is to be caught up: pure decisions from the state, made the same way by the sensor and the command line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.market.checks import findings
from quantlab_dagster.market.eligibility import yesterday
from quantlab_dagster.market.late import scan_slice
from quantlab_dagster.market.rollup import unclaimed_pairs
from quantlab_dagster.market.state import State, begin, missing_pairs, unsettled_days
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.work.finding import Finding

__all__ = ["CatchUp", "DayRequest", "decide_catch_up", "prepare_catch_up"]


@dataclass(frozen=True, slots=True)
class DayRequest:
    """One run to be made: a day, the pairs to compact, and the roll-up after them.

    Attributes:
        day: UTC day.
        pairs: pairs to compact; empty where only the roll-up is missing.
        task: what is to be done, the same for every attempt at it.
        attempt: 1 for the first try.
        why: for people.
    """

    day: dt.date
    pairs: tuple[Pair, ...]
    task: str
    attempt: int
    why: str

    @property
    def key(self) -> str:
        """Identifies this request for ever, so that it is never made twice."""
        return f"{self.task}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What to request now, and why not more.

    Attributes:
        requests: oldest day first.
        skipped: a reason per day that was due and is not requested.
        exhausted: days that failed too often: an operator must look.
    """

    requests: tuple[DayRequest, ...]
    skipped: tuple[str, ...]
    exhausted: tuple[dt.date, ...]


def decide_catch_up(
    state: State,
    pairs: Sequence[Pair],
    last_eligible: dt.date,
    *,
    busy: Collection[dt.date],
    attempts: Callable[[str], int],
    most_runs: int,
    most_attempts: int,
) -> CatchUp:
    """Which days to run now: the open ones, then those with late parts; oldest first.

    Args:
        state: as read just now.
        pairs: configured pairs.
        last_eligible: the latest day that may be compacted.
        busy: days with a run that is queued or running.
        attempts: how often catch-up has already requested a task; asked only for tasks that are due.
        most_runs: at most so many requests.
        most_attempts: a day is not requested more often.
    """
    requests: list[DayRequest] = []
    skipped: list[str] = []
    exhausted: list[dt.date] = []
    stale = _stale_days(state)
    due = [(day, False) for day in unsettled_days(state, last_eligible)]
    due += [(day, True) for day in sorted(stale) if day <= last_eligible and state.is_settled(day)]
    for day, is_late in due:
        if day in busy:
            skipped.append(f"{day}: a run is queued or running")
            continue
        if len(requests) >= most_runs:
            skipped.append(f"{day} and later: at most {most_runs} runs at a time")
            break
        found = stale[day] if is_late else {}
        task = f"late:{day:%Y%m%d}:{_digest(found)}" if is_late else f"day:{day:%Y%m%d}"
        attempt = attempts(task) + 1
        if attempt > most_attempts:
            exhausted.append(day)
            skipped.append(f"{day}: failed {most_attempts} times; see its runs, then `quantlab state accept {day}`")
            continue
        late_pairs = {SymbolDay.of_state_key(key).pair for key in found}
        selected = tuple(pair for pair in pairs if pair in late_pairs)
        requests.append(
            DayRequest(
                day,
                selected if is_late else tuple(missing_pairs(state, day, pairs)),
                task,
                attempt,
                f"{len(found)} symbol-days have late parts" if is_late else "not settled",
            )
        )
    return CatchUp(tuple(requests), tuple(skipped), tuple(exhausted))


def _stale_days(state: State) -> dict[dt.date, dict[str, str]]:
    days: dict[dt.date, dict[str, str]] = {}
    for key, raw_fingerprint in state.late_scan.stale.items():
        days.setdefault(SymbolDay.of_state_key(key).day, {})[key] = raw_fingerprint
    return days


def _digest(found: dict[str, str]) -> str:
    text = "".join(f"{key}={value};" for key, value in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


async def prepare_catch_up(
    place: MarketPlace, pairs: Sequence[Pair], look_back_days: int
) -> tuple[State, list[Finding]]:
    """Read the state (or begin it: only yesterday), look for late parts in a slice, and judge the lake's health."""
    store = StateStore(place.compact)
    now = place.clock()
    state = await store.read()
    if state is None or state.catch_up_from is None:
        state = await store.update(lambda before: begin(before, yesterday(now), now))
    state = await scan_slice(place, store, state, pairs, look_back_days=look_back_days)
    return state, findings(state, await unclaimed_pairs(place, pairs), now)
