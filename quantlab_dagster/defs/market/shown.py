"""What Dagster's pages say of an asset before anything has run: its group, kinds, owners, place and columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict

import dagster as dg

from quantlab_dagster.defs.names import GROUP, exchange_group
from quantlab_dagster.defs.places import kinds_of, uri_of
from quantlab_dagster.market.stream_columns import columns_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.settings import Settings

__all__ = ["CODE_VERSION", "Shown", "shown_compact", "shown_of_day", "shown_raw"]

CODE_VERSION = "1"
"""Of what is published. Raise it only when every day that was published before has to be built again: then Dagster's
pages mark them all. New versions of this project, or of its libraries, do not make a published day wrong."""


class Shown(TypedDict):
    """Arguments of an asset's declaration."""

    description: str
    group_name: str
    kinds: set[str]
    owners: Sequence[str]
    tags: Mapping[str, str]
    metadata: Mapping[str, Any]


def shown_raw(pair: Pair, settings: Settings) -> Shown:
    """Of the external asset that the collectors write."""
    return Shown(
        description=(
            f"{pair.exchange} {pair.stream}, raw: the parts that collectors flush, by day of receipt.\n\n"
            "Nothing here makes them, so Dagster never shows them as materialised. Whether they still arrive says the "
            "check `parts_arriving`, once the sensor `live` is on."
        ),
        group_name=exchange_group(pair),
        kinds=kinds_of(settings.raw_url, "parquet"),
        owners=list(settings.owners),
        tags=_tags(pair, "raw"),
        metadata={
            "dagster/uri": uri_of(settings.raw_url, pair.prefix),
            "dagster/column_schema": _schema(pair, published=False),
        },
    )


def shown_compact(pair: Pair, settings: Settings) -> Shown:
    """Of the asset that compacts a pair."""
    return Shown(
        description=(
            f"{pair.exchange} {pair.stream}, compacted: a file per symbol and day, sorted by (ts_event, seq), "
            "proved to hold exactly the rows of its raw parts.\n\n"
            "Partitions shows which days were worked on. Which of them have data shows the check `has_data`, day by "
            "day; what the data are worth, `market_data_plausible`, and the label of `quality/day`."
        ),
        group_name=exchange_group(pair),
        kinds=kinds_of(settings.compact_url, "polars", "parquet"),
        owners=list(settings.owners),
        tags=_tags(pair, "compact"),
        metadata={
            "dagster/uri": uri_of(settings.compact_url, pair.prefix),
            "dagster/column_schema": _schema(pair, published=True),
        },
    )


def shown_of_day(settings: Settings, description: str, key: str, *kinds: str, group: str = GROUP) -> Shown:
    """Of an asset that speaks of whole days, all exchanges together.

    Args:
        settings: of the project.
        description: of the asset.
        key: where it lies in the compact lake.
        kinds: of its objects.
        group: in the graph.
    """
    return Shown(
        description=description,
        group_name=group,
        kinds=kinds_of(settings.compact_url, *kinds),
        owners=list(settings.owners),
        tags={},
        metadata={"dagster/uri": uri_of(settings.compact_url, key)},
    )


def _tags(pair: Pair, layer: str) -> dict[str, str]:
    """By which assets are found in the catalogue; without those of which Dagster does not allow the value."""
    tags = {"exchange": pair.exchange, "stream": pair.stream, "layer": layer}
    return {name: value for name, value in tags.items() if _allowed(value)}


def _allowed(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", value) is not None


def _schema(pair: Pair, *, published: bool) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(column.name, column.dtype, description=column.text)
            for column in columns_of(pair.stream, published=published)
        ]
    )
