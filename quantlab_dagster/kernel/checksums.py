"""Page checksums of parts: verified where a part has them.

Polars does not look at them (of 2.1, measured): it reads a page with a flipped bit as other values. PyArrow verifies
them when it is asked to, but must decode the part for it. So whether a part has any is looked up in the header of its
first page, which costs nothing; only parts that have are read a second time (0.2 ms for a thousand rows).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.errors import CorruptPart

if TYPE_CHECKING:
    from quantlab_dagster.kernel.terms import Part

__all__ = ["may_carry_checksums", "verify_pages"]

_HEAD_BYTES = 40
_FIRST_PAGE = 4  # after the magic; every writer we know begins there
_BATCH_ROWS = 1 << 15
_STRUCT_FIELDS = range(5, 9)  # of PageHeader: what follows the optional crc
_I32 = 5
_CRC = 4


def verify_pages(part: Part) -> None:
    """Verify the checksums of all pages, if there are any. What PyArrow cannot read for another reason is not judged.

    Raises:
        CorruptPart: a page is not what its writer wrote.
    """
    if not may_carry_checksums(_head(part)):
        return
    source = pa.BufferReader(part.source) if isinstance(part.source, bytes) else str(part.source)
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            for _ in file.iter_batches(_BATCH_ROWS, use_threads=False):
                pass
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if "CRC checksum" in str(error):
            cause = f"a page does not have the checksum that its header gives ({str(error).splitlines()[0][:200]})"
            raise CorruptPart(part.key, cause) from error


def may_carry_checksums(head: bytes) -> bool:
    """Whether the first page's header has a checksum, or is none that we understand.

    Args:
        head: the first bytes of the file.

    A `PageHeader` is a Thrift struct in the compact protocol: field 1 the kind of page, 2 and 3 its sizes, 4 the
    checksum if there is one; all of them 32-bit integers, each a byte of field delta and type, and a varint.
    """
    at, field = _FIRST_PAGE, 0
    while at < len(head):
        delta, kind = head[at] >> 4, head[at] & 0x0F
        field += delta
        if field in _STRUCT_FIELDS and field > _CRC:
            return False
        if not delta or kind != _I32 or field > _CRC:
            return True  # unknown: verifying does no harm
        if field == _CRC:
            return True
        at += 1
        while at < len(head) and head[at] & 0x80:
            at += 1
        at += 1
    return bool(head[_FIRST_PAGE:])


def _head(part: Part) -> bytes:
    if isinstance(part.source, bytes):
        return part.source[:_HEAD_BYTES]
    with part.source.open("rb") as file:
        return file.read(_HEAD_BYTES)
