"""Deleting many objects on condition, each of its own ETag: together where the server can, else one by one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.objects import first_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

__all__ = ["delete_all"]

S = TypeVar("S")
T = TypeVar("T")


async def delete_all(
    versions: Sequence[tuple[str, str]],
    one: Callable[[str, str], Awaitable[bool]],
    together: Callable[[Sequence[tuple[str, str]]], Awaitable[Collection[str]]] | None,
) -> list[bool]:
    """Delete objects that still have the ETags given.

    Only what an answer says was deleted counts as deleted. About all else the server is asked one by one: it may be
    another content now, have gone before, or the server could not; and an answer may have been lost.

    Args:
        versions: keys and ETags; no key twice.
        one: deletes one, given its key and ETag; False if there is something else.
        together: sends one request for several, and returns the keys that it is said to have deleted; None if the
            server cannot.

    Returns:
        For each whether it is gone now, by whomever; else there is something else, which is left alone.
    """
    gone: set[str] = set()
    if together is not None and len(versions) > 1:
        chunks = [versions[at : at + limits.BULK_DELETES] for at in range(0, len(versions), limits.BULK_DELETES)]
        for deleted in await _at_once(limits.BULKS_AT_ONCE, chunks, together):
            gone.update(deleted)

    async def delete(version: tuple[str, str]) -> bool:
        key, etag = version
        return key in gone or await one(key, etag)

    return await _at_once(limits.DELETES_AT_ONCE, versions, delete)


async def _at_once(most: int, items: Sequence[S], work: Callable[[S], Awaitable[T]]) -> list[T]:
    """Work on all, so many at a time. Results in order. The first failure ends it."""
    gate = asyncio.Semaphore(most)

    async def gated(item: S) -> T:
        async with gate:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gated(item)) for item in items]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return [task.result() for task in tasks]
