"""The asset checks of the market-data lake: a judgement in Dagster's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.defs.names import STATE_ASSET, compact_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from quantlab_dagster.market.judgement import Judgement
    from quantlab_dagster.work.finding import Finding

__all__ = ["findings_by_asset", "pair_findings"]


def pair_findings(judgement: Judgement) -> dict[dg.AssetKey, Sequence[Finding]]:
    """What is to be said of each pair, by its asset."""
    return {compact_key(pair): judgement.findings_of(pair) for pair in judgement.pairs}


def findings_by_asset(judgement: Judgement) -> dict[dg.AssetKey, Sequence[Finding]]:
    """What is to be said of the lake and of each pair, by asset."""
    return {STATE_ASSET: judgement.findings, **pair_findings(judgement)}
