"""The asset `compact/state`: rolls a day up, and advances the watermark of `_state.json`.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from quantlab_dagster.days.compact import Workplace
from quantlab_dagster.days.eligibility import check_eligible
from quantlab_dagster.days.health import FRESHNESS, NO_UNCLAIMED_RAW_PREFIX, NOT_STALE, findings
from quantlab_dagster.days.rollup import DayRollUp, roll_up_day, unclaimed_pairs
from quantlab_dagster.days.state import State, StateStore, begin, settle_day
from quantlab_dagster.defs.names import GROUP, STATE_ASSET, compact_key
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, workplace
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.lake.layout import Pair
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.finding import Finding

__all__ = ["CHECKS", "check_evaluations", "state_asset"]

CHECKS = {
    FRESHNESS: "Yesterday is settled by 04:00 UTC.",
    NOT_STALE: "No published day within the look-back lacks raw parts that are there now.",
    NO_UNCLAIMED_RAW_PREFIX: "Every exchange and stream of the raw lake has an asset.",
}

_MOST_NAMED = 10


def state_asset(pairs: Sequence[Pair], partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The roll-up of a day, downstream of all its pairs."""

    @dg.asset(
        key=STATE_ASSET,
        deps=[compact_key(pair) for pair in pairs],
        partitions_def=partitions,
        group_name=GROUP,
        kinds={"json"},
        check_specs=[
            dg.AssetCheckSpec(name, asset=STATE_ASSET, description=description) for name, description in CHECKS.items()
        ],
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
    ) -> Iterator[Any]:
        day = dt.date.fromisoformat(context.partition_key)
        try:
            place = workplace(raw_lake, compact_lake, limits, clock)
            rolled, after, found = run_interruptible(_settle(place, pairs, day))
        except QuantlabError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        if not rolled.settled:
            raise dg.Failure(description=_open_text(rolled), allow_retries=False)
        yield dg.MaterializeResult(metadata=_metadata(rolled, after))
        for finding in found:
            yield dg.AssetCheckResult(
                check_name=finding.name,
                passed=finding.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=finding.text,
            )

    return state


async def _settle(
    place: Workplace, pairs: Sequence[Pair], day: dt.date
) -> tuple[DayRollUp, State | None, list[Finding]]:
    now = place.clock()
    check_eligible(day, now)
    rolled = await roll_up_day(place, pairs, day)
    if not rolled.settled:
        return rolled, None, []
    stale = {plan.symbol_day.state_key: plan.raw_fingerprint for plan in rolled.stale}

    def change(before: State | None) -> State:
        state = begin(before, now.date() - dt.timedelta(days=1), now)
        scan = state.late_scan.model_copy(update={"stale": {**state.late_scan.stale, **stale}})
        return settle_day(state.model_copy(update={"late_scan": scan}), day, rolled.status, now)

    after = await StateStore(place.compact).update(change)
    return rolled, after, findings(after, await unclaimed_pairs(place, pairs), now)


def check_evaluations(found: Sequence[Finding]) -> list[dg.AssetCheckEvaluation]:
    """Findings as evaluations that a sensor can report."""
    return [
        dg.AssetCheckEvaluation(
            asset_key=STATE_ASSET,
            check_name=finding.name,
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=finding.text,
            metadata={},
        )
        for finding in found
    ]


def _open_text(rolled: DayRollUp) -> str:
    named = "; ".join(f"{plan.symbol_day}: {plan.reason}" for plan in rolled.open[:_MOST_NAMED])
    more = f"; and {len(rolled.open) - _MOST_NAMED} more" if len(rolled.open) > _MOST_NAMED else ""
    return f"{len(rolled.open)} of {len(rolled.plans)} symbol-days are neither published nor quarantined: {named}{more}"


def _metadata(rolled: DayRollUp, state: State | None) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for plan in rolled.plans:
        counts[plan.action.value] = counts.get(plan.action.value, 0) + 1
    return {
        "status": rolled.status.value,
        "last_compacted_date": (state.last_compacted_date if state else None) or "none",
        "symbol-days": len(rolled.plans),
        "stale symbol-days": len(rolled.stale),
        "symbol-days by what is to be done": dg.MetadataValue.json(counts),
    }
