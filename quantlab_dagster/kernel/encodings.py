"""Which encoding a column gets, by what it holds: its first rows are encoded in each way, and the smallest wins.

The rows decide and nothing else, so that the same rows get the same bytes. Only encodings are tried that readers know:
see docs/adr/0014.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DICTIONARY", "choose_encodings", "encoding_options", "sample_rows"]

DICTIONARY, PLAIN, DELTA, SPLIT = "DICTIONARY", "PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"

_MOST_SAMPLED = 1 << 15
_LEAST_SAMPLED = 1 << 10
_SAMPLED_SHARE = 8  # one row of so many
# What is tried first is faster to read, or known to more readers: another must be smaller by so much.
_CLEARLY_SMALLER = 0.98
# A dictionary that overflows is followed by plain pages, which fastparquet takes for nulls where they are text.
_DICTIONARY_BYTES = 1 << 30


def sample_rows(rows: int) -> int:
    """How many of the first row group's rows are tried."""
    return min(rows, _MOST_SAMPLED, max(rows // _SAMPLED_SHARE, _LEAST_SAMPLED))


def choose_encodings(sample: pa.Table, *, int96: frozenset[str], split: bool) -> dict[str, str]:
    """The encoding of each column: its name to `DICTIONARY`, or what Parquet calls it.

    Args:
        sample: the first rows, as they are to be written.
        int96: the columns that are written as 96-bit time stamps.
        split: whether floats may be split into streams of bytes, which not all engines read.
    """
    candidates = {one.name: _candidates(one.type, split=split, int96=one.name in int96) for one in sample.schema}
    sizes: dict[str, dict[str, int]] = {name: {} for name in candidates}
    for turn in range(max(map(len, candidates.values()), default=0)):
        tried = {name: of[turn] for name, of in candidates.items() if len(of) > max(1, turn)}
        if tried:
            for name, size in _sizes(sample.select(list(tried)), tried, int96).items():
                sizes[name][tried[name]] = size
    return {name: _smallest(of, sizes[name]) for name, of in candidates.items()}


def encoding_options(encodings: Mapping[str, str]) -> dict[str, Any]:
    """The writer's options for these encodings."""
    return {
        "use_dictionary": [name for name, encoding in encodings.items() if encoding == DICTIONARY],
        "column_encoding": {
            name: encoding for name, encoding in encodings.items() if encoding not in (DICTIONARY, PLAIN)
        },
        "dictionary_pagesize_limit": _DICTIONARY_BYTES,
    }


def _candidates(kind: pa.DataType, *, split: bool, int96: bool) -> tuple[str, ...]:
    if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return (PLAIN,)
    if pa.types.is_dictionary(kind):
        return (DICTIONARY,)
    if not int96 and (pa.types.is_integer(kind) or pa.types.is_temporal(kind)):
        return DELTA, DICTIONARY, PLAIN
    if split and (pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        return DICTIONARY, PLAIN, SPLIT
    return DICTIONARY, PLAIN


def _sizes(table: pa.Table, encodings: dict[str, str], int96: frozenset[str]) -> dict[str, int]:
    """Compressed bytes of each column of a table, none of them nested, in these encodings."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, table.num_rows),
        compression="zstd",
        write_statistics=False,
        store_schema=False,
        use_deprecated_int96_timestamps=bool(int96.intersection(encodings)),
        **encoding_options(encodings),
    )
    row_group = pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0)
    return {name: row_group.column(at).total_compressed_size for at, name in enumerate(table.schema.names)}


def _smallest(candidates: tuple[str, ...], sizes: dict[str, int]) -> str:
    best = candidates[0]
    for other in candidates[1:]:
        if sizes[other] < _CLEARLY_SMALLER * sizes[best]:
            best = other
    return best
