"""Which days of a pair have data, day by day: a materialised partition says only that a run ended well.

A day without raw parts is settled like any other, so its run succeeds and its partition is materialised. It could be
left missing; but then Dagster skips the roll-up of its day, and a backfill that leaves a partition missing ends as
failed. So the partitions of this check tell: passed is a day with data, failed one without, missing one of which no run
is known.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.defs.names import compact_key
from quantlab_dagster.market.outcome import Status

if TYPE_CHECKING:
    from quantlab_dagster.market.outcome import PairOutcome

__all__ = ["HAS_DATA", "HAS_DATA_TEXT", "NO_DATA", "has_data_result"]

HAS_DATA = "has_data"
HAS_DATA_TEXT = (
    "Rows of the day are published. Its Partitions are the days with data, and those without. It reads as failed while "
    "any day has none, which need not be wrong, so nobody is told: what is missed says `nothing_silent`, what is "
    "withheld `nothing_quarantined`, of all days."
)
NO_DATA = "no data: the raw lake has no parts of this day"


def has_data_result(outcome: PairOutcome) -> dg.AssetCheckResult:
    """Whether a day of a pair has published rows."""
    rows = sum(item.rows for item in outcome.having(Status.SUCCESS))
    ended = Counter(item.status for item in outcome.outcomes if item.status is not Status.NO_FILES)
    text = ", ".join(f"{number:,} {status.value}" for status, number in sorted(ended.items())) or NO_DATA
    return dg.AssetCheckResult(
        asset_key=compact_key(outcome.pair),
        check_name=HAS_DATA,
        passed=rows > 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{rows:,} rows; symbol-days: {text}" if ended else text,
        metadata={"rows": rows, "symbol-days published": ended[Status.SUCCESS]},
    )
