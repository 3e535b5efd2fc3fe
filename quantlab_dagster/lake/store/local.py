"""A directory of this machine."""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
import zlib
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from filelock import AsyncFileLock
from obstore import store as engines

from quantlab_dagster.errors import Conflict, SettingsError, StoreError
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.base import LOCK_DIRECTORY, STAGED_DIRECTORY, Store
from quantlab_dagster.lake.store.objects import Staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from concurrent.futures import Future

    from obstore import ListStream, ObjectMeta, PutResult

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.lake.store.transfers import Sending, Sent

__all__ = ["LocalStore", "local_store"]

_LOCKS = 64  # so that a lake of many keys does not fill up with lock files
# Without it the directory of a staged `x.parquet` would look like a Parquet file to whoever globs.
_SUFFIX = ".staged"
_ID = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS = 10


class LocalStore(Store):
    """A store in a directory. Make one with `local_store`.

    Args:
        url: as given by the user, for messages.
        root: the directory.
    """

    def __init__(self, url: str, root: Path) -> None:
        super().__init__(url, engines.LocalStore(root))
        self._root = root
        self._area = _StagingArea(root)

    def _check_root(self) -> None:
        """Raise if the directory has gone since the store was opened: to the engine it would merely be empty."""
        if not self._root.is_dir():
            raise StoreError(
                self.url, "this directory has gone", "Bring it back, or check what should be mounted there"
            )

    async def _listed(
        self,
        prefix: str,
        stream: ListStream[Sequence[ObjectMeta]],  # noqa: ARG002  # which comes in no order
    ) -> AsyncIterator[list[ObjectInfo]]:
        yield await self.list_objects(prefix)

    def _requests_of(self, parts: int) -> int:  # noqa: ARG002  # nothing is sent anywhere
        return 1

    async def _put_file(self, key: str, sending: Sending, *, in_parts: bool) -> PutResult:  # noqa: ARG002
        # Copied as it is read and summed; the engine gives up what it is not given the last piece of.
        return await obstore.put_async(
            self._engine, key, sending.stream(limits.STREAM_BYTES), mode="overwrite", use_multipart=True
        )

    async def _arrived(self, key: str, etag: str, sent: Sent) -> bool:  # noqa: ARG002  # made of no content
        with self._errors(key), suppress(FileNotFoundError):
            return (self._root / key).stat().st_size == sent.size_bytes
        return False

    # ---- on condition ------------------------------------------------------------------------------------------

    async def _swap(self, key: str, content: bytes, expected_etag: str | None) -> str:
        async with self._locked(key):
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

    async def _delete_unchanged(self, key: str, etag: str) -> bool:
        async with self._locked(key):
            current = await self.head(key)
            if current is not None and current.etag == etag:
                await self.delete(key)
                return True
            return current is None

    @asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[None]:
        """Keep out all others, of this machine, who write or delete this object on condition, or publish it."""
        directory = self._root / LOCK_DIRECTORY
        lock = AsyncFileLock(directory / f"{zlib.crc32(key.encode()) % _LOCKS:02d}.lock", poll_interval=0.01)
        with self._errors(key):
            directory.mkdir(exist_ok=True)
            await lock.acquire()
        try:
            yield
        finally:
            await lock.release()

    # ---- staging -----------------------------------------------------------------------------------------------

    async def _begin(self, key: str) -> str:  # noqa: ARG002  # ids are of no key
        return uuid.uuid4().hex

    async def _upload(
        self,
        key: str,
        upload_id: str,
        sending: Sending,
        running: list[Future[Any]],
    ) -> tuple[str, ...]:
        await self._threaded(key, self._area.stage, key, upload_id, sending, running=running)
        return ()

    def _abort(self, key: str, upload_id: str) -> None:
        self._area.discard(key, upload_id)

    async def _publish(self, staged: Staged) -> ObjectInfo | None:
        self.requests.add("PUT")
        async with self._locked(staged.key):
            if not await self._threaded(staged.key, self._area.publish, staged.key, staged.upload_id):
                return None
        return await self.head(staged.key)

    async def _discard(self, staged: Staged) -> bool:
        self.requests.add("DELETE")
        return await self._threaded(staged.key, self._area.discard, staged.key, staged.upload_id)

    def _find_staged(self, prefix: str) -> list[Staged]:
        return self._area.below(prefix)

    def _find_names(self, prefix: str) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(self._root / prefix) if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []


