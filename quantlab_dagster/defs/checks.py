"""Findings and proofs as Dagster's asset checks, the same for both lakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.work.finding import Finding

__all__ = ["AUDITED", "NOTHING_QUARANTINED", "check_evaluation", "check_evaluations", "check_result", "check_specs"]

AUDITED = "order_and_losslessness_audited"
NOTHING_QUARANTINED = "nothing_quarantined"


def check_specs(asset: dg.AssetKey, descriptions: dict[str, str]) -> list[dg.AssetCheckSpec]:
    """Checks of an asset, from their names and descriptions."""
    return [dg.AssetCheckSpec(name, asset=asset, description=text) for name, text in descriptions.items()]


def check_result(asset: dg.AssetKey, finding: Finding) -> dg.AssetCheckResult:
    """A finding as what a step yields."""
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=finding.name,
        passed=finding.passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=finding.text,
    )


def check_evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """A result as an event, for what yields none: a sensor, and an op."""
    assert result.asset_key is not None  # both are given in this package
    assert result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata={},
    )


def check_evaluations(asset: dg.AssetKey, found: Iterable[Finding]) -> list[dg.AssetCheckEvaluation]:
    """Findings as events that a sensor reports."""
    return [check_evaluation(check_result(asset, finding)) for finding in found]
