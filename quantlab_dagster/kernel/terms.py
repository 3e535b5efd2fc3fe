"""What callers hand to the kernel and get back. Loads no engine, so that whoever only waits for a merge needs none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

__all__ = ["DEFAULT_BUDGET_BYTES", "SEQ", "FileDigest", "Merged", "Observation", "Observer", "Order", "Part"]

SEQ = "seq"
DEFAULT_BUDGET_BYTES = 512 << 20

_INT64_MIN = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Part:
    """A raw Parquet file, whole.

    Attributes:
        key: name in error messages and in the total order; parts are merged in byte order of their keys.
        source: the file's bytes, or a local path to it.
        size_bytes: compressed size.
    """

    key: str
    source: bytes | Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Order:
    """How the rows of the output are ordered and whether they are numbered.

    Attributes:
        column: integer column that orders the rows; ties keep the order of (part, row).
        numbered: whether a column `seq` (Int64, 0 … N-1) follows the order column.
        nulls_first: whether nulls are allowed in the order column; they come first, as if the smallest integer.
        raw_seq: what a numbered output calls a column `seq` of the parts; "" refuses it.
    """

    column: str = "ts_event"
    numbered: bool = True
    nulls_first: bool = False
    raw_seq: str = ""

    @property
    def rename(self) -> dict[str, str]:
        """Columns of the parts that get another name in the output."""
        return {SEQ: self.raw_seq} if self.numbered and self.raw_seq else {}

    def key(self) -> pl.Expr:
        """The order column as a total order without nulls."""
        import polars as pl  # noqa: PLC0415 - only where rows are at hand, and the engine is loaded

        return pl.col(self.column).fill_null(_INT64_MIN) if self.nulls_first else pl.col(self.column)


class Observation(Protocol):
    """What somebody who watches a merge has seen so far."""

    def see(self, frame: pl.DataFrame, hashes: pl.Series) -> None:
        """Look at the next rows. They go into the file as they are, whatever is seen.

        Args:
            frame: rows in their order, as the parts have them; columns with one value for all are left out.
            hashes: one UInt64 a row; equal for equal rows.
        """
        ...

    def result(self) -> Any:
        """What was seen, as something that can be sent to another process."""
        ...


class Observer(Protocol):
    """Somebody who watches the rows of a merge on their way into the file. Is sent to the process that merges."""

    def begin(self, constants: Mapping[str, Any]) -> Observation:
        """Begin with the first rows.

        Args:
            constants: the columns that have one value for all rows.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a sorted file holds, as read back.

    Attributes:
        rows: number of rows.
        key_min: order value of the first row, None without rows.
        key_max: order value of the last row.
        inversions: places where the order value is less than the one before it (nulls count as the smallest).
        misnumbered: rows whose `seq` is not their index; 0 where the file is not numbered.
        nulls: nulls in the order column.
        content: hash of the multiset of rows, without `seq`.
        sequence: hash of the multiset of (row, index) pairs: equal only if the same rows are in the same order.
    """

    rows: int
    key_min: int | None
    key_max: int | None
    inversions: int
    misnumbered: int
    nulls: int
    content: int
    sequence: int

    @classmethod
    def empty(cls) -> FileDigest:
        """Of no rows."""
        return cls(0, None, None, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Merged:
    """A finished, audited file.

    Attributes:
        rows: rows in it, equal to the rows of all parts.
        key_min: least value of the order column; None without rows.
        key_max: greatest value of the order column.
        columns: name to type, in file order, `seq` included: as Polars has it, or as Parquet where that says more.
        size_bytes: of the file.
        windows: how many windows the day was cut into.
        distributed: whether parts were first distributed into runs.
        histogram: (bucket, rows) for each occupied bucket of `bucket_width` order values; empty without a width. Nulls
            are in no bucket.
        digest: of the file, as read back.
        sha256: of the file, hexadecimal, taken before that: bytes that still have it are those that were audited.
        widened: name to the types of a column in the parts and the wider one that it got: "Int32 → Int64".
        seen: what an observer saw; None without one.
    """

    rows: int
    key_min: int | None
    key_max: int | None
    columns: dict[str, str]
    size_bytes: int
    windows: int
    distributed: bool
    histogram: tuple[tuple[int, int], ...]
    digest: FileDigest
    sha256: str
    widened: dict[str, str] = field(default_factory=dict)
    seen: Any = None
