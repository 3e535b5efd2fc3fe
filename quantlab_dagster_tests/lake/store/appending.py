"""Appending to one object from many processes at once."""

from __future__ import annotations

import os
from asyncio import run
from typing import TYPE_CHECKING

from quantlab_dagster.errors import Conflict

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from quantlab_dagster_tests.conftest import Rig

PROCESSES = 4


INCREMENTS = 25


_barrier: Barrier | None = None


def init_worker(barrier: Barrier) -> None:
    """Give a process of the pool the barrier."""
    global _barrier  # noqa: PLW0603  # a barrier reaches a process of a pool in no other way
    _barrier = barrier


def append_tokens(rig: Rig, url: str, name: str) -> tuple[int, int]:
    """Append to a list in an object, one token after another. Returns the process and its number of conflicts."""
    assert _barrier is not None
    store = rig.store(url)
    _barrier.wait(60)  # now each is in a process of its own

    async def append() -> int:
        conflicts = 0
        for number in range(INCREMENTS):
            while True:
                current = await store.get_if_exists("m/list")
                content, etag = (current[0], current[1].etag) if current else (b"", None)
                try:
                    await store.compare_and_swap("m/list", content + f"{name}.{number}\n".encode(), etag)
                    break
                except Conflict:
                    conflicts += 1
        return conflicts

    return os.getpid(), run(append())
