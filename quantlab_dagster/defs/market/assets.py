"""The assets: one per configured pair and UTC day, downstream of what the collectors write.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
from collections.abc import Coroutine, Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from quantlab_dagster.defs.checks import AUDITED, NOTHING_QUARANTINED, check_specs, partitioned_check_spec
from quantlab_dagster.defs.failing import partition_failure
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.calendar import keep_calendar
from quantlab_dagster.defs.market.content import data_version, kept
from quantlab_dagster.defs.market.has_data import HAS_DATA, HAS_DATA_TEXT, has_data_result
from quantlab_dagster.defs.market.metadata import describe
from quantlab_dagster.defs.market.plausible import PLAUSIBLE, PLAUSIBLE_TEXT, plausible_result
from quantlab_dagster.defs.market.recording import check_results, counted, failures_text, still_red
from quantlab_dagster.defs.market.shown import CODE_VERSION, shown_compact, shown_raw
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import MARKET_POOL, QUALITY_ASSET, compact_key, raw_key
from quantlab_dagster.defs.progress import Listeners, LogListener, extra_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.outcome import PairOutcome, Status
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.plan import Requested
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock

__all__ = ["CompactConfig", "compact_asset", "raw_asset", "results_of"]

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
    retry_quarantine: bool = Field(
        default=False, description="Try again what is quarantined for its parts, although these have not changed."
    )
    accept_bad: str = Field(
        default="",
        description="Why days are published although they are BAD, labelled as that; empty: they are withheld.",
    )

    @property
    def requested(self) -> Requested:
        """As the work takes them."""
        return Requested(self.overwrite, self.allow_shrink, self.retry_quarantine, self.accept_bad)


def raw_asset(settings: Settings, pair: Pair, partitions: dg.PartitionsDefinition[str]) -> dg.AssetSpec:
    """The parts of a pair, which the collectors write: external to this project."""
    return dg.AssetSpec(raw_key(pair), partitions_def=partitions, **shown_raw(pair, settings))


def compact_asset(settings: Settings, pair: Pair, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The compacted days of a pair: per symbol one sorted, numbered, audited Parquet file."""
    key = compact_key(pair)

    # No backfill policy: then a backfill makes a run of every day, which is right. A day takes minutes, fails and is
    # tried again by itself, and its run says in `dagster/partition` which day is busy; a run over a range does not.
    @dg.asset(
        key=key,
        deps=[raw_key(pair), QUALITY_ASSET],
        partitions_def=partitions,
        pool=MARKET_POOL,
        check_specs=[
            *check_specs(key, _CHECKS),
            partitioned_check_spec(PLAUSIBLE, key, PLAUSIBLE_TEXT, partitions),
            partitioned_check_spec(HAS_DATA, key, HAS_DATA_TEXT, partitions),
        ],
        code_version=CODE_VERSION,
        **shown_compact(pair, settings),
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

        def place() -> MarketPlace:
            return market_place(raw_lake, compact_lake, limits, clock)

        def work() -> Coroutine[Any, Any, PairOutcome]:
            return compact_and_record(place(), pair, day, listener=listener, requested=config.requested)

        try:
            outcome = counted(work, pair, meter, clock)
            keep_calendar(context, place(), day)
        except QuantlabError as error:
            raise partition_failure(context, key, str(error)) from error
        yield from results_of(context, outcome)

    return compact


def results_of(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, outcome: PairOutcome
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """What the step that ends a pair's day yields.

    Raises:
        Failure: a symbol-day failed; the checks are yielded before.
    """
    key = compact_key(outcome.pair)
    found = list(still_red(context.instance, check_results(outcome)))
    found += [plausible_result(outcome), has_data_result(outcome)]
    if outcome.having(Status.FAILED):
        yield from found
        raise partition_failure(context, key, failures_text(outcome), describe(outcome))
    version = data_version(outcome)
    before = kept(context.instance, key, context.partition_key, version)
    yield dg.MaterializeResult(asset_key=key, metadata=describe(outcome, before), data_version=version)
    yield from found
