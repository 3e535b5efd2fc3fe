"""What callers see of a store, whatever its kind, and what all kinds share.

Everything is asynchronous, because a run that waits in Python can be stopped and one that waits in a blocking call
cannot. Listings come sorted in byte order of the keys whatever the server's order; conditional writes mean the same on
every server; every failure is a domain error that names the object.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import logging
import re
import zlib
from abc import abstractmethod
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import obstore

from quantlab_dagster.errors import ObjectNotFound, StoreError, StoreUnavailable, UnaddressableKey
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.deleting import delete_all
from quantlab_dagster.lake.store.faults import broke_off, came_damaged
from quantlab_dagster.lake.store.objects import (
    PROBE_DIRECTORY,
    Directory,
    Names,
    ObjectInfo,
    Range,
    Staged,
    first_error,
)
from quantlab_dagster.lake.store.requesting import Requesting, pause
from quantlab_dagster.lake.store.transfers import EtagDigest, Growing, Known, Sending, Sent, may_be_md5

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from obstore import ListResult, ListStream, ObjectMeta, PutResult
    from obstore.store import ObjectStore

    from quantlab_dagster.lake.store.capabilities import Capabilities

__all__ = ["LOCK_DIRECTORY", "PROBE_DIRECTORY", "STAGED_DIRECTORY", "Store"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Names just below the root that stores keep for themselves. No kind of store lists any: a lake may have been copied.
LOCK_DIRECTORY = ".quantlab-locks"
STAGED_DIRECTORY = ".quantlab-staged"
_HIDDEN = {LOCK_DIRECTORY, STAGED_DIRECTORY, PROBE_DIRECTORY}
# Control characters, and what stands for the bytes of a file's name that are no UTF-8.
_UNSOUND = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Store(Requesting):
    """An object store below a URL. Make one with `open_store`.

    Args:
        url: as given by the user, for messages.
        engine: the obstore store, rooted at the URL.
        retries: attempts after the first one fails.

    Attributes:
        at_once: how many small objects are best fetched in one go.
        etags_are_sums: whether ETags may be MD5 sums at all.
    """

    at_once: ClassVar[int] = 1
    etags_are_sums: ClassVar[bool] = True

    def __init__(self, url: str, engine: ObjectStore, *, retries: int = 0) -> None:
        super().__init__(url, retries)
        self._engine = engine
        self._known = Known()
        self._above: dict[tuple[int, str], tuple[str, list[str]]] = {}

    # ---- reading -----------------------------------------------------------------------------------------------

    async def list_objects(self, prefix: str) -> list[ObjectInfo]:
        """All objects below a prefix that ends in a slash, sorted by the bytes of their keys.

        Raises:
            StoreError: the listing failed. A prefix without objects is an empty list.
        """

        async def listing() -> list[ObjectInfo]:
            found: list[ObjectInfo] = []
            with self._errors(prefix):
                self._check_root()
                async for chunk in obstore.list(self._engine, prefix, chunk_size=limits.LIST_PAGE):
                    found += [_info(meta) for meta in chunk]
            return found

        found = await self._repeated(listing)
        self.requests.add("LIST", _pages(len(found)))
        return _sorted_below(prefix, found)

    async def pages(self, prefix: str, keys: Range) -> AsyncIterator[list[ObjectInfo]]:
        """The objects below a prefix that ends in a slash, or of all for none, whose keys are in a range.

        In pages, so that memory stays flat. No request is made for what comes after the range, nor before it. The order
        is the server's: S3's is that of the bytes; SeaweedFS walks through directories, so that `a/x` precedes `a b/x`.

        Raises:
            StoreError: the listing failed: what came before is right, and is not all.
        """
        last, repetitions = keys.after, 0
        while True:
            stream = obstore.list(self._engine, prefix or None, offset=last or None, chunk_size=limits.LIST_PAGE)
            try:
                async for page in self._listed(prefix, stream):
                    found = [info for info in page if info.key in keys]
                    if found:
                        last, repetitions = found[-1].key, 0
                        yield found
                    if page and keys.ends_before(page[-1].key):
                        return
            except StoreUnavailable as error:
                if not broke_off(error) or repetitions >= self._retries:
                    raise
                await pause(repetitions)
                repetitions += 1
                continue
            return

    async def _listed(self, prefix: str, stream: ListStream[Sequence[ObjectMeta]]) -> AsyncIterator[list[ObjectInfo]]:
        """What a listing brings: at least one page."""
        self._check_root()
        number = 0
        while True:
            with self._errors(prefix):
                chunk: Sequence[ObjectMeta] | None = await anext(stream, None)
            if chunk is None and number:
                return
            number += 1
            self.requests.add("LIST")
            yield [info for info in map(_info, chunk or ()) if _is_below(prefix, info.key)]

    async def peek(self, prefix: str) -> list[ObjectInfo]:
        """Some objects below a prefix that ends in a slash: those that one request brings.

        Raises:
            StoreError: the listing failed.
        """
        async for page in self.pages(prefix, Range()):
            return page
        return []

    async def peek_above(self, level: int, directory: str) -> tuple[str, list[str]]:
        """Where a directory above the URL is, for messages, and some of what is in it: what one request brings.

        Args:
            level: 1 for what lies beside the URL, 2 for what lies beside its parent, `levels_above` at most.
            directory: its name.

        Raises:
            StoreError: that cannot be looked at. What is not there has nothing in it.
        """
        if (level, directory) not in self._above:  # once: it is asked for by each look
            self._above[level, directory] = await self._asked("", self._find_above, level, directory)
        return self._above[level, directory]

    async def list_directory(self, prefix: str) -> Directory:
        """One level below a prefix that ends in a slash, or is empty for the root.

        Raises:
            StoreError: the listing failed.
        """

        async def listing() -> ListResult[Sequence[ObjectMeta]]:
            with self._errors(prefix):
                self._check_root()
                return await obstore.list_with_delimiter_async(self._engine, prefix)

        result = await self._repeated(listing)
        found = [_info(meta) for meta in result["objects"]]
        names = {path.rstrip("/").rpartition("/")[2] for path in result["common_prefixes"]} - _HIDDEN
        self.requests.add("LIST", _pages(len(found) + len(names)))
        return Directory(tuple(sorted(names, key=str.encode)), tuple(_sorted_below(prefix, found)))

    async def list_names(self, prefix: str) -> Names:
        """The directories of one level, like `list_directory`; but one odd name does not fail it, and is told apart.

        Raises:
            StoreError: the listing failed; or the prefix itself cannot be addressed.
        """
        try:
            listed = await self.list_directory(prefix)
            return Names(listed.directories, files=tuple(info.name for info in listed.objects))
        except UnaddressableKey:
            # The engine refuses the whole listing for one name, so it is made again without the engine.
            if prefix:
                self._check_key(prefix.removesuffix("/"))
            names = set(await self._asked(prefix, self._find_names, prefix)) - _HIDDEN
        self.requests.add("LIST", _pages(len(names)))
        sound = sorted((name for name in names if _is_sound(name)), key=str.encode)
        return Names(tuple(sound), tuple(sorted(repr(name) for name in names if not _is_sound(name))))

    async def get(self, key: str) -> tuple[bytes, ObjectInfo]:
        """The whole object in one request, and which version of it this is.

        What has not the MD5 sum that its ETag seems to be is fetched once more.

        Raises:
            ObjectNotFound: there is definitely no such object.
            StoreUnavailable: it came damaged, twice.
            StoreError: any other failure.
        """

        async def once() -> tuple[bytes, ObjectInfo]:
            with self._errors(key):
                response = await obstore.get_async(self._engine, key)
                content, info = bytes(await response.bytes_async()), _info(response.meta)
            return content, await _summed(content, info)

        return await self._received(key, once)

    async def get_if_exists(self, key: str) -> tuple[bytes, ObjectInfo] | None:
        """Like `get`, but None for an object that does not exist."""
        try:
            return await self.get(key)
        except ObjectNotFound:
            return None

    async def get_together(self, keys: Sequence[str]) -> list[tuple[bytes, ObjectInfo]]:
        """Several objects, as many as `at_once` says; as `get` otherwise."""
        return [await self.get(key) for key in keys]

    async def download(self, key: str, path: Path) -> ObjectInfo:
        """Stream the object into a file, in bounded memory; same errors as `get`."""

        async def once() -> tuple[None, ObjectInfo]:
            with self._errors(key):
                response = await obstore.get_async(self._engine, key)
                info, checksum = _info(response.meta), 0
                digest = EtagDigest.like(info.etag) if may_be_md5(info.etag) else None
                path.unlink(missing_ok=True)  # it might be an object's own file, by another name
                with path.open("wb") as file:
                    async for chunk in _chunks(response, info):
                        file.write(chunk)
                        checksum = zlib.crc32(chunk, checksum)
                        if digest is not None:
                            await digest.take(chunk)
            return None, replace(info, received=digest.etag() if digest is not None else "", checksum=checksum)

        return (await self._received(key, once))[1]

    async def sha256(self, key: str) -> str:
        """SHA-256 of the object's content, hexadecimal, in bounded memory; same errors as `get`."""

        async def once() -> tuple[str, ObjectInfo]:
            sha256 = hashlib.sha256()
            with self._errors(key):
                response = await obstore.get_async(self._engine, key)
                info = _info(response.meta)
                digest = EtagDigest.like(info.etag) if may_be_md5(info.etag) else None
                async for chunk in response.stream(min_chunk_size=limits.STREAM_BYTES):
                    sha256.update(chunk)
                    if digest is not None:
                        await digest.take(bytes(chunk))
            return sha256.hexdigest(), replace(info, received=digest.etag() if digest is not None else "")

        return (await self._received(key, once))[0]

    async def _received(self, key: str, once: Callable[[], Awaitable[tuple[T, ObjectInfo]]]) -> tuple[T, ObjectInfo]:
        """What a GET brings, which is sent once more if the content is not what its ETag says."""
        self.requests.add("GET")
        content, info = await self._repeated(once)  # the engine does not resume what broke off after long
        if self._known.believes(info):
            return content, info
        self.requests.add("GET")
        again, second = await once()
        if second.received == second.etag:
            self._known.matched = True
            logger.warning("%s came damaged, and was fetched again", self.name(key))
            return again, second
        if second != info or second.received != info.received:
            cause = "came twice, each time with other bytes, and never with the MD5 sum that its ETag gives"
            raise StoreUnavailable(self.name(key), cause, "Run again; if it stays, check the network and the server")
        # Not damaged on its way: these ETags are no MD5 sums (SSE-KMS), or it is damaged where it lies.
        self._known.differed = True
        return again, second

    async def head(self, key: str) -> ObjectInfo | None:
        """What the store says of an object, or None if it does not exist."""
        self.requests.add("HEAD")
        try:
            with self._errors(key):
                return _info(await obstore.head_async(self._engine, key))
        except ObjectNotFound:
            return None

    # ---- writing -----------------------------------------------------------------------------------------------

    async def put(self, key: str, content: bytes | Path | Growing, *, sha256: str | None = None) -> str:
        """Write an object whole and unconditionally; readers see the old or the new one. Returns its ETag.

        What arrived is proved to be what was sent (docs/adr/0010), and is sent again where it is not.

        Args:
            key: of the object.
            content: bytes; or a local file; or one that is still written to, and becomes visible when it is released.
            sha256: of the file as it was audited, hexadecimal; None to write whatever it holds, or, for a file that
                grows, what it was released with.

        Raises:
            ScratchUnusable: the file is not what was audited any more, or was given up; nothing was written.
            StoreError: the store holds other bytes than were sent, again and again; or any other failure.
        """
        if isinstance(content, Growing):
            await content.reached(limits.MULTIPART_BYTES + 1)  # a small one is sent in one piece, when it is whole
        for attempt in range(limits.SENDINGS):
            if attempt:
                await pause(attempt)
            try:
                etag, sent = await self._send(key, content, sha256)
            except StoreUnavailable as error:
                if attempt + 1 == limits.SENDINGS or not came_damaged(error):
                    raise
                logger.warning("%s arrived damaged, was refused, and is sent again", self.name(key))
                continue
            if await self._arrived(key, etag, sent):
                return etag
            logger.warning("%s was sent, and other bytes are there: it is sent again", self.name(key))
        raise self._never_arrived(key)

    async def _send(self, key: str, content: bytes | Path | Growing, sha256: str | None) -> tuple[str, Sent]:
        """`put`, once. Returns the ETag that the store gave."""
        if isinstance(content, bytes):
            sent = Sent.of(content)
            with self._errors(key):
                result = await obstore.put_async(self._engine, key, content, mode="overwrite", use_multipart=False)
            self.requests.add("PUT")
            return await self._etag_after_put(key, result["e_tag"]), sent
        if isinstance(content, Growing):
            path, growing, sha256 = content.path, content, content.sha256
        else:
            path, growing = content, None
        with self._errors(key):
            in_parts = path.stat().st_size > limits.MULTIPART_BYTES
        digest = EtagDigest(in_parts=in_parts) if self.etags_are_sums else None
        sending = Sending(self.name(key), path, sha256, digest, growing)
        with self._errors(key):
            result = await self._put_file(key, sending, in_parts=in_parts)
        self.requests.add("PUT", self._requests_of(_parts(sending.size_bytes)) if in_parts else 1)
        sent = Sent(sending.size_bytes, digest.etag() if digest is not None else "", sending.sha256)
        return await self._etag_after_put(key, result["e_tag"]), sent

    async def _put_file(self, key: str, sending: Sending, *, in_parts: bool) -> PutResult:
        if in_parts:
            # A piece that is not yielded, because the file is not what was audited, makes the engine give up the whole.
            return await obstore.put_async(
                self._engine,
                key,
                sending.stream(limits.PART_BYTES),
                mode="overwrite",
                use_multipart=True,
                chunk_size=limits.PART_BYTES,
                max_concurrency=limits.UPLOADS_AT_ONCE,
            )
        content = await asyncio.to_thread(lambda: b"".join(sending.pieces(limits.MULTIPART_BYTES)))
        return await obstore.put_async(self._engine, key, content, mode="overwrite", use_multipart=False)

    def _never_arrived(self, key: str) -> StoreError:
        cause = f"was sent {limits.SENDINGS} times, and each time other bytes were there than had been sent"
        return StoreError(self.name(key), cause, "Check the network, its proxies and the server, then run again")

    async def compare_and_swap(self, key: str, content: bytes, expected_etag: str | None) -> str:
        """Write a small object only if it is still the one that was read. Returns its new ETag.

        Args:
            key: of the object.
            content: new content.
            expected_etag: ETag of the object as read; None if there was none.

        Raises:
            Conflict: somebody else wrote it meanwhile.
            ConditionalWriteUnsupported: the server refuses although nobody did.
        """
        return await self._swap(key, content, expected_etag)

    async def delete(self, key: str) -> None:
        """Delete an object; it is no error if it does not exist."""

        async def deletion() -> None:
            with self._errors(key):
                await obstore.delete_async(self._engine, key)

        self.requests.add("DELETE")
        try:
            await self._repeated(deletion)
        except ObjectNotFound:
            return

    async def delete_unchanged(self, key: str, etag: str) -> bool:
        """Delete an object only if it still has this ETag.

        Where the server ignores conditional deletes (once per store this is tried out, and a warning logged), it is
        looked at and then deleted at once: what replaces it in between is lost.

        Returns:
            True if it is gone now, by whomever; False if there is something else, which is left alone.
        """
        self._check_version(key, etag)
        return await self._delete_unchanged(key, etag)

    async def delete_all_unchanged(self, versions: Sequence[tuple[str, str]]) -> list[bool]:
        """`delete_unchanged` of many objects, by their keys and ETags: in few requests where the server can.

        Args:
            versions: keys and ETags; no key twice.

        Returns:
            As `delete_unchanged`, for each.

        Raises:
            StoreError: one could not be deleted. Others may have been, or may still be under way: ask again.
        """
        for key, etag in versions:
            self._check_version(key, etag)
        return await delete_all(versions, self.delete_unchanged, await self._bulk_delete())

    async def capabilities(self) -> Capabilities:
        """Which conditions this store honours. On a server it is tried out with objects of our own, once per process.

        Raises:
            AccessDenied: the credentials do not allow to try.
            StoreUnavailable: the server did not answer.
        """
        return await self._capabilities()

    # ---- staging -----------------------------------------------------------------------------------------------

    def check_place(self, key: str) -> None:
        """See that what is staged for a key can become visible there in one step.

        Raises:
            StoreError: it cannot. On a server it always can.
        """

    async def stage(self, key: str, path: Path, *, sha256: str | None = None, like: Sequence[str] = ()) -> Staged:
        """Upload a file so that it is in the store, whole, but not visible; `publish` makes it so.

        Args:
            key: of the object to be.
            path: the file.
            sha256: of the file as it was audited, hexadecimal; None to upload whatever it holds.
            like: keys of objects whose readers shall be able to read it: on a local store it gets the permissions that
                they all have, and their group.

        Raises:
            ScratchUnusable: the file is not what was audited any more; nothing is staged.
            StoreError: the upload failed, or arrived damaged again and again.
        """
        self._check_key(key)
        with self._errors(key):
            size_bytes = path.stat().st_size
        if size_bytes == 0:
            raise StoreError(self.name(key), f"{path}, which is to become it, is empty", "Report this as a bug")
        self.requests.add("PUT")
        upload_id = await self._begin(key)
        running: list[Future[Any]] = []
        try:
            etags = await self._upload(key, upload_id, Sending(self.name(key), path, sha256), running)
            await self._resemble(key, upload_id, like)
        except BaseException as error:
            # Not before no thread works on it any more. We do not wait for that, since we may have been cancelled.
            with suppress(RuntimeError):  # the interpreter is exiting
                self._threads.submit(_abandon, partial(self._abort, key, upload_id), running)
            if isinstance(error, BaseExceptionGroup):
                raise first_error(error) from error
            raise
        return Staged(key, upload_id, etags, size_bytes)

    async def publish(self, staged: Staged) -> ObjectInfo | None:
        """Make a staged object visible in one step, replacing what is there.

        However late it comes, it cannot bring back what was published before and has been deleted since.

        Returns:
            What is there now. None if the upload does not exist any more: somebody else published or discarded it; or
            we did and were not told. Then look at the object itself.
        """
        self._check_key(staged.key)
        return await self._publish(staged)

    async def discard(self, staged: Staged) -> bool:
        """Remove a staged object that must not become visible any more.

        Returns:
            True if it was not published, and never will be; False if it did not exist any more.
        """
        self._check_key(staged.key)
        return await self._discard(staged)

    async def staged_below(self, prefix: str) -> list[Staged]:
        """What is staged, or was left half-way, below a prefix that ends in a slash or is empty; only to be discarded.

        Sizes and ETags of parts are not known.
        """
        if prefix:
            self._check_key(prefix.removesuffix("/"))
        self._check_root()
        found = await self._asked(prefix, self._find_staged, prefix)
        self.requests.add("LIST", _pages(len(found)))
        return sorted(found, key=lambda staged: (staged.key.encode(), staged.upload_id))

    # ---- what each kind does in its own way --------------------------------------------------------------------

    @abstractmethod
    def _requests_of(self, parts: int) -> int:
        """How many requests the engine needs for a put of so many parts."""

    @abstractmethod
    async def _arrived(self, key: str, etag: str, sent: Sent) -> bool:
        """Whether what was put just now, and got this ETag, is what was sent; in no further request where that goes."""

    @abstractmethod
    async def _swap(self, key: str, content: bytes, expected_etag: str | None) -> str:
        """`compare_and_swap`."""

    @abstractmethod
    async def _delete_unchanged(self, key: str, etag: str) -> bool:
        """`delete_unchanged` of a key that was checked, with an ETag that is not empty."""

    @abstractmethod
    async def _bulk_delete(self) -> Callable[[Sequence[tuple[str, str]]], Awaitable[Collection[str]]] | None:
        """What deletes several objects on condition in one go, for `delete_all`; None if nothing does."""

    @abstractmethod
    async def _capabilities(self) -> Capabilities:
        """`capabilities`."""

    @abstractmethod
    async def _begin(self, key: str) -> str:
        """A new upload. Returns its id."""

    @abstractmethod
    async def _upload(self, key: str, upload_id: str, sending: Sending, running: list[Future[Any]]) -> tuple[str, ...]:
        """Send a file, proving that it arrived, and noting every thread that works on it.

        Returns the ETags of its parts, if it has any.
        """

    async def _resemble(self, key: str, upload_id: str, like: Sequence[str]) -> None:
        """Give an upload the permissions of other objects, where objects have some of their own."""

    @abstractmethod
    def _abort(self, key: str, upload_id: str) -> None:
        """Remove an upload that nobody else knows of. Blocks, and may raise anything."""

    @abstractmethod
    async def _publish(self, staged: Staged) -> ObjectInfo | None:
        """`publish` of a key that was checked."""

    @abstractmethod
    async def _discard(self, staged: Staged) -> bool:
        """`discard` of a key that was checked."""

    @abstractmethod
    def _find_staged(self, prefix: str) -> list[Staged]:
        """`staged_below`, in any order. Blocks, and raises what the system raises."""

    @abstractmethod
    def _find_names(self, prefix: str) -> list[str]:
        """Names of the directories just below a prefix, odd ones too, in any order. Blocks, and raises anything."""

    @property
    @abstractmethod
    def levels_above(self) -> int:
        """How many directories the URL lies in."""

    @abstractmethod
    def _find_above(self, level: int, directory: str) -> tuple[str, list[str]]:
        """`peek_above`. Blocks, and raises anything."""

    # ---- what they share ---------------------------------------------------------------------------------------

    async def _etag_after_put(self, key: str, etag: str | None) -> str:
        if etag and etag.strip('"'):
            return etag.strip('"')
        info = await self.head(key)  # Ceph answers a completed multipart upload without one
        if info is None:
            raise StoreError(self.name(key), "vanished right after it was written", "Run again")
        return info.etag

    def _check_version(self, key: str, etag: str) -> None:
        if not etag:
            # SeaweedFS takes an empty If-Match for none at all, and deletes.
            raise StoreError(self.name(key), "has no ETag to compare with", "Use a store that gives ETags")
        self._check_key(key)

    def _check_key(self, key: str) -> None:
        """Refuse what the engine refuses, too."""
        with self._errors(key):
            if not all(_is_sound(part) for part in key.split("/")):
                raise ValueError("a segment is empty, a dot, two dots or has control characters")


