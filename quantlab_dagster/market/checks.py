"""Is the lake as it should be? Findings for asset checks and `quantlab status`; pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.market.eligibility import yesterday
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.state import unsettled_days
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.state import State

__all__ = ["FRESHNESS", "NOT_STALE", "NO_UNCLAIMED_RAW_PREFIX", "failed_days", "findings", "quarantined"]

FRESHNESS = "freshness"
NOT_STALE = "not_stale"
NO_UNCLAIMED_RAW_PREFIX = "no_unclaimed_raw_prefix"

_EXPECTED_BY = dt.time(4, 0)


def expected_day(now: dt.datetime) -> dt.date:
    """The latest day that should be settled at `now`: yesterday from 04:00 UTC on."""
    shifted = now.astimezone(dt.UTC) - dt.timedelta(hours=_EXPECTED_BY.hour, minutes=_EXPECTED_BY.minute)
    return shifted.date() - dt.timedelta(days=1)


def findings(state: State | None, unclaimed: Sequence[Pair], now: dt.datetime) -> list[Finding]:
    """The state's findings.

    Args:
        state: as read just now; None if there is none yet.
        unclaimed: pairs of the raw lake that no asset claims.
        now: the present time.
    """
    stale = sorted(state.late_scan.stale) if state else []
    return [
        _freshness(state, now),
        Finding(
            NOT_STALE, not stale, f"late parts: {name_some(stale)}" if stale else "no published day lacks raw parts"
        ),
        Finding(
            NO_UNCLAIMED_RAW_PREFIX,
            not unclaimed,
            f"in the raw lake, but configured nowhere: {name_some([str(pair) for pair in unclaimed])}"
            if unclaimed
            else "every exchange and stream of the raw lake has an asset",
        ),
    ]


def _freshness(state: State | None, now: dt.datetime) -> Finding:
    """Whether every day that should be done by now is done: one open day below settled ones is never fine."""
    due = expected_day(now)
    watermark = state.watermark if state else None
    if watermark is not None and watermark > yesterday(now):
        text = f"last_compacted_date {watermark} lies in the future, so nothing is caught up until then"
        return Finding(FRESHNESS, passed=False, text=f"{text}: `quantlab state seed --move-back` mends it")
    # Nothing was promised for days before catch-up began.
    late = unsettled_days(state, due) if state is not None and state.first_open_day is not None else [due]
    named = name_some([str(day) for day in late])
    text = f"{named} should have been done by 04:00 UTC" if late else f"everything up to {due} is settled"
    return Finding(FRESHNESS, passed=not late, text=text)


def quarantined(state: State) -> dict[str, str]:
    """Symbol-days in quarantine, as far as the state remembers, with the reason."""
    return {
        key: record.error or ""
        for key, record in sorted(state.partitions.items())
        if record.status == Status.QUARANTINE
    }


def failed_days(state: State) -> dict[str, str]:
    """Days whose last try failed, with the reason."""
    return {day: record.reason or "" for day, record in sorted(state.days.items()) if record.status == Status.FAILED}
