"""Parts that lie: numbers in footers and page headers are replaced, as a damaged writer or an attacker would."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.kernel.terms import Part

__all__ = ["header_of_first_page", "varint", "with_negative_page", "with_rows"]


def varint(number: int) -> bytes:
    """A signed integer as Thrift's compact protocol writes it: zigzag, seven bits a byte."""
    rest, found = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*found, rest])


def header_of_first_page(*, crc: bool) -> bytes:
    """A page header: its kind, its sizes, perhaps a checksum, and where the kind's own header begins."""
    checksum = b"\x15" + varint(-123_456_789) if crc else b""
    return b"\x15\x00\x15" + varint(8_000) + b"\x15" + varint(70_000) + checksum + (b"\x1c" if crc else b"\x2c")


def with_rows(part: Part, rows: int) -> Part:
    """The part, whose footer declares another number of rows wherever it declares its own."""
    data = part.source
    assert isinstance(data, bytes)
    before = varint(pq.read_metadata(pa.BufferReader(data)).num_rows)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:-8].replace(before, varint(rows))
    content = data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    return Part(part.key, content, len(content))


def with_negative_page(part: Part, column: int = 0) -> Part:
    """The part, where the first data page of a column says that it has less than no values: Polars aborts."""
    data = part.source
    assert isinstance(data, bytes)
    chunk = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(column)
    sound, at = varint(chunk.num_values), chunk.data_page_offset
    place = data.index(b"\x15" + sound, at, at + 60) + 1
    bad = varint(-chunk.num_values)
    assert len(bad) == len(sound)
    content = data[:place] + bad + data[place + len(bad) :]
    return Part(part.key, content, len(content))
