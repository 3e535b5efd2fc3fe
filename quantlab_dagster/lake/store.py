"""One narrow interface to an object store: a bucket prefix on S3, or a local directory. The engine is obstore.

What it lacks, `quantlab_dagster.lake.staging` has: objects that become visible later, and deletes on condition.

Everything is asynchronous, because a run that waits in Python can be stopped and one that waits in a blocking call
cannot. Listings come sorted in byte order of the keys whatever the server's order; conditional writes mean the same on
every server; every failure is a domain error that names the object.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import hashlib
import logging
import os
import re
import time
import uuid
import zlib
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from filelock import AsyncFileLock
from obstore import exceptions as obs
from obstore.store import LocalStore, S3Store

from quantlab_dagster.errors import (
    AccessDenied,
    ConditionalWriteUnsupported,
    Conflict,
    ObjectNotFound,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from quantlab_dagster.lake.staging import STAGED_DIRECTORY, THREADS, Completion, LocalStaging, S3Staging, Staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import boto3
    from obstore import ListResult, ObjectMeta, PutMode
    from obstore.store import ClientConfig, RetryConfig

__all__ = [
    "Directory",
    "ObjectInfo",
    "Requests",
    "S3Options",
    "Staged",
    "Store",
    "first_error",
    "local_store",
    "open_store",
    "s3_store",
]

RequestKind = Literal["LIST", "GET", "HEAD", "PUT", "DELETE"]

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)

_LIST_PAGE = 1000
# Above this size a file goes up in parts; one atomic request or a completed multipart upload, never anything between.
_MULTIPART_BYTES = 64 << 20
_MULTIPART_CHUNK = 16 << 20
_UPLOADS_AT_ONCE = 4
# Texts of errors hold URLs, hence keys, but percent-encoded: a key cannot imitate these.
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = "<Code>NoSuchBucket</Code>"
_NO_UPLOAD = "NoSuchUpload"
_EXHAUSTED = " retries, max_retries"
_LOCAL = "Generic LocalFileSystem error:"
_BAD_FILE_NAME = f"{_LOCAL} Filenames containing trailing"
_DENIED = (401, 403)
_NOT_FOUND = 404
_RETRIED = (408, 429)
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
# Refusals that pass, although their status does not say so.
_PASSING = (
    "BadDigest",
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "XAmzContentSHA256Mismatch",
)
# For everything that is repeated: by the engine where it does so itself, else by us.
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 10.0
_RETRY_SECONDS = 120.0
_CREATE_ATTEMPTS = 3
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REGION = re.compile(r"[A-Za-z0-9-]+")
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[A-Za-z0-9._~/-]*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_LOCK_DIRECTORY = ".quantlab-locks"
_LOCKS = 64  # so that a lake of many keys does not fill up with lock files
_HIDDEN = {_LOCK_DIRECTORY, STAGED_DIRECTORY}
_PROBE = "_compaction/.probe-"
_NO_ETAG = "0" * 32  # of no object, nor of a part
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing or a HEAD shows it.

    Attributes:
        key: relative to the store's URL.
        size_bytes: length of its content.
        etag: the store's tag of this content, without quotes. On local directories it derives from inode and time.
    """

    key: str
    size_bytes: int
    etag: str

    @property
    def name(self) -> str:
        """The last segment of the key."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Directory:
    """One level of a listing.

    Attributes:
        directories: names of the common prefixes just below, without slashes, sorted.
        objects: the objects just below, sorted by key.
    """

    directories: tuple[str, ...]
    objects: tuple[ObjectInfo, ...]


class Requests:
    """Counts requests by kind. Retries inside the engine are not seen."""

    def __init__(self) -> None:
        self._counts: Counter[RequestKind] = Counter()

    def add(self, kind: RequestKind, number: int = 1) -> None:
        """Count requests."""
        self._counts[kind] += number

    @property
    def total(self) -> int:
        """Requests of all kinds."""
        return self._counts.total()

    def by_kind(self) -> dict[str, int]:
        """A copy of the counts."""
        return {str(kind): number for kind, number in sorted(self._counts.items())}


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to reach S3.

    Attributes:
        session: where credentials (and the default region) come from; None makes unsigned requests.
        region: of the bucket.
        endpoint_url: None for AWS itself.
        verify_tls: whether certificates are checked.
        retries: attempts after the first one fails.
    """

    session: boto3.session.Session | None
    region: str
    endpoint_url: str | None
    verify_tls: bool = True
    retries: int = 6

    @property
    def endpoint(self) -> str:
        """Said explicitly, so that no engine picks up an AWS_ENDPOINT_URL that is meant for the other lake."""
        return (self.endpoint_url or f"https://s3.{self.region}.amazonaws.com").rstrip("/")


