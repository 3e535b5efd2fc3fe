"""Findings and proofs as Dagster's asset checks, the same for both lakes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from quantlab_dagster.market.judgement import AUDITED, NOTHING_QUARANTINED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from quantlab_dagster.work.finding import Finding

__all__ = [
    "AUDITED",
    "NOTHING_QUARANTINED",
    "changed_evaluations",
    "check_evaluation",
    "check_result",
    "check_specs",
    "last_said",
    "partitioned_check_spec",
]


def check_specs(asset: dg.AssetKey, descriptions: dict[str, str]) -> list[dg.AssetCheckSpec]:
    """Checks of an asset, from their names and descriptions."""
    return [dg.AssetCheckSpec(name, asset=asset, description=text) for name, text in descriptions.items()]


def partitioned_check_spec(
    name: str, asset: dg.AssetKey, description: str, partitions: dg.PartitionsDefinition[str]
) -> dg.AssetCheckSpec:
    """A check with a result for each partition: only for what is said within runs.

    What a sensor says of a partition is refused the second time (docs/adr/0013).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, description=description, partitions_def=partitions)


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


def changed_evaluations(
    instance: dg.DagsterInstance, found: Mapping[dg.AssetKey, Iterable[Finding]]
) -> list[dg.AssetCheckEvaluation]:
    """Findings as events, where Dagster shows something else: what a step, or an earlier look, said.

    Not by partition: Dagster 1.13 stores one evaluation outside of runs per check and partition, and refuses the
    second (docs/adr/0013).
    """
    results = {
        dg.AssetCheckKey(asset, finding.name): check_result(asset, finding)
        for asset, findings in found.items()
        for finding in findings
    }
    shown = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(results))
    changed = []
    for key, result in results.items():
        event = shown[key].evaluation if key in shown else None
        said = (event.passed, event.description) if isinstance(event, dg.AssetCheckEvaluation) else None
        if said != (result.passed, result.description):
            changed.append(check_evaluation(result))
    return changed


def last_said(instance: dg.DagsterInstance, new: dg.AssetCheckEvaluation) -> dg.AssetCheckEvaluation | None:
    """What was last said of the check of an evaluation, whatever is planned since; None if nothing."""
    ended = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    records = instance.event_log_storage.get_asset_check_execution_history(new.asset_check_key, limit=1, status=ended)
    return records[0].evaluation if records else None
