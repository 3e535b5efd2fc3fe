"""One part: where its bytes are, and what its footer says."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.errors import CorruptPart, SchemaConflict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ConstantValue", "Footer", "FooterReader", "Part"]

ConstantValue = int | str | bool

# Statistics of long strings may be truncated by the writer (64 bytes in arrow-rs); shorter ones are the values.
_EXACT_STRING_BYTES = 32


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
class Footer:
    """What a part says of itself.

    Attributes:
        row_groups: rows of each row group, in file order.
        schema: column names and dtypes, in file order. Shared between parts that agree.
        constants: columns that the statistics declare to hold one value and no null.
    """

    row_groups: tuple[int, ...]
    schema: pl.Schema
    constants: dict[str, ConstantValue]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.row_groups)

    def slices(self, rows: int) -> Iterator[tuple[int, int]]:
        """Cut the part into (offset, length) runs of whole row groups, each of `rows` rows or just above.

        A row group is the least that a reader decodes at once, so it is never cut.
        """
        offset = length = 0
        for group in self.row_groups:
            length += group
            if length >= rows:
                yield offset, length
                offset, length = offset + length, 0
        if length:
            yield offset, length


class FooterReader:
    """Reads footers; remembers schemas seen, because thousands of parts share a handful of them."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, bytes, pl.Schema, dict[str, int]]] = []
        self._candidates: set[str] | None = None

    def read(self, part: Part) -> Footer:
        """Parse the footer of one part.

        Only columns that were constant in every part so far are examined: the others cannot be of use any more.

        Raises:
            CorruptPart: the file has no readable footer.
            SchemaConflict: two columns share one name.
        """
        try:
            source = pa.BufferReader(part.source) if isinstance(part.source, bytes) else str(part.source)
            metadata = pq.read_metadata(source)
            schema, leaves = self._schema(part, metadata)
            row_groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            constants: dict[str, ConstantValue] = {}
            if sum(row_groups):
                names = leaves.keys() if self._candidates is None else self._candidates & leaves.keys()
                for name in names:
                    value = _constant(metadata, leaves[name])
                    if value is not None:
                        constants[name] = value
                self._candidates = set(constants)
        except (pa.ArrowException, OSError, pl.exceptions.ComputeError, pl.exceptions.PanicException) as error:
            raise CorruptPart(part.key, f"not a readable Parquet file ({_first_line(error)})") from error
        return Footer(row_groups, schema, constants)

    def _schema(self, part: Part, metadata: Any) -> tuple[pl.Schema, dict[str, int]]:
        arrow_schema = (metadata.metadata or {}).get(b"ARROW:schema", b"")
        for known, known_arrow, schema, leaves in self._known:
            if known_arrow == arrow_schema and known.equals(metadata.schema):
                return schema, leaves
        source = io.BytesIO(part.source) if isinstance(part.source, bytes) else part.source
        try:
            schema = pl.Schema(pl.read_parquet_schema(source))
        except pl.exceptions.DuplicateError as error:
            raise SchemaConflict(part.key, f"two columns share one name ({_first_line(error)})") from error
        leaves = _flat_leaves(metadata.schema, schema)
        self._known.append((metadata.schema, arrow_schema, schema, leaves))
        return schema, leaves


def _flat_leaves(parquet_schema: Any, schema: pl.Schema) -> dict[str, int]:
    """Leaf index of the columns whose statistics can prove them constant: integers, strings, booleans."""
    leaves: dict[str, int] = {}
    for index in range(len(parquet_schema)):
        column = parquet_schema.column(index)
        dtype = schema.get(column.path)
        if dtype is None or column.max_repetition_level or column.max_definition_level > 1:
            continue
        if dtype.is_integer() or dtype == pl.Boolean or is_text(dtype):
            leaves[column.path] = index
    return leaves


def is_text(dtype: pl.DataType) -> bool:
    """Whether the dtype is one of the spellings of a plain string."""
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def _constant(metadata: Any, leaf: int) -> ConstantValue | None:
    value: ConstantValue | None = None
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if not group.num_rows:
            continue
        statistics = group.column(leaf).statistics
        if statistics is None or not statistics.has_min_max or not statistics.has_null_count or statistics.null_count:
            return None
        low = statistics.min
        if not isinstance(low, int | str) or low != statistics.max or (value is not None and low != value):
            return None
        if isinstance(low, str) and len(low.encode()) > _EXACT_STRING_BYTES:
            return None
        value = low
    return value


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
