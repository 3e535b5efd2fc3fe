"""Writing a judgement to the metrics, for commands that only look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.defs.meter import EVENTS, MARKET_DATA, Meter

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from quantlab_dagster.settings import Settings

__all__ = ["EVENTS", "MARKET_DATA", "write_judgement"]


def write_judgement(settings: Settings, lake: str, gauges: Mapping[str, float] | None, now: dt.datetime) -> None:
    """Put the judgement of a lake beside the counters, if that is configured; None if it could not be judged."""
    meter = Meter.of(settings)
    if gauges is None:
        meter.cannot_judge(lake)
    else:
        meter.judge(lake, gauges, now)
