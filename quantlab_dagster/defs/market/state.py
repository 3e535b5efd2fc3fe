"""The asset `compact/state`: rolls a day up, and advances the watermark of `_state.json`.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from quantlab_dagster.access import catch_up_rules
from quantlab_dagster.defs.checks import check_evaluation, check_result, check_specs
from quantlab_dagster.defs.history import busy_days, tries_of
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.checks import pair_findings
from quantlab_dagster.defs.meter import MARKET_DATA, Meter
from quantlab_dagster.defs.names import GROUP, MARKET_POOL, STATE_ASSET, compact_key
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.judgement import (
    FRESHNESS,
    NO_UNCLAIMED_RAW_PREFIX,
    NOT_STALE,
    NOTHING_FAILED,
    NOTHING_QUARANTINED,
    STATE_UNDERSTOOD,
)
from quantlab_dagster.market.judging import decide_all, judge_now
from quantlab_dagster.market.rollup import DayRollUp, roll_up_and_settle
from quantlab_dagster.market.state import State
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["CHECKS", "state_asset"]

CHECKS = {
    FRESHNESS: "Every day is settled for every exchange and stream by 04:00 UTC of the next.",
    NOT_STALE: "No published day within the look-back lacks raw parts that are there now.",
    NO_UNCLAIMED_RAW_PREFIX: "Every exchange and stream of the raw lake has an asset.",
    NOTHING_QUARANTINED: "No symbol-day is in quarantine that nobody accepted.",
    NOTHING_FAILED: "No day and no symbol-day has failed since it last succeeded.",
    STATE_UNDERSTOOD: "Every record of the state and its journal can be understood.",
}


def state_asset(
    settings: Settings, pairs: Sequence[Pair], partitions: dg.PartitionsDefinition[str]
) -> dg.AssetsDefinition:
    """The roll-up of a day, downstream of all its pairs."""

    @dg.asset(
        key=STATE_ASSET,
        deps=[compact_key(pair) for pair in pairs],
        partitions_def=partitions,
        group_name=GROUP,
        pool=MARKET_POOL,
        kinds={"json"},
        check_specs=check_specs(STATE_ASSET, CHECKS),
        description=(
            "`compacted/_state.json`: settles the day if every symbol-day with raw parts is published or quarantined, "
            "and advances the watermark over settled days."
        ),
    )
    def state(
        context: dg.AssetExecutionContext,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> Iterator[Any]:
        say_which_process(context)
        day = dt.date.fromisoformat(context.partition_key)
        try:
            place = market_place(raw_lake, compact_lake, limits, clock)
            rolled, after = run_interruptible(roll_up_and_settle(place, pairs, day))
            if not rolled.settled:
                raise dg.Failure(description=rolled.open_text, allow_retries=False)
            rules = catch_up_rules(
                settings,
                pairs,
                clock(),
                busy=busy_days(context.instance),
                tries=lambda task: tries_of(context.instance, task),
            )
            judgement = run_interruptible(judge_now(place, pairs, lambda state: decide_all(state, rules)))
        except QuantlabError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        meter.judge(MARKET_DATA, judgement.gauges, clock())
        yield dg.MaterializeResult(metadata=_metadata(rolled, after))
        yield from (check_result(STATE_ASSET, finding) for finding in judgement.findings)
        # Of the pairs their steps know one day only. What is to be said of all is said here, and at the next tick.
        for asset, found in pair_findings(judgement).items():
            for finding in found:
                context.log_event(check_evaluation(check_result(asset, finding)))

    return state


def _metadata(rolled: DayRollUp, state: State) -> dict[str, Any]:
    counts = {action.value: number for action, number in rolled.actions.items()}
    return {
        "status": rolled.status.value,
        "last_compacted_date": state.last_compacted_date or "none",
        "symbol-days": len(rolled.looks),
        "stale symbol-days": len(rolled.stale),
        "symbol-days by what is to be done": dg.MetadataValue.json(counts),
    }
