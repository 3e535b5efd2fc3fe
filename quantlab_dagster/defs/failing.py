"""Why a partition failed, said where an operator looks for it: on the partition's page, not only in the run's log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["WHY_IT_FAILED", "partition_failure"]

WHY_IT_FAILED = "why it failed"


def partition_failure(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    asset: dg.AssetKey,
    text: str,
    metadata: Mapping[str, Any] | None = None,
) -> dg.Failure:
    """The failure of an asset's partition, to be raised.

    It is recorded as an observation first: Dagster's page of a partition shows events of the asset, and of a run that
    failed only that it did. An observation changes nothing of what is materialised.

    Args:
        context: of the step.
        asset: of the step.
        text: why, for people.
        metadata: what else is known.
    """
    why = {WHY_IT_FAILED: text, **(metadata or {})}
    context.log_event(dg.AssetObservation(asset, partition=context.partition_key, metadata=why))
    return dg.Failure(description=text, metadata=metadata, allow_retries=False)
