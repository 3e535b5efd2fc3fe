"""Asset keys and partitions: the fixed names, in one place.

Dagster allows letters, digits and underscores in a key's segments; exchanges and streams are whatever the paths say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    import datetime as dt

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.settings import Settings

__all__ = [
    "CALENDAR_ASSET",
    "CATCH_UP_PRIORITY",
    "CHECK_ALERTS",
    "DAILY_PRIORITY",
    "DAILY_SCHEDULE",
    "EVENTS_ASSET",
    "GROUP",
    "HOURLY_PRIORITY",
    "HOURLY_SCHEDULE",
    "JOB",
    "LIVE_SENSOR",
    "MARKET_POOL",
    "NEVER_RETRIED",
    "PRIORITY_TAG",
    "PRUNING_JOB",
    "PRUNING_OP",
    "QUALITY_ASSET",
    "QUALITY_GROUP",
    "RUN_ALERTS",
    "SENSOR",
    "STATE_ASSET",
    "SYMBOLS_JOB",
    "SYMBOLS_OP",
    "WAREHOUSE_GROUP",
    "WAREHOUSE_JOB",
    "WAREHOUSE_POOL",
    "compact_key",
    "configured_pairs",
    "daily_partitions",
    "exchange_group",
    "hour_key",
    "hourly_partitions",
    "raw_key",
]

GROUP, QUALITY_GROUP = "quantlab", "quality"
"""Of what speaks of whole days: after the pairs, which are in the groups of their exchanges, and before them. One group
for both would be on both sides of every exchange in the graph."""

JOB = "compact_day"
DAILY_SCHEDULE, HOURLY_SCHEDULE = "daily_compaction", "warehouse_compaction"
SENSOR, LIVE_SENSOR = "catch_up", "live"
CHECK_ALERTS, RUN_ALERTS = "check_alerts", "run_alerts"
SYMBOLS_JOB, SYMBOLS_OP = "compact_symbols", "compact_some_symbols"
PRUNING_JOB, PRUNING_OP = "prune_history", "prune_runs"
STATE_ASSET = dg.AssetKey(["compact", "state"])
QUALITY_ASSET = dg.AssetKey(["quality", "day"])
CALENDAR_ASSET = dg.AssetKey(["compact", "calendar"])

WAREHOUSE_GROUP = "warehouse"
WAREHOUSE_JOB = "compact_warehouse"
EVENTS_ASSET = dg.AssetKey(["warehouse", "events"])

MARKET_POOL, WAREHOUSE_POOL = "quantlab", "warehouse"
"""Of whatever runs on a lake: dagster.yaml leaves each of them fewer runs at a time than there are in all, so that the
runs of one lake never keep the other's waiting."""

PRIORITY_TAG = "dagster/priority"
DAILY_PRIORITY, HOURLY_PRIORITY, CATCH_UP_PRIORITY = "30", "20", "10"
"""Of runs that wait in the queue. Backfills and runs by hand have none, which counts as 0: what runs by itself
overtakes them, yesterday first."""

NEVER_RETRIED = {"dagster/max_retries": "0"}
"""Tags of runs that Dagster does not launch again when their process dies: whoever asked for them does, or a person."""

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_]")


def _segment(name: str) -> str:
    return _NOT_ALLOWED.sub("_", name)


def compact_key(pair: Pair) -> dg.AssetKey:
    """Key of the asset that compacts a pair."""
    return dg.AssetKey(["compact", _segment(pair.exchange), _segment(pair.stream)])


def raw_key(pair: Pair) -> dg.AssetKey:
    """Key of the external asset that the collectors write."""
    return dg.AssetKey(["raw", _segment(pair.exchange), _segment(pair.stream)])


def exchange_group(pair: Pair) -> str:
    """Group of a pair's assets: its exchange, which pages that show the last part of a key leave out."""
    return _segment(pair.exchange)


def configured_pairs(settings: Settings) -> dict[dg.AssetKey, Pair]:
    """All configured pairs by the key of their compact asset.

    Raises:
        SettingsError: two pairs would get the same key.
    """
    pairs: dict[dg.AssetKey, Pair] = {}
    for pair in settings.pairs:
        key = compact_key(pair)
        if key in pairs:
            raise SettingsError(
                "QUANTLAB_EXCHANGES, QUANTLAB_STREAMS",
                f"{pair} and {pairs[key]} would both become the asset {key.to_user_string()}",
                "Leave one of them to another deployment",
            )
        pairs[key] = pair
    return pairs


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """UTC days from the start date to yesterday."""
    return dg.DailyPartitionsDefinition(start_date=f"{settings.start_date:%Y-%m-%d}", timezone="UTC", end_offset=0)


def hourly_partitions(settings: Settings) -> dg.HourlyPartitionsDefinition:
    """UTC hours from the start date to the last one that is over."""
    return dg.HourlyPartitionsDefinition(
        start_date=f"{settings.start_date:%Y-%m-%d}-00:00", timezone="UTC", end_offset=0
    )


def hour_key(hour: dt.datetime) -> str:
    """Partition key of an hour."""
    return f"{hour:%Y-%m-%d-%H:00}"
