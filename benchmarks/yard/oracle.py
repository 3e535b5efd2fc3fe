"""What is right, found by other means than ours: DuckDB decodes the parts and hashes the rows, NumPy sorts them stably.

The hashes of a symbol-day's rows in the one right order are kept beside the data. An output is read by DuckDB, too, and
must give the same hashes in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from benchmarks.yard.columns import columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.yard.data import Dataset
    from quantlab_dagster.lake.market import SymbolDay

__all__ = ["Verdict", "check", "prepare"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an output is.

    Attributes:
        same_rows: it holds the rows of the parts, each as often as they do.
        ordered: `ts_event` never falls.
        exact: rows that tie are in the order of part and row.
        numbered: `seq` is each row's index.
        text: what is wrong, for people; empty if nothing is.
    """

    same_rows: bool
    ordered: bool
    exact: bool
    numbered: bool
    text: str = ""

    def __and__(self, other: Verdict) -> Verdict:
        """Of both outputs together."""
        return Verdict(
            self.same_rows and other.same_rows,
            self.ordered and other.ordered,
            self.exact and other.exact,
            self.numbered and other.numbered,
            self.text or other.text,
        )


def prepare(data: Dataset) -> None:
    """Find out what is right of each symbol-day, unless that is known."""
    directory = data.directory / "oracle"
    directory.mkdir(exist_ok=True)
    with _connection() as connection:
        for day in data.days:
            path = directory / f"{day.symbol}.npy"
            if path.exists():
                continue
            found = _rows(connection, data.kind, data.parts(day))
            new = path.with_suffix(".new.npy")
            np.save(new, found["hash"][np.argsort(found["ts_event"], kind="stable")])
            new.rename(path)


def check(data: Dataset, day: SymbolDay, output: Path) -> Verdict:
    """Compare an output with what is right."""
    expected = np.load(data.directory / "oracle" / f"{day.symbol}.npy", mmap_mode="r")
    if not output.exists():
        return Verdict(False, False, False, False, "no output")
    try:
        with _connection() as connection:
            found = _rows(connection, data.kind, [output], numbered=True)
    except duckdb.Error as error:
        return Verdict(False, False, False, False, f"cannot be read: {str(error).splitlines()[0]}")
    hashes, keys, seq = found["hash"], found["ts_event"], found.get("seq")
    exact = bool(np.array_equal(hashes, expected))
    same_rows = exact or (len(hashes) == len(expected) and bool(np.array_equal(np.sort(hashes), np.sort(expected))))
    ordered = bool((keys[1:] >= keys[:-1]).all())
    numbered = seq is not None and bool(np.array_equal(seq, np.arange(len(seq))))
    text = "" if same_rows else f"{len(hashes):,} rows for {len(expected):,}, or other values"
    return Verdict(same_rows, ordered, exact, numbered, text)


def _connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"preserve_insertion_order": True})
    connection.execute("set enable_progress_bar = false")
    return connection


def _rows(
    connection: duckdb.DuckDBPyConnection, kind: str, files: Sequence[Path], *, numbered: bool = False
) -> dict[str, Any]:
    """`ts_event` and the hash of every row as the files have them; `seq`, too, if asked for and there."""
    source = f"read_parquet({[str(path) for path in files]!r}, hive_partitioning = false)"
    has = [row[0] for row in connection.execute(f"describe select * from {source}").fetchall()]  # noqa: S608 - own paths
    seq = ", seq" if numbered and "seq" in has else ""
    hashed = ", ".join(f'"{name}"' for name in columns(kind))
    query = f"select ts_event, hash({hashed}) as hash{seq} from {source}"  # noqa: S608 - our own paths
    found = connection.execute(query).fetchnumpy()
    return {name: np.asarray(values) for name, values in found.items()}
