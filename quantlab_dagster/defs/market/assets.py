"""The assets: one per configured pair and UTC day, downstream of what the collectors write.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from quantlab_dagster.defs.checks import AUDITED, NOTHING_QUARANTINED, check_specs, last_said
from quantlab_dagster.defs.market.metadata import describe
from quantlab_dagster.defs.meter import MARKET_DATA, Meter, day_counts
from quantlab_dagster.defs.names import GROUP, compact_key, raw_key
from quantlab_dagster.defs.progress import Listeners, LogListener, extra_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import AuditFailed, QuantlabError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.outcome import Outcome, PairOutcome, Status
from quantlab_dagster.market.plan import Requested
from quantlab_dagster.metrics import RunCounts
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["CompactConfig", "compact_asset", "raw_asset"]


_Events = Iterator[dg.AssetObservation | dg.MaterializeResult[Any] | dg.AssetCheckResult]
_CHECKS = {
    AUDITED: "Every published file was read back and proved: rows, order, seq, content. Of all days.",
    NOTHING_QUARANTINED: "No symbol-day of any day is in quarantine that nobody accepted.",
}
_MOST_REASONS = 5


class CompactConfig(dg.Config):
    """Options of one run; the defaults are what a schedule wants."""

    symbols: list[str] = Field(
        default=[],
        description="Only these symbols, as in the path (lower case). Then the day is not marked as materialised.",
    )
    overwrite: bool = Field(default=False, description="Build again what is up to date or quarantined.")
    allow_shrink: bool = Field(
        default=False, description="Build even if raw parts that were read once are gone: the day may lose rows."
    )


def raw_asset(pair: Pair, partitions: dg.PartitionsDefinition[str]) -> dg.AssetSpec:
    """The parts of a pair, which the collectors write: external to this project."""
    return dg.AssetSpec(
        raw_key(pair),
        partitions_def=partitions,
        group_name=GROUP,
        description=f"Parts that the collectors of {pair.exchange} flush for stream {pair.stream}, by day of receipt.",
        kinds={"parquet"},
    )


def compact_asset(pair: Pair, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The compacted days of a pair: per symbol one sorted, numbered, audited Parquet file."""
    key = compact_key(pair)

    @dg.asset(
        key=key,
        deps=[raw_key(pair)],
        partitions_def=partitions,
        group_name=GROUP,
        kinds={"polars", "parquet"},
        output_required=False,
        check_specs=check_specs(key, _CHECKS),
        description=(
            f"Stream {pair.stream} of {pair.exchange}: per symbol and day one file sorted by (ts_event, seq), proved "
            "to hold exactly the rows of its raw parts."
        ),
    )
    def compact(
        context: dg.AssetExecutionContext,
        config: CompactConfig,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> Iterator[Any]:
        started = time.monotonic()
        day = dt.date.fromisoformat(context.partition_key)
        listener = Listeners(LogListener(context.log), extra_listener.get())
        try:
            place = market_place(raw_lake, compact_lake, limits, clock)
            requested = Requested(overwrite=config.overwrite, allow_shrink=config.allow_shrink)
            work = compact_and_record(place, pair, day, listener=listener, symbols=config.symbols, requested=requested)
            outcome = run_interruptible(work)
        except QuantlabError as error:
            seconds = time.monotonic() - started
            meter.count(RunCounts(MARKET_DATA, str(pair), succeeded=False, seconds=seconds), clock())
            raise dg.Failure(description=str(error), allow_retries=False) from error
        meter.count(day_counts(outcome), clock())
        yield from _report(context, key, outcome, restricted=bool(config.symbols))

    return compact


def _report(context: dg.AssetExecutionContext, key: dg.AssetKey, outcome: PairOutcome, *, restricted: bool) -> _Events:
    metadata = describe(outcome)
    failed = outcome.having(Status.FAILED)
    if failed:
        yield from _checks(context, key, outcome)
        reasons = "; ".join(f"{item.symbol_day}: {item.reason}" for item in failed[:_MOST_REASONS])
        more = f"; and {len(failed) - _MOST_REASONS} more" if len(failed) > _MOST_REASONS else ""
        raise dg.Failure(
            description=f"{len(failed)} of {len(outcome.outcomes)} symbol-days failed: {reasons}{more}",
            metadata=metadata,
            allow_retries=False,
        )
    if restricted:
        context.log.info("Restricted to some symbols: recorded as an observation, the day is not marked as done")
        yield dg.AssetObservation(asset_key=key, partition=context.partition_key, metadata=metadata)
    else:
        yield dg.MaterializeResult(asset_key=key, metadata=metadata)
    yield from _checks(context, key, outcome)


def _checks(context: dg.AssetExecutionContext, key: dg.AssetKey, outcome: PairOutcome) -> Iterator[dg.AssetCheckResult]:
    """What this day adds. A step sees no other day: it may turn a check red, but only a judgement turns it green."""
    unproved = [item for item in outcome.outcomes if item.error == AuditFailed.__name__]
    for name, bad in ((AUDITED, unproved), (NOTHING_QUARANTINED, outcome.having(Status.QUARANTINE))):
        last = None if bad else last_said(context.instance, key, name)
        stays = last if last is not None and not last.passed else None
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=name,
            passed=not bad and stays is None,
            severity=dg.AssetCheckSeverity.ERROR if name == AUDITED else dg.AssetCheckSeverity.WARN,
            description=stays.description if stays else _first_reasons(bad) or "nothing of this day",
            metadata={"partition": context.partition_key, "symbol-days": len(bad)},
        )


def _first_reasons(outcomes: list[Outcome]) -> str:
    return "; ".join(f"{item.symbol_day}: {item.reason}" for item in outcomes[:_MOST_REASONS])
