"""Judging the lake as it is now: what is read for a judgement, the same for whoever asks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from quantlab_dagster.errors import StoreError
from quantlab_dagster.market.catchup import decide_catch_up
from quantlab_dagster.market.judgement import Judgement, judge
from quantlab_dagster.market.rollup import raw_prefixes
from quantlab_dagster.market.silence import USUAL_DAYS
from quantlab_dagster.market.state_store import StateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.catchup import CatchUp, CatchUpRules, LookedAround
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.state import State

__all__ = ["MOST_JUDGED", "decide_all", "judge_now", "judge_seen"]

MOST_JUDGED = 30
"""Of so many due days without a failed attempt, the oldest, it is asked what became of their attempts."""


def decide_all(state: State, rules: CatchUpRules) -> CatchUp:
    """What catch-up decides of the due days, however many runs it would make: for a judgement, not for requests."""
    return decide_catch_up(state, replace(rules, most_runs=MOST_JUDGED))


def judge_seen(seen: LookedAround, rules: CatchUpRules, *, usual_days: int = USUAL_DAYS) -> Judgement:
    """Judge what was seen by a look around; pure."""
    return judge(
        seen.state,
        rules.pairs,
        rules.now,
        decided=decide_all(seen.state, rules),
        raw=seen.raw,
        not_looked=str(seen.error or ""),
        entries=seen.entries,
        usual_days=usual_days,
    )


async def judge_now(
    place: MarketPlace, pairs: Sequence[Pair], decide: Callable[[State], CatchUp], *, usual_days: int = USUAL_DAYS
) -> Judgement:
    """Look at the state and at the raw lake's exchanges and streams, and judge. Nothing is written.

    Args:
        place: the lakes.
        pairs: configured pairs.
        decide: what becomes of the days that are due; asked only where there is a state.
        usual_days: with data on so many of seven days a symbol is missed when it has none.

    Raises:
        MalformedObject: the state cannot be understood.
        StoreError: it cannot be read. A raw lake that cannot be listed is a finding.
    """
    state, entries = await StateStore(place.compact).view_all()
    raw, problem = None, ""
    try:
        raw = await raw_prefixes(place, pairs)
    except StoreError as error:
        problem = str(error)
    return judge(
        state,
        pairs,
        place.clock(),
        decided=decide(state) if state is not None else None,
        raw=raw,
        not_looked=problem,
        entries=entries,
        usual_days=usual_days,
    )
