"""The job that compacts some symbols of a day, without marking the day as done.

It is no run of the assets: a run of an asset that succeeds and does not materialise it ends its backfill as failed.

No `from __future__ import annotations` here: Dagster reads the annotations of an op's function as objects.
"""

import datetime as dt
from collections.abc import Sequence
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from quantlab_dagster.defs.checks import check_evaluation
from quantlab_dagster.defs.failing import partition_failure
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.assets import CompactConfig
from quantlab_dagster.defs.market.calendar import keep_calendar
from quantlab_dagster.defs.market.metadata import describe
from quantlab_dagster.defs.market.recording import check_results, counted, failures_text
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import MARKET_POOL, SYMBOLS_JOB, SYMBOLS_OP, compact_key
from quantlab_dagster.defs.progress import Listeners, LogListener, extra_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError, SettingsError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.outcome import PairOutcome, Status
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["SymbolsConfig", "symbols_job"]


class SymbolsConfig(CompactConfig):
    """Which symbols, and the options of a run."""

    symbols: list[str] = Field(min_length=1, description="Only these symbols, as in the path (lower case).")
    pairs: list[str] = Field(
        default=[], description="Only of these exchanges and streams, as in binance/bbo; none means all configured."
    )


def symbols_job(pairs: Sequence[Pair], partitions: dg.PartitionsDefinition[str]) -> dg.JobDefinition:
    """The job behind `--symbol`, partitioned by day as the assets are."""

    @dg.op(
        name=SYMBOLS_OP,
        description="Compacts some symbols of a day, and records an observation of their assets.",
        tags={"dagster/kind": "polars"},
        pool=MARKET_POOL,
    )
    def compact_some_symbols(
        context: dg.OpExecutionContext,
        config: SymbolsConfig,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> None:
        say_which_process(context)
        day = dt.date.fromisoformat(context.partition_key)
        listener = Listeners(LogListener(context.log), extra_listener.get())
        try:
            place, chosen = market_place(raw_lake, compact_lake, limits, clock), _chosen(pairs, config.pairs)
            run_interruptible(_check_known(place, chosen, config.symbols))
        except QuantlabError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        options: dict[str, Any] = {"listener": listener, "symbols": config.symbols, "requested": config.requested}
        failed: list[str] = []
        partly: list[str] = []
        for pair in chosen:
            try:  # one failing pair must not keep the others from being compacted
                work = partial(compact_and_record, place, pair, day, **options)
                _record(context, counted(work, pair, meter, clock))
            except QuantlabError as error:
                failed.append(f"{pair}: {error}")
            except dg.Failure as failure:
                partly.append(str(failure.description))
        try:
            keep_calendar(context, place, day)
        except QuantlabError as error:
            failed.append(f"the calendar: {error}")
        if failed:
            partly = [f"and symbol-days of {len(partly)} more, see the log"] if partly else []
        if failed or partly:
            raise dg.Failure(description="; ".join(failed + partly), allow_retries=False)
        context.log.info("Only some symbols: recorded as observations, the day is not marked as done")

    @dg.job(
        name=SYMBOLS_JOB,
        description=(
            "Compacts some symbols of a day, which is not marked as done by that. In the launchpad: choose the day as "
            "partition, and name them (`symbols: [btcusdt]`)."
        ),
        partitions_def=partitions,
        executor_def=dg.in_process_executor,
    )
    def compact_symbols() -> None:
        compact_some_symbols()

    return compact_symbols


def _record(context: dg.OpExecutionContext, outcome: PairOutcome) -> None:
    for check in check_results(outcome):
        if not check.passed:  # some symbols cannot prove that all is well, and would hide what the day's own run found
            context.log_event(check_evaluation(check))  # type: ignore[arg-type]  # the signature does not know it
    key = compact_key(outcome.pair)
    if outcome.having(Status.FAILED):
        raise partition_failure(context, key, failures_text(outcome), describe(outcome))
    context.log_event(dg.AssetObservation(key, partition=context.partition_key, metadata=describe(outcome)))


def _chosen(pairs: Sequence[Pair], names: Sequence[str]) -> list[Pair]:
    """The configured pairs that have these names.

    Raises:
        SettingsError: one of them is not configured.
    """
    known = {str(pair): pair for pair in pairs}
    for name in names:
        if name not in known:
            raise SettingsError(name, "is not a configured exchange and stream", f"Configured are: {', '.join(known)}")
    return [pair for name, pair in known.items() if not names or name in names]


async def _check_known(place: MarketPlace, pairs: Sequence[Pair], symbols: Sequence[str]) -> None:
    """Refuse symbols that match nothing, since a slip of the finger must not look like "all is well".

    Raises:
        SettingsError: naming the first of them.
        StoreError: the symbols cannot be listed.
    """
    known = {symbol for pair in pairs for symbol in await place.symbols(pair)}
    for symbol in symbols:
        if symbol not in known:
            cause = f"is neither in {place.raw.url} nor in {place.compact.url}, of {', '.join(map(str, pairs))}"
            raise SettingsError(symbol, cause, "Give symbols as in the path, in lower case")
