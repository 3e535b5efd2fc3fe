"""What proves that bytes went over unchanged: the ETags that servers make of MD5 sums, and a file's SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from quantlab_dagster.errors import ScratchUnusable
from quantlab_dagster.lake.store import limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = [
    "EtagDigest",
    "Growing",
    "Known",
    "Sending",
    "Sent",
    "check_content",
    "composite",
    "file_checksum",
    "may_be_md5",
]

_MAY_BE_MD5 = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
# Less than a thread's hand-over costs, to the loop.
_INLINE_BYTES = 1 << 18
_LOOK_AGAIN_SECONDS = 0.05


def may_be_md5(etag: str) -> bool:
    """Whether an ETag looks like an MD5 sum, or like that of an upload in parts. Under SSE-KMS it does, and is none."""
    return bool(_MAY_BE_MD5.fullmatch(etag))


def composite(md5s: list[bytes]) -> str:
    """The ETag of an upload in parts, from the MD5 sums of these."""
    return f"{_md5(b''.join(md5s)).hexdigest()}-{len(md5s)}"


class EtagDigest:
    """The ETag that content has, piece by piece, where a server makes MD5 sums of them.

    Args:
        in_parts: whether it is uploaded in parts, of the size in which we do that.
    """

    def __init__(self, *, in_parts: bool = False) -> None:
        self._whole = None if in_parts else _md5()
        self._done: list[bytes] = []
        self._part = _md5()
        self._filled = 0

    def update(self, content: bytes | memoryview) -> None:
        """Take the next piece (CPU-bound; releases the GIL)."""
        if self._whole is not None:
            self._whole.update(content)
            return
        view = memoryview(content)
        while view:
            piece = view[: limits.PART_BYTES - self._filled]
            self._part.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == limits.PART_BYTES:
                self._end_part()

    async def take(self, content: bytes) -> None:
        """`update` without holding up the event loop for long."""
        if len(content) <= _INLINE_BYTES:
            self.update(content)
        else:
            await asyncio.to_thread(self.update, content)

    def etag(self) -> str:
        """The ETag of what came so far."""
        if self._whole is not None:
            return self._whole.hexdigest()
        if self._filled:
            self._end_part()
        return composite(self._done)

    @classmethod
    def like(cls, etag: str) -> EtagDigest:
        """One whose answer has the form of this ETag."""
        return cls(in_parts=may_be_md5(etag) and "-" in etag)

    def _end_part(self) -> None:
        self._done.append(self._part.digest())
        self._part, self._filled = _md5(), 0


def _md5(content: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(content, usedforsecurity=False)


@dataclass(slots=True)
class Known:
    """What a store has shown of its ETags.

    Attributes:
        matched: whether one was the MD5 sum of its content.
        differed: whether one was not, although its content came twice the same.
    """

    matched: bool = False
    differed: bool = False

    def believes(self, info: ObjectInfo) -> bool:
        """Whether a content that was received need not be fetched once more."""
        if not may_be_md5(info.etag):
            return True
        if info.received == info.etag:
            self.matched = True
            return True
        return self.differed and not self.matched


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent, by our own reckoning.

    Attributes:
        size_bytes: of it.
        etag: that a server gives it which makes them of MD5 sums.
        sha256: of it, hexadecimal.
    """

    size_bytes: int
    etag: str
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Sent:
        """Of content that is sent in one piece."""
        return cls(len(content), _md5(content).hexdigest(), hashlib.sha256(content).hexdigest())


class Growing:
    """A file that somebody else appends to, and that is sent meanwhile: all but its end, until it is released.

    Args:
        path: the file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256: str | None = None
        self._given_up = False

    def release(self, sha256: str) -> None:
        """Say that it is whole, was audited, has this SHA-256 (hexadecimal), and may become visible."""
        self.sha256 = sha256

    def give_up(self) -> None:
        """Say that it must not become visible, unless it was released."""
        self._given_up = True

    async def reached(self, size_bytes: int) -> None:
        """Wait until it has so many bytes, or is released.

        Raises:
            ScratchUnusable: it was given up.
        """
        while self.sha256 is None:
            if self._given_up:
                raise ScratchUnusable(str(self.path), "it was not finished")
            if self._size() >= size_bytes:
                return
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


class Sending:
    """A file that is sent: what goes out must be what was audited, whatever became of the file since.

    Args:
        where: the object that it becomes, for messages.
        path: the file.
        sha256: hexadecimal, of what was audited; None to send whatever is there.
        etag: told what is sent, if its ETag is needed.
        growing: tells what is there of it and, when it is released, its SHA-256; None for a file that is whole.
    """

    def __init__(
        self,
        where: str,
        path: Path,
        sha256: str | None,
        etag: EtagDigest | None = None,
        growing: Growing | None = None,
    ) -> None:
        self._where = where
        self._growing = growing
        self._path = path
        self._wanted = sha256
        self._etag = etag
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def pieces(self, size_bytes: int) -> Iterator[bytes]:
        """The file, in pieces of this size; the last one only if all together are what was audited.

        Raises:
            ScratchUnusable: they are not.
        """
        with self._path.open("rb") as file:
            piece = self._read(file, size_bytes)
            while following := self._read(file, size_bytes):
                yield piece
                piece = following
        if self._growing is not None:
            self._wanted = self._growing.sha256
            if self._wanted is None:  # this is no end: another process has begun to write the file anew
                raise _damaged(self._where, self._path)
        if self._wanted not in (None, self.sha256):
            raise _damaged(self._where, self._path)
        yield piece

    async def stream(self, size_bytes: int) -> AsyncIterator[bytes]:
        """The same, read and summed in a thread; of a growing file each piece as it is there, the last when released.

        Raises:
            ScratchUnusable: as `pieces`; or it was given up.
        """
        pieces, ahead = self.pieces(size_bytes), 2 * size_bytes  # one is yielded when the one after it has been read
        while True:
            if self._growing is not None:
                await self._growing.reached(self.size_bytes + ahead)
                ahead = size_bytes
            piece = await asyncio.to_thread(next, pieces, None)
            if piece is None:
                return
            yield piece

    @property
    def sha256(self) -> str:
        """Of what was read, hexadecimal."""
        return self._sha256.hexdigest()

    def _read(self, file: BinaryIO, size_bytes: int) -> bytes:
        piece = file.read(size_bytes)
        self._sha256.update(piece)
        self.size_bytes += len(piece)
        if self._etag is not None:
            self._etag.update(piece)
        return piece


def file_checksum(path: Path) -> int:
    """CRC-32 of a file, in bounded memory. Raises OSErrors."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(limits.STREAM_BYTES):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def check_content(where: str, path: Path, checksum: int | None) -> None:
    """See that a file is what was downloaded into it (CPU-bound: 2.8 GB/s where MD5 does 0.5).

    What came was compared with its ETag when it came; this is about our own disk and memory since.

    Args:
        where: the object, for messages.
        path: the file.
        checksum: as in `ObjectInfo`, of what was downloaded.

    Raises:
        ScratchUnusable: it is not any more, or cannot be read.
    """
    try:
        same = file_checksum(path) == checksum
    except OSError as error:
        raise ScratchUnusable(where, f"a local file cannot be used ({error})") from error
    if not same:
        raise _damaged(where, path)


def _damaged(where: str, path: Path) -> ScratchUnusable:
    return ScratchUnusable(where, f"its local copy was damaged: {path} holds other bytes than before")
