"""Objects put into a lake for tests of its map."""

from __future__ import annotations

import asyncio
from asyncio import run
from typing import TYPE_CHECKING

from quantlab_dagster.lake.store.objects import Requests

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.lake.store.base import Store


def put_all(store: Store, keys: Iterable[str]) -> None:
    async def put() -> None:
        gate = asyncio.Semaphore(32)

        async def one(key: str) -> None:
            async with gate:
                await store.put(key, key.encode())

        await asyncio.gather(*(one(key) for key in keys))

    run(put())
    store.requests = Requests()
