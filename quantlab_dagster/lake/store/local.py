"""A directory of this machine."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import os
import re
import stat
import time
import uuid
import zlib
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore import store as engines

from quantlab_dagster.errors import Conflict, ObjectChanged, ScratchUnusable, SettingsError, StoreError
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.base import LOCK_DIRECTORY, STAGED_DIRECTORY, Store
from quantlab_dagster.lake.store.capabilities import Capabilities
from quantlab_dagster.lake.store.objects import ObjectInfo, Staged
from quantlab_dagster.lake.store.transfers import check_content

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
    from concurrent.futures import Future

    from obstore import ListStream, ObjectMeta, PutResult

    from quantlab_dagster.lake.store.transfers import Growing, Sending, Sent

__all__ = ["LocalStore", "check_downloaded", "local_store"]

_LOCKS = 64  # so that a lake of many keys does not fill up with lock files
_LOOK_AGAIN_SECONDS = 0.01
# Without it the directory of a staged `x.parquet` would look like a Parquet file to whoever globs.
_SUFFIX = ".staged"
_ID = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS = 10
_MOST_NAMES = 10_000
_READ_AND_WRITE = 0o666


class LocalStore(Store):
    """A store in a directory. Make one with `local_store`.

    Args:
        url: as given by the user, for messages.
        root: the directory.
    """

    at_once = 128
    etags_are_sums = False

    def __init__(self, url: str, root: Path) -> None:
        super().__init__(url, engines.LocalStore(root))
        self._root = root
        self._area = _StagingArea(root)

    @property
    def address(self) -> str:
        """Its directory, absolute, without links."""
        return str(self._root.resolve())

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

    async def _send(self, key: str, content: bytes | Path | Growing, sha256: str | None) -> tuple[str, Sent]:
        self._check_key(key)
        with self._putting(key):
            return await super()._send(key, content, sha256)

    @contextmanager
    def _putting(self, key: str) -> Iterator[None]:
        """Say, to all of this machine, that this object is being put; if nobody else does, remove what the dead left.

        The engine writes into `<name>#1`, or the next number that is free, and renames it. Who is killed leaves it.
        """
        with self._errors(key):
            lock = _open_lock(self._lock_of(key).with_suffix(".put"))
        try:
            with self._errors(key):
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_half_put(self._root / key)
                fcntl.flock(lock, fcntl.LOCK_SH)  # at once: nobody holds it alone for longer than the lines above
            yield
        finally:
            os.close(lock)

    async def _put_file(self, key: str, sending: Sending, *, in_parts: bool) -> PutResult:  # noqa: ARG002
        # Copied as it is read and summed; the engine gives up what it is not given the last piece of.
        return await obstore.put_async(
            self._engine, key, sending.stream(limits.STREAM_BYTES), mode="overwrite", use_multipart=True
        )

    async def _arrived(self, key: str, etag: str, sent: Sent) -> bool:  # noqa: ARG002  # made of no content
        with self._errors(key), suppress(FileNotFoundError):
            return (self._root / key).stat().st_size == sent.size_bytes
        return False

    # ---- many small files ----------------------------------------------------------------------------------------

    async def get_together(self, keys: Sequence[str]) -> list[tuple[bytes, ObjectInfo]]:
        """`Store.get_together`, in a thread: to the engine each file is two hand-overs, which cost far more than it."""
        read = await self._threaded(keys[0], self._read_all, keys)
        self.requests.add("GET", sum(found is not None for found in read))
        # What cannot be read just like that is asked for in the usual way, which says why.
        return [found or await self.get(key) for key, found in zip(keys, read, strict=True)]

    def _read_all(self, keys: Sequence[str]) -> list[tuple[bytes, ObjectInfo] | None]:
        return [self._read(key) for key in keys]

    def _read(self, key: str) -> tuple[bytes, ObjectInfo] | None:
        """A file and its ETag, as the engine makes it; None if it cannot be read, or is written to meanwhile."""
        self._check_key(key)
        try:
            with open(f"{self._root}/{key}", "rb", buffering=0) as file:  # noqa: PTH123  # a path costs as much as reading
                before = os.fstat(file.fileno())
                content = file.read()
                after = os.fstat(file.fileno())
        except OSError:
            return None
        if _etag_of(before) != _etag_of(after):
            return None
        return content, ObjectInfo(key, before.st_size, _etag_of(before))

    # ---- large files -------------------------------------------------------------------------------------------

    async def download(self, key: str, path: Path) -> ObjectInfo:
        """`Store.download`; within one disk the file is linked, which costs nothing, and copied where it cannot be.

        What is linked stays when its object is deleted or replaced. Who writes into it changes its ETag.
        """
        linked = await self._threaded(key, self._link, key, path)
        if linked is None:
            return await super().download(key, path)
        self.requests.add("GET")
        return linked

    def _link(self, key: str, path: Path) -> ObjectInfo | None:
        """Give the object's file another name; None if that cannot be done."""
        self._check_key(key)
        try:
            os.link(self._root / key, path)
        except OSError:  # another disk, another owner, a file system without links, or no such file
            return None
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):  # a link of a link
            path.unlink()
            return None
        return ObjectInfo(key, found.st_size, _etag_of(found), linked=True)

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
        lock = self._lock_of(key)
        while True:
            gone = await self._threaded(key, self._delete_if_free, key, etag, lock)
            if gone is not None:
                return gone
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _delete_if_free(self, key: str, etag: str, lock: Path) -> bool | None:
        """`delete_unchanged`; None if another one has the lock."""
        held = _try_lock(lock)
        if held is None:
            return None
        try:
            self.requests.add("HEAD")
            if (obstore.head(self._engine, key)["e_tag"] or "").strip('"') != etag:
                return False
            self.requests.add("DELETE")
            obstore.delete(self._engine, key)
        except FileNotFoundError:
            pass
        finally:
            os.close(held)
        return True

    async def _bulk_delete(self) -> Callable[[Sequence[tuple[str, str]]], Awaitable[Collection[str]]]:
        return self._delete_together

    async def _delete_together(self, versions: Sequence[tuple[str, str]]) -> list[str]:
        """All in one thread, each looked at and unlinked under its lock: a hand-over costs more than the deletion."""
        return await self._threaded(versions[0][0], self._delete_those_free, versions)

    def _delete_those_free(self, versions: Sequence[tuple[str, str]]) -> list[str]:
        gone: list[str] = []
        for key, etag in versions:
            with suppress(Exception):  # it is tried again by itself, which says why it cannot be
                if self._delete_if_free(key, etag, self._lock_of(key)):
                    gone.append(key)
        return gone

    async def _capabilities(self) -> Capabilities:
        # By locks, which only we take: whoever writes without them is looked for right before a file is unlinked.
        return Capabilities(
            create_if_absent=True, replace_if_match=True, delete_if_match=False, bulk_delete=False, part_etags=True
        )

    @asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[None]:
        """Keep out all others, of this machine, who write or delete this object on condition, or publish it."""
        lock = self._lock_of(key)
        while True:
            with self._errors(key):
                held = _try_lock(lock)
            if held is not None:
                break
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        try:
            yield
        finally:
            os.close(held)

    def _lock_of(self, key: str) -> Path:
        return self._root / LOCK_DIRECTORY / f"{zlib.crc32(key.encode()) % _LOCKS:02d}.lock"

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

    def check_place(self, key: str) -> None:
        """`Store.check_place`: within one disk, a file is moved in one step, and on to another it is not."""
        with self._errors(key):
            if _disk_of((self._root / key).parent) != _disk_of(self._root / STAGED_DIRECTORY):
                raise self._on_another_disk(key)

    def _on_another_disk(self, key: str) -> StoreError:
        return StoreError(
            self.name(key),
            "its directory lies on another disk than the lake's, so that nothing can be put there in one step",
            f"Let the lake be one disk, or set the URL to a directory of that disk: {self.url} is on another",
        )

    async def _resemble(self, key: str, upload_id: str, like: Sequence[str]) -> None:
        if like:
            paths = [self._root / one for one in like]
            await self._threaded(key, self._area.resemble, key, upload_id, paths)

    def _abort(self, key: str, upload_id: str) -> None:
        self._area.discard(key, upload_id)

    async def _publish(self, staged: Staged) -> ObjectInfo | None:
        self.requests.add("PUT")
        async with self._locked(staged.key):
            try:
                if not await self._threaded(staged.key, self._area.publish, staged.key, staged.upload_id):
                    return None
            except ScratchUnusable as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EXDEV:
                    raise self._on_another_disk(staged.key) from error
                raise
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

    @property
    def levels_above(self) -> int:
        """`Store.levels_above`, up to the root of the file system."""
        return len(self._root.resolve().parents)

    def _find_above(self, level: int, directory: str) -> tuple[str, list[str]]:
        path = self._root.resolve().parents[level - 1] / directory
        try:
            with os.scandir(path) as entries:
                return str(path), [entry.name for entry in itertools.islice(entries, _MOST_NAMES)]
        except (FileNotFoundError, NotADirectoryError):
            return str(path), []


