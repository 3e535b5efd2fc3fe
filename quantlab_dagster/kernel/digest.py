"""Fingerprints of row contents that do not depend on how rows are batched, and the re-reading of a written file.

A row's hash is Polars' `hash_rows` over the varying columns, in order; a multiset of rows is the sum of its rows'
hashes modulo 2^64 (a sum, not XOR, because XOR cancels a row that occurs twice). Hashes are by value: 0.0 equals -0.0
and NaN equals NaN. They are compared within one process run and never stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.errors import AuditFailed
from quantlab_dagster.kernel.columns import SEQ
from quantlab_dagster.kernel.faults import raise_machine_fault
from quantlab_dagster.kernel.terms import FileDigest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from quantlab_dagster.kernel.columns import ConstantValue

__all__ = ["FileDigest", "add_hashes", "column_dtypes", "digest_file", "row_hashes", "sequence_hash"]

_SEED, _SEQUENCE_SEED = 20_260_108, 80_106_202
_MODULUS = 1 << 64
# Four times as many are no faster, and take 200 MB more where rows are wide (benchmarks/README.md).
_BATCH_ROWS = 1 << 15


def row_hashes(frame: pl.DataFrame) -> pl.Series:
    """One UInt64 per row; frames to be compared must agree in column order and dtypes."""
    return frame.hash_rows(_SEED)


def add_hashes(total: int, hashes: pl.Series) -> int:
    """Add hashes (UInt64) to a sum modulo 2^64."""
    return (total + int(hashes.to_numpy().sum(dtype=np.uint64))) % _MODULUS


def sequence_hash(hashes: pl.Series, first_index: int) -> pl.Series:
    """Bind each row's hash to its index in the file: UInt64 per row."""
    index = pl.int_range(first_index, first_index + len(hashes), dtype=pl.Int64, eager=True)
    return pl.DataFrame({"row": hashes, "index": index}).hash_rows(_SEQUENCE_SEED)


def column_dtypes(path: Path) -> dict[str, str]:
    """Name to Polars dtype of a Parquet file's columns, in file order."""
    return {name: str(dtype) for name, dtype in pl.read_parquet_schema(path).items()}


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
    rows = inversions = misnumbered = nulls = content = sequence = 0
    key_min: int | None = None
    key_max: int | None = None
    constants = constants or {}
    for frame in _batches(path, order_by, numbered=numbered):
        _check_constants(path, frame, constants)
        keys = frame[order_by].cast(pl.Int64)
        nulls += keys.null_count()
        filled = keys.fill_null(-(1 << 63))
        values = filled.to_numpy()
        inversions += int((values[1:] < values[:-1]).sum()) + (key_max is not None and int(values[0]) < key_max)
        key_min = int(values[0]) if key_min is None else key_min
        key_max = int(values[-1])
        if numbered:
            index = np.arange(rows, rows + frame.height, dtype=np.int64)
            seq = frame[SEQ].cast(pl.Int64).fill_null(-1).to_numpy()
            misnumbered += int((seq != index).sum())
        hashes = row_hashes(frame.drop(*constants, *([SEQ] if numbered else [])))
        content = add_hashes(content, hashes)
        sequence = add_hashes(sequence, sequence_hash(hashes, rows))
        rows += frame.height
    return FileDigest(rows, key_min, key_max, inversions, misnumbered, nulls, content, sequence)


def _check_constants(path: Path, frame: pl.DataFrame, constants: Mapping[str, ConstantValue]) -> None:
    for name, value in constants.items():
        if not frame[name].eq_missing(pl.Series([value], dtype=frame[name].dtype)).all():
            raise _unproved(path, f"column {name!r} does not hold {value!r} in every row")


def _batches(path: Path, order_by: str, *, numbered: bool) -> Iterator[pl.DataFrame]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            for needed in [order_by, SEQ] if numbered else [order_by]:
                if needed not in names:
                    raise _unproved(path, f"column {needed!r} is missing")
            for batch in file.iter_batches(_BATCH_ROWS):
                if batch.num_rows:
                    frame = pl.from_arrow(batch)
                    if isinstance(frame, pl.DataFrame):
                        yield frame
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise_machine_fault(error, str(path))
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise _unproved(path, f"cannot be read back ({first})") from error


def _unproved(path: Path, cause: str) -> AuditFailed:
    return AuditFailed(str(path), cause, "Nothing was published. Check the machine's memory and disk, then run again")
