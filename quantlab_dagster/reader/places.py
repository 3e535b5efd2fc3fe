"""Where a lake is, for reading only: a directory or a bucket. Nothing here can write.

A version of an object is pinned before it is read: on a local directory by an open descriptor, which keeps the file
that it was opened with; on S3 by the ETag that every answer carries.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from quantlab_dagster.errors import ObjectChanged, ObjectNotFound, SettingsError, StoreUnavailable, masked
from quantlab_dagster.lake.store.objects import ObjectInfo, S3Options
from quantlab_dagster.reader.sums import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import S3Store

__all__ = ["LocalPlace", "Pinned", "Place", "S3Place", "open_place"]

T = TypeVar("T")

_REPEATS = 3
_PIECE_BYTES = 8 << 20
_PIECES_AT_ONCE = 6
_DEFAULT_REGION = "us-east-1"
_RETRIES = 4


class Pinned(ABC):
    """One version of an object.

    Attributes:
        info: which.
    """

    info: ObjectInfo

    @abstractmethod
    def whole(self) -> IO[bytes]:
        """All of it, as a file of this machine; opened once, and closed with this object. For any thread.

        Raises:
            ObjectChanged: another version is there now.
            StoreError: it cannot be read.
        """

    @abstractmethod
    def piece(self, start: int, stop: int) -> bytes:
        """The bytes of a range; same errors."""

    @abstractmethod
    def sha256(self) -> str:
        """Of its content, hexadecimal; same errors."""

    @abstractmethod
    def close(self) -> None:
        """Let it go."""


class Place(ABC):
    """A lake's place.

    Attributes:
        url: as given.
        is_remote: whether a request takes long, and so several are made at once.
    """

    url: str
    is_remote: bool

    def name(self, key: str) -> str:
        """The full name of an object, for people."""
        return masked(f"{self.url.rstrip('/')}/{key}")

    @abstractmethod
    def directories(self, prefix: str) -> tuple[str, ...]:
        """The names of the directories just below a prefix that ends in a slash or is empty, sorted.

        Raises:
            StoreError: the listing failed.
        """

    @abstractmethod
    def within(self, prefix: str, first: str, last: str) -> dict[str, list[ObjectInfo]]:
        """The objects in those directories just below a prefix whose names lie between two, these included.

        Raises:
            StoreError: the listing failed.
        """

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """A small object; None if there is none.

        Raises:
            StoreError: it cannot be read.
        """

    @abstractmethod
    def pin(self, info: ObjectInfo) -> Pinned:
        """This version of an object.

        Raises:
            ObjectChanged: another version is there now, or none.
            StoreError: it cannot be read.
        """


def open_place(url: str) -> Place:
    """The place of a URL: `s3://bucket/prefix`, `file:///directory` or a path.

    Raises:
        SettingsError: the URL or its credentials cannot be used, or there is no such directory.
    """
    if masked(url) != url:
        raise SettingsError(url, "holds credentials, which have no place in a URL", "Configure them beside it (AWS_…)")
    if url.startswith("s3://"):
        return S3Place(url, _s3_options(url))
    parts = urlsplit(url)
    is_file = url.startswith("file://") and parts.netloc in ("", "localhost")
    if not url or ("://" in url and not is_file):
        raise SettingsError(url, "is no URL of a lake", "Use s3://bucket/prefix, file:///directory or a path")
    directory = Path(unquote(parts.path) if is_file else url).absolute()
    if not directory.is_dir():
        raise SettingsError(url, "there is no such directory", "Check the path of the compact lake")
    return LocalPlace(url, directory)


def _s3_options(url: str) -> S3Options:
    # Imported here: local lakes do without.
    from quantlab_dagster.lake.store.session import open_session  # noqa: PLC0415
    from quantlab_dagster.settings import load_aws  # noqa: PLC0415

    aws = load_aws("compact")
    secrets = (aws.access_key_id, aws.secret_access_key, aws.session_token)
    key, secret, token = (value.get_secret_value() if value else None for value in secrets)
    region = aws.region or aws.default_region
    session = open_session(url, (key, secret, token), profile=aws.profile, region=region, remedy=_REMEDY)
    endpoint = aws.s3_endpoint_url or aws.endpoint_url
    region = region or session.region_name or _DEFAULT_REGION
    return S3Options(session, region, endpoint, ca_bundle=aws.ca_bundle or "", retries=_RETRIES)


# ---- a directory ----------------------------------------------------------------------------------------------------


class LocalPlace(Place):
    """A directory of this machine.

    Args:
        url: as given.
        directory: where it is.
    """

    is_remote = False

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self._directory = directory

    def directories(self, prefix: str) -> tuple[str, ...]:
        """See `Place`."""
        try:
            with os.scandir(self._directory / prefix) as found:
                return tuple(sorted((entry.name for entry in found if entry.is_dir()), key=os.fsencode))
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def within(self, prefix: str, first: str, last: str) -> dict[str, list[ObjectInfo]]:
        """See `Place`."""
        names = [name for name in self.directories(prefix) if first <= name <= last]
        return {name: self._objects(f"{prefix}{name}/") for name in names}

    def _objects(self, prefix: str) -> list[ObjectInfo]:
        try:
            with os.scandir(self._directory / prefix) as entries:
                names = [entry.name for entry in entries if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for name in names:
            with suppress(FileNotFoundError):  # gone since: what a publication puts under its own name at the end
                found.append(_local_info(f"{prefix}{name}", (self._directory / prefix / name).stat()))
        return found

    def get(self, key: str) -> bytes | None:
        """See `Place`."""
        try:
            return (self._directory / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def pin(self, info: ObjectInfo) -> Pinned:
        """See `Place`."""
        try:
            file = (self._directory / info.key).open("rb")
        except FileNotFoundError:
            raise _changed(self, info) from None
        if _local_info(info.key, os.fstat(file.fileno())) != info:
            file.close()
            raise _changed(self, info)
        return _PinnedFile(info, file)


class _PinnedFile(Pinned):
    def __init__(self, info: ObjectInfo, file: IO[bytes]) -> None:
        self.info = info
        self._file = file

    def whole(self) -> IO[bytes]:
        self._file.seek(0)
        return self._file

    def piece(self, start: int, stop: int) -> bytes:
        return os.pread(self._file.fileno(), stop - start, start)

    def sha256(self) -> str:
        return sha256_of(self.whole())

    def close(self) -> None:
        self._file.close()


def _local_info(key: str, found: os.stat_result) -> ObjectInfo:
    """A file as the lake's writers list it: with the same ETag of inode, time in microseconds and size."""
    etag = f"{found.st_ino:x}-{max(0, found.st_mtime_ns // 1000):x}-{found.st_size:x}"
    return ObjectInfo(key, found.st_size, etag)


