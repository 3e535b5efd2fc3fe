"""What `--json` prints: the contract with scripts. Every key is spelt out here, whatever the code calls its values."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from quantlab_dagster.lake.warehouse import hour_text
from quantlab_dagster.market.cost import DAYS_A_MONTH
from quantlab_dagster.market.live import Hearing
from quantlab_dagster.work.prices import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from quantlab_dagster.cli.runs.market import RunReport
    from quantlab_dagster.cli.runs.warehouse import SweepReport
    from quantlab_dagster.errors import AccessDenied
    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster.lake.store.capabilities import Capabilities
    from quantlab_dagster.market.calendar import Written
    from quantlab_dagster.market.cost import Asked
    from quantlab_dagster.market.judgement import DayJudgement, Judgement
    from quantlab_dagster.market.live import LiveJudgement
    from quantlab_dagster.market.outcome import Outcome, VerifiedDay
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.market.quality_report import DayReport, SymbolReport
    from quantlab_dagster.market.state import State
    from quantlab_dagster.warehouse.judging import Judged
    from quantlab_dagster.warehouse.look import HourLook
    from quantlab_dagster.warehouse.outcome import HourOutcome, Replacement
    from quantlab_dagster.warehouse.servers import Servers
    from quantlab_dagster.warehouse.slot import Corrupt
    from quantlab_dagster.work.finding import Finding
    from quantlab_dagster.work.hook import HookEnded
    from quantlab_dagster.work.prices import Prices, Usage

__all__ = [
    "calendar_document",
    "cost_document",
    "hour_document",
    "judgement_document",
    "live_document",
    "look_document",
    "outcome_document",
    "plan_document",
    "pruned_document",
    "quality_document",
    "rebuilt_document",
    "runs_document",
    "status_document",
    "sweep_document",
    "verified_document",
    "warehouse_status_document",
]


def _symbol_day(day: SymbolDay) -> dict[str, Any]:
    return {"exchange": day.exchange, "stream": day.stream, "symbol": day.symbol, "date": str(day.day)}


def outcome_document(outcome: Outcome, accepted: str | None = None) -> dict[str, Any]:
    """How a symbol-day ended; and why an operator lets its quarantine be, if one does."""
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
        "day_quality": outcome.day_quality,
        "accepted": accepted,
    }


def runs_document(
    report: RunReport, accepted: Mapping[SymbolDay, str], left: Sequence[str] | None = None
) -> dict[str, Any]:
    """What runs over days did; which quarantines are accepted; and what catch-up left, with the reasons."""
    return {
        "runs": report.run_ids,
        "symbol_days": [outcome_document(item, accepted.get(item.symbol_day)) for item in report.outcomes],
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


def cost_document(days: Sequence[dt.date], building: Asked, watching: Asked, prices: Prices) -> dict[str, Any]:
    """What days of the mean size ask for and cost; money in US dollars."""

    def asked(usage: Usage) -> dict[str, Any]:
        cost = Cost.of(usage, prices)
        return {
            "requests": {kind: usage.requests[kind] for kind in sorted(usage.requests)},
            "bytes_read": usage.bytes_read,
            "bytes_written": usage.bytes_written,
            "bytes_stored": usage.bytes_stored,
            "dollars": round(cost.once, 8),
            "dollars_a_month": round(cost.once * DAYS_A_MONTH, 8),
            "dollars_a_month_stored": round(cost.storage_month, 8),
        }

    return {
        "days": [str(day) for day in days],
        "build_a_day": {"raw": asked(building.raw), "compact": asked(building.compact)},
        "watch_for_a_day": {"raw": asked(watching.raw), "compact": asked(watching.compact)},
        "prices": {
            "writes_per_thousand": prices.writes_per_thousand,
            "reads_per_thousand": prices.reads_per_thousand,
            "storage_per_gb_month": prices.storage_per_gb_month,
            "transfer_per_gb": prices.transfer_per_gb,
        },
    }


def verified_document(item: VerifiedDay, accepted: str | None = None) -> dict[str, Any]:
    """What verification found in a symbol-day; and why an operator lets its quarantine be, if one does."""
    return {
        **_symbol_day(item.symbol_day),
        "verdict": item.verdict.value,
        "findings": item.findings,
        "rows": item.rows,
        "against_raw": item.against_raw,
        "note": item.note,
        "accepted": accepted,
    }


def _checks(found: Iterable[Finding]) -> dict[str, Any]:
    return {finding.name: {"passed": finding.passed, "text": finding.text} for finding in found}


def status_document(
    judgement: Judgement | None, market_problem: str, event_lake: dict[str, Any], *, fine: bool
) -> dict[str, Any]:
    """How both lakes are.

    Args:
        judgement: of the market-data lake; None if it could not be looked at.
        market_problem: why not.
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
        "silent": [
            {
                "name": item.name,
                "symbols": item.symbols,
                "last": str(item.last),
                "none_on": str(item.observed),
            }
            for item in judgement.silent
        ],
        "delisted": dict(judgement.delisted),
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
        "quality_windows": dict(day.windows),
    }


def quality_document(version: str, reports: Iterable[DayReport]) -> dict[str, Any]:
    """What days are worth, by the rules of a version."""
    return {"post_filter_version": version, "days": [_quality_of_day(report) for report in reports]}


