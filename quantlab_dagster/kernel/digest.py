"""Fingerprints of row contents that do not depend on how rows are batched, and the re-reading of a written file.

A row's hash is Polars' `hash_rows` over the varying columns, in order; a multiset of rows is the sum of its rows'
hashes modulo 2^64 (a sum, not XOR, because XOR cancels a row that occurs twice). Hashes are by value: 0.0 equals -0.0
and NaN equals NaN. They are compared within one process run and never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quantlab_dagster.errors import AuditFailed
from quantlab_dagster.kernel.columns import SEQ
from quantlab_dagster.kernel.faults import raise_machine_fault
from quantlab_dagster.kernel.layout import file_shape, plain_metadata
from quantlab_dagster.kernel.leaves import OWN_WIDTH
from quantlab_dagster.kernel.parts import footer_bytes
from quantlab_dagster.kernel.terms import FileDigest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from quantlab_dagster.kernel.columns import Columns, ConstantValue
    from quantlab_dagster.kernel.terms import Order

__all__ = [
    "HASH",
    "FileDigest",
    "add_hashes",
    "add_sequence",
    "column_dtypes",
    "digest_file",
    "digest_group",
    "hashed",
    "joined",
    "row_hashes",
]

HASH = "hash"
"""Base name of the helper column with a row's hash, as it was decoded: UInt64."""

_SEED = 20_260_108
_MODULUS = 1 << 64
_GOLDEN, _MIXER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
# Four times as many are no faster, and take 200 MB more where rows are wide (benchmarks/README.md).
_BATCH_ROWS = 1 << 15


def row_hashes(frame: pl.DataFrame) -> pl.Series:
    """One UInt64 per row; frames to be compared must agree in column order and dtypes."""
    return frame.hash_rows(_SEED)