def _changed(place: Place, info: ObjectInfo) -> ObjectChanged:
    cause = "was replaced or removed since it was looked at"
    return ObjectChanged(place.name(info.key), cause, "Read again: the day is looked at anew")


# ---- a bucket -------------------------------------------------------------------------------------------------------


class S3Place(Place):
    """A bucket, or a prefix of one.

    Args:
        url: as given.
        options: how to reach it.

    Raises:
        SettingsError: the URL, the region or the endpoint cannot be used.
    """

    is_remote = True

    def __init__(self, url: str, options: S3Options) -> None:
        from quantlab_dagster.lake.store.engine import s3_engine  # noqa: PLC0415  # local lakes do without

        self.url = url
        self._engine: S3Store = s3_engine(url, options).engine

    def directories(self, prefix: str) -> tuple[str, ...]:
        """See `Place`."""
        from obstore import list_with_delimiter  # noqa: PLC0415

        found = self._asked(prefix, lambda: list_with_delimiter(self._engine, prefix or None))
        return tuple(sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]))

    def within(self, prefix: str, first: str, last: str) -> dict[str, list[ObjectInfo]]:
        """See `Place`."""
        from obstore import list as list_objects  # noqa: PLC0415

        def listing() -> dict[str, list[ObjectInfo]]:
            found: dict[str, list[ObjectInfo]] = {}
            # A little before the first one: SeaweedFS leaves out a directory of which the offset is the name.
            for page in list_objects(self._engine, prefix, offset=f"{prefix}{first[:-1]}."):
                for meta in page:
                    name, _, rest = meta["path"].removeprefix(prefix).partition("/")
                    if rest and "/" not in rest and first <= name <= last:
                        info = ObjectInfo(meta["path"], meta["size"], (meta["e_tag"] or "").strip('"'))
                        found.setdefault(name, []).append(info)
                if page and page[-1]["path"] > f"{prefix}{last}0":  # a slash comes just before a 0
                    break
            return found

        return self._asked(prefix, listing)

    def get(self, key: str) -> bytes | None:
        """See `Place`."""
        from obstore import get  # noqa: PLC0415

        try:
            return self._asked(key, lambda: bytes(get(self._engine, key).bytes()))
        except ObjectNotFound:
            return None

    def pin(self, info: ObjectInfo) -> Pinned:
        """See `Place`."""
        return _PinnedVersion(self, info)

    def piece(self, info: ObjectInfo, start: int, stop: int) -> bytes:
        """The bytes of a range of one version of an object.

        Raises:
            ObjectChanged: another version is there now, or none.
            StoreError: it cannot be read.
        """
        from obstore import get  # noqa: PLC0415

        def once() -> tuple[bytes, str]:
            answer = get(self._engine, info.key, options={"range": (start, stop)})
            return bytes(answer.bytes()), (answer.meta["e_tag"] or "").strip('"')

        try:
            content, etag = self._asked(info.key, once)
        except ObjectNotFound:
            raise _changed(self, info) from None
        if etag != info.etag or len(content) != stop - start:
            raise _changed(self, info)
        return content

    def _asked(self, key: str, ask: Callable[[], T]) -> T:
        """What a request brings; made again if its answer broke off, which the engine does not do by itself."""
        from quantlab_dagster.lake.store.faults import DomainErrors, broke_off  # noqa: PLC0415

        for attempt in range(_REPEATS):
            try:
                with DomainErrors(self.name(key)):
                    return ask()
            except StoreUnavailable as error:
                if attempt + 1 == _REPEATS or not broke_off(error):
                    raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


_REMEDY = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"


@dataclass(slots=True)
class _PinnedVersion(Pinned):
    place: S3Place
    info: ObjectInfo
    _file: IO[bytes] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def whole(self) -> IO[bytes]:
        with self._lock:  # several threads decode, and one fetches
            if self._file is None:
                self._file = self._downloaded()
            self._file.seek(0)
            return self._file

    def _downloaded(self) -> IO[bytes]:
        """Into a file without a name, in pieces side by side; memory stays flat."""
        size = self.info.size_bytes
        file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object

        def fetch(start: int) -> None:
            piece = self.piece(start, min(start + _PIECE_BYTES, size))
            written = 0
            while written < len(piece):
                written += os.pwrite(file.fileno(), piece[written:], start + written)

        try:
            with ThreadPoolExecutor(_PIECES_AT_ONCE) as pool:
                for _ in pool.map(fetch, range(0, size, _PIECE_BYTES)):
                    pass
        except BaseException:
            file.close()
            raise
        return file

    def piece(self, start: int, stop: int) -> bytes:
        return self.place.piece(self.info, start, stop)

    def sha256(self) -> str:
        return sha256_of(self.whole())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
