"""Fetching parts: one GET each, many at a time, in key order, checked against the listing, surveyed as they arrive."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.errors import BadPart, ObjectChanged, ObjectNotFound, StoreUnavailable
from quantlab_dagster.kernel.terms import Part
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.work.decoder import ChildEnded
from quantlab_dagster.work.messages import AddParts, FinishSurvey, Handed
from quantlab_dagster.work.stopping import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.terms import Order
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.work.decoder import Child
    from quantlab_dagster.work.messages import Surveyed

__all__ = ["ChecksumVerifier", "fetch_files", "fetch_parts", "fetch_survey", "hand"]

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
    child: Child,
    job: int,
    *,
    memory_budget: int,
    row_group_budget: int,
    gate: asyncio.Semaphore,
    spool: Path | None,
    progress: Callable[[int], None] = lambda _: None,
) -> Surveyed:
    """Fetch parts of one directory, and have them surveyed while later ones are still on their way.

    Args:
        store: where they are.
        listed: the parts, in key order.
        order: the order of the merge to come.
        child: surveys them, and keeps them.
        job: what it keeps them as.
        memory_budget: bytes; the survey's sample shrinks with it.
        row_group_budget: bytes that a row group may take when it is decoded.
        gate: bounds the requests in flight.
        spool: directory to write the contents to; None hands them over in memory.
        progress: told how many parts have arrived.

    Raises:
        BadPart: a part cannot be merged with the others.
        ObjectChanged: a part is not what was listed, or gone. List again.
        StoreError: any other failure.
        ChildEnded: the child is no more.
    """
    stride = min(1024, max(1, memory_budget >> 20))
    verifier, worker = ChecksumVerifier(), Worker()
    by_name = {info.name: info for info in listed}
    arrived = size_bytes = 0

    async def consume(parts: list[Part]) -> None:
        nonlocal arrived, size_bytes
        await worker.run(lambda: _check(verifier, parts, by_name))
        size_bytes += sum(part.size_bytes for part in parts)
        contents = [part.source for part in parts if isinstance(part.source, bytes)]
        await child.call(AddParts(job, order, stride, row_group_budget, hand(parts)), contents, size_bytes=size_bytes)
        arrived += len(parts)
        progress(arrived)

    try:
        await fetch_parts(store, listed, consume, gate=gate, spool=spool)
        surveyed: Surveyed = await child.call(FinishSurvey(job, order, row_group_budget), size_bytes=size_bytes)
    except (BadPart, ChildEnded):
        # Damage on the way is no bad part: it takes precedence over what it led to.
        verifier.finish(store)
        raise
    verifier.finish(store)
    return surveyed


async def fetch_files(
    store: Store, listed: Sequence[ObjectInfo], directory: Path, *, gate: asyncio.Semaphore
) -> list[Part]:
    """Fetch parts into a directory, to look at them one by one; raises as `fetch_parts`, damage in transit included."""
    verifier, worker = ChecksumVerifier(), Worker()
    by_name = {info.name: info for info in listed}
    found: list[Part] = []

    async def keep(parts: list[Part]) -> None:
        await worker.run(lambda: _check(verifier, parts, by_name))
        found.extend(parts)

    await fetch_parts(store, listed, keep, gate=gate, spool=directory)
    verifier.finish(store)
    return found


def hand(parts: Sequence[Part]) -> tuple[Handed, ...]:
    """Parts as they are announced to a child."""
    return tuple(
        Handed(part.key, part.size_bytes, None if isinstance(part.source, bytes) else part.source) for part in parts
    )


def _check(verifier: ChecksumVerifier, parts: Sequence[Part], listed: Mapping[str, ObjectInfo]) -> None:
    for part in parts:
        verifier.check(part, listed[part.key])


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
