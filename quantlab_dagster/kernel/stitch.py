"""Row groups that were encoded each by itself become one file: their bytes one behind the other, offsets shifted.

Nothing is decoded or encoded again. The result is, byte for byte, what PyArrow writes when it is given the same row
groups one after the other, so that they can be encoded on all cores. Where the numbers stand is the format's own
definition: https://github.com/apache/parquet-format, parquet.thrift (FileMetaData, RowGroup, ColumnChunk,
ColumnMetaData) and PageIndex.md (OffsetIndex).
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.errors import AuditFailed
from quantlab_dagster.kernel.faults import raise_machine_fault
from quantlab_dagster.kernel.parts import footer_bytes
from quantlab_dagster.kernel.thrift import (
    STRUCT,
    RawField,
    integer,
    integer_bytes,
    struct_at,
    struct_bytes,
    structs_bytes,
    structs_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

__all__ = ["MAGIC", "Piece", "Stitcher", "check_stitched", "take_apart"]

MAGIC = b"PAR1"

# Field ids, and types of the fields that are made here.
_FILE_ROWS, _FILE_GROUPS = 3, 4
_GROUP_COLUMNS, _GROUP_OFFSET, _GROUP_ORDINAL = 1, 5, 7
_CHUNK_OFFSET, _CHUNK_METADATA = 2, 3
_OFFSET_INDEX, _COLUMN_INDEX = (4, 5), (6, 7)  # offset and length
_ABOUT_PLACES = (_CHUNK_METADATA, *_OFFSET_INDEX, *_COLUMN_INDEX)
_METADATA_OFFSETS = frozenset({9, 10, 11, 14})  # of data, index and dictionary page, and of the Bloom filter
_LOCATIONS, _PAGE_OFFSET = 1, 1
_I32, _I64, _LIST = 5, 6, 9

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """A row group, out of a file that holds nothing else.

    Attributes:
        pages: its column chunks, one behind the other.
        checksum: CRC-32 of them.
        start: offset of the first of them in its file.
        rows: number of rows.
        fields: of the `RowGroup`, without its columns.
        chunks: fields of each `ColumnChunk`, without where its indexes are.
        column_indexes: of each column, as it lies in its file; empty where it has none.
        offset_indexes: likewise.
        metadata: the same row group, as PyArrow reads it.
    """

    pages: memoryview
    checksum: int
    start: int
    rows: int
    fields: tuple[RawField, ...]
    chunks: tuple[tuple[RawField, ...], ...]
    column_indexes: tuple[bytes, ...]
    offset_indexes: tuple[bytes, ...]
    metadata: Any


def take_apart(content: memoryview, metadata: Any) -> Piece:
    """Take the row group out of a file that has one.

    Args:
        content: the file.
        metadata: PyArrow's `FileMetaData` of it.

    Raises:
        ValueError: it has not one row group, whose chunks lie one behind the other.
    """
    fields, _ = struct_at(footer_bytes(content))
    groups = structs_of(_payload(fields, _FILE_GROUPS))
    if len(groups) != 1:
        raise ValueError(f"it has {len(groups)} row groups")
    [group] = groups
    chunks = structs_of(_payload(group, _GROUP_COLUMNS))
    row_group = metadata.row_group(0)
    extents = _extents(row_group)
    if any(end != start for (_, end), (start, _) in pairwise(extents)):
        raise ValueError("its column chunks do not lie one behind the other")
    start, end = extents[0][0], extents[-1][1]
    return Piece(
        content[start:end],
        zlib.crc32(content[start:end]),
        start,
        row_group.num_rows,
        tuple(one for one in group if one[0] != _GROUP_COLUMNS),
        tuple(tuple(one for one in chunk if one[0] not in (*_OFFSET_INDEX, *_COLUMN_INDEX)) for chunk in chunks),
        tuple(_index(content, chunk, _COLUMN_INDEX) for chunk in chunks),
        tuple(_index(content, chunk, _OFFSET_INDEX) for chunk in chunks),
        row_group,
    )


class Stitcher:
    """Writes pieces into a file, in their order.

    Args:
        file: to be written, from its beginning.

    Attributes:
        starts: where each piece begins in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self._rows = 0
        self._groups: list[tuple[Piece, list[list[RawField]]]] = []
        self.starts: list[int] = []
        self._write(MAGIC)

    def append(self, piece: Piece) -> Piece:
        """Write a row group. Returns the piece without its pages."""
        shift = self._at - piece.start
        self.starts.append(self._at)
        self._write(piece.pages)
        self._rows += piece.rows
        without = replace(piece, pages=memoryview(b""))
        self._groups.append((without, [_shifted_chunk(chunk, shift) for chunk in piece.chunks]))
        return without

    def finish(self, footer: bytes) -> None:
        """Write the indexes and the footer.

        Args:
            footer: of a file of the same schema and metadata, without row groups.
        """
        for piece, chunks in self._groups:
            self._write_indexes(chunks, piece.column_indexes, _COLUMN_INDEX)
        for start, (piece, chunks) in zip(self.starts, self._groups, strict=True):
            shift = start - piece.start
            shifted = [_shifted_index(index, shift) for index in piece.offset_indexes]
            self._write_indexes(chunks, shifted, _OFFSET_INDEX)
        fields, _ = struct_at(footer)
        groups = [_group(start, *one) for start, one in zip(self.starts, self._groups, strict=True)]
        kept = [one for one in fields if one[0] not in (_FILE_ROWS, _FILE_GROUPS)]
        whole = struct_bytes(
            [
                *kept,
                (_FILE_ROWS, _I64, integer_bytes(self._rows)),
                (_FILE_GROUPS, _LIST, structs_bytes(groups)),
            ]
        )
        self._write(whole + len(whole).to_bytes(4, "little") + MAGIC)

    def _write_indexes(self, chunks: list[list[RawField]], indexes: Sequence[bytes], where: tuple[int, int]) -> None:
        for chunk, index in zip(chunks, indexes, strict=True):
            if index:
                chunk += [(where[0], _I64, integer_bytes(self._at)), (where[1], _I32, integer_bytes(len(index)))]
                self._write(index)

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._at += len(content)


