"""Writing a judgement to the metrics, for commands that only look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.defs.meter import Meter

if TYPE_CHECKING:
    import datetime as dt

    from quantlab_dagster.market.judgement import Judgement
    from quantlab_dagster.settings import Settings

__all__ = ["write_judgement"]


def write_judgement(settings: Settings, judgement: Judgement, now: dt.datetime) -> None:
    """Put the judgement beside the counters, if that is configured."""
    Meter.of(settings).judge(judgement.gauges, now)
