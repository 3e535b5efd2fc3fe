"""What `--json` prints: the contract with scripts. Every key is spelt out here, whatever the code calls its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantlab_dagster.lake.warehouse import hour_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.cli.runs.market import RunReport
    from quantlab_dagster.cli.runs.warehouse import SweepReport
    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster.market.judgement import DayJudgement, Judgement
    from quantlab_dagster.market.outcome import Outcome, VerifiedDay
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.market.state import State
    from quantlab_dagster.warehouse.look import HourLook, LakeLook
    from quantlab_dagster.warehouse.outcome import HourOutcome, Replacement
    from quantlab_dagster.work.finding import Finding

__all__ = [
    "hour_document",
    "judgement_document",
    "look_document",
    "outcome_document",
    "plan_document",
    "rebuilt_document",
    "runs_document",
    "status_document",
    "sweep_document",
    "verified_document",
    "warehouse_status_document",
]


def _symbol_day(day: SymbolDay) -> dict[str, Any]:
    return {"exchange": day.exchange, "stream": day.stream, "symbol": day.symbol, "date": str(day.day)}


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """How a symbol-day ended."""
    return {
        **_symbol_day(outcome.symbol_day),
        "status": outcome.status.value,
        "action": outcome.action.value,
        "reason": outcome.reason,
        "error": outcome.error,
        "rows": outcome.rows,
        "parts": outcome.parts,
        "raw_bytes": outcome.bytes_in,
        "data_bytes": outcome.bytes_out,
        "seconds": outcome.seconds,
        "ts_event_min": outcome.ts_event_min,
        "ts_event_max": outcome.ts_event_max,
        "revision": outcome.revision,
    }


def runs_document(report: RunReport, left: Sequence[str] | None = None) -> dict[str, Any]:
    """What runs over days did; and what catch-up left, with the reasons."""
    return {
        "runs": report.run_ids,
        "symbol_days": [outcome_document(item) for item in report.outcomes],
        **({} if left is None else {"left": left}),
        "failures": report.failures,
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    """What would be done with a symbol-day."""
    return {
        **_symbol_day(plan.symbol_day),
        "action": plan.action.value,
        "reason": plan.reason,
        "parts": len(plan.parts),
        "raw_bytes": plan.bytes_in,
        "published_rows": plan.published.meta.rows if plan.published.meta else None,
        "published_bytes": plan.published.data.size_bytes if plan.published.data else None,
    }


def verified_document(item: VerifiedDay) -> dict[str, Any]:
    """What verification found in a symbol-day."""
    return {
        **_symbol_day(item.symbol_day),
        "verdict": item.verdict.value,
        "findings": item.findings,
        "rows": item.rows,
        "against_raw": item.against_raw,
        "note": item.note,
    }


def _checks(found: Iterable[Finding]) -> dict[str, Any]:
    return {finding.name: {"passed": finding.passed, "text": finding.text} for finding in found}


def status_document(
    judgement: Judgement | None, market_problem: str, event_lake: dict[str, Any], *, fine: bool
) -> dict[str, Any]:
    """How both lakes are.

    Args:
        judgement: of the market-data lake; None if it could not be looked at.
        market_problem: why not; empty if it could.
        event_lake: `warehouse_status_document`, or {"problem": why there is none}.
        fine: whether the exit code is 0.
    """
    market = judgement_document(judgement) if judgement is not None else {"problem": market_problem}
    return {"fine": fine, "market_data": market, "event_lake": event_lake}


def judgement_document(judgement: Judgement) -> dict[str, Any]:
    """How the market-data lake is."""
    watermark = judgement.watermark
    return {
        "fine": judgement.fine,
        "last_compacted_date": f"{watermark:%Y%m%d}" if watermark else None,
        "last_eligible_date": f"{judgement.last_eligible:%Y%m%d}",
        "expected_date": f"{judgement.expected:%Y%m%d}",
        "lag_days": judgement.lag_days,
        "backlog": [str(day.day) for day in judgement.open_days],
        "failed": {f"{day.day:%Y%m%d}": day.reason for day in judgement.days if day.troubled},
        "stale": judgement.stale,
        "quarantined": judgement.quarantined,
        "accepted": {key: why for day in judgement.days for key, why in day.accepted.items()},
        "behind": [
            {"pair": str(item.pair), "from": str(item.first), "through": str(item.last), "days": item.days}
            for item in judgement.behind
        ],
        "days": [_day_document(day) for day in judgement.days],
        "updated_at": judgement.updated_at,
        "checks": _checks(judgement.findings),
    }


def _day_document(day: DayJudgement) -> dict[str, Any]:
    return {
        "date": str(day.day),
        "standing": day.standing.value,
        "settled": day.settled,
        "overdue": day.overdue,
        "fine": day.fine,
        "pairs": [str(pair) for pair in day.pairs],
        "reason": day.reason,
        "attempts": day.attempts,
        "quarantined": dict(day.quarantined),
        "accepted": dict(day.accepted),
        "stale": list(day.stale),
        "failed_symbol_days": dict(day.failed),
        "unreadable": dict(day.unreadable),
    }


def rebuilt_document(state: State) -> dict[str, Any]:
    """A state that was made anew."""
    return {
        "last_compacted_date": state.last_compacted_date,
        "days": len(state.days),
        "partitions": len(state.partitions),
    }


def hour_document(outcome: HourOutcome) -> dict[str, Any]:
    """How an hour of the event lake ended."""
    return {
        "app": outcome.partition.app,
        "hour": hour_text(outcome.partition.hour),
        "status": outcome.status.value,
        "reason": outcome.reason,
        "error": outcome.error,
        "replacements": [_replacement(item) for item in outcome.replacements],
        "corrupt": [{"name": item.name, "etag": item.etag, "reason": item.reason} for item in outcome.corrupt],
        "files": outcome.files_left,
        "seconds": outcome.seconds,
    }


def _replacement(item: Replacement) -> dict[str, Any]:
    return {
        "output": item.output,
        "files": item.inputs,
        "bytes_in": item.bytes_in,
        "bytes_out": item.bytes_out,
        "rows": item.rows,
        "doubled_seconds": item.doubled_seconds,
        "kept": item.kept,
        "recovered": item.recovered,
    }


def sweep_document(report: SweepReport) -> dict[str, Any]:
    """What a run over the event lake did."""
    return {
        "run": report.run_id,
        "hours": [hour_document(item) for item in report.outcomes],
        "failures": report.failures,
    }


def look_document(look: HourLook) -> dict[str, Any]:
    """What would be done with an hour of the event lake."""
    return {
        "app": look.partition.app,
        "hour": hour_text(look.partition.hour),
        "files": look.files,
        "small_files": look.small,
        "to_merge": look.merges,
        "bytes_to_merge": look.bytes_in,
        "reason": look.reason,
    }


def warehouse_status_document(lake: LakeLook, backlog: Sequence[HourLook], found: Iterable[Finding]) -> dict[str, Any]:
    """How the event lake is."""
    totals = lake.totals
    return {
        "cold_hours": totals.hours,
        "files": totals.files,
        "small_files": totals.small,
        "bytes": totals.size_bytes,
        "backlog": [look_document(look) for look in backlog],
        "unfinished": [str(look.partition) for look in lake.looks if look.unfinished or look.unreadable],
        "corrupt": {look.partition.key(item.name): item.reason for look in lake.looks for item in look.corrupt},
        "checks": _checks(found),
    }