def _group(start: int, piece: Piece, chunks: list[list[RawField]]) -> bytes:
    # The ordinal is optional, and true only of a file that holds nothing else.
    fields = _moved(_without(piece.fields, _GROUP_ORDINAL), {_GROUP_OFFSET}, start - piece.start)
    return struct_bytes([*fields, (_GROUP_COLUMNS, _LIST, structs_bytes([struct_bytes(chunk) for chunk in chunks]))])


def check_stitched(path: Path, pieces: Sequence[Piece], starts: Sequence[int]) -> str:
    """A stitched file must hold the bytes of its pieces, and say of each what was said where it was read back.

    Where the pages are is read by PyArrow, not by what wrote it.

    Args:
        path: the file.
        pieces: in order; their pages are not looked at.
        starts: where each one's bytes lie in the file.

    Returns:
        SHA-256 of the file, hexadecimal, taken first: bytes that still have it are those that were checked.

    Raises:
        AuditFailed: it does not.
        MachineFault: it cannot be read, and that says nothing of the file.
    """
    sha256 = _checked_bytes(path, pieces, starts)
    try:
        metadata = pq.read_metadata(path)
        fields, _ = struct_at(footer_bytes(path))
        groups = structs_of(_payload(fields, _FILE_GROUPS))
        same = metadata.num_row_groups == len(groups) == len(pieces)
        same = same and metadata.num_rows == sum(piece.rows for piece in pieces)
        with path.open("rb") as file:
            for at, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
                same = same and _is_piece(file, groups[at], metadata.row_group(at), piece, start - piece.start)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise_machine_fault(error, str(path))
        raise _unlike(path, f"its footer cannot be read back ({error})") from error
    if not same:
        raise _unlike(path, "its footer does not say of each row group what was found in it")
    return sha256


