"""A Parquet file taken apart into pages and footer, to be changed in one place and put together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster_tests.kernel.thrift import Struct, read_struct

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Page", "ParquetFile"]

MAGIC = b"PAR1"

# Fields of the format, by the numbers of parquet.thrift.
SCHEMA, NUM_ROWS, ROW_GROUPS = 2, 3, 4
COLUMNS, GROUP_OFFSET = 1, 5
CHUNK_OFFSET, META = 2, 3
TOTAL_COMPRESSED, DATA_PAGE, DICTIONARY_PAGE = 7, 9, 11
PAGE_TYPE, PAGE_SIZE, PAGE_COMPRESSED, PAGE_CRC, DATA_V1, DICTIONARY, DATA_V2 = 1, 2, 3, 4, 5, 7, 8


@dataclass(slots=True)
class Page:
    """A page.

    Attributes:
        header: as written before it.
        body: compressed bytes, levels included.
    """

    header: Struct
    body: bytes

    @property
    def is_dictionary(self) -> bool:
        return DICTIONARY in self.header

    @property
    def kind(self) -> Struct:
        """The part of the header that is of the page's own kind."""
        found: Struct = next(self.header[number] for number in (DATA_V1, DICTIONARY, DATA_V2) if number in self.header)
        return found


@dataclass(slots=True)
class ParquetFile:
    """A file without page index or bloom filters.

    Attributes:
        footer: the file's metadata.
        chunks: pages of each column chunk, in the order of the footer.
    """

    footer: Struct
    chunks: list[list[Page]]

    @classmethod
    def of(cls, data: bytes) -> ParquetFile:
        """Take a valid file apart."""
        length = int.from_bytes(data[-8:-4], "little")
        footer, end = read_struct(data, len(data) - 8 - length)
        assert (data[:4], data[-4:], end) == (MAGIC, MAGIC, len(data) - 8)
        return cls(footer, [list(_pages(data, meta)) for meta in _metas(footer)])

    @property
    def columns(self) -> list[Struct]:
        """The metadata of each column chunk."""
        return list(_metas(self.footer))

    @property
    def pages(self) -> list[Page]:
        return [page for chunk in self.chunks for page in chunk]

    def dump(self, *, settle: bool = True) -> bytes:
        """Put it together. Offsets and compressed sizes are made to fit what is written, if `settle`."""
        out = bytearray(MAGIC)
        for meta, pages in zip(self.columns, self.chunks, strict=True):
            starts = []
            for page in pages:
                starts.append((len(out), page.is_dictionary))
                out += page.header.dump() + page.body
            if settle and starts:
                meta[TOTAL_COMPRESSED] = len(out) - starts[0][0]
                meta[DATA_PAGE] = next((start for start, dictionary in starts if not dictionary), starts[0][0])
                if DICTIONARY_PAGE in meta:
                    meta[DICTIONARY_PAGE] = starts[0][0]
        footer = self.footer.dump()
        return bytes(out) + footer + len(footer).to_bytes(4, "little") + MAGIC


def _metas(footer: Struct) -> Iterator[Struct]:
    for group in footer[ROW_GROUPS]:
        for chunk in group[COLUMNS]:
            yield chunk[META]


def _pages(data: bytes, meta: Struct) -> Iterator[Page]:
    at = meta[DATA_PAGE]
    if DICTIONARY_PAGE in meta:
        at = min(at, meta[DICTIONARY_PAGE])
    end = at + meta[TOTAL_COMPRESSED]
    while at < end:
        header, at = read_struct(data, at)
        size = header[PAGE_COMPRESSED]
        yield Page(header, data[at : at + size])
        at += size
