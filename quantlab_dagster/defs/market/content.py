"""What a day's content is called in Dagster, and what its page keeps as long as that is the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from quantlab_dagster.market.outcome import PairOutcome

__all__ = ["DRAWN_BY", "PICTURE", "SCHEMA", "data_version", "kept", "version_of"]

PICTURE = "events per minute"
SCHEMA = "dagster/column_schema"
DRAWN_BY = "drawn by run"
"""Of a picture that is kept: the run that built the day."""

_KEPT = (PICTURE, SCHEMA, DRAWN_BY)
_VERSION_TAG = "dagster/data_version"


def version_of(facts: Iterable[object]) -> dg.DataVersion:
    """A short name of some content: the same for the same facts in the same order."""
    text = "\n".join(str(fact) for fact in facts)
    return dg.DataVersion(hashlib.sha256(text.encode()).hexdigest()[:16])


def data_version(outcome: PairOutcome) -> dg.DataVersion:
    """The name of what is published of a pair's day: the same for a run that finds everything up to date.

    Dagster's pages mark what is downstream as out of sync when it changes. By default each run would change it.
    """
    return version_of(
        (item.symbol_day.symbol, item.status, item.revision, item.raw_fingerprint, item.rows, item.day_quality)
        for item in outcome.outcomes
    )


def kept(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str, version: dg.DataVersion
) -> Mapping[str, Any]:
    """Metadata of the latest materialisation of a partition that are still true, because its content is the same.

    The picture and the columns come from the rows, which a run that finds everything up to date does not read.
    """
    chosen = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition])
    records = instance.fetch_materializations(chosen, limit=1).records
    found = records[0].asset_materialization if records else None
    if found is None or (found.tags or {}).get(_VERSION_TAG) != version.value:
        return {}
    values = {name: found.metadata[name] for name in _KEPT if name in found.metadata}
    if PICTURE in values:
        values.setdefault(DRAWN_BY, dg.MetadataValue.dagster_run(records[0].run_id))
    return values
