"""What belongs to a table format, which keeps account of its files: nothing may be merged there in place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import Names

__all__ = ["table_at", "table_of_key"]

_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi", "_spark_metadata": "Spark's streaming sink"}
_ICEBERG = "metadata"
"""Iceberg's directory. Others have such a name, too: what is in it decides."""
_OF_ICEBERG = re.compile(r"metadata/(.*\.metadata\.json|version-hint\.text|.*\.avro)")


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
    for at, part in enumerate(parts[:-1]):
        prefix = "/".join([*parts[:at], ""])
        if part in _LOGS:
            return prefix, _LOGS[part]
        if prefix and part == _ICEBERG and _OF_ICEBERG.fullmatch(key.removeprefix(prefix)):
            return prefix, "Iceberg"
    return None