def _etag_of(found: os.stat_result) -> str:
    """The ETag of a file, as the engine makes it: of inode, time and size."""
    return f"{found.st_ino:x}-{max(0, found.st_mtime_ns // 1000):x}-{found.st_size:x}"


def check_downloaded(where: str, path: Path, got: ObjectInfo) -> None:
    """See that a file is what `Store.download` brought, copied or linked.

    Args:
        where: the object, for messages.
        path: the file.
        got: what the download said of it.

    Raises:
        ObjectChanged: somebody wrote into the object itself, which was linked.
        ScratchUnusable: the copy was damaged since; or it cannot be looked at.
    """
    if not got.linked:
        check_content(where, path, got.checksum)
        return
    try:
        found = path.lstat()
    except OSError as error:
        raise ScratchUnusable(where, f"a local file cannot be used ({error})") from error
    if _etag_of(found) != got.etag:
        raise ObjectChanged(where, "was written to while it was read", "Run again")


def _try_lock(path: Path) -> int | None:
    """Lock a file without waiting. Returns the descriptor that holds it until it is closed; None if another does.

    It ends with the process, too, however that ends. Raises OSErrors.
    """
    held = _open_lock(path)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(held)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return held


def _open_lock(path: Path) -> int:
    # Reading suffices for a lock, so users who share a lake need not be able to write each other's files.
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        return os.open(path, flags, 0o666)


def _remove_half_put(target: Path) -> None:
    for number in itertools.count(1):
        path = target.with_name(f"{target.name}#{number}")
        if path.is_symlink() or not path.is_file():
            return
        path.unlink(missing_ok=True)


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

    def resemble(self, key: str, upload_id: str, paths: Sequence[Path]) -> None:
        """Give the file the permissions that all of these have, and their group: nobody else's mask decides."""
        found = [path.stat() for path in paths if path.exists()]
        if not found:
            return
        target = self._path(key, upload_id)
        groups = {one.st_gid for one in found}
        if len(groups) == 1 and groups != {target.stat().st_gid}:
            with suppress(PermissionError):  # we are not of that group
                os.chown(target, -1, groups.pop())
        mode = reduce(and_, (one.st_mode for one in found))
        target.chmod(stat.S_IMODE(mode) & _READ_AND_WRITE | stat.S_IRUSR | stat.S_IWUSR)

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


def _disk_of(path: Path) -> int:
    """The disk that a file lies on, or would; links are followed."""
    while not path.exists():
        path = path.parent
    return path.stat().st_dev


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
