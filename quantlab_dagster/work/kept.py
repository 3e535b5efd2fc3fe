"""What was fetched once is kept, as long as somebody may merge it otherwise: nothing is fetched twice."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantlab_dagster.lake.store.transfers import file_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = ["Kept"]

_MOST_IN_MEMORY = 4 << 20


@dataclass(frozen=True, slots=True)
class _Copy:
    info: ObjectInfo
    content: bytes | Path

    def read(self) -> tuple[bytes, ObjectInfo]:
        """The content, and what the store said of it."""
        return (self.content if isinstance(self.content, bytes) else self.content.read_bytes()), self.info


class Kept:
    """A `fetch.Source` that reads like a store, and keeps what it read: a few MiB in memory, the rest in files.

    Args:
        store: the real one.
        directory: for the files; the caller removes it.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._copies: dict[str, _Copy] = {}
        self._in_memory = 0

    @property
    def url(self) -> str:
        """The store's."""
        return self._store.url

    def name(self, key: str) -> str:
        """The full name of an object, for messages."""
        return self._store.name(key)

    @property
    def at_once(self) -> int:
        """The store's."""
        return self._store.at_once

    async def get_together(self, keys: Sequence[str]) -> list[tuple[bytes, ObjectInfo]]:
        """As the store does, once."""
        missing = [key for key in keys if key not in self._copies]
        if missing:
            for key, (content, info) in zip(missing, await self._store.get_together(missing), strict=True):
                self._keep(key, content, info)
        found = [self._copies[key] for key in keys]
        return [
            (one.content if isinstance(one.content, bytes) else one.content.read_bytes(), one.info) for one in found
        ]

    def _keep(self, key: str, content: bytes, info: ObjectInfo) -> None:
        if self._in_memory + len(content) <= _MOST_IN_MEMORY:
            self._in_memory += len(content)
            self._copies[key] = _Copy(info, content)
        else:
            path = self._new_path()
            path.write_bytes(content)
            self._copies[key] = _Copy(info, path)

    async def download(self, key: str, path: Path) -> ObjectInfo:
        """As the store does, once."""
        copy = self._copies.get(key)
        if copy is None:
            info = await self._store.download(key, path)
            kept = self._new_path()
            os.link(path, kept)
            self._copies[key] = _Copy(info, kept)
            return info
        if isinstance(copy.content, bytes):
            path.write_bytes(copy.content)
        else:
            os.link(copy.content, path)
        if copy.info.checksum is not None or copy.info.linked:
            return copy.info
        # Whoever fetches into a file wants its sum, to see later whether the file is still what came.
        return replace(copy.info, checksum=file_checksum(path))

    def forget(self, keys: Iterable[str] | None = None) -> None:
        """Forget what is not needed any more; everything if nothing is named."""
        for key in list(self._copies) if keys is None else keys:
            copy = self._copies.pop(key, None)
            if copy is None:
                continue
            if isinstance(copy.content, bytes):
                self._in_memory -= len(copy.content)
            else:
                copy.content.unlink(missing_ok=True)

    def _new_path(self) -> Path:
        self._directory.mkdir(exist_ok=True)
        return self._directory / uuid.uuid4().hex
