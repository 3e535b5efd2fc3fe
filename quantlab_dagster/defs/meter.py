"""What a run adds to the Prometheus metrics, the same for both lakes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from quantlab_dagster.market.outcome import Status
from quantlab_dagster.metrics import (
    MetricsTarget,
    RunCounts,
    record_hook,
    record_judgement,
    record_live,
    record_run,
)
from quantlab_dagster.warehouse.outcome import HourStatus

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from quantlab_dagster.market.live import LiveJudgement
    from quantlab_dagster.market.outcome import PairOutcome
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.warehouse.outcome import HourOutcome

__all__ = ["EVENTS", "MARKET_DATA", "Meter", "day_counts", "hour_counts"]

MARKET_DATA, EVENTS = "market_data", "events"

_COUNTERS_FILE = "quantlab.prom"


@dataclass(frozen=True, slots=True)
class Meter:
    """Counts runs, if that is configured. A plain object: what it holds never shows in Dagster's pages.

    Attributes:
        target: where; None counts nothing.
    """

    target: MetricsTarget | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The meter of the settings. What is pushed only is kept in Dagster's home."""
        url = settings.pushgateway_url.get_secret_value() if settings.pushgateway_url else None
        if settings.metrics_file is None and url is None:
            return cls(None)
        return cls(MetricsTarget(cls.file_of(settings), url, aliases=settings.compaction_metrics_aliases))

    @staticmethod
    def file_of(settings: Settings) -> Path:
        """Where the counters are, if runs are counted."""
        return settings.metrics_file or settings.home.expanduser().absolute() / _COUNTERS_FILE

    def count(self, counts: RunCounts, now: dt.datetime) -> None:
        """Add a run. Never raises: a run that did its work does not fail for being counted."""
        if self.target is not None:
            record_run(self.target, counts, now)

    def hook(self, lake: str, result: str) -> None:
        """Count a command that followed a run. Never raises, as above."""
        if self.target is not None:
            record_hook(self.target, lake, result)

    def judge(self, lake: str, gauges: Mapping[str, float], now: dt.datetime) -> bool:
        """Put the judgement of a lake beside the counters. Never raises, as above; returns whether it is there."""
        return self.target is None or record_judgement(self.target, lake, gauges, now)

    def live(self, judgement: LiveJudgement) -> bool:
        """Put what was found of live symbols beside the counters, by pair. Never raises, as above; returns the same."""
        found = {str(pair): judgement.gauges(pair) for pair in judgement.pairs}
        return self.target is None or record_live(self.target, MARKET_DATA, found, judgement.now)

    def cannot_judge(self, lake: str) -> bool:
        """Say that a lake is not fine, as it cannot be looked at; the rest stays as it was judged last. As above."""
        return self.target is None or record_judgement(self.target, lake, {"fine": 0}, None)


def day_counts(outcome: PairOutcome) -> RunCounts:
    """What a pair's day adds."""
    built = [item for item in outcome.outcomes if item.built]
    failed, quarantined = outcome.having(Status.FAILED), outcome.having(Status.QUARANTINE)
    return RunCounts(
        MARKET_DATA,
        str(outcome.pair),
        succeeded=not failed,
        seconds=outcome.seconds,
        rows=sum(item.rows for item in built),
        files_in=sum(item.parts for item in built),
        files_out=len(built),
        bytes_in=sum(item.bytes_in for item in built),
        bytes_out=sum(item.bytes_out for item in built),
        partitions={
            "compacted": len(built),
            "skipped": len(outcome.outcomes) - len(built) - len(failed) - len(quarantined),
            "quarantined": len(quarantined),
            "failed": len(failed),
        },
        requests=outcome.requests,
    )


_RESULTS = {
    HourStatus.COMPACTED: "compacted",
    HourStatus.UNTOUCHED: "skipped",
    HourStatus.BUSY: "skipped",
    HourStatus.FAILED: "failed",
}


def hour_counts(outcomes: Sequence[HourOutcome], seconds: float, *, looked_at: int) -> RunCounts:
    """What a run over hours adds.

    Args:
        outcomes: of the hours that were worked on.
        seconds: the whole run.
        looked_at: hours that the run saw; those that needed nothing count as skipped.
    """
    results = Counter(
        "quarantined" if item.corrupt and item.status is not HourStatus.FAILED else _RESULTS[item.status]
        for item in outcomes
    )
    results["skipped"] += max(0, looked_at - len(outcomes))
    return RunCounts(
        EVENTS,
        "warehouse/events",
        succeeded=not results["failed"],
        seconds=seconds,
        rows=sum(item.total("rows") for item in outcomes),
        files_in=sum(item.total("inputs") for item in outcomes),
        files_out=sum(len(item.replacements) for item in outcomes),
        bytes_in=sum(item.total("bytes_in") for item in outcomes),
        bytes_out=sum(item.total("bytes_out") for item in outcomes),
        partitions=dict(results),
    )
