"""The assets: one per configured pair and UTC day, downstream of what the collectors write.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
from collections.abc import Coroutine, Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from quantlab_dagster.defs.checks import AUDITED, NOTHING_QUARANTINED, check_specs
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.metadata import describe
from quantlab_dagster.defs.market.recording import check_results, counted, raise_failures, still_red
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import GROUP, MARKET_POOL, compact_key, raw_key
from quantlab_dagster.defs.progress import Listeners, LogListener, extra_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.outcome import PairOutcome, Status
from quantlab_dagster.market.plan import Requested
from quantlab_dagster.work.clock import Clock

__all__ = ["CompactConfig", "compact_asset", "raw_asset"]

_CHECKS = {
    AUDITED: "Every published file was read back and proved: rows, order, seq, content. Of all days.",
    NOTHING_QUARANTINED: "No symbol-day of any day is in quarantine that nobody accepted.",
}


class CompactConfig(dg.Config):
    """Options of one run; the defaults are what a schedule wants."""

    overwrite: bool = Field(default=False, description="Build again what is up to date or quarantined.")
    allow_shrink: bool = Field(
        default=False, description="Build even if raw parts that were read once are gone: the day may lose rows."
    )

    @property
    def requested(self) -> Requested:
        """As the work takes them."""
        return Requested(overwrite=self.overwrite, allow_shrink=self.allow_shrink)


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

    # No backfill policy: then a backfill makes a run of every day, which is right. A day takes minutes, fails and is
    # tried again by itself, and its run says in `dagster/partition` which day is busy; a run over a range does not.
    @dg.asset(
        key=key,
        deps=[raw_key(pair)],
        partitions_def=partitions,
        group_name=GROUP,
        pool=MARKET_POOL,
        kinds={"polars", "parquet"},
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
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        say_which_process(context)
        day = dt.date.fromisoformat(context.partition_key)
        listener = Listeners(LogListener(context.log), extra_listener.get())

        def work() -> Coroutine[Any, Any, PairOutcome]:
            place = market_place(raw_lake, compact_lake, limits, clock)
            return compact_and_record(place, pair, day, listener=listener, requested=config.requested)

        try:
            outcome = counted(work, pair, meter, clock)
        except QuantlabError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        found = list(still_red(context.instance, check_results(outcome)))
        if outcome.having(Status.FAILED):
            yield from found
            raise_failures(outcome)
        yield dg.MaterializeResult(asset_key=key, metadata=describe(outcome))
        yield from found

    return compact