def hashed(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """A frame that has the varying columns, with each row's hash beside it.

    It goes with the row through all that follows, up to the audit: what becomes of the row meanwhile does not reach it.
    """
    return frame.with_columns(row_hashes(frame[columns.varying]).alias(columns.helper(HASH)))


def add_hashes(total: int, hashes: pl.Series) -> int:
    """Add hashes (UInt64) to a sum modulo 2^64."""
    return (total + int(hashes.to_numpy().sum(dtype=np.uint64))) % _MODULUS


def add_sequence(total: int, hashes: pl.Series, first_index: int) -> int:
    """Add to a sum modulo 2^64 each row's hash (UInt64), bound to its index in the file.

    The hash is multiplied with an odd number that the index gives: well mixed (the steps of `splitmix64`, Steele et al.
    2014), so that rows that change places change the sum, whatever their distance.
    """
    weights = np.arange(first_index, first_index + len(hashes), dtype=np.uint64)
    weights *= _GOLDEN
    weights ^= weights >> np.uint64(30)
    weights *= _MIXER
    weights ^= weights >> np.uint64(27)
    weights |= np.uint64(1)
    weights *= hashes.to_numpy()
    return (total + int(weights.sum(dtype=np.uint64))) % _MODULUS


def column_dtypes(path: Path) -> dict[str, str]:
    """Path to Parquet type of a file's leaves, in file order. How a writer spells a plain integer is left out."""
    return {
        ".".join(one.path): one.leaf.physical if one.leaf in OWN_WIDTH else str(one.leaf)
        for one in file_shape(footer_bytes(path))
    }


def digest_file(
    path: Path, order_by: str, *, numbered: bool = True, constants: Mapping[str, ConstantValue] | None = None
) -> FileDigest:
    """Read a written file back, verifying page checksums, and digest it in bounded memory.

    Args:
        path: the Parquet file.
        order_by: the order column.
        numbered: whether the file has a column `seq` to be checked (and kept out of the content hash).
        constants: columns that must hold this value in every row; they are left out of the hashes.

    Raises:
        AuditFailed: the file cannot be read, has not the columns it should, or a constant column varies.
        MachineFault: it could not be read, and that says nothing of the file.
    """
    return _digest(_Source(path, str(path), order_by, numbered, constants or {}), 0)


def digest_group(
    content: pa.Buffer,
    where: str,
    order: Order,
    *,
    constants: Mapping[str, ConstantValue],
    first: int,
    batch_rows: int = _BATCH_ROWS,
) -> FileDigest:
    """The same of a row group, in a file of its own.

    Args:
        content: the file.
        where: it belongs, for messages.
        order: of the rows.
        constants: as above.
        first: index of its first row in the file to which it belongs.
        batch_rows: how many rows to read at once, where they are so wide that the usual number is too large.

    Raises:
        AuditFailed, MachineFault: as above.
    """
    return _digest(_Source(content, where, order.column, order.numbered, constants, batch_rows), first)


def joined(before: FileDigest, after: FileDigest) -> FileDigest:
    """The digest of the rows of one, followed by those of the other."""
    if not before.rows or not after.rows:
        return after if after.rows else before
    assert before.key_max is not None
    assert after.key_min is not None
    return FileDigest(
        before.rows + after.rows,
        before.key_min,
        after.key_max,
        before.inversions + after.inversions + (after.key_min < before.key_max),
        before.misnumbered + after.misnumbered,
        before.nulls + after.nulls,
        (before.content + after.content) % _MODULUS,
        (before.sequence + after.sequence) % _MODULUS,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """What is read back, and what must be in it."""

    content: pa.Buffer | Path
    where: str
    order_by: str
    numbered: bool
    constants: Mapping[str, ConstantValue]
    batch_rows: int = _BATCH_ROWS

    @property
    def left_out(self) -> set[str]:
        """The columns that do not belong to the content."""
        return {*self.constants, *([SEQ] if self.numbered else [])}


def _digest(source: _Source, first: int) -> FileDigest:
    digest = FileDigest.empty()
    for frame in _batches(source):
        digest = joined(digest, _digest_rows(source, frame, first + digest.rows))
    return digest


def _digest_rows(source: _Source, frame: pl.DataFrame, first: int) -> FileDigest:
    keys = frame[source.order_by].cast(pl.Int64)
    values = _filled(keys, -(1 << 63))
    misnumbered = 0
    if source.numbered:
        index = np.arange(first, first + frame.height, dtype=np.int64)
        misnumbered = int((_filled(frame[SEQ].cast(pl.Int64), -1) != index).sum())
    hashes = row_hashes(frame[[name for name in frame.columns if name not in source.left_out]])
    return FileDigest(
        rows=frame.height,
        key_min=int(values[0]),
        key_max=int(values[-1]),
        inversions=int((values[1:] < values[:-1]).sum()),
        misnumbered=misnumbered,
        nulls=keys.null_count(),
        content=add_hashes(0, hashes),
        sequence=add_sequence(0, hashes, first),
    )


def _filled(values: pl.Series, instead: int) -> np.ndarray:
    """Integers, with a number in the place of nulls. Without any this asks nothing of Polars' threads."""
    return (values.fill_null(instead) if values.null_count() else values).to_numpy()


def _batches(source: _Source) -> Iterator[pl.DataFrame]:
    try:
        if isinstance(source.content, pa.Buffer):
            readable, footer = pa.BufferReader(source.content), footer_bytes(memoryview(source.content))
        else:
            # Without a look at the footer first there would be none to read plainly.
            pq.read_metadata(source.content)
            readable, footer = source.content, footer_bytes(source.content)
        labels = [name for name, value in source.constants.items() if isinstance(value, str)]
        # Buffering ahead would hold the whole file.
        with pq.ParquetFile(
            readable,
            metadata=plain_metadata(footer),
            page_checksum_verification=True,
            pre_buffer=False,
            read_dictionary=labels,
        ) as file:
            names = file.schema_arrow.names
            for needed in [source.order_by, SEQ] if source.numbered else [source.order_by]:
                if needed not in names:
                    raise _unproved(source.where, f"column {needed!r} is missing")
            # No batch of wide rows is of several row groups, which have fewer of those.
            largest = max((file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)), default=0)
            batch_rows = max(1, min(_BATCH_ROWS, source.batch_rows, largest))
            for batch in file.iter_batches(batch_rows, use_threads=not isinstance(source.content, pa.Buffer)):
                if batch.num_rows:
                    yield _frame(source, batch, names)
    except (pa.ArrowException, OSError, ValueError, IndexError, MemoryError) as error:
        raise_machine_fault(error, source.where)
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise _unproved(source.where, f"cannot be read back ({first})") from error


def _frame(source: _Source, batch: pa.RecordBatch, names: list[str]) -> pl.DataFrame:
    """The rows of a batch, without its constant columns, which are as they should be."""
    kept = []
    for at, name in enumerate(names):
        if name not in source.constants:
            kept.append(at)
        elif not _is_constant(batch.column(at), source.constants[name]):
            raise _unproved(source.where, f"column {name!r} does not hold {source.constants[name]!r} in every row")
    frame = pl.from_arrow(batch.select(kept))
    assert isinstance(frame, pl.DataFrame)  # a batch with columns is never a Series
    frame.columns = [names[at] for at in kept]  # Polars takes an empty name for none
    return frame


def _is_constant(column: pa.Array, value: ConstantValue) -> bool:
    if column.null_count:
        return False
    if isinstance(column, pa.DictionaryArray):
        return bool(pc.all(pc.equal(column.indices, 0)).as_py()) and column.dictionary[0].as_py() == value
    return bool(pc.all(pc.equal(column, pa.scalar(value, column.type))).as_py())


def _unproved(where: str, cause: str) -> AuditFailed:
    return AuditFailed(where, cause, "Nothing was published. Check the machine's memory and disk, then run again")
