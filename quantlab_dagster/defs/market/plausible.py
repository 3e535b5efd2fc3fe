"""The market-data checks in Dagster: a check of each day, and a table of what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from quantlab_dagster.defs.names import compact_key
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.quality.rules import Label
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from quantlab_dagster.market.outcome import Outcome, PairOutcome

__all__ = ["PLAUSIBLE", "PLAUSIBLE_TEXT", "findings_table", "plausible_result"]

PLAUSIBLE = "market_data_plausible"
PLAUSIBLE_TEXT = (
    "The rows of the day are as its stream's should be: no gaps, no missing or repeated ids, no repeated rows, no "
    "crossed or non-positive prices, nothing received before its event. Counted, never repaired."
)

_MOST_TABLE_ROWS = 500


def plausible_result(outcome: PairOutcome) -> dg.AssetCheckResult:
    """What was counted in the rows of a pair's day, whether it was built now or before.

    It speaks of the data, which nobody can mend, and not of the lake: `status` does not ask for it. What had rows that
    nobody has checked keeps it from passing; what is withheld by the day's label had none to check.
    """
    known = [item for item in outcome.outcomes if item.checks is not None]
    bad = [item for item in known if item.findings]
    unchecked = [f"{item.symbol_day.symbol} ({why})" for item in outcome.outcomes if (why := _why_unchecked(item))]
    texts = [
        *([f"not checked: {name_some(unchecked)}"] if unchecked else []),
        *(f"{item.symbol_day.symbol}: {'; '.join(item.findings.values())}" for item in bad),
    ]
    return dg.AssetCheckResult(
        asset_key=compact_key(outcome.pair),
        check_name=PLAUSIBLE,
        passed=not texts,
        severity=dg.AssetCheckSeverity.WARN,
        description=name_some(texts, separator=" · ") if texts else _well(len(known), len(outcome.outcomes)),
        metadata={
            "symbol-days looked at": len(known),
            "symbol-days with findings": len(bad),
            "symbol-days not checked": len(unchecked),
            **_totals(known),
        },
    )


def _why_unchecked(item: Outcome) -> str:
    """Why nobody has checked the rows of a symbol-day; empty if somebody has, or it had none to check."""
    if item.checks is not None:
        return ""
    if item.status is Status.SUCCESS:
        return "published by other software or an earlier version"
    withheld = item.status is Status.QUARANTINE and item.day_quality == Label.BAD
    return "" if withheld or item.status in (Status.NO_FILES, Status.SKIPPED) else item.status.value


def _well(known: int, symbol_days: int) -> str:
    if not known:
        return f"nothing was checked: none of {symbol_days} symbol-days is published"
    return f"nothing was found in {known} of {symbol_days} symbol-days"


def findings_table(outcomes: tuple[Outcome, ...]) -> dg.TableMetadataValue | None:
    """A line for each symbol-day with findings; None if there is none."""
    bad = [item for item in outcomes if item.findings]
    if not bad:
        return None
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"symbol": item.symbol_day.symbol, "what was counted": "; ".join(item.findings.values())})
            for item in bad[:_MOST_TABLE_ROWS]
        ],
        schema=dg.TableSchema(columns=[dg.TableColumn(name) for name in ("symbol", "what was counted")]),
    )


def _totals(known: list[Outcome]) -> dict[str, Any]:
    """Over all symbol-days, numbers that the pages can plot."""

    def total(*names: str) -> int:
        return sum(_number(item.checks, names) for item in known)

    return {
        "gaps": total("gaps", "number"),
        "rows repeated": total("rows_repeated"),
        "ids missing": total("ids", "missing"),
        "ids repeated": total("ids", "repeated"),
        "rows crossed": total("rows_crossed"),
        "rows received early": total("rows_received_early", "rows"),
    }


def _number(found: Any, names: tuple[str, ...]) -> int:
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int) else 0
