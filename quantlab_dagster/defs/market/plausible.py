"""The market-data checks in Dagster: a check of each day, and a table of what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from quantlab_dagster.defs.names import compact_key
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

    It speaks of the data, which nobody can mend, and not of the lake: `status` does not ask for it.
    """
    known = [item for item in outcome.outcomes if item.checks is not None]
    bad = [item for item in known if item.findings]
    texts = [f"{item.symbol_day.symbol}: {'; '.join(item.findings.values())}" for item in bad]
    return dg.AssetCheckResult(
        asset_key=compact_key(outcome.pair),
        check_name=PLAUSIBLE,
        passed=not bad,
        severity=dg.AssetCheckSeverity.WARN,
        description=name_some(texts, separator=" · ")
        if texts
        else f"nothing was found in {len(known)} of {len(outcome.outcomes)} symbol-days",
        metadata={"symbol-days looked at": len(known), "symbol-days with findings": len(bad), **_totals(known)},
    )


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
