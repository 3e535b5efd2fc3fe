"""The asset `compact/calendar`: what each symbol-day is worth, for programs and for people, beside the days.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
from typing import Any

import dagster as dg

from quantlab_dagster.defs.failing import partition_failure
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.shown import shown_of_day
from quantlab_dagster.defs.names import CALENDAR_ASSET, MARKET_POOL, STATE_ASSET
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.market.calendar import PREFIX, Written, index_key, write_calendar
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["calendar_asset"]

_TEXT = (
    "What every symbol-day is worth, with rows, range, label, sha256 and revision: "
    "`calendar/date=YYYYMMDD/index.parquet`, and for people `calendar/month=YYYYMM.html`."
)


def calendar_asset(settings: Settings, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The calendar of a day and its month, downstream of the day's roll-up."""

    @dg.asset(
        key=CALENDAR_ASSET,
        deps=[STATE_ASSET],
        partitions_def=partitions,
        pool=MARKET_POOL,
        **shown_of_day(settings, _TEXT, PREFIX, "parquet", "html"),
    )
    def calendar(
        context: dg.AssetExecutionContext,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
    ) -> dg.MaterializeResult[Any]:
        say_which_process(context)
        day = dt.date.fromisoformat(context.partition_key)
        try:
            place = market_place(raw_lake, compact_lake, limits, clock)
            written = run_interruptible(write_calendar(place, [day]))
        except QuantlabError as error:
            raise partition_failure(context, CALENDAR_ASSET, str(error)) from error
        return dg.MaterializeResult(metadata=_metadata(place, day, written))

    return calendar


def keep_calendar(context: dg.AssetExecutionContext | dg.OpExecutionContext, place: MarketPlace, day: dt.date) -> None:
    """Write the calendar of a day that a run has changed, unless a step of this run does it in the end.

    Raises:
        QuantlabError: it cannot be written.
    """
    if CALENDAR_ASSET not in context.job_def.asset_layer.executable_asset_keys:
        run_interruptible(write_calendar(place, [day]))


def _metadata(place: MarketPlace, day: dt.date, written: Written) -> dict[str, Any]:
    compact = place.compact
    return {
        "symbol-days": written.days[day],
        "page of the month": _link(compact.name(written.pages[0])),
        "index of the day": _link(compact.name(index_key(day))),
        "changed": len(written.changed),
    }


def _link(name: str) -> dg.MetadataValue[Any]:
    """Where an object is: a link on this machine, a text on S3, which no browser opens."""
    return dg.MetadataValue.path(name) if "://" not in name else dg.MetadataValue.text(name)
