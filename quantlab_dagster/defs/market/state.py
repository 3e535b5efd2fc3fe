"""The asset `compact/state`: rolls a day up, and advances the watermark of `_state.json`.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from quantlab_dagster.access import catch_up_rules
from quantlab_dagster.defs.checks import check_evaluation, check_result, check_specs
from quantlab_dagster.defs.failing import partition_failure
from quantlab_dagster.defs.history import busy_days, tries_of
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.checks import pair_findings
from quantlab_dagster.defs.market.shown import shown_of_day
from quantlab_dagster.defs.meter import MARKET_DATA, Meter
from quantlab_dagster.defs.names import MARKET_POOL, STATE_ASSET, compact_key
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.judgement import (
    FRESHNESS,
    NO_UNCLAIMED_RAW_PREFIX,
    NOT_STALE,
    NOTHING_FAILED,
    NOTHING_QUARANTINED,
    NOTHING_SILENT,
    STATE_UNDERSTOOD,
    WINDOWS_UNDERSTOOD,
)
from quantlab_dagster.market.judging import decide_all, judge_now
from quantlab_dagster.market.rollup import DayRollUp, roll_up_and_settle
from quantlab_dagster.market.state import STATE_KEY, State
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["CHECKS", "state_asset"]

_TEXT = (
    "The day as a whole, in `compacted/_state.json`: settles it if every symbol-day with raw parts is published or "
    "quarantined, and advances the watermark over settled days."
)

CHECKS = {
    FRESHNESS: "Every day is settled for every exchange and stream by 04:00 UTC of the next.",
    NOT_STALE: "No published day within the look-back lacks raw parts that are there now.",
    NO_UNCLAIMED_RAW_PREFIX: "Every exchange and stream of the raw lake has an asset.",
    NOTHING_QUARANTINED: "No symbol-day is in quarantine that nobody accepted.",
    NOTHING_FAILED: "No day and no symbol-day has failed since it last succeeded.",
    NOTHING_SILENT: "Every pair and symbol that had data in the last days has some on the latest settled day.",
    STATE_UNDERSTOOD: "Every record of the state and its journal can be understood.",
    WINDOWS_UNDERSTOOD: "Every quality window of the collectors can be understood, of all days of the look-back.",
}


def state_asset(
    settings: Settings, pairs: Sequence[Pair], partitions: dg.PartitionsDefinition[str]
) -> dg.AssetsDefinition:
    """The roll-up of a day, downstream of all its pairs."""

    @dg.asset(
        key=STATE_ASSET,
        deps=[compact_key(pair) for pair in pairs],
        partitions_def=partitions,
        pool=MARKET_POOL,
        check_specs=check_specs(STATE_ASSET, CHECKS),
        **shown_of_day(settings, _TEXT, STATE_KEY, "json"),
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
            if not rolled.settled and not rolled.waiting:
                raise partition_failure(context, STATE_ASSET, rolled.open_text)
            rules = catch_up_rules(
                settings,
                pairs,
                clock(),
                busy=busy_days(context.instance),
                tries=lambda task: tries_of(context.instance, task),
            )
            judgement = run_interruptible(
                judge_now(place, pairs, lambda state: decide_all(state, rules), usual_days=settings.usual_days)
            )
        except QuantlabError as error:
            raise partition_failure(context, STATE_ASSET, str(error)) from error
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
        "status": "open: PARTIAL, looked at again" if rolled.waiting else rolled.status.value,
        "day quality": rolled.quality.verdict.why if rolled.quality is not None else "",
        "last_compacted_date": state.last_compacted_date or "none",
        "symbol-days": len(rolled.looks),
        "stale symbol-days": len(rolled.stale),
        "symbol-days by what is to be done": dg.MetadataValue.json(counts),
    }
