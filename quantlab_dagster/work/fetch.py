"""Fetching parts: one GET each, many at a time, in key order, checked against the listing, surveyed as they arrive."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from quantlab_dagster.errors import BadPart, ObjectChanged, ObjectNotFound, StoreUnavailable
from quantlab_dagster.kernel.terms import Part
from quantlab_dagster.lake.store.local import check_downloaded
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.lake.store.transfers import may_be_md5
from quantlab_dagster.work.decoder import ChildEnded
from quantlab_dagster.work.messages import AddParts, FinishSurvey, Handed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from quantlab_dagster.kernel.terms import Order
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.work.decoder import Child
    from quantlab_dagster.work.messages import Surveyed

__all__ = ["ChecksumVerifier", "Copies", "Source", "fetch_files", "fetch_parts", "fetch_survey", "hand"]

_PARTS_PER_BATCH = 256


@dataclass(slots=True)
class ChecksumVerifier:
    """Checks the contents of one directory against ETags where these are MD5 sums.

    Nothing in a listing says whether they are: under SSE-KMS they look alike but are not. So what came twice the same
    is believed although it has not the sum (the store fetches it once more), unless another object here has its own.
    """

    matched: int = 0
    mismatched: list[str] = field(default_factory=list)

    def check(self, got: ObjectInfo) -> None:
        """Look at one content as it was received."""
        if not may_be_md5(got.etag):
            return
        if got.received == got.etag:
            self.matched += 1
        else:
            self.mismatched.append(got.key)

    def finish(self, store: Source) -> None:
        """Raise if a content was damaged.

        Raises:
            StoreUnavailable: a content is not what its ETag says.
        """
        if self.matched and self.mismatched:
            raise StoreUnavailable(
                store.name(self.mismatched[0]),
                f"{len(self.mismatched)} downloaded parts do not have the MD5 sum that their ETags give, as others do",
                "Run again; if it stays, the objects are damaged in the store",
            )


class Source(Protocol):
    """Where parts are fetched from: a store, as far as that is needed here."""

    @property
    def url(self) -> str:
        """As given by the user."""
        ...

    @property
    def at_once(self) -> int:
        """How many small objects are best fetched in one go."""
        ...

    def name(self, key: str) -> str:
        """The full name of an object, for messages."""
        ...

    async def get_together(self, keys: Sequence[str]) -> list[tuple[bytes, ObjectInfo]]:
        """Several objects; as `Store.get_together`."""
        ...

    async def download(self, key: str, path: Path) -> ObjectInfo:
        """As `Store.download`."""
        ...


class Copies:
    """The parts of one build that lie in scratch, and what they were when they arrived there.

    Args:
        store: where they came from.
    """

    def __init__(self, store: Source) -> None:
        self._store = store
        self._arrived: dict[str, tuple[Path, ObjectInfo]] = {}

    def note(self, path: Path, got: ObjectInfo) -> None:
        """Remember one."""
        self._arrived[got.name] = (path, got)

    def check(self) -> None:
        """See that all are what arrived (nothing to do where parts are in memory).

        To be called before a part is blamed, and before a file that was made of them is published.

        Raises:
            ScratchUnusable: one was damaged since: no part is at fault, and what was made of them is not right.
            ObjectChanged: one, which is the object itself, was written to meanwhile.
        """
        for path, got in self._arrived.values():
            check_downloaded(self._store.name(got.key), path, got)


async def fetch_survey(
    store: Source,
    listed: Sequence[ObjectInfo],
    order: Order,
    child: Child,
    job: int,
    *,
    memory_budget: int,
    row_group_budget: int,
    gate: asyncio.Semaphore,
    spool: Path | None,
    copies: Copies | None = None,
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
        copies: told what is written there.
        progress: told how many parts have arrived.

    Raises:
        BadPart: a part cannot be merged with the others.
        ObjectChanged: a part is not what was listed, or gone. List again.
        StoreError: any other failure.
        ChildEnded: the child is no more.
    """
    stride = min(1024, max(1, memory_budget >> 20))
    verifier = ChecksumVerifier()
    arrived = size_bytes = 0
    total_bytes = sum(info.size_bytes for info in listed)

    async def consume(parts: list[Part]) -> None:
        nonlocal arrived, size_bytes
        size_bytes += sum(part.size_bytes for part in parts)
        contents = [part.source for part in parts if isinstance(part.source, bytes)]
        request = AddParts(job, order, stride, row_group_budget, total_bytes, hand(parts))
        await child.call(request, contents, size_bytes=size_bytes)
        arrived += len(parts)
        progress(arrived)

    try:
        await fetch_parts(store, listed, consume, gate=gate, spool=spool, verifier=verifier, copies=copies)
        surveyed: Surveyed = await child.call(FinishSurvey(job, order, row_group_budget), size_bytes=size_bytes)
    except (BadPart, ChildEnded):
        # Damage on the way is no bad part: it takes precedence over what it led to.
        verifier.finish(store)
        raise
    verifier.finish(store)
    return surveyed


