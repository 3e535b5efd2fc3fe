"""What a merged file must hold, by another engine and the plainest means: DuckDB, one ORDER BY over everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.survey import Order

Columns = dict[str, str]
"""Name to SQL type, in order."""

Rows = list[tuple[Any, ...]]

_KEY, _ROW = "~key", "~row"


class Oracle:
    """One in-memory database for many questions."""

    def __init__(self) -> None:
        self._database = duckdb.connect()
        self._database.execute("SET threads = 1")

    def close(self) -> None:
        self._database.close()

    def expected(self, parts: Sequence[tuple[str, pa.Table]], order: Order) -> tuple[Columns, Rows]:
        """Columns and rows of the merged parts, which may be given in any order."""
        in_key_order = sorted(parts, key=lambda part: part[0].encode())
        for index, (key, table) in enumerate(in_key_order):
            rows = table.num_rows
            keyed = table.append_column(_KEY, pa.array([key.encode()] * rows, pa.binary()))
            self._database.register(f"part_{index}", keyed.append_column(_ROW, pa.array(range(rows), pa.int64())))
        union = " UNION ALL BY NAME ".join(f"SELECT * FROM part_{index}" for index in range(len(in_key_order)))  # noqa: S608
        columns = self._columns(union)
        columns[order.column] = "BIGINT"
        # A null of the order column is as if it were the smallest integer.
        sort_key = f"""COALESCE("{order.column}"::BIGINT, -9223372036854775808), "{_KEY}", "{_ROW}" """
        select = [f'"{name}"::{kind} AS "{name}"' for name, kind in columns.items() if name not in (_KEY, _ROW)]
        if order.numbered:
            at = 1 + [name for name in columns if name not in (_KEY, _ROW)].index(order.column)
            select.insert(at, f"row_number() OVER (ORDER BY {sort_key}) - 1 AS seq")
        query = f"SELECT {', '.join(select)} FROM ({union}) ORDER BY {sort_key}"  # noqa: S608
        found = self._columns(query), self._rows(query)
        for index in range(len(in_key_order)):
            self._database.unregister(f"part_{index}")
        return found

    def held(self, path: Path) -> tuple[Columns, Rows]:
        """Columns and rows of a file, in file order, by DuckDB's own Parquet reader."""
        query = f"SELECT * FROM read_parquet('{path}')"  # noqa: S608
        return self._columns(query), self._rows(query)

    def _columns(self, query: str) -> Columns:
        described = self._database.execute(f"DESCRIBE {query}").fetchall()
        return {name: _plain(kind) for name, kind, *_ in described}

    def _rows(self, query: str) -> Rows:
        return self._database.execute(query).fetchall()


def _plain(kind: str) -> str:
    """A dictionary of labels is text; a column of nothing but nulls is shown as an integer."""
    if kind.startswith("ENUM("):
        return "VARCHAR"
    return "INTEGER" if kind == '"NULL"' else kind


def spelled(rows: Rows) -> list[str]:
    """Rows as text, in which NaN equals NaN and 0.0 is not -0.0."""
    return [repr(row) for row in rows]
