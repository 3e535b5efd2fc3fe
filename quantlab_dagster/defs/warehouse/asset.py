"""The asset of the event lake's hours.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg

from quantlab_dagster.defs.checks import AUDITED, check_specs
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import EVENTS_ASSET, WAREHOUSE_GROUP, WAREHOUSE_POOL
from quantlab_dagster.defs.places import kinds_of, uri_of
from quantlab_dagster.defs.progress import HourListeners, HourLogListener, extra_hour_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, warehouse_place
from quantlab_dagster.defs.warehouse.hooking import after_run, describe_hook
from quantlab_dagster.defs.warehouse.recording import Recorder, check_results, counted, raise_failures, say_servers
from quantlab_dagster.lake.warehouse import Scope, hour_text, parse_hour
from quantlab_dagster.settings import Settings
from quantlab_dagster.warehouse.checks import (
    EVERY_FILE_EXPLAINED,
    EVERY_FILE_READABLE,
    FEW_SMALL_FILES,
    NO_CORRUPT_FILES,
    NO_UNFINISHED_PLANS,
)
from quantlab_dagster.warehouse.place import last_cold_hour
from quantlab_dagster.warehouse.sweep import Sweep, sweep
from quantlab_dagster.work.clock import Clock

__all__ = ["HOURS_PER_RUN", "events_asset"]

_CHECKS = {
    AUDITED: "Every file of the latest run was read back and proved before anything was deleted: rows, order, content.",
    NO_CORRUPT_FILES: "No file of the event lake is left out of merging because it cannot be read or united.",
    NO_UNFINISHED_PLANS: "No replacement of files is left unfinished: no reader sees rows twice.",
    FEW_SMALL_FILES: "No hour that ended two hours ago or earlier has small files that could be merged.",
    EVERY_FILE_EXPLAINED: "Every event file lies where WAREHOUSE_LAYOUT expects one: none is overlooked.",
    EVERY_FILE_READABLE: "No hour is left out because its files may not be read: denied, or in cold storage.",
}


HOURS_PER_RUN = 168
"""Of a backfill. Dagster takes 15 ms an hour to make a run: with a week the first one starts within seconds, and a year
is 53 of them. Each looks over the whole lake once and takes seconds to start, so fewer hours a run would cost more."""


def events_asset(settings: Settings, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The hours of the event lake, all apps together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # the backfill policy is beta, and worth it
        declaration = dg.asset(
            key=EVENTS_ASSET,
            partitions_def=partitions,
            group_name=WAREHOUSE_GROUP,
            pool=WAREHOUSE_POOL,
            kinds=kinds_of(settings.warehouse_url, "polars", "parquet"),
            owners=settings.owners,
            metadata={"dagster/uri": uri_of(settings.warehouse_url)},
            output_required=False,  # each hour has an event of its own, as soon as it is done
            backfill_policy=dg.BackfillPolicy.multi_run(HOURS_PER_RUN),
            check_specs=check_specs(EVENTS_ASSET, _CHECKS),
            description=(
                "Cold hours of analytics events, compacted in place: small files become files of the target's size, "
                "proved to hold exactly their rows; only then are they deleted. "
                "The schedule `warehouse_compaction` does so with every hour that needs it."
            ),
        )

    @declaration
    def events(
        context: dg.AssetExecutionContext,
        warehouse: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> Iterator[Any]:
        say_which_process(context)
        hours = sorted(parse_hour(key) for key in context.partition_keys)
        scope = Scope((), hours[0], hours[-1])
        recorder = Recorder(context, hours[0], restricted=False)
        listener = HourListeners(HourLogListener(context.log), recorder, extra_hour_listener.get())

        async def work() -> Sweep:
            place = await say_servers(warehouse_place(settings, warehouse, limits, clock), context.log)
            return await sweep(place, scope, listener)

        if hours[-1] > last_cold_hour(clock(), settings.compaction_grace):
            text = f"{hour_text(hours[-1])} is not over yet, or its grace is not. It can be compacted when both are"
            raise dg.Failure(description=text, allow_retries=False)
        done = counted(work, meter, clock)
        for hour in hours:
            recorder.record_if_nothing_was_to_do(hour)
        yield from check_results(done, meter, clock)
        hooked = after_run(context, settings, warehouse.url, done.outcomes, meter)
        if hooked is not None:
            context.log_event(dg.AssetObservation(EVENTS_ASSET, metadata=describe_hook(hooked)))
        raise_failures(done, busy_too=True)

    return events
