"""Fetching parts: one GET each, many at a time, in key order, checked against the listing, surveyed as they arrive."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.errors import BadPart, ObjectChanged, ObjectNotFound, StoreUnavailable
from quantlab_dagster.kernel.parts import Part
from quantlab_dagster.kernel.survey import Survey, Surveyor
from quantlab_dagster.lake.store.objects import first_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.survey import Order
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.work.stopping import Worker

__all__ = ["ChecksumVerifier", "fetch_parts", "fetch_survey"]

_MD5 = re.compile(r"[0-9a-f]{32}")
_PARTS_PER_BATCH = 128


@dataclass(slots=True)
class ChecksumVerifier:
    """Checks contents against ETags where these are MD5 sums.

    Nothing in a listing says whether they are: under SSE-KMS they look alike but are not. So a mismatch counts only
    where another object's ETag was its MD5 sum.
    """

    matched: int = 0
    mismatched: list[str] = field(default_factory=list)

    def check(self, part: Part, info: ObjectInfo) -> None:
        """Compare one content (CPU-bound; releases the GIL)."""
        if not _MD5.fullmatch(info.etag):
            return
        if _md5(part.source) == info.etag:
            self.matched += 1
        else:
            self.mismatched.append(info.key)

    def finish(self, store: Store) -> None:
        """Raise if a content was damaged on its way.

        Raises:
            StoreUnavailable: a content differs from what the store holds; fetching it again may help.
        """
        if self.matched and self.mismatched:
            raise StoreUnavailable(
                store.name(self.mismatched[0]),
                f"{len(self.mismatched)} downloaded parts do not have the MD5 sum that their ETags give",
                "Run again; if it stays, the objects are damaged in the store",
            )


def _md5(source: bytes | Path) -> str:
    if isinstance(source, bytes):
        return hashlib.md5(source, usedforsecurity=False).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


async def fetch_survey(
    store: Store,
    listed: Sequence[ObjectInfo],
    order: Order,
    *,
    memory_budget: int,
    gate: asyncio.Semaphore,
    worker: Worker,
    spool: Path | None,
    progress: Callable[[int], None] = lambda _: None,
) -> Survey:
    """Fetch parts of one directory, and survey them while later ones are still on their way.

    Args:
        store: where they are.
        listed: the parts, in key order.
        order: the order of the merge to come.
        memory_budget: bytes; the survey's sample shrinks with it.
        gate: bounds the requests in flight.
        worker: runs the survey.
        spool: directory to write the contents to; None keeps them in memory.
        progress: told how many parts have arrived.

    Raises:
        BadPart: a part cannot be merged with the others.
        ObjectChanged: a part is not what was listed, or gone. List again.
        StoreError: any other failure.
    """
    surveyor = Surveyor(order, stride=min(1024, max(1, memory_budget >> 20)))
    verifier = ChecksumVerifier()
    by_name = {info.name: info for info in listed}
    arrived = 0

    def look_at(parts: list[Part]) -> None:
        for part in parts:
            verifier.check(part, by_name[part.key])
        surveyor.add(parts)

    async def consume(parts: list[Part]) -> None:
        nonlocal arrived
        await worker.run(lambda: look_at(parts))
        arrived += len(parts)
        progress(arrived)

    try:
        await fetch_parts(store, listed, consume, gate=gate, spool=spool)
        survey = await worker.run(surveyor.finish)
    except BadPart:
        # Damage on the way is no bad part: it takes precedence over what it led to.
        verifier.finish(store)
        raise
    verifier.finish(store)
    return survey


async def fetch_parts(
    store: Store,
    listed: Sequence[ObjectInfo],
    consume: Callable[[list[Part]], Awaitable[None]],
    *,
    gate: asyncio.Semaphore,
    spool: Path | None,
) -> None:
    """Fetch parts, running ahead of the consumer, which gets them in batches, in the order listed.

    Args:
        store: the raw lake.
        listed: the parts.
        consume: called with one batch after another.
        gate: bounds the requests in flight.
        spool: directory to write the contents to; None keeps them in memory.

    Raises:
        ObjectChanged: a part is not what was listed, or gone. List again.
        StoreError: any other failure; no part is ever left out.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = deque(
                group.create_task(_fetch(store, info, gate, spool / f"{index:08d}.parquet" if spool else None))
                for index, info in enumerate(listed)
            )
            while tasks:
                batch = [tasks.popleft() for _ in range(min(_PARTS_PER_BATCH, len(tasks)))]
                await consume([await task for task in batch])
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors


async def _fetch(store: Store, info: ObjectInfo, gate: asyncio.Semaphore, path: Path | None) -> Part:
    async with gate:
        try:
            if path is None:
                content, got = await store.get(info.key)
                source: bytes | Path = content
                size_bytes = len(content)
            else:
                got = await store.download(info.key, path)
                source, size_bytes = path, path.stat().st_size
        except ObjectNotFound as error:
            raise ObjectChanged(store.name(info.key), "was deleted after it was listed", "Run again") from error
    if (got.etag, size_bytes) != (info.etag, info.size_bytes):
        raise ObjectChanged(store.name(info.key), "was replaced after it was listed", "Run again")
    return Part(info.name, source, size_bytes)