class Store:
    """An object store below a URL. Make one with `open_store`.

    Args:
        url: as given by the user, for messages.
        engine: the obstore store, rooted at the URL.
        staging: for the same URL.
        root: the directory, for a local store.
        retries: attempts after the first one fails.
    """

    def __init__(
        self,
        url: str,
        engine: LocalStore | S3Store,
        staging: LocalStaging | S3Staging,
        root: Path | None = None,
        *,
        retries: int = 0,
    ) -> None:
        self.url = url.rstrip("/")
        self.requests = Requests()
        self._engine = engine
        self._root = root
        self._retries = retries
        self._staging = staging
        self._pool: ThreadPoolExecutor | None = None
        self._if_match: str | None = None  # how to say it when deleting; empty if the server ignores it
        self._probing: asyncio.Task[None] | None = None
        _settle_at_exit()

    @property
    def is_local(self) -> bool:
        """Whether this is a directory of this machine."""
        return self._root is not None

    def name(self, key: str) -> str:
        """The full name of an object, for messages."""
        return f"{self.url}/{key}"

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
                async for chunk in obstore.list(self._engine, prefix, chunk_size=_LIST_PAGE):
                    found += [_info(meta) for meta in chunk]
            return found

        found = await self._repeated(listing)
        self.requests.add("LIST", max(1, -(-len(found) // _LIST_PAGE)))
        return sorted((info for info in found if _is_below(prefix, info.key)), key=_byte_order)

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
        objects = sorted((info for info in found if _is_below(prefix, info.key)), key=_byte_order)
        names = {path.rstrip("/").rpartition("/")[2] for path in result["common_prefixes"]} - _HIDDEN
        self.requests.add("LIST", max(1, -(-(len(found) + len(names)) // _LIST_PAGE)))
        return Directory(tuple(sorted(names, key=str.encode)), tuple(objects))

    async def get(self, key: str) -> tuple[bytes, ObjectInfo]:
        """The whole object in one request, and which version of it this is.

        Raises:
            ObjectNotFound: there is definitely no such object.
            StoreError: any other failure.
        """
        self.requests.add("GET")
        with self._errors(key):
            response = await obstore.get_async(self._engine, key)
            return bytes(await response.bytes_async()), _info(response.meta)

    async def get_if_exists(self, key: str) -> tuple[bytes, ObjectInfo] | None:
        """Like `get`, but None for an object that does not exist."""
        try:
            return await self.get(key)
        except ObjectNotFound:
            return None

    async def download(self, key: str, path: Path) -> ObjectInfo:
        """Stream the object into a file, in bounded memory; same errors as `get`."""
        self.requests.add("GET")
        with self._errors(key):
            response = await obstore.get_async(self._engine, key)
            with path.open("wb") as file:
                async for chunk in response.stream(min_chunk_size=4 << 20):
                    file.write(chunk)
            return _info(response.meta)

    async def sha256(self, key: str) -> str:
        """SHA-256 of the object's content, hexadecimal, in bounded memory; same errors as `get`."""
        self.requests.add("GET")
        digest = hashlib.sha256()
        with self._errors(key):
            response = await obstore.get_async(self._engine, key)
            async for chunk in response.stream(min_chunk_size=4 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    async def head(self, key: str) -> ObjectInfo | None:
        """What the store says of an object, or None if it does not exist."""
        self.requests.add("HEAD")
        try:
            with self._errors(key):
                return _info(await obstore.head_async(self._engine, key))
        except ObjectNotFound:
            return None

    # ---- writing -----------------------------------------------------------------------------------------------

    async def put(self, key: str, content: bytes | Path) -> str:
        """Write an object whole and unconditionally; readers see the old or the new one. Returns its ETag."""
        size_bytes = content.stat().st_size if isinstance(content, Path) else len(content)
        multipart = isinstance(content, Path) and size_bytes > _MULTIPART_BYTES
        with self._errors(key):
            result = await obstore.put_async(
                self._engine,
                key,
                content,
                mode="overwrite",
                use_multipart=multipart,
                chunk_size=_MULTIPART_CHUNK,
                max_concurrency=_UPLOADS_AT_ONCE,
            )
        self.requests.add("PUT", 2 + -(-size_bytes // _MULTIPART_CHUNK) if multipart and not self.is_local else 1)
        return await self._etag_after_put(key, result["e_tag"])

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
        if self._root is not None:
            return await self._swap_locally(key, content, expected_etag)
        if expected_etag == "":
            # SeaweedFS takes an empty If-Match for none at all, and overwrites.
            raise StoreError(self.name(key), "has no ETag to compare with", "Use a store that gives ETags")
        # AWS refuses to create an object (409) while another writer's attempt at it is not decided.
        forms = [None] * _CREATE_ATTEMPTS if expected_etag is None else [f'"{expected_etag}"', expected_etag]
        for number, form in enumerate(forms):
            if number and form is None:
                await asyncio.sleep(_FIRST_WAIT_SECONDS * 2**number)
            attempt = partial(self._swap_on_server, key, content, form, expected_etag)
            written = await self._repeated(attempt)
            if written is not None:
                return written
        raise ConditionalWriteUnsupported(
            self.name(key),
            "the server refuses a conditional write although the object is unchanged",
            "Without it concurrent writers cannot be told apart; use a server that supports If-None-Match and If-Match",
        )

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
        if not etag:
            # SeaweedFS takes an empty If-Match for none at all, and deletes.
            raise StoreError(self.name(key), "has no ETag to compare with", "Use a store that gives ETags")
        self._check_key(key)
        staging = self._staging
        if isinstance(staging, LocalStaging):
            async with self._local_lock(key):
                current = await self.head(key)
                if current is not None and current.etag == etag:
                    await self.delete(key)
                    return True
                return current is None
        form = await self._form_of_if_match(staging)
        if not form:
            gone = await self._asked(key, staging.look_and_delete, key, etag)
            self.requests.add("HEAD")
            self.requests.add("DELETE", int(gone))
            return gone
        for _ in range(2):
            self.requests.add("DELETE")
            if await self._asked(key, staging.delete_if_match, key, form.format(etag)):
                return True
            # Another content; or it has gone, perhaps by our own request, whose answer was lost.
            current = await self.head(key)
            if current is None or current.etag != etag:
                return current is None
        cause = "the server refuses a conditional delete although the object is unchanged"
        raise StoreError(self.name(key), cause, "Run again, or use a server that supports If-Match")

    # ---- staging -----------------------------------------------------------------------------------------------

    async def stage(self, key: str, path: Path) -> Staged:
        """Upload a file so that it is in the store, whole, but not visible; `publish` makes it so."""
        self._check_key(key)
        staging, running, parts = self._staging, list[Future[Any]](), list[asyncio.Task[str]]()
        with self._errors(key):
            size_bytes = path.stat().st_size
        if size_bytes == 0:
            raise StoreError(self.name(key), f"{path}, which is to become it, is empty", "Report this as a bug")
        self.requests.add("PUT")
        if isinstance(staging, LocalStaging):
            upload_id = staging.begin()
        else:
            upload_id = await self._asked(key, staging.begin, key)
        try:
            if isinstance(staging, LocalStaging):
                await self._threaded(key, staging.stage, key, upload_id, path, running=running)
            else:
                gate = asyncio.Semaphore(_UPLOADS_AT_ONCE)

                async def upload(number: int) -> str:
                    async with gate:
                        self.requests.add("PUT")
                        send = partial(_send_part, staging, key, upload_id, number, path)
                        return await self._repeated(partial(self._threaded, key, send, running=running))

                async with asyncio.TaskGroup() as group:
                    parts += [
                        group.create_task(upload(number)) for number in range(1, 1 + -(-size_bytes // _MULTIPART_CHUNK))
                    ]
        except BaseException as error:
            # Not before no thread works on it any more. We do not wait for that, since we may have been cancelled.
            with suppress(RuntimeError):  # the interpreter is exiting
                self._threads.submit(_abandon, staging, key, upload_id, running)
            if isinstance(error, BaseExceptionGroup):
                raise first_error(error) from error
            raise
        return Staged(key, upload_id, tuple(task.result() for task in parts), size_bytes)

    async def publish(self, staged: Staged) -> ObjectInfo | None:
        """Make a staged object visible in one step, replacing what is there.

        However late it comes, it cannot bring back what was published before and has been deleted since.

        Returns:
            What is there now. None if the upload does not exist any more: somebody else published or discarded it; or
            we did and were not told. Then look at the object itself.
        """
        key, staging = staged.key, self._staging
        self._check_key(key)
        if isinstance(staging, LocalStaging):
            self.requests.add("PUT")
            async with self._local_lock(key):
                if not await self._threaded(key, staging.publish, key, staged.upload_id):
                    return None
            return await self.head(key)
        # All servers say OK to a second completion while the object is there.
        self.requests.add("LIST")
        if not await self._asked(key, staging.exists, key, staged.upload_id):
            return None
        match await self._completed(staging, staged):
            case "done":
                return await self.head(key)
            case "gone":
                return None
            case "parts differ":  # somebody is discarding it, or stopped half-way
                await self.discard(staged)
                return None

    async def discard(self, staged: Staged) -> bool:
        """Remove a staged object that must not become visible any more.

        Returns:
            True if it was not published, and never will be; False if it did not exist any more.
        """
        key, staging = staged.key, self._staging
        self._check_key(key)
        if isinstance(staging, LocalStaging):
            self.requests.add("DELETE")
            return await self._threaded(key, staging.discard, key, staged.upload_id)
        # Ceph 16 lets an upload be completed and aborted at once, says OK to both, and hours later deletes the bytes.
        # So first spoil it: with another part in place no completion succeeds but one that has begun. Then try to
        # complete it with a part that it cannot have, which fails once no other completion is under way.
        before = await self.head(key)
        self.requests.add("PUT")
        try:
            await self._asked(key, staging.upload_part, key, staged.upload_id, 1, b"discarded")
        except ObjectNotFound:
            return False
        if await self._completed(staging, Staged(key, staged.upload_id, (_NO_ETAG,), 0)) == "parts differ":
            self.requests.add("DELETE")
            await self._asked(key, staging.abort, key, staged.upload_id)
        # A completion may have come first, which no answer tells: SeaweedFS keeps both parts, and says OK to the abort.
        return await self.head(key) == before

    async def staged_below(self, prefix: str) -> list[Staged]:
        """What is staged, or was left half-way, below a prefix that ends in a slash or is empty; only to be discarded.

        Sizes and ETags of parts are not known.
        """
        if prefix:
            self._check_key(prefix.removesuffix("/"))
        self._check_root()
        found = await self._asked(prefix, self._staging.below, prefix)
        self.requests.add("LIST", max(1, -(-len(found) // _LIST_PAGE)))
        return sorted(found, key=lambda staged: (staged.key.encode(), staged.upload_id))

    async def _completed(self, staging: S3Staging, staged: Staged) -> Completion:
        """Complete an upload, seeing what became of earlier attempts before trying again."""

        async def attempt() -> Completion:
            try:
                return await self._threaded(staged.key, staging.complete, staged.key, staged.upload_id, staged.etags)
            except StoreUnavailable:
                # The answer was lost; or this is Ceph, which says 500 if there is no such upload.
                if not await self._threaded(staged.key, staging.exists, staged.key, staged.upload_id):
                    return "gone"
                raise

        self.requests.add("PUT")
        return await self._repeated(attempt)

    async def _form_of_if_match(self, staging: S3Staging) -> str:
        """How the server wants the ETag of a conditional delete, or nothing if it ignores it. Found out once."""
        if self._if_match is None:
            task = self._probing
            if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
                task = self._probing = asyncio.create_task(self._probe(staging))
            await asyncio.shield(task)  # others wait for it, too
        assert self._if_match is not None
        return self._if_match

    async def _probe(self, staging: S3Staging) -> None:
        key = f"{_PROBE}{uuid.uuid4().hex}"
        etag = await self.put(key, b"probe")

        async def delete_if_match(if_match: str) -> bool:
            self.requests.add("DELETE")
            return await self._asked(key, staging.delete_if_match, key, if_match)

        try:
            honoured = not await delete_if_match(f'"{_NO_ETAG}"')
        except (AccessDenied, StoreUnavailable):
            raise
        except StoreError:  # it does not know such requests
            honoured = False
        for form in ('"{}"', "{}") if honoured else ():
            if await delete_if_match(form.format(etag)) or await self.head(key) is None:
                self._if_match = form
                return
        await self.delete(key)
        self._if_match = ""
        logger.warning(
            "%s: this server ignores the condition of a conditional delete. Each object is looked at right before it is"
            " deleted instead; one that is replaced within the milliseconds between would be lost.",
            self.url,
        )

    async def _asked(self, key: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a blocking request returns, which is sent again as often as the store's other requests are."""
        return await self._repeated(partial(self._threaded, key, partial(function, *args, **kwargs)))

    async def _threaded(
        self, key: str, function: Callable[..., T], *args: Any, running: list[Future[Any]] | None = None
    ) -> T:
        """What a function returns that blocks. If cancelled, this ends at once, and the thread after a bounded time."""
        with self._errors(key):
            self._check_root()
            future = self._threads.submit(function, *args)
            if running is not None:
                running.append(future)
            return await asyncio.wrap_future(future)

    @property
    def _threads(self) -> ThreadPoolExecutor:
        # Our own: `asyncio.run` waits for the threads of the default one, even when it was cancelled.
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        return self._pool

    def _check_key(self, key: str) -> None:
        """Refuse what the engine refuses, too."""
        with self._errors(key):
            if _CONTROL.search(key) or any(part in ("", ".", "..") for part in key.split("/")):
                raise ValueError("a segment is empty, a dot, two dots or has control characters")

    async def _swap_on_server(
        self, key: str, content: bytes, form: str | None, expected_etag: str | None
    ) -> str | None:
        """One conditional write. Returns None if it was refused although the object is unchanged."""
        self.requests.add("PUT")
        unanswered: StoreUnavailable | None = None
        try:
            with self._errors(key, passing=(obs.AlreadyExistsError, obs.PreconditionError)):
                mode: PutMode = "create" if form is None else {"e_tag": form}
                result = await obstore.put_async(self._engine, key, content, mode=mode, use_multipart=False)
            return await self._etag_after_put(key, result["e_tag"])
        except (obs.AlreadyExistsError, obs.PreconditionError):
            pass
        except StoreUnavailable as error:
            unanswered = error
        # It may have been done nevertheless: the answer was lost, and a retry failed on its own success, or there was
        # none, since the engine does not repeat a conditional write that may have been done.
        current = await self.get_if_exists(key)
        if current is not None and current[0] == content:
            return current[1].etag
        if (current[1].etag if current else None) != expected_etag:
            raise Conflict(self.name(key), "was changed by another writer", "Run again")
        if unanswered is not None:
            raise unanswered
        return None

    async def _repeated(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat what the engine does not: requests that broke off in a way it cannot tell from success."""
        for repetition in range(self._retries):
            try:
                return await request()
            except StoreUnavailable as error:
                if not _broke_off(error):
                    raise
            await asyncio.sleep(min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**repetition))
        return await request()

    async def _swap_locally(self, key: str, content: bytes, expected_etag: str | None) -> str:
        assert self._root is not None  # only called for local stores
        async with self._local_lock(key):
            current = await self.head(key)
            if (current.etag if current else None) != expected_etag:
                raise Conflict(self.name(key), "was changed by another writer", "Run again")
            await self.put(key, content)
            # The ETag is made of inode, time and size. Inodes are used again at once, and file systems may stamp the
            # time of the last tick, so that two swaps within one would bring an old ETag back.
            now = time.time_ns()
            with self._errors(key):
                os.utime(self._root / key, ns=(now, now))
            return await self._etag_after_put(key, None)

    @asynccontextmanager
    async def _local_lock(self, key: str) -> AsyncIterator[None]:
        assert self._root is not None  # only called for local stores
        directory = self._root / _LOCK_DIRECTORY
        lock = AsyncFileLock(directory / f"{zlib.crc32(key.encode()) % _LOCKS:02d}.lock", poll_interval=0.01)
        with self._errors(key):
            directory.mkdir(exist_ok=True)
            await lock.acquire()
        try:
            yield
        finally:
            await lock.release()

    async def _etag_after_put(self, key: str, etag: str | None) -> str:
        if etag and etag.strip('"'):
            return etag.strip('"')
        info = await self.head(key)  # Ceph answers a completed multipart upload without one
        if info is None:
            raise StoreError(self.name(key), "vanished right after it was written", "Run again")
        return info.etag

    def _check_root(self) -> None:
        """Raise if the directory has gone since the store was opened: to the engine it would merely be empty."""
        if self._root is not None and not self._root.is_dir():
            raise StoreError(
                self.url, "this directory has gone", "Bring it back, or check what should be mounted there"
            )

    def _errors(self, key: str, passing: tuple[type[Exception], ...] = ()) -> _ErrorMapping:
        return _ErrorMapping(self.name(key), passing)


def _send_part(staging: S3Staging, key: str, upload_id: str, number: int, path: Path) -> str:
    """Read a part of a file and upload it."""
    with path.open("rb") as file:
        file.seek((number - 1) * _MULTIPART_CHUNK)
        return staging.upload_part(key, upload_id, number, file.read(_MULTIPART_CHUNK))


def _abandon(staging: LocalStaging | S3Staging, key: str, upload_id: str, running: list[Future[Any]]) -> None:
    """Remove an upload that nobody else knows of; what is left after all, `staged_below` finds."""
    concurrent.futures.wait(running)
    with suppress(Exception):
        staging.discard(key, upload_id) if isinstance(staging, LocalStaging) else staging.abort(key, upload_id)


class _ErrorMapping:
    """Turns what the engine raises into domain errors that name the object."""

    def __init__(self, where: str, passing: tuple[type[Exception], ...]) -> None:
        self._where = where
        self._passing = passing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, (*self._passing, StoreError)):
            return
        mapped = _map(self._where, error)
        if mapped is not None:
            raise mapped from error


def _map(where: str, error: BaseException) -> StoreError | None:
    if _is_botocores(error):
        return _map_botocore(where, error)
    if isinstance(error, OSError) and error.errno is not None:  # not of the store: a file of ours
        remedy = "Check the space and the permissions there, or set QUANTLAB_SCRATCH_DIR to another place"
        return StoreError(where, f"a local file cannot be used ({error})", remedy)
    if isinstance(error, FileNotFoundError) and _NO_BUCKET not in str(error):
        return ObjectNotFound(where, "does not exist", "Check the URL and the key")
    if isinstance(error, obs.PermissionDeniedError | obs.UnauthenticatedError | PermissionError):
        return _denied(where)
    # Keys that cannot be parsed are a ValueError; a TypeError where a list of keys would do, too.
    bad_key = isinstance(error, obs.InvalidPathError | ValueError)
    bad_key |= isinstance(error, TypeError) and "Expected string path" in str(error)
    if bad_key or str(error).startswith(_BAD_FILE_NAME):
        cause = f"holds a key that cannot be addressed ({_first_line(error)})"
        return StoreError(where, cause, "Rename or remove that object")
    if isinstance(error, obs.BaseError | OSError):
        return _map_generic(where, error)
    return None


def _map_generic(where: str, error: BaseException) -> StoreError:
    """Listings report everything as one generic error; its text holds the status."""
    text, first = str(error), _first_line(error)
    if text.startswith(_LOCAL):
        return StoreError(where, f"the file system refused ({first})", "Check the space and the permissions there")
    found = _STATUS.search(text)
    status = int(found.group(1)) if found else None
    if status == _NOT_FOUND or _NO_BUCKET in text:
        return _no_bucket(where, first)
    return _refused(where, status, first)


def _map_botocore(where: str, error: BaseException) -> StoreError:
    from botocore import exceptions as boto  # noqa: PLC0415  # loaded already, but not where nobody needs it

    first = _first_line(error)
    if isinstance(error, boto.ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket":
            return _no_bucket(where, first)
        if code == _NO_UPLOAD:
            return ObjectNotFound(where, "its upload has been published or discarded meanwhile", "Run again")
        # A status for a code means that the body was cut short; only the answer to a HEAD has none.
        cut = code == str(status) and error.operation_name != "HeadObject"
        if status == _NOT_FOUND and not cut:
            return ObjectNotFound(where, "does not exist", "Check the URL and the key")
        passing = status not in _DENIED and status < _SERVER_ERROR and (cut or code in _PASSING)
        return _refused(where, None if passing else status, first)
    credentials = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)
    if isinstance(error, (*credentials, boto.TokenRetrievalError, boto.SSOError)):
        return _denied(where)
    network = (boto.ConnectionError, boto.HTTPClientError)
    # What is no BotoCoreError is an answer that was cut short.
    passing = isinstance(error, network) or not isinstance(error, boto.BotoCoreError)
    return _refused(where, None if passing else 0, first)


def _no_bucket(where: str, first: str) -> StoreError:
    return StoreError(where, f"the bucket does not exist ({first})", "Check URL, endpoint and region")


def _refused(where: str, status: int | None, first: str) -> StoreError:
    """Which error it is, by its status; None if there was no answer."""
    if status in _DENIED:
        return _denied(where)
    transient = status is None or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED) or status in _RETRIED
    if not transient:
        return StoreError(where, f"the store refused the request ({first})", "Check the URL and the settings")
    return StoreUnavailable(where, f"no usable answer after retries ({first})", "Nothing was decided; run again later")


def _is_botocores(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] == "botocore"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _broke_off(error: StoreUnavailable) -> bool:
    """Whether the engine has not tried again by itself: obstore, if the connection broke; botocore never does."""
    if _is_botocores(error.__cause__):
        return True
    text = str(error.__cause__)
    return not _STATUS.search(text) and _EXHAUSTED not in text


def _denied(where: str) -> AccessDenied:
    return AccessDenied(where, "access denied", "Check the credentials, and that they may do this on this bucket")


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], int(meta["size"]), (meta["e_tag"] or "").strip('"'))


def _byte_order(info: ObjectInfo) -> bytes:
    return info.key.encode()


def _is_below(prefix: str, key: str) -> bool:
    """Not so for the marker of a directory, which comes back without its slash, and for our own hidden files."""
    return bool(key) and key.startswith(prefix) and key.partition("/")[0] not in _HIDDEN


# A thread of the engine that still hands its last result over while the interpreter is being finalised aborts the
# process (SIGABRT, in one exit of seven here; PyO3/pyo3-async-runtimes#40). Asleep, we leave the lock to it: 0.02 s
# made it 0 of 200.
_SECONDS_FOR_ENGINE_TO_SETTLE = 0.1


@cache
def _settle_at_exit() -> None:
    atexit.register(time.sleep, _SECONDS_FOR_ENGINE_TO_SETTLE)


def open_store(url: str, s3: S3Options | None = None, *, create: bool = False) -> Store:
    """Open the store of a URL: `s3://bucket/prefix`, `file:///directory`, or a plain path.

    Args:
        url: where.
        s3: how to reach S3; needed for `s3://` URLs only.
        create: whether a missing local directory is made.

    Raises:
        SettingsError: the URL cannot be understood, or the local directory is missing.
    """
    if url.startswith("s3://"):
        if s3 is None:
            raise SettingsError(url, "needs S3 options", "Configure the resource's region and credentials")
        return s3_store(url, s3)
    parts = urlsplit(url)
    is_file = url.startswith("file://") and parts.netloc in ("", "localhost") and not (parts.query or parts.fragment)
    # `s3:/bucket` or `S3://bucket` must not become a directory of that name.
    if not url or (_SCHEME.match(url) and not is_file):
        raise SettingsError(url, "is no URL this project knows", "Use s3://bucket/prefix, file:///directory or a path")
    return local_store(Path(unquote(parts.path) if is_file else url), url=url, create=create)


def local_store(path: Path, *, url: str | None = None, create: bool = False) -> Store:
    """Open a local directory as a store.

    Raises:
        SettingsError: the directory does not exist, and is not to be made.
    """
    path = path.absolute()
    if not path.is_dir():
        if not create:
            raise SettingsError(
                str(url or path),
                "this local lake does not exist",
                "Set its URL (QUANTLAB_RAW_URL, WAREHOUSE_URL), or run `make demo` for first lakes",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                str(url or path), f"this directory cannot be made ({error})", "Choose another"
            ) from error
    if not os.access(path, os.R_OK | os.X_OK):
        raise SettingsError(str(url or path), "this directory cannot be read", "Check its permissions")
    return Store(url or str(path), LocalStore(path), LocalStaging(path), path)


def s3_store(url: str, options: S3Options) -> Store:
    """Open a bucket, or a prefix of one.

    Raises:
        SettingsError: the URL, the region or the endpoint cannot be used.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(url, "names no bucket", "Use s3://bucket/prefix")
    # What makes no valid URI would make the engine panic at its first request.
    if not _REGION.fullmatch(options.region):
        raise SettingsError(url, f"{options.region!r} is no region", "Set AWS_REGION, as in us-east-1")
    if options.endpoint_url and not _ENDPOINT.fullmatch(options.endpoint_url):
        remedy = "Set AWS_ENDPOINT_URL, as in https://host:port"
        shown = options.endpoint_url.rpartition("@")[2]  # credentials have no place there, but may stand there
        raise SettingsError(url, f"{shown!r} is no endpoint", remedy)
    client: ClientConfig = {
        "timeout": timedelta(minutes=5),
        "connect_timeout": timedelta(seconds=5),
        "allow_invalid_certificates": not options.verify_tls,
    }
    retry: RetryConfig = {
        "max_retries": options.retries,
        "backoff": {
            "init_backoff": timedelta(seconds=_FIRST_WAIT_SECONDS),
            "max_backoff": timedelta(seconds=_LONGEST_WAIT_SECONDS),
            "base": 2,
        },
        "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
    }
    config: dict[str, Any] = {"region": options.region, "endpoint": options.endpoint}
    client["allow_http"] = options.endpoint.startswith("http://")
    if options.session is None:
        config["skip_signature"] = True
    else:
        # Imported here: local lakes need no boto3.
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

        config["credential_provider"] = Boto3CredentialProvider(options.session)
    prefix = prefix.strip("/")
    try:
        engine = S3Store(bucket, prefix=prefix or None, client_options=client, retry_config=retry, **config)
    except (obs.BaseError, ValueError) as error:
        raise SettingsError(url, f"cannot be used ({_first_line(error)})", "Check URL, endpoint and region") from error
    return Store(url, engine, S3Staging(bucket, prefix, options), retries=options.retries)


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, unwrapped: it says what happened, the others are its consequences."""
    first = errors.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