def _checked_bytes(path: Path, pieces: Sequence[Piece], starts: Sequence[int]) -> str:
    """SHA-256 of a file in which each piece has its bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        found.update(file.read(len(MAGIC)))
        for piece, start in zip(pieces, starts, strict=True):
            left, checksum = _extents(piece.metadata)[-1][1] - piece.start, 0
            while content := file.read(min(left, _CHUNK_BYTES)):
                left -= len(content)
                checksum = zlib.crc32(content, checksum)
                found.update(content)
            if checksum != piece.checksum:
                raise _unlike(path, f"it holds other bytes than the row group that was written at {start:,}")
        while content := file.read(_CHUNK_BYTES):
            found.update(content)
    return found.hexdigest()


def _is_piece(file: BinaryIO, group: list[RawField], row_group: Any, piece: Piece, shift: int) -> bool:
    """Whether a row group of a file is the piece, `shift` bytes further."""
    chunks = structs_of(_payload(group, _GROUP_COLUMNS))
    moved = [tuple(None if at is None else at + shift for at in places) for places in _places(piece.metadata)]
    return (
        _without(group, _GROUP_COLUMNS, _GROUP_OFFSET) == _without(piece.fields, _GROUP_OFFSET, _GROUP_ORDINAL)
        and len(chunks) == len(piece.chunks)
        and all(map(_say_the_same, chunks, piece.chunks))
        and _indexes_of(file, chunks, _COLUMN_INDEX) == list(piece.column_indexes)
        and _indexes_of(file, chunks, _OFFSET_INDEX) == [_shifted_index(index, shift) for index in piece.offset_indexes]
        and _places(row_group) == moved  # last, because PyArrow may end the process when a column is not what it was
    )


def _places(row_group: Any) -> list[tuple[int | None, ...]]:
    """Where the pages of each column are."""
    columns = [row_group.column(at) for at in range(row_group.num_columns)]
    return [(one.data_page_offset, one.dictionary_page_offset) for one in columns]


def _say_the_same(chunk: Sequence[RawField], other: Sequence[RawField]) -> bool:
    """Whether the same is said of two column chunks, beside where they are."""
    if _without(chunk, *_ABOUT_PLACES) != _without(other, *_ABOUT_PLACES):
        return False
    payloads = [_payload(one, _CHUNK_METADATA) for one in (chunk, other)]
    if payloads[0] == payloads[1]:  # as in the first row group of each file, which lies where it was
        return True
    metadata, others = (_without(struct_at(payload)[0], *_METADATA_OFFSETS) for payload in payloads)
    return metadata == others


def _without(fields: Sequence[RawField], *identities: int) -> list[RawField]:
    return [one for one in fields if one[0] not in identities]


def _unlike(path: Path, cause: str) -> AuditFailed:
    return AuditFailed(str(path), cause, "Nothing was published. Check the machine's memory and disk, then run again")


def _indexes_of(file: BinaryIO, chunks: list[list[RawField]], where: tuple[int, int]) -> list[bytes]:
    found = []
    for chunk in chunks:
        offset, length = (_number(chunk, identity) for identity in where)
        file.seek(offset)
        found.append(file.read(length))
    return found


def _extents(row_group: Any) -> list[tuple[int, int]]:
    """Where each column chunk begins and ends."""
    extents = []
    for at in range(row_group.num_columns):
        column = row_group.column(at)
        first = column.dictionary_page_offset
        start = column.data_page_offset if first is None else min(first, column.data_page_offset)
        extents.append((start, start + column.total_compressed_size))
    return extents


def _index(content: memoryview, chunk: list[RawField], where: tuple[int, int]) -> bytes:
    offset, length = (_number(chunk, identity) for identity in where)
    return bytes(content[offset : offset + length])


def _shifted_chunk(chunk: Sequence[RawField], shift: int) -> list[RawField]:
    """The fields of a column chunk whose pages lie `shift` bytes further."""
    if not shift:
        return list(chunk)
    metadata, _ = struct_at(_payload(chunk, _CHUNK_METADATA))
    said = struct_bytes(_moved(metadata, _METADATA_OFFSETS, shift))
    kept = _moved(_without(chunk, _CHUNK_METADATA), {_CHUNK_OFFSET}, shift)
    return [*kept, (_CHUNK_METADATA, STRUCT, said)]


def _shifted_index(index: bytes, shift: int) -> bytes:
    """An offset index whose pages lie `shift` bytes further."""
    if not index or not shift:
        return index
    fields, _ = struct_at(index)
    pages = [struct_bytes(_moved(page, {_PAGE_OFFSET}, shift)) for page in structs_of(_payload(fields, _LOCATIONS))]
    return struct_bytes([*_without(fields, _LOCATIONS), (_LOCATIONS, _LIST, structs_bytes(pages))])


def _moved(fields: Sequence[RawField], identities: AbstractSet[int], shift: int) -> list[RawField]:
    """Fields, of which these are offsets to be shifted. None is at 0: that says that there is nothing."""
    return [
        (identity, kind, integer_bytes(integer(payload) + shift))
        if identity in identities and integer(payload)
        else (identity, kind, payload)
        for identity, kind, payload in fields
    ]


def _payload(fields: Sequence[RawField], identity: int) -> bytes:
    return next((payload for one, _, payload in fields if one == identity), b"\0")


def _number(fields: Sequence[RawField], identity: int) -> int:
    return integer(_payload(fields, identity))
