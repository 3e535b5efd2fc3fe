"""The asset `quality/day`: what a day is worth, decided before any of its symbol-days is compacted.

No `from __future__ import annotations` here: Dagster reads the annotations of an asset's function as objects.
"""

import datetime as dt
from typing import Any

import dagster as dg

from quantlab_dagster.defs.failing import partition_failure
from quantlab_dagster.defs.liveness import say_which_process
from quantlab_dagster.defs.market.content import version_of
from quantlab_dagster.defs.market.shown import shown_of_day
from quantlab_dagster.defs.names import MARKET_POOL, QUALITY_ASSET, QUALITY_GROUP
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.market.eligibility import check_eligible
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.quality.records import SEEN_PREFIX, DayQuality, QualityDay
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["quality_asset"]

_TEXT = (
    "What a UTC day is worth, by the collectors' quality windows: GOOD, DEGRADED, BAD (not published), PARTIAL "
    "(looked at again), or UNKNOWN."
)


def quality_asset(settings: Settings, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The day's quality, upstream of all compacted days.

    What it reads is kept in the compact lake, where the steps of the pairs, the roll-up and the search for late parts
    find it: a window is read once a day, not once a pair.
    """

    @dg.asset(
        key=QUALITY_ASSET,
        partitions_def=partitions,
        pool=MARKET_POOL,
        **shown_of_day(settings, _TEXT, SEEN_PREFIX, "json", group=QUALITY_GROUP),
    )
    def quality(
        context: dg.AssetExecutionContext,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
    ) -> dg.MaterializeResult[Any]:
        say_which_process(context)
        day = dt.date.fromisoformat(context.partition_key)
        try:
            check_eligible(day, clock())
            found = run_interruptible(_look(market_place(raw_lake, compact_lake, limits, clock), day))
        except QuantlabError as error:
            raise partition_failure(context, QUALITY_ASSET, str(error)) from error
        version = version_of((found.fingerprint, found.label, found.waits))
        return dg.MaterializeResult(metadata=_metadata(day, found), data_version=version)

    return quality


async def _look(place: MarketPlace, day: dt.date) -> DayQuality:
    return await place.qualities().of(day)


def _metadata(day: dt.date, quality: DayQuality) -> dict[str, Any]:
    evidence = QualityDay.of(day, quality)
    metadata: dict[str, Any] = {
        "quality": evidence.day_quality,
        "why": quality.verdict.why,
        "rules": evidence.post_filter_version,
    }
    if evidence.worst_windows:
        metadata["worst windows"] = _table(
            {"window": item["window"], "quality": item["quality"], "why": "; ".join(item["reasons"])}
            for item in evidence.worst_windows
        )
    if evidence.unreadable_windows:
        metadata["windows that cannot be understood"] = _table(
            {"window": name, "why": why} for name, why in evidence.unreadable_windows.items()
        )
    return {
        **metadata,
        **{f"windows {kind}": number for kind, number in evidence.windows.items()},
        "dropped events": evidence.dropped_events,
        "offline seconds": dg.MetadataValue.json(evidence.offline_seconds_by_exchange),
    }


def _table(rows: Any) -> dg.TableMetadataValue:
    records = [dg.TableRecord(row) for row in rows]
    columns = [dg.TableColumn(name) for name in records[0].data]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))