def _abandon(abort: Callable[[], None], running: list[Future[Any]]) -> None:
    """Remove an upload that nobody else knows of; what is left after all, `staged_below` finds."""
    concurrent.futures.wait(running)
    with suppress(Exception):
        abort()


def _is_sound(segment: str) -> bool:
    """Whether the engine takes it for a segment of a key."""
    return segment not in ("", ".", "..") and not _UNSOUND.search(segment)


def _pages(objects: int) -> int:
    return max(1, -(-objects // limits.LIST_PAGE))


def _parts(size_bytes: int) -> int:
    return -(-size_bytes // limits.PART_BYTES)


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], int(meta["size"]), (meta["e_tag"] or "").strip('"'))


async def _chunks(response: Any, info: ObjectInfo) -> AsyncIterator[bytes]:
    """A body piece by piece; a small one is asked for in one: in pieces it takes three times as long."""
    if info.size_bytes <= limits.STREAM_BYTES:
        yield bytes(await response.bytes_async())
        return
    async for chunk in response.stream(min_chunk_size=limits.STREAM_BYTES):
        yield bytes(chunk)


async def _summed(content: bytes, info: ObjectInfo) -> ObjectInfo:
    """With the sum of what was received, where there is something to compare it with."""
    if not may_be_md5(info.etag):
        return info
    digest = EtagDigest.like(info.etag)
    await digest.take(content)
    return replace(info, received=digest.etag())


def _sorted_below(prefix: str, found: list[ObjectInfo]) -> list[ObjectInfo]:
    return sorted((info for info in found if _is_below(prefix, info.key)), key=lambda info: info.key.encode())


def _is_below(prefix: str, key: str) -> bool:
    """Not so for the marker of a directory, which comes back without its slash, and for our own hidden files."""
    return bool(key) and key.startswith(prefix) and key.partition("/")[0] not in _HIDDEN
