"""What belongs to a table format, which keeps account of its files: nothing may be merged there in place."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from quantlab_dagster.errors import AccessDenied

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import Names

__all__ = ["HUDI_MARKER", "SURELY", "table_above", "table_at", "table_of_key"]

_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi", "_spark_metadata": "Spark's streaming sink"}
_ICEBERG = "metadata"
"""Iceberg's directory. Others have such a name, too: what is in it decides."""
_OF_ICEBERG = re.compile(r"metadata/(.*\.metadata\.json|version-hint\.text|.*\.avro)")
HUDI_MARKER = ".hoodie_partition_metadata"
"""What Hudi puts into each partition of a table."""
_MOST_LEVELS = 5
SURELY = {
    "_delta_log": ("Delta", re.compile(r"\d+\..*|_last_checkpoint")),
    ".hoodie": ("Hudi", re.compile(r".+")),
    "_spark_metadata": ("Spark's streaming sink", re.compile(r"\d+(\.compact)?")),
    _ICEBERG: ("Iceberg", re.compile(r".*\.metadata\.json|version-hint\.text|snap-.*\.avro")),
}
"""Directories of formats, and what is in them. Above the lake anything may lie, so that a name alone says nothing."""


async def table_above(store: Store) -> tuple[str, str] | None:
    """The directory by which a lake is known for a part of a table that lies above it, and the format; None for none.

    A request for each format and level, once. What may not be looked at says nothing.

    Args:
        store: the lake.

    Raises:
        StoreError: a listing failed for another reason: then nobody knows.
    """

    async def one(level: int, name: str) -> tuple[str, str] | None:
        kind, sign = SURELY[name]
        try:
            where, found = await store.peek_above(level, name)
        except AccessDenied:
            return None
        return (where, kind) if any(map(sign.fullmatch, found)) else None

    levels = range(1, min(store.levels_above, _MOST_LEVELS) + 1)
    found = await asyncio.gather(*(one(level, name) for level in levels for name in SURELY))
    return next((table for table in found if table is not None), None)


async def table_at(store: Store, prefix: str, names: Names) -> tuple[str, str] | None:
    """The directory by which a prefix is known for a table, and the format; None if it is no table.

    Args:
        store: the lake.
        prefix: ends in a slash, or is empty.
        names: of the level just below. Where `metadata` is among them, it takes a request to look into it.

    Raises:
        StoreError: that cannot be looked into.
    """
    for name in names.directories:
        if name in _LOGS:
            return name, _LOGS[name]
    if _ICEBERG in names.directories:
        below = await store.peek(f"{prefix}{_ICEBERG}/")
        if any(_OF_ICEBERG.fullmatch(info.key.removeprefix(prefix)) for info in below):
            return _ICEBERG, "Iceberg"
    return None


def table_of_key(key: str) -> tuple[str, str] | None:
    """The prefix and the format of the table whose log or metadata an object is part of; None if it is none's.

    Not for Iceberg's at the root: there a listing tells (`table_at`).
    """
    parts = key.split("/")
    if parts[-1] == HUDI_MARKER:
        return "/".join([*parts[:-1], ""]).removeprefix("/"), "Hudi"
    for at, part in enumerate(parts[:-1]):
        prefix = "/".join([*parts[:at], ""])
        if part in _LOGS:
            return prefix, _LOGS[part]
        if prefix and part == _ICEBERG and _OF_ICEBERG.fullmatch(key.removeprefix(prefix)):
            return prefix, "Iceberg"
    return None
