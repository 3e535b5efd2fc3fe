"""Is the lake as it should be? Findings for asset checks and `quantlab status`; pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.market.outcome import Status
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def findings(
    state: State | None, unclaimed: Sequence[str] | None, now: dt.datetime, *, failure: str = ""
) -> list[Finding]:
    """The state's findings.

    Args:
        state: as read just now; None if there is none yet.
        unclaimed: pairs of the raw lake that no asset claims; None if they could not be listed.
        now: the present time.
        failure: why late parts could not be looked for just now; empty if they could, or were not to be.
    """
    due = expected_day(now)
    first_open = state.first_open_day if state else None
    # Nothing was promised for days before catch-up began.
    fresh = state is not None and first_open is not None and (due < first_open or state.is_settled(due))
    return [
        Finding(FRESHNESS, fresh, f"{due} is settled" if fresh else f"{due} should have been done by 04:00 UTC"),
        _not_stale(state, failure),
        _nothing_unclaimed(state, unclaimed),
    ]


def _not_stale(state: State | None, failure: str) -> Finding:
    unreadable = state.late_scan.unreadable if state else {}
    late = sorted(state.late_scan.stale.keys() - unreadable.keys()) if state else []
    texts = []
    if failure:
        texts.append(f"late parts could not be looked for: {failure}")
    if late:
        texts.append(f"late parts: {name_some(late)}")
    if unreadable:
        why = [f"{key} ({unreadable[key]})" for key in sorted(unreadable)]
        texts.append(f"cannot be looked at: {name_some(why)}")
    return Finding(NOT_STALE, not texts, "; ".join(texts) or "no published day lacks raw parts")


def _nothing_unclaimed(state: State | None, unclaimed: Sequence[str] | None) -> Finding:
    odd = (state.late_scan.odd if state else None) or ()
    texts = []
    if unclaimed is None:
        texts.append("exchanges and streams of the raw lake could not be listed")
    if unclaimed:
        texts.append(f"in the raw lake, but configured nowhere: {name_some(unclaimed)}")
    if odd:
        texts.append(f"in the raw lake, but cannot be addressed: {name_some(odd)}")
    text = "; ".join(texts) or "every exchange and stream of the raw lake has an asset"
    return Finding(NO_UNCLAIMED_RAW_PREFIX, not texts, text)


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
