"""One part: where its bytes are, and what its footer says."""

from __future__ import annotations

import io
import zlib
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PanicException, PolarsError

from quantlab_dagster.errors import AuditFailed, BadPart, CorruptPart, MachineFault
from quantlab_dagster.kernel.bounds import check_rows, check_shape, check_width, least_row_bytes
from quantlab_dagster.kernel.faults import raise_machine_fault
from quantlab_dagster.kernel.layout import ARROW_SCHEMA, Layout, read_layout
from quantlab_dagster.kernel.terms import DEFAULT_BUDGET_BYTES, Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Footer", "FooterReader", "KnownLayouts", "Part", "footer_bytes", "is_text", "readable", "sound_copies"]

_COPY = ".plain-"  # and its checksum
_CHUNK_BYTES = 1 << 20
_TAIL_BYTES = 8  # the footer's length, and the magic bytes
_UNREADABLE_FOOTER = (pa.ArrowException, OSError, ValueError, IndexError, RecursionError)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a part says of itself.

    Attributes:
        row_groups: rows of each row group, in file order.
        layout: its columns. Shared between parts that agree.
        metadata: its key-value pairs, without Arrow's schema. Shared between neighbours that agree.
        uncompressed_bytes: of all pages, as it declares.
        row_bytes: what a row takes at least when it is decoded, whatever its pages declare.
    """

    row_groups: tuple[int, ...]
    layout: Layout
    metadata: dict[bytes, bytes] = field(default_factory=dict)
    uncompressed_bytes: int = 0
    row_bytes: int = 0

    @property
    def schema(self) -> pl.Schema:
        """Column names and dtypes, in file order, as they are read."""
        return self.layout.schema

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


class KnownLayouts:
    """Layouts that were understood, for all who read footers in one process: parts of many days share a handful.

    Args:
        most: so many are remembered.
    """

    def __init__(self, most: int = 64) -> None:
        self._found: deque[tuple[str, Layout, int]] = deque(maxlen=most)

    def find(self, footer: bytes, arrow: bytes, order_by: str) -> tuple[Layout, int] | None:
        """The layout of a footer, and what a row takes at least; None if it was not met yet."""
        for known_for, layout, row_bytes in self._found.copy():  # others may add to it
            if footer.startswith(layout.prefix) and layout.arrow == arrow and known_for == order_by:
                return layout, row_bytes
        return None

    def add(self, layout: Layout, order_by: str) -> tuple[Layout, int]:
        """Remember one, in the place of that which was met first where they are too many."""
        row_bytes = sum(least_row_bytes(dtype) for dtype in layout.schema.dtypes())
        self._found.append((order_by, layout, row_bytes))
        return layout, row_bytes


class FooterReader:
    """Reads footers.

    Nothing is read of a row group but its number of rows. PyArrow ends the whole process when it looks at a column
    whose metadata is damaged, and statistics need not be true.

    Args:
        order_by: the order column, which may be of 64 unsigned bits.
        budget_bytes: what a row group may take when it is decoded.
        known: layouts; None to begin with none.
    """

    def __init__(
        self, order_by: str, budget_bytes: int = DEFAULT_BUDGET_BYTES, known: KnownLayouts | None = None
    ) -> None:
        self._order_by = order_by
        self._budget_bytes = budget_bytes
        self._known = known if known is not None else KnownLayouts()
        self._metadata: dict[bytes, bytes] = {}

    def read(self, part: Part) -> Footer:
        """Parse the footer of one part.

        Raises:
            CorruptPart: the file has no readable footer, or declares more than may be decoded (`bounds`).
            SchemaConflict: it has a column that cannot be given back as it is, or two of one name.
            MachineFault: it is not the file's fault.
        """
        try:
            source = pa.BufferReader(part.source) if isinstance(part.source, bytes) else str(part.source)
            metadata = pq.read_metadata(source)
            check_shape(part, metadata.num_columns, metadata.num_row_groups)
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            row_groups = tuple(group.num_rows for group in groups)
            uncompressed_bytes = sum(group.total_byte_size for group in groups)
            check_rows(part, metadata.num_rows, row_groups)
            pairs = metadata.metadata or {}
            layout, row_bytes = self._layout(part, metadata, pairs.pop(ARROW_SCHEMA, b""))
        except BadPart:
            raise
        except (*_UNREADABLE_FOOTER, PolarsError, PanicException) as error:
            raise_machine_fault(error, part.key)
            raise CorruptPart(part.key, f"not a readable Parquet file ({_first_line(error)})") from error
        check_width(part, row_groups, row_bytes, self._budget_bytes)
        if pairs != self._metadata:
            self._metadata = pairs
        return Footer(row_groups, layout, self._metadata, uncompressed_bytes, row_bytes)

    def _layout(self, part: Part, metadata: Any, arrow: bytes) -> tuple[Layout, int]:
        footer = footer_bytes(part.source)
        if known := self._known.find(footer, arrow, self._order_by):
            return known
        return self._known.add(read_layout(part.key, metadata, footer, arrow, self._order_by), self._order_by)


def footer_bytes(source: bytes | memoryview | Path) -> bytes:
    """The footer of a Parquet file, without its length and the magic bytes; the file is known to have one."""
    if isinstance(source, (bytes, memoryview)):
        return bytes(source[-_TAIL_BYTES - int.from_bytes(source[-_TAIL_BYTES:-4], "little") : -_TAIL_BYTES])
    with source.open("rb") as file:
        end = file.seek(-_TAIL_BYTES, io.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        file.seek(end - size)
        return file.read(size)


def readable(part: Part, layout: Layout) -> Part:
    """The part as it is to be read: itself, or a copy with another footer. That of a local file lies beside it."""
    if layout.plain is None:
        return part
    footer = footer_bytes(part.source)
    pages = part.size_bytes - len(footer) - _TAIL_BYTES
    if isinstance(part.source, bytes):
        return replace(part, source=part.source[:pages] + layout.readable(footer))
    plain, checksum = part.source.with_name(f"{part.source.name}{_COPY}"), 0
    with part.source.open("rb") as original, plain.open("wb") as copy:
        while pages:
            content = original.read(min(pages, _CHUNK_BYTES)) or b"\0"  # a part that has shrunk since is found later
            pages -= len(content)
            checksum = zlib.crc32(content, checksum)
            copy.write(content)
        copy.write(layout.readable(footer))
        checksum = zlib.crc32(layout.readable(footer), checksum)
    return replace(part, source=plain.rename(plain.with_name(f"{plain.name}{checksum:08x}")))


@contextmanager
def sound_copies(parts: Sequence[Part], *, always: bool) -> Iterator[None]:
    """What is found within is not the fault of a copy that was damaged on the disk.

    Args:
        parts: as they are read; also those that come to the list within.
        always: whether the copies are also compared with their checksums if nothing was found.

    Raises:
        MachineFault: a copy holds other bytes than were written to it.
    """
    try:
        yield
    except (BadPart, AuditFailed):
        _check_copies(parts)
        raise
    if always:
        _check_copies(parts)


def _check_copies(parts: Sequence[Part]) -> None:
    for part in parts:
        if isinstance(part.source, bytes) or _COPY not in part.source.name:
            continue
        checksum = 0
        with part.source.open("rb") as copy:
            while content := copy.read(_CHUNK_BYTES):
                checksum = zlib.crc32(content, checksum)
        if not part.source.name.endswith(f"{_COPY}{checksum:08x}"):
            cause = "this temporary file holds other bytes than were written to it"
            remedy = "Check this machine's memory and disk, or set QUANTLAB_SCRATCH_DIR"
            raise MachineFault(str(part.source), cause, remedy)


def is_text(dtype: pl.DataType) -> bool:
    """Whether the dtype is one of the spellings of a plain string."""
    return dtype == pl.String or isinstance(dtype, pl.Categorical)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
