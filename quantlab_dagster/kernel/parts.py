"""One part: where its bytes are, and what its footer says."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PanicException, PolarsError

from quantlab_dagster.errors import CorruptPart, SchemaConflict
from quantlab_dagster.kernel.bounds import check_rows, check_shape, check_width
from quantlab_dagster.kernel.faults import raise_machine_fault
from quantlab_dagster.kernel.terms import DEFAULT_BUDGET_BYTES, Part

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Footer", "FooterReader", "Part"]


@dataclass(frozen=True, slots=True)
class Footer:
    """What a part says of itself.

    Attributes:
        row_groups: rows of each row group, in file order.
        schema: column names and dtypes, in file order. Shared between parts that agree.
    """

    row_groups: tuple[int, ...]
    schema: pl.Schema

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
    """Reads footers; remembers schemas seen, because thousands of parts share a handful of them.

    Nothing is read of a row group but its number of rows. PyArrow ends the whole process when it looks at a column
    whose metadata is damaged, and statistics need not be true.

    Args:
        budget_bytes: what a row group may take when it is decoded.
    """

    def __init__(self, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._known: list[tuple[Any, bytes, pl.Schema]] = []

    def read(self, part: Part) -> Footer:
        """Parse the footer of one part.

        Raises:
            CorruptPart: the file has no readable footer, or declares more than may be decoded (`bounds`).
            SchemaConflict: two columns share one name.
            MachineFault: it is not the file's fault.
        """
        try:
            source = pa.BufferReader(part.source) if isinstance(part.source, bytes) else str(part.source)
            metadata = pq.read_metadata(source)
            check_shape(part, metadata.num_columns, metadata.num_row_groups)
            row_groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            check_rows(part, metadata.num_rows, row_groups)
            schema = self._schema(part, metadata)
        except (pa.ArrowException, OSError, UnicodeDecodeError, PolarsError, PanicException) as error:
            raise_machine_fault(error, part.key)
            raise CorruptPart(part.key, f"not a readable Parquet file ({_first_line(error)})") from error
        check_width(part, row_groups, schema, self._budget_bytes)
        return Footer(row_groups, schema)

    def _schema(self, part: Part, metadata: Any) -> pl.Schema:
        arrow_schema = (metadata.metadata or {}).get(b"ARROW:schema", b"")
        for known, known_arrow, schema in self._known:
            if known_arrow == arrow_schema and known.equals(metadata.schema):
                return schema
        source = io.BytesIO(part.source) if isinstance(part.source, bytes) else part.source
        try:
            schema = pl.Schema(pl.read_parquet_schema(source))
        except pl.exceptions.DuplicateError as error:
            raise SchemaConflict(part.key, f"two columns share one name ({_first_line(error)})") from error
        self._known.append((metadata.schema, arrow_schema, schema))
        return schema


def is_text(dtype: pl.DataType) -> bool:
    """Whether the dtype is one of the spellings of a plain string."""
    return dtype == pl.String or isinstance(dtype, pl.Categorical)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
