"""Uploading a file while it is being built: it becomes visible when it is whole and audited, or not at all."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from quantlab_dagster.lake.store.transfers import Growing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store

__all__ = ["Upload", "uploading"]

logger = logging.getLogger(__name__)

_GIVE_UP_SECONDS = 5.0


class Upload:
    """The upload of one file. Made by `uploading`.

    Args:
        store: where it goes.
        key: of the object.
        path: the file.
        early: what sends it while it grows; None where it is sent when it is whole.
    """

    def __init__(self, store: Store, key: str, path: Path, early: tuple[Growing, asyncio.Task[str]] | None) -> None:
        self._store = store
        self._key = key
        self._path = path
        self._early = early

    async def finish(self, sha256: str) -> str:
        """Make the object visible. Returns its ETag, and raises what `Store.put` does.

        Args:
            sha256: of the file as it was audited, hexadecimal.
        """
        if self._early is not None:
            growing, task = self._early
            growing.release(sha256)
            try:
                return await task
            except Exception as error:  # noqa: BLE001 - whatever went wrong meanwhile, the file is whole now
                logger.warning("%s is sent again, now that it is whole: %s", self._store.name(self._key), error)
        return await self._store.put(self._key, self._path, sha256=sha256)


@asynccontextmanager
async def uploading(store: Store, key: str, path: Path, *, early: bool) -> AsyncIterator[Upload]:
    """Upload a file that is built within: whoever leaves without `Upload.finish` leaves the object as it was.

    Args:
        store: where it goes.
        key: of the object.
        path: the file; bytes that were written to it stay as they are.
        early: whether it is sent while it grows, as far as it is large enough to be sent in parts.
    """
    if not early:
        yield Upload(store, key, path, None)
        return
    growing = Growing(path)
    task = asyncio.create_task(store.put(key, growing))
    try:
        yield Upload(store, key, path, (growing, task))
    finally:
        growing.give_up()
        # The engine then takes back what it has sent; where the server does not answer, its own rules must.
        await asyncio.wait({task}, timeout=_GIVE_UP_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