def _quality_of_day(report: DayReport) -> dict[str, Any]:
    evidence = report.evidence
    return {
        "date": str(report.day),
        "day_quality": evidence.day_quality,
        "fine": report.fine,
        "accepted": report.accepted,
        "reasons": list(evidence.reasons),
        "windows": evidence.windows,
        "dropped_events": evidence.dropped_events,
        "offline_seconds_by_exchange": evidence.offline_seconds_by_exchange,
        "worst_windows": list(evidence.worst_windows),
        "unreadable_windows": evidence.unreadable_windows,
        "symbol_days": [_quality_of_symbol(item) for item in report.symbols],
    }


def _quality_of_symbol(item: SymbolReport) -> dict[str, Any]:
    return {
        **_symbol_day(item.symbol_day),
        "day_quality": item.said.day_quality if item.said is not None else None,
        "checks": item.said.checks if item.said is not None else None,
        "problem": item.problem,
    }


def live_document(judgement: LiveJudgement) -> dict[str, Any]:
    """How what had data in the last days is flushed now."""
    return {
        "fine": judgement.fine,
        "looked_at": _moment(judgement.now),
        "pairs": [
            {
                "pair": str(pair),
                "symbols": len(judgement.of(pair)),
                "silent": len(judgement.having(Hearing.SILENT, pair)),
                "unknown": len(judgement.having(Hearing.UNKNOWN, pair)),
                "newest_part_age_seconds": _seconds(judgement.newest(pair)),
            }
            for pair in judgement.pairs
        ],
        "symbols": [
            {
                "name": look.of.name,
                "hearing": hearing.value,
                "newest_part": _moment(look.flushed) if look.flushed else None,
                "age_seconds": _seconds(look.age(judgement.now)),
                "limit_seconds": _seconds(look.of.limit),
                "last_date": str(look.of.last),
                "problem": look.problem,
            }
            for look, hearing in judgement.hearings()
        ],
    }


def _moment(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _seconds(time: dt.timedelta | None) -> int | None:
    return None if time is None else int(time.total_seconds())


def calendar_document(written: Written) -> dict[str, Any]:
    """What was written of the calendar."""
    return {
        "days": {str(day): number for day, number in written.days.items()},
        "pages": list(written.pages),
        "changed": list(written.changed),
    }


def rebuilt_document(state: State) -> dict[str, Any]:
    """A state that was made anew."""
    return {
        "last_compacted_date": state.last_compacted_date,
        "days": len(state.days),
        "partitions": len(state.partitions),
    }


def _aside(item: Corrupt) -> dict[str, Any]:
    return {"name": item.name, "etag": item.etag, "reason": item.reason}


def hour_document(outcome: HourOutcome) -> dict[str, Any]:
    """How an hour of the event lake ended."""
    return {
        "app": outcome.partition.app,
        "hour": hour_text(outcome.partition.hour),
        "status": outcome.status.value,
        "reason": outcome.reason,
        "error": outcome.error,
        "replacements": [_replacement(item) for item in outcome.replacements],
        "corrupt": [_aside(item) for item in outcome.corrupt],
        "waiting": [_aside(item) for item in outcome.waiting],
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
        "hook": _hook(report.hook) if report.hook is not None else None,
        "failed_checks": report.failed_checks,
    }


def _hook(ended: HookEnded) -> dict[str, Any]:
    return {
        "name": ended.name,
        "result": ended.result.value,
        "exit_code": ended.code,
        "seconds": ended.seconds,
        "output": ended.output,
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


def _capabilities(servers: Servers | AccessDenied) -> dict[str, Any]:
    """Which conditions the stores honour; or {"problem": why that is not known}."""
    if isinstance(servers, Exception):
        return {"problem": str(servers)}
    return {"event_lake": _honoured(servers.lake), "slots": _honoured(servers.slots)}


def _honoured(found: Capabilities) -> dict[str, bool]:
    return {
        "create_if_absent": found.create_if_absent,
        "replace_if_match": found.replace_if_match,
        "delete_if_match": found.delete_if_match,
        "bulk_delete": found.bulk_delete,
        "part_etags": found.part_etags,
    }


def warehouse_status_document(judged: Judged) -> dict[str, Any]:
    """How the event lake is. Its totals are of what was looked at: of everything if `whole` says so."""
    lake, totals = judged.lake, judged.lake.totals
    seen_at = judged.seen_whole_at
    return {
        "whole": judged.whole,
        "seen_whole_at": f"{seen_at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}" if seen_at is not None else None,
        "cold_hours": totals.hours,
        "files": totals.files,
        "small_files": totals.small,
        "bytes": totals.size_bytes,
        "backlog": [look_document(look) for look in lake.looks if look.merges],
        "unfinished": [str(look.partition) for look in lake.looks if look.unfinished or look.unreadable],
        "corrupt": {look.partition.key(item.name): item.reason for look in lake.looks for item in look.corrupt},
        "waiting": {look.partition.key(item.name): item.reason for look in lake.looks for item in look.waiting},
        "capabilities": _capabilities(judged.servers),
        "checks": _checks(judged.findings),
    }


def pruned_document(counts: Mapping[str, int], failures: Sequence[str]) -> dict[str, Any]:
    """What became of the old runs of Dagster's history."""
    return {
        "deleted": counts["deleted"],
        "emptied": counts["emptied"],
        "kept": counts["kept"],
        "tick_logs": counts["tick logs"],
        "failures": list(failures),
    }
