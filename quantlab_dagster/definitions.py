"""The one place where everything is wired; workspace.yaml points here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.defs.alerts import Alerts, check_alerts, run_alerts
from quantlab_dagster.defs.executor import executor_of
from quantlab_dagster.defs.market.assets import compact_asset, raw_asset
from quantlab_dagster.defs.market.automation import catch_up_sensor, daily_schedule
from quantlab_dagster.defs.market.calendar import calendar_asset
from quantlab_dagster.defs.market.chunks import in_chunks
from quantlab_dagster.defs.market.handover import HANDOVER, LakeHandover
from quantlab_dagster.defs.market.live import live_check, live_sensor
from quantlab_dagster.defs.market.quality import quality_asset
from quantlab_dagster.defs.market.state import state_asset
from quantlab_dagster.defs.market.symbols import symbols_job
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import (
    CALENDAR_ASSET,
    JOB,
    QUALITY_ASSET,
    STATE_ASSET,
    compact_key,
    configured_pairs,
    daily_partitions,
    hourly_partitions,
)
from quantlab_dagster.defs.resources import LakeResource, LimitsResource
from quantlab_dagster.defs.upkeep import pruning_job, pruning_schedule
from quantlab_dagster.defs.warehouse.asset import events_asset
from quantlab_dagster.defs.warehouse.job import warehouse_job, warehouse_schedule
from quantlab_dagster.settings import Settings, load_settings
from quantlab_dagster.work.clock import Clock, utc_now

if TYPE_CHECKING:
    from quantlab_dagster.lake.market import Pair

__all__ = ["build_definitions", "defs"]


def build_definitions(settings: Settings, *, clock: Clock = utc_now) -> dg.Definitions:
    """Everything Dagster knows of this project, for the given settings.

    Args:
        settings: of the project.
        clock: another clock than the machine's, for tests.

    Raises:
        SettingsError: the settings contradict each other.
    """
    partitions = daily_partitions(settings)
    pairs = list(configured_pairs(settings).values())
    assets = [
        quality_asset(settings, partitions),
        *(_compact_asset(settings, pair, partitions) for pair in pairs),
        state_asset(settings, pairs, partitions),
        calendar_asset(settings, partitions),
        events_asset(settings, hourly_partitions(settings)),
    ]
    live = live_check(settings, pairs)
    compact_lake = LakeResource.of(settings, "compact")
    # A check with partitions speaks of one day each: the latest of all says nothing of the others.
    checks = [spec.key for item in (*assets, live) for spec in item.check_specs if spec.partitions_def is None]
    schedules = [daily_schedule(settings), warehouse_schedule(settings), pruning_schedule(settings)]
    sensors = [catch_up_sensor(settings, pairs), live_sensor(settings, pairs)]
    ticking = [one.name for one in schedules] + [one.name for one in sensors]
    return dg.Definitions(
        assets=[*(raw_asset(settings, pair, partitions) for pair in pairs), *assets],
        schedules=schedules,
        asset_checks=[live],
        sensors=[*sensors, check_alerts(settings, checks, ticking), run_alerts(settings)],
        jobs=[
            dg.define_asset_job(
                JOB,
                selection=dg.AssetSelection.assets(
                    QUALITY_ASSET, *(compact_key(pair) for pair in pairs), STATE_ASSET, CALENDAR_ASSET
                ),
                description=(
                    "Compacts one UTC day of every configured exchange and stream: judges it, builds what is missing "
                    "or has changed, settles it, and writes its calendar. Several days are a backfill, one run a day."
                ),
            ),
            symbols_job(pairs, partitions),
            warehouse_job(settings),
            pruning_job(settings),
        ],
        resources={
            "raw_lake": LakeResource.of(settings, "raw"),
            "compact_lake": compact_lake,
            "warehouse": LakeResource.of(settings, "warehouse"),
            "limits": LimitsResource.of(settings),
            "clock": _plain(clock, "What time it is, UTC."),
            "meter": _plain(Meter.of(settings), "Counts runs for Prometheus, where that is configured."),
            "alerts": _plain(Alerts.of(settings), "Tells people of what fails, where that is configured."),
            **({HANDOVER: _handover(compact_lake)} if settings.chunk_size else {}),
        },
        executor=executor_of(settings),
    )


def _plain(value: object, description: str) -> dg.ResourceDefinition:
    """An object that has nothing to configure, and says on its page what it is for. What it holds never shows there."""
    return dg.ResourceDefinition.hardcoded_resource(value, description)


def _handover(compact_lake: LakeResource) -> dg.IOManagerDefinition:
    text = "What the steps of a chunked day hand to each other, in the compact lake."
    return dg.IOManagerDefinition.hardcoded_io_manager(LakeHandover(compact_lake), text)


def _compact_asset(settings: Settings, pair: Pair, partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    plain = compact_asset(settings, pair, partitions)
    return in_chunks(plain, pair, settings.chunk_size) if settings.chunk_size else plain


defs = build_definitions(load_settings())