async def fetch_files(
    store: Source, listed: Sequence[ObjectInfo], directory: Path, *, gate: asyncio.Semaphore, copies: Copies
) -> list[Part]:
    """Fetch parts into a directory, to look at them one by one; raises as `fetch_parts`, damage in transit included."""
    verifier = ChecksumVerifier()
    found: list[Part] = []

    async def keep(parts: list[Part]) -> None:
        found.extend(parts)

    await fetch_parts(store, listed, keep, gate=gate, spool=directory, verifier=verifier, copies=copies)
    verifier.finish(store)
    return found


def hand(parts: Sequence[Part]) -> tuple[Handed, ...]:
    """Parts as they are announced to a child."""
    return tuple(
        Handed(part.key, part.size_bytes, None if isinstance(part.source, bytes) else part.source) for part in parts
    )


async def fetch_parts(
    store: Source,
    listed: Sequence[ObjectInfo],
    consume: Callable[[list[Part]], Awaitable[None]],
    *,
    gate: asyncio.Semaphore,
    spool: Path | None,
    verifier: ChecksumVerifier | None = None,
    copies: Copies | None = None,
) -> None:
    """Fetch parts, running ahead of the consumer, which gets them in batches, in the order listed.

    Args:
        store: the raw lake.
        listed: the parts.
        consume: called with one batch after another.
        gate: bounds the requests in flight.
        spool: directory to write the contents to; None keeps them in memory.
        verifier: shown what arrives.
        copies: told what is written there.

    Raises:
        ObjectChanged: a part is not what was listed, or gone. List again.
        StoreError: any other failure; no part is ever left out.
    """

    def look_at(part: Part, got: ObjectInfo) -> Part:
        if verifier is not None:
            verifier.check(got)
        if copies is not None and isinstance(part.source, Path):
            copies.note(part.source, got)
        return part

    try:
        async with asyncio.TaskGroup() as group:
            tasks = deque(
                group.create_task(_fetch(store, listed[first : first + store.at_once], gate))
                if spool is None
                else group.create_task(_download(store, listed[first], gate, spool / f"{first:08d}.parquet"))
                for first in range(0, len(listed), store.at_once if spool is None else 1)
            )
            while tasks:
                batch: list[Part] = []
                while tasks and len(batch) < _PARTS_PER_BATCH:
                    batch += [look_at(*fetched) for fetched in await tasks.popleft()]
                await consume(batch)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors


_Fetched = list[tuple[Part, "ObjectInfo"]]


async def _fetch(store: Source, infos: Sequence[ObjectInfo], gate: asyncio.Semaphore) -> _Fetched:
    async with gate:
        try:
            found = await store.get_together([info.key for info in infos])
        except ObjectNotFound as error:
            raise _deleted(error) from error
    return [
        (Part(info.name, content, len(content)), _as_listed(store, info, got, len(content)))
        for info, (content, got) in zip(infos, found, strict=True)
    ]


async def _download(store: Source, info: ObjectInfo, gate: asyncio.Semaphore, path: Path) -> _Fetched:
    async with gate:
        try:
            got = await store.download(info.key, path)
        except ObjectNotFound as error:
            raise _deleted(error) from error
    size_bytes = path.stat().st_size
    return [(Part(info.name, path, size_bytes), _as_listed(store, info, got, size_bytes))]


def _deleted(error: ObjectNotFound) -> ObjectChanged:
    return ObjectChanged(error.where, "was deleted after it was listed", "Run again")


def _as_listed(store: Source, info: ObjectInfo, got: ObjectInfo, size_bytes: int) -> ObjectInfo:
    """What was received, if it is what was listed."""
    if (got.etag, size_bytes) != (info.etag, info.size_bytes):
        raise ObjectChanged(store.name(info.key), "was replaced after it was listed", "Run again")
    return got
