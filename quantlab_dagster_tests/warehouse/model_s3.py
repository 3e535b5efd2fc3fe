"""A model of an S3 server in memory, behind the interface of a store: for lakes of years, and for simulations.

`Behaviour` decides on each request: it may wait, be the last of a compactor's life, or lose its answer.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from quantlab_dagster.errors import Conflict, ObjectNotFound
from quantlab_dagster.lake.store.capabilities import Capabilities
from quantlab_dagster.lake.store.deleting import delete_all
from quantlab_dagster.lake.store.objects import Names, ObjectInfo, Range, Requests, Staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store

__all__ = ["Behaviour", "Bucket", "ModelStore"]

_PAGE = 1000


@dataclass(slots=True)
class Bucket:
    """What is stored. Several stores, one for each compactor, share it.

    Attributes:
        swaps: whether a compare-and-swap compares.
        bulk_compares: whether a request that deletes several objects compares their ETags.
    """

    swaps: bool = True
    bulk_compares: bool = True
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    uploads: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def write(self, key: str, content: bytes) -> str:
        """Write an object. Returns its ETag, which no other ever has."""
        if key not in self.objects:
            bisect.insort(self.keys, key)
        etag = f"etag-{next(self.numbers)}"
        self.objects[key] = (content, etag)
        return etag

    def remove(self, key: str) -> None:
        """Delete an object."""
        if self.objects.pop(key, None) is not None:
            self.keys.pop(bisect.bisect_left(self.keys, key))

    def info(self, key: str) -> ObjectInfo:
        """What a listing says of an object."""
        content, etag = self.objects[key]
        return ObjectInfo(key, len(content), etag)


class Behaviour(Protocol):
    """What happens to the requests of one compactor."""

    async def before(self, what: str) -> None:
        """May wait, or raise: then nothing is done."""

    async def after(self, what: str) -> None:
        """May wait, or raise: then the request was done, and its answer is lost."""

    async def between(self) -> bool:
        """May wait, within a request on several objects; whether the server fails on the next one, and says so."""


class _Calm:
    async def before(self, what: str) -> None:
        pass

    async def after(self, what: str) -> None:
        pass

    async def between(self) -> bool:
        return False


class ModelStore:
    """A store as one compactor sees it."""

    url = address = "s3://model"

    def __init__(self, bucket: Bucket, behaviour: Behaviour | None = None) -> None:
        self.bucket = bucket
        self.requests = Requests()
        self._behaviour: Behaviour = behaviour or _Calm()

    @property
    def store(self) -> Store:
        """This, as what it stands for."""
        return cast("Store", self)

    def name(self, key: str) -> str:
        return f"{self.url}/{key}"

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            create_if_absent=True, replace_if_match=True, delete_if_match=True, bulk_delete=True, part_etags=True
        )

    async def pages(self, prefix: str, keys: Range) -> AsyncIterator[list[ObjectInfo]]:
        after = keys.after
        while True:
            await self._behaviour.before("LIST")
            self.requests.add("LIST")
            all_keys = self.bucket.keys
            at = max(bisect.bisect_left(all_keys, prefix), bisect.bisect_right(all_keys, after))
            page = [key for key in all_keys[at : at + _PAGE] if key.startswith(prefix)]
            found = [self.bucket.info(key) for key in page if not keys.ends_before(key)]
            await self._behaviour.after("LIST")
            yield found
            if len(page) < _PAGE or len(found) < len(page):
                return
            after = page[-1]

    async def list_objects(self, prefix: str) -> list[ObjectInfo]:
        return [info async for page in self.pages(prefix, Range()) for info in page]

    async def peek(self, prefix: str) -> list[ObjectInfo]:
        async for page in self.pages(prefix, Range()):
            return page
        return []

    levels_above = 0

    async def list_names(self, prefix: str) -> Names:
        await self._behaviour.before("LIST")
        self.requests.add("LIST")
        directories: list[str] = []
        files: list[str] = []
        at = bisect.bisect_left(self.bucket.keys, prefix)
        while at < len(self.bucket.keys) and self.bucket.keys[at].startswith(prefix):
            name, slash, _ = self.bucket.keys[at].removeprefix(prefix).partition("/")
            (directories if slash else files).append(name)
            at = bisect.bisect_left(self.bucket.keys, f"{prefix}{name}0") if slash else at + 1
        await self._behaviour.after("LIST")
        return Names(tuple(directories), files=tuple(files))

    async def get(self, key: str) -> tuple[bytes, ObjectInfo]:
        await self._behaviour.before("GET")
        self.requests.add("GET")
        if key not in self.bucket.objects:
            raise ObjectNotFound(self.name(key), "does not exist")
        content, info = self.bucket.objects[key][0], self.bucket.info(key)
        await self._behaviour.after("GET")
        return content, info

    async def get_together(self, keys: Sequence[str]) -> list[tuple[bytes, ObjectInfo]]:
        return [await self.get(key) for key in keys]

    async def get_if_exists(self, key: str) -> tuple[bytes, ObjectInfo] | None:
        try:
            return await self.get(key)
        except ObjectNotFound:
            return None

    async def sha256(self, key: str) -> str:
        return hashlib.sha256((await self.get(key))[0]).hexdigest()

    async def head(self, key: str) -> ObjectInfo | None:
        await self._behaviour.before("HEAD")
        self.requests.add("HEAD")
        info = self.bucket.info(key) if key in self.bucket.objects else None
        await self._behaviour.after("HEAD")
        return info

    async def compare_and_swap(self, key: str, content: bytes, expected_etag: str | None) -> str:
        await self._behaviour.before("PUT")
        self.requests.add("PUT")
        current = self.bucket.objects.get(key)
        if self.bucket.swaps and (current[1] if current else None) != expected_etag:
            raise Conflict(self.name(key), "was changed by another writer", "Run again")
        etag = self.bucket.write(key, content)
        await self._behaviour.after("PUT")
        return etag

    async def delete_unchanged(self, key: str, etag: str) -> bool:
        await self._behaviour.before("DELETE")
        self.requests.add("DELETE")
        current = self.bucket.objects.get(key)
        if current and current[1] == etag:
            self.bucket.remove(key)
        await self._behaviour.after("DELETE")
        return not current or current[1] == etag

    async def delete_all_unchanged(self, versions: Sequence[tuple[str, str]]) -> list[bool]:
        return await delete_all(versions, self.delete_unchanged, self._delete_together)

    async def _delete_together(self, versions: Sequence[tuple[str, str]]) -> set[str]:
        """One request; the server deletes one object after the other, and others may come between."""
        await self._behaviour.before("DELETE")
        self.requests.add("DELETE")
        deleted: set[str] = set()
        for key, etag in versions:
            if await self._behaviour.between():
                continue
            current = self.bucket.objects.get(key)
            if current and (current[1] == etag or not self.bucket.bulk_compares):
                self.bucket.remove(key)
                deleted.add(key)
        await self._behaviour.after("DELETE")
        return deleted

    def check_place(self, _key: str) -> None:
        """Every place is good."""

    async def stage(self, key: str, path: Path, *, sha256: str | None = None, like: Sequence[str] = ()) -> Staged:  # noqa: ARG002
        await self._behaviour.before("PUT")
        self.requests.add("PUT", 2)
        content, upload_id = path.read_bytes(), f"upload-{next(self.bucket.numbers)}"
        assert sha256 in (None, hashlib.sha256(content).hexdigest())
        self.bucket.uploads[upload_id] = (key, content)
        await self._behaviour.after("PUT")
        return Staged(key, upload_id, (), len(content))

    async def publish(self, staged: Staged) -> ObjectInfo | None:
        await self._behaviour.before("PUT")
        self.requests.add("PUT")
        found = self.bucket.uploads.pop(staged.upload_id, None)
        if found is None:
            return None
        self.bucket.write(*found)
        info = self.bucket.info(found[0])
        await self._behaviour.after("PUT")
        return info

    async def discard(self, staged: Staged) -> bool:
        await self._behaviour.before("DELETE")
        self.requests.add("DELETE")
        gone = self.bucket.uploads.pop(staged.upload_id, None) is not None
        await self._behaviour.after("DELETE")
        return gone

    async def staged_below(self, prefix: str) -> list[Staged]:
        await self._behaviour.before("LIST")
        self.requests.add("LIST")
        found = [
            Staged(key, number, (), 0) for number, (key, _) in self.bucket.uploads.items() if key.startswith(prefix)
        ]
        await self._behaviour.after("LIST")
        return found
