"""Writing a judgement to the metrics, for commands that only look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.defs.meter import EVENTS, MARKET_DATA, Meter

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from pathlib import Path

    from quantlab_dagster.market.live import LiveJudgement
    from quantlab_dagster.settings import Settings

__all__ = ["EVENTS", "MARKET_DATA", "counters_file", "write_judgement", "write_live"]


def counters_file(settings: Settings) -> Path:
    """The file that runs are counted in, if they are."""
    return Meter.file_of(settings)


def write_judgement(settings: Settings, lake: str, gauges: Mapping[str, float] | None, now: dt.datetime) -> bool:
    """Put the judgement of a lake beside the counters, if that is configured. Returns whether nothing went wrong.

    Args:
        settings: of the project.
        lake: which.
        gauges: None if it could not be judged.
        now: when it was.
    """
    meter = Meter.of(settings)
    return meter.cannot_judge(lake) if gauges is None else meter.judge(lake, gauges, now)


def write_live(settings: Settings, judgement: LiveJudgement) -> bool:
    """Put what was found of live symbols beside the counters, if that is configured. Returns the same."""
    return Meter.of(settings).live(judgement)
