"""Is the lake as it should be? Findings for asset checks and `quantlab status`; pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.market.eligibility import yesterday
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.settling import unsettled_days
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


def findings(
    state: State | None, unclaimed: Sequence[str] | None, pairs: Sequence[Pair], now: dt.datetime, *, failure: str = ""
) -> list[Finding]:
    """The state's findings.

    Args:
        state: as read just now; None if there is none yet.
        unclaimed: pairs of the raw lake that no asset claims; None if they could not be listed.
        pairs: configured pairs.
        now: the present time.
        failure: why late parts could not be looked for just now; empty if they could, or were not to be.
    """
    return [_freshness(state, pairs, now), _not_stale(state, failure), _nothing_unclaimed(state, unclaimed)]


def _freshness(state: State | None, pairs: Sequence[Pair], now: dt.datetime) -> Finding:
    """Whether every day that should be done by now is done: one open day below settled ones is never fine."""
    due = expected_day(now)
    watermark = state.watermark if state else None
    if watermark is not None and watermark > yesterday(now):
        text = f"last_compacted_date {watermark} lies in the future, so nothing is caught up until then"
        return Finding(FRESHNESS, passed=False, text=f"{text}: `quantlab state seed --move-back` mends it")
    # Nothing was promised for days before catch-up began.
    late = unsettled_days(state, due, pairs) if state is not None and state.first_open_day is not None else [due]
    named = name_some([str(day) for day in late])
    text = f"{named} should have been done by 04:00 UTC" if late else f"everything up to {due} is settled"
    return Finding(FRESHNESS, passed=not late, text=text)


def _not_stale(state: State | None, failure: str) -> Finding:
    stale = {key for key in state.late_scan.stale if not state.is_accepted(key)} if state else set()
    unreadable = {key: text for key, text in state.unreadable.items() if key in stale} if state else {}
    late = sorted(stale - unreadable.keys())
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
    """Symbol-days in quarantine that nobody has accepted, with the reason."""
    return {
        key: record.error or ""
        for key, record in sorted(state.partitions.items())
        if record.status == Status.QUARANTINE and not state.is_accepted(key)
    }


def failed_days(state: State) -> dict[str, str]:
    """Days whose last try failed, with the reason."""
    return {day: record.reason or "" for day, record in sorted(state.days.items()) if record.status == Status.FAILED}
