"""A pair's day as several steps, for more than one process or machine: the same asset, as a graph of ops.

Off by default; `QUANTLAB_CHUNK_SIZE` turns it on. The asset is the plain one in all that others see of it: key,
partitions, checks, configuration. Its steps are `split` (what is to be built, in chunks), `chunk[…]` for each of them,
and `finish`, which does what no chunk did, and ends the day as the plain asset's step does.

No `from __future__ import annotations` here: Dagster reads the annotations of an op's function as objects.
"""

import datetime as dt
import json
from functools import cache, partial
from typing import Any

import dagster as dg
from pydantic import Field

from quantlab_dagster.defs.failing import partition_failure
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.assets import CompactConfig, results_of
from quantlab_dagster.defs.market.calendar import keep_calendar
from quantlab_dagster.defs.market.handover import HANDOVER, forget_handed_over
from quantlab_dagster.defs.market.recording import counted
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import MARKET_POOL, compact_key
from quantlab_dagster.defs.progress import Listeners, LogListener, extra_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.chunks import dump_outcome, read_outcome
from quantlab_dagster.market.compact import compact_and_record, split_day
from quantlab_dagster.market.outcome import PairOutcome
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["in_chunks"]


class _OfPair(CompactConfig):
    """What the asset is configured with, and of which pair it is: `in_chunks` fills that in."""

    exchange: str = Field(description="Of the pair, as in the paths.")
    stream: str = Field(description="Of the pair, as in the paths.")
    chunk_size: int = Field(description="Bytes of raw parts of a chunk.")

    @property
    def pair(self) -> Pair:
        return Pair(self.exchange, self.stream)


@dg.op(
    name="split",
    description="Looks what is to be built of a pair's day, and cuts it into chunks of whole symbols.",
    ins={"raw": dg.In(dg.Nothing), "quality": dg.In(dg.Nothing)},
    out=dg.DynamicOut(str, io_manager_key=HANDOVER),
    pool=MARKET_POOL,
)
def _split(
    context: dg.OpExecutionContext,
    config: _OfPair,
    raw_lake: LakeResource,
    compact_lake: LakeResource,
    limits: LimitsResource,
    clock: dg.ResourceParam[Clock],
) -> Any:
    say_which_process(context)
    try:
        place = market_place(raw_lake, compact_lake, limits, clock)
        chunks = run_interruptible(split_day(place, config.pair, _day(context), config.chunk_size, config.requested))
    except QuantlabError as error:
        context.log.warning("the day is not cut into chunks, the last step does it as it is: %s", error)
        return
    for number, chunk in enumerate(chunks):
        size = dg.MetadataValue.int(chunk.size_bytes)
        yield dg.DynamicOutput(
            json.dumps(chunk.symbols),
            mapping_key=f"{number:04d}",
            metadata={"symbols": ", ".join(chunk.symbols), "bytes in": size},
        )


@dg.op(
    name="chunk",
    description="Compacts some symbols of a pair's day, and hands over how they ended.",
    out=dg.Out(str, io_manager_key=HANDOVER),
    pool=MARKET_POOL,
)
def _chunk(
    context: dg.OpExecutionContext,
    config: _OfPair,
    symbols: str,
    raw_lake: LakeResource,
    compact_lake: LakeResource,
    limits: LimitsResource,
    clock: dg.ResourceParam[Clock],
) -> str:
    say_which_process(context)
    if not symbols:
        context.log.warning("which symbols these are is gone: the last step does them")
        return ""
    try:
        place = market_place(raw_lake, compact_lake, limits, clock)
        outcome = run_interruptible(
            compact_and_record(
                place,
                config.pair,
                _day(context),
                listener=Listeners(LogListener(context.log), extra_listener.get()),
                symbols=json.loads(symbols),
                requested=config.requested,
            )
        )
    except QuantlabError as error:
        context.log.warning("this chunk could not work, the last step does what it did not: %s", error)
        return ""
    return dump_outcome(outcome)


@cache
def _finish(checks: tuple[str, ...]) -> dg.OpDefinition:
    """The step that ends a day, with an output for each of these checks: one definition for all assets."""

    @dg.op(
        name="finish",
        description="Does what no chunk did of a pair's day, or what failed in one, and ends the day.",
        out={"result": dg.Out(dg.Nothing), **{name: dg.Out(dg.Nothing, is_required=False) for name in checks}},
        pool=MARKET_POOL,
    )
    def finish(
        context: dg.OpExecutionContext,
        config: _OfPair,
        chunks: list[str],
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> Any:
        say_which_process(context)
        try:
            place = market_place(raw_lake, compact_lake, limits, clock)
            work = partial(
                compact_and_record,
                place,
                config.pair,
                _day(context),
                listener=Listeners(LogListener(context.log), extra_listener.get()),
                done=_read(chunks, str(config.pair)),
                requested=config.requested,
            )
            outcome = counted(work, config.pair, meter, clock)
            keep_calendar(context, place, _day(context))
        except QuantlabError as error:
            raise partition_failure(context, compact_key(config.pair), str(error)) from error
        yield from results_of(context, outcome)
        run_interruptible(forget_handed_over(place.compact, context))

    return finish


def in_chunks(plain: dg.AssetsDefinition, pair: Pair, chunk_size: int) -> dg.AssetsDefinition:
    """The asset of a pair as a graph, whose steps spread over what the executor has.

    Args:
        plain: the asset whose day is one step; all that it declares is kept.
        pair: which.
        chunk_size: bytes of raw parts of a chunk.
    """
    [spec] = plain.specs
    raw, quality = (dg.AssetIn(dep.asset_key, dagster_type=dg.Nothing) for dep in _ordered(spec.deps))
    outputs = {check.name: check.get_python_identifier() for check in plain.check_specs}

    # So that the asset is configured as the plain one is: ops: compact__binance__bbo: config: overwrite: true.
    @dg.config_mapping
    def of_pair(options: CompactConfig) -> dict[str, Any]:
        config = {"exchange": pair.exchange, "stream": pair.stream, "chunk_size": chunk_size, **options.model_dump()}
        return {name: {"config": config} for name in ("split", "chunk", "finish")}

    @dg.graph_asset(
        key=spec.key,
        ins={"raw": raw, "quality": quality},
        config=of_pair,
        partitions_def=spec.partitions_def,
        group_name=spec.group_name,
        description=spec.description,
        metadata=spec.metadata,
        tags=spec.tags,
        owners=spec.owners,
        code_version=spec.code_version,
        check_specs=list(plain.check_specs),
    )
    def graph(raw: Any, quality: Any) -> dict[str, Any]:
        ended = _finish(tuple(outputs))(_split(raw=raw, quality=quality).map(_chunk).collect())
        return {"result": ended.result, **{outputs[name]: getattr(ended, name) for name in outputs}}

    return graph


def _ordered(deps: Any) -> list[dg.AssetDep]:
    """The parts first, then what the day is worth."""
    return sorted(deps, key=lambda dep: dep.asset_key.path[0] != "raw")


def _day(context: dg.OpExecutionContext) -> dt.date:
    return dt.date.fromisoformat(context.partition_key)


def _read(chunks: list[str], where: str) -> list[PairOutcome]:
    return [read_outcome(text, where) for text in chunks if text]
