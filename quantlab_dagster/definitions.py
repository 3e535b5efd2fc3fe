"""The one place where everything is wired; workspace.yaml points here."""

from __future__ import annotations

import dagster as dg

from quantlab_dagster.defs.market.assets import compact_asset, raw_asset
from quantlab_dagster.defs.market.automation import catch_up_sensor, daily_schedule
from quantlab_dagster.defs.market.state import state_asset
from quantlab_dagster.defs.market.symbols import symbols_job
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import (
    JOB,
    STATE_ASSET,
    compact_key,
    configured_pairs,
    daily_partitions,
    hourly_partitions,
)
from quantlab_dagster.defs.resources import LakeResource, LimitsResource
from quantlab_dagster.defs.warehouse.asset import events_asset
from quantlab_dagster.defs.warehouse.job import warehouse_job, warehouse_schedule
from quantlab_dagster.settings import Settings, load_settings
from quantlab_dagster.work.clock import Clock, utc_now

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
    return dg.Definitions(
        assets=[
            *(raw_asset(pair, partitions) for pair in pairs),
            *(compact_asset(pair, partitions) for pair in pairs),
            state_asset(settings, pairs, partitions),
            events_asset(settings, hourly_partitions(settings)),
        ],
        schedules=[daily_schedule(), warehouse_schedule(settings)],
        sensors=[catch_up_sensor(settings, pairs)],
        jobs=[
            dg.define_asset_job(
                JOB,
                selection=dg.AssetSelection.assets(*(compact_key(pair) for pair in pairs), STATE_ASSET),
                description="Compacts one UTC day of every configured exchange and stream.",
            ),
            symbols_job(pairs, partitions),
            warehouse_job(settings),
        ],
        resources={
            "raw_lake": LakeResource(lake="raw", url=settings.raw_url),
            "compact_lake": LakeResource(lake="compact", url=settings.compact_url),
            "warehouse": LakeResource(lake="warehouse", url=settings.warehouse_url),
            "limits": LimitsResource.of(settings),
            "clock": clock,
            "meter": Meter.of(settings),
        },
        # One process a run: a step is one pair's day and uses every core itself.
        executor=dg.in_process_executor,
    )


defs = build_definitions(load_settings())