class _StagingArea:
    """Hidden files of a directory, each below a path that mirrors its key. Raises OSErrors.

    Args:
        root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._area = root / STAGED_DIRECTORY

    def stage(self, key: str, upload_id: str, sending: Sending) -> None:
        """Copy a file into the area, summing what is read; its bytes are on the disk when this returns."""
        target = self._path(key, upload_id)
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _copy(sending, target)
                    break
                except FileNotFoundError:  # somebody has just removed the directory, since it was empty
                    if attempt + 1 == _ATTEMPTS:
                        raise
            _sync(target)
            _check_size(target, sending.size_bytes)
        except BaseException:
            self.discard(key, upload_id)
            raise

    def publish(self, key: str, upload_id: str) -> bool:
        """Move the file to where it belongs, and see that this survives a loss of power. False: there is none."""
        source, target = self._path(key, upload_id), self._root / key
        if not _ID.fullmatch(upload_id) or not source.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except FileNotFoundError:
            if source.exists():  # then it is the target's directory that has gone
                raise
            return False
        directory = target.parent
        while directory != self._root.parent:
            _sync(directory)
            directory = directory.parent
        self._tidy(source.parent)
        return True

    def discard(self, key: str, upload_id: str) -> bool:
        """Remove the file. False: there is none."""
        path = self._path(key, upload_id)
        if not _ID.fullmatch(upload_id):
            return False
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        finally:
            self._tidy(path.parent)
        return True

    def below(self, prefix: str) -> list[Staged]:
        """All files in the area, below a prefix that ends in a slash or is empty, in any order."""
        return [
            Staged(str(Path(directory).relative_to(self._area)).removesuffix(_SUFFIX), name, (), 0)
            for directory, _, names in os.walk(self._area / prefix)
            if directory.endswith(_SUFFIX)
            for name in names
            if _ID.fullmatch(name)
        ]

    def _path(self, key: str, upload_id: str) -> Path:
        return self._area / f"{key}{_SUFFIX}" / upload_id

    def _tidy(self, directory: Path) -> None:
        """Remove directories that are empty; others may be filling or removing them at the same time."""
        with suppress(OSError):
            while directory != self._root:
                directory.rmdir()
                directory = directory.parent


def _copy(sending: Sending, target: Path) -> None:
    with target.open("wb") as file:
        file.writelines(sending.pieces(limits.STREAM_BYTES))


def _check_size(path: Path, size_bytes: int) -> None:
    if path.stat().st_size != size_bytes:
        raise OSError(errno.EIO, "the copy has another size", str(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def local_store(
    path: Path, *, url: str | None = None, create: bool = False, setting: str = "", if_missing: str = ""
) -> LocalStore:
    """Open a local directory as a store.

    Args:
        path: the directory.
        url: as given by the user, for messages.
        create: whether it is made if it is missing.
        setting: name of the setting that the URL comes from, for remedies.
        if_missing: what else helps where it does not exist, as in "run `this`".

    Raises:
        SettingsError: the directory does not exist, and is not to be made.
    """
    path = path.absolute()
    where = str(url or path)
    if not path.is_dir():
        if not create:
            remedy = f"{f'Set {setting} to' if setting else 'Use'} one that does{if_missing and f', or {if_missing}'}"
            raise SettingsError(where, "this local lake does not exist", remedy)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = f"Set {setting} to another" if setting else "Choose another"
            raise SettingsError(where, f"this directory cannot be made ({error})", remedy) from error
    if not os.access(path, os.R_OK | os.X_OK):
        raise SettingsError(where, "this directory cannot be read", "Check its permissions")
    return LocalStore(where, path)
