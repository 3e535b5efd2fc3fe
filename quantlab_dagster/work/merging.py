"""Parts of one directory become one proved file: fetched, surveyed, merged. The same for both lakes and for `verify`.

Downloads of later files run while earlier ones are merged, all within one memory budget.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from quantlab_dagster.errors import AuditFailed, BadPart, CorruptPart, DecoderFailed
from quantlab_dagster.kernel.faults import machine_faults
from quantlab_dagster.work.decoder import ChildEnded
from quantlab_dagster.work.fetch import Copies, fetch_files, fetch_survey, hand
from quantlab_dagster.work.guard import Guard
from quantlab_dagster.work.limits import usable_cores
from quantlab_dagster.work.messages import Digest, Inspect, Merge, Try
from quantlab_dagster.work.shares import Shares
from quantlab_dagster.work.stopping import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from quantlab_dagster.errors import QuantlabError
    from quantlab_dagster.kernel.grouping import Grouping
    from quantlab_dagster.kernel.terms import Merged, Observer, Order, Part
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.work.decoder import Child
    from quantlab_dagster.work.fetch import Source
    from quantlab_dagster.work.limits import Limits
    from quantlab_dagster.work.messages import Digested, Surveyed

__all__ = ["Built", "Merging", "Recipe"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How parts are merged.

    Attributes:
        order: of the rows.
        bucket_width: from the range of the order column (None without rows), the width of the histogram's buckets in
            its units; None for no histogram.
        metadata: key-value pairs for the file.
        row_group_rows: rows per row group of the file; None for the usual number.
        cores: of those that the merges share; None for all.
        split: whether floats may be split into streams of bytes (`kernel.encodings`).
        observer: from the range of the order column (None without rows), who watches the rows of the merge; None for
            nobody. It is sent to the process that merges.
    """

    order: Order
    bucket_width: Callable[[tuple[int, int] | None], int | None] = lambda _: None
    metadata: dict[str, str] | None = None
    row_group_rows: int | None = None
    cores: int | None = None
    split: bool = True
    observer: Callable[[tuple[int, int] | None], Observer | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Built:
    """A file that was built and audited.

    Attributes:
        merged: what the audit found in it.
        sha256: of the file, hexadecimal.
        seconds: wall-clock time of fetching and merging, without waiting for others.
    """

    merged: Merged
    sha256: str
    seconds: float


class Merging:
    """The merges of one run, and what they share: requests in flight, memory, cores, the process that decodes.

    To be entered: leaving it ends that process. It is started when the first parts are on their way.

    Args:
        limits: of the run.
        cores: how many merges may run at once, each with its share of the memory; Polars itself uses every core.
    """

    def __init__(self, limits: Limits, *, cores: int = 1) -> None:
        self._limits = limits
        self._requests = asyncio.Semaphore(limits.request_concurrency)
        self._downloads = Shares(limits.download_budget)
        self._cores = Shares(cores)
        self._guard = Guard(limits)
        self._jobs = itertools.count(1)

    @property
    def cores(self) -> int:
        """How many merges may run at once."""
        return self._cores.capacity

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the processes that decode, and wait until they have ended: nobody writes to our scratch any more."""
        await self._guard.close()

    async def build(
        self,
        store: Source,
        listed: Sequence[ObjectInfo],
        recipe: Recipe,
        output: Path,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Built:
        """Fetch, survey and merge parts into a file.

        They are decoded in a process of its own. If that ends, because of them or of what it shares it with, they are
        tried again in one that they share with nobody; if that ends, too, each part is tried alone.

        Args:
            store: where they are.
            listed: the parts, in key order.
            recipe: how they are merged.
            output: file to write, in a directory of its own, which serves as scratch space.
            progress: told how many parts have arrived.

        Raises:
            BadPart: a part cannot be merged, or is what a decoder dies of.
            ObjectChanged: a part is not what was listed, or gone. List again.
            StoreError: any other failure of the store, damage in transit included.
            AuditFailed: the file is not proved to be right.
            DecoderFailed: decoding fails, and no part alone is to blame.
            MachineFault: this machine could not do it, which says nothing of the parts.
            ScratchUnusable: a part that lay in scratch was damaged there.
        """
        try:
            return await self._build(self._guard.shared(), store, listed, recipe, output, progress)
        except ChildEnded as ended:
            _check_started(ended)
            logger.warning("%s: the decoder %s; trying again by itself", store.name(listed[0].key), ended.cause)
        try:
            async with self._guard.alone() as child:
                return await self._build(child, store, listed, recipe, output, progress)
        except ChildEnded as ended:
            _check_started(ended)
            raise await self._culprit(ended, store, listed, recipe, output.parent) from ended

    async def _build(
        self,
        child: Child,
        store: Source,
        listed: Sequence[ObjectInfo],
        recipe: Recipe,
        output: Path,
        progress: Callable[[int], None],
    ) -> Built:
        size_bytes = sum(info.size_bytes for info in listed)
        job, copies = next(self._jobs), Copies(store)
        with machine_faults(_place(store, listed)), _directory(output.parent) as scratch:
            in_memory = size_bytes <= self._limits.download_budget
            async with self._downloads.taken(size_bytes if in_memory else 0):
                try:
                    started = time.monotonic()
                    surveyed = await fetch_survey(
                        store,
                        listed,
                        recipe.order,
                        child,
                        job,
                        memory_budget=self._limits.memory_budget,
                        row_group_budget=self._limits.merge_budget,
                        gate=self._requests,
                        spool=None if in_memory else scratch,
                        copies=copies,
                        progress=progress,
                    )
                    fetched = time.monotonic() - started
                    async with self._cores.taken(recipe.cores or self.cores):
                        started = time.monotonic()
                        request = self._merge(job, recipe, surveyed, output, scratch)
                        merged: Merged = await child.call(request, size_bytes=size_bytes)
                except (BadPart, AuditFailed):
                    await _checked(copies)  # a copy that was damaged here is no bad part
                    raise
                finally:
                    child.drop(job)
                # Nor was what was read of it right, perhaps, if nothing stumbled over it.
                await _checked(copies)
        return Built(merged, merged.sha256, fetched + time.monotonic() - started)

    def _merge(self, job: int, recipe: Recipe, surveyed: Surveyed, output: Path, scratch: Path) -> Merge:
        return Merge(
            job,
            output,
            scratch,
            budget_bytes=self._limits.merge_budget * (recipe.cores or self.cores) // self.cores,
            bucket_width=recipe.bucket_width(surveyed.key_range),
            metadata=recipe.metadata,
            row_group_rows=recipe.row_group_rows,
            threads=max(1, usable_cores() * (recipe.cores or self.cores) // self.cores),
            split=recipe.split,
            observer=recipe.observer(surveyed.key_range),
        )

    async def _culprit(
        self, ended: ChildEnded, store: Source, listed: Sequence[ObjectInfo], recipe: Recipe, scratch: Path
    ) -> QuantlabError:
        """What to say of parts that a decoder dies of, together and by themselves: which of them it is, if it is one.

        Raises:
            BadPart: a part cannot be merged for a reason that can be told without dying.
            StoreError: the parts cannot be fetched again.
        """
        copies = Copies(store)
        with machine_faults(_place(store, listed)), _directory(scratch) as directory:
            parts = await fetch_files(store, listed, directory, gate=self._requests, copies=copies)
            found = await self._try(parts, recipe.order)
            suspects = [part for part in parts if found is not None and part.key == found.key]
            again = await self._try(suspects, recipe.order) if suspects else None
            await _checked(copies)
        if again is not None and again.own_fault and again.key:
            return CorruptPart(again.key, f"the decoder {again.cause} when it read nothing but this part")
        return _failed(store.name(listed[0].key), again or found or ended)

    async def _try(self, parts: Sequence[Part], order: Order) -> ChildEnded | None:
        """Decode parts one after the other in a new process. Returns how it ended, and at which; None if it did not."""
        request = Try(hand(parts), order, self._limits.merge_budget)
        try:
            async with self._guard.alone() as child:
                await child.call(request, size_bytes=max(part.size_bytes for part in parts))
        except ChildEnded as ended:
            _check_started(ended)
            return ended
        return None

    async def digest(self, path: Path, order_by: str) -> Digested:
        """Read a sorted file back, which need not be ours.

        Raises:
            AuditFailed: it cannot be read, or has not the columns it should.
            CorruptPart: it is what a decoder dies of.
            DecoderFailed: decoding fails, and not by its own fault.
        """
        request = Digest(path, order_by)
        found: Digested = await self._ask(request, str(path), path.stat().st_size)
        return found

    async def inspect(self, store: Source, listed: Sequence[ObjectInfo], order: Order, scratch: Path) -> Grouping:
        """Which of the listed parts are bad, and which of the others unite: all of them in one pass.

        A part that its decoder dies of is found, too: the others are then looked at again, without it.

        Raises:
            DecoderFailed: decoding fails, and no part alone is to blame.
            StoreError: as `build`.
        """
        copies, deadly = Copies(store), dict[str, str]()
        with machine_faults(_place(store, listed)), _directory(scratch) as directory:
            parts = await fetch_files(store, listed, directory, gate=self._requests, copies=copies)
            while True:
                found = await self._inspect([part for part in parts if part.key not in deadly], order)
                if not isinstance(found, ChildEnded):
                    break
                suspects = [part for part in parts if part.key == found.key and part.key not in deadly]
                again = await self._try(suspects, order) if suspects else None
                if again is None or not again.own_fault:
                    raise _failed(store.name(listed[0].key), again or found) from found
                deadly[found.key] = f"the decoder {again.cause} when it read nothing but this part"
            await _checked(copies)
        return replace(found, bad=found.bad | deadly)

    async def _inspect(self, parts: Sequence[Part], order: Order) -> Grouping | ChildEnded:
        request = Inspect(hand(parts), order, self._limits.merge_budget)
        try:
            async with self._guard.alone() as child:
                found: Grouping = await child.call(request, size_bytes=_size(parts))
                return found
        except ChildEnded as ended:
            _check_started(ended)
            return ended

    async def _ask(self, request: Digest, where: str, size_bytes: int) -> Any:
        try:
            return await self._guard.shared().call(request, size_bytes=size_bytes)
        except ChildEnded as ended:
            _check_started(ended)
        try:
            async with self._guard.alone() as child:
                return await child.call(request, size_bytes=size_bytes)
        except ChildEnded as ended:
            if ended.own_fault:
                raise CorruptPart(where, f"the decoder {ended.cause} when it read this file") from ended
            raise _failed(where, ended) from ended


@contextmanager
def _directory(scratch: Path) -> Iterator[Path]:
    """A directory of its own, removed afterwards: what a dead process left must not be met by the next."""
    directory = scratch / uuid.uuid4().hex
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _place(store: Source, listed: Sequence[ObjectInfo]) -> str:
    """Full name of the directory of the parts, for messages."""
    return store.name(listed[0].key.rpartition("/")[0]) if listed else store.url


async def _checked(copies: Copies) -> None:
    await Worker().run(copies.check)


def _size(parts: Sequence[Part]) -> int:
    return sum(part.size_bytes for part in parts)


def _check_started(ended: ChildEnded) -> None:
    if not ended.started:
        raise DecoderFailed(
            "decoder", f"the process that decodes parts could not start: it {ended.cause}", "See what it says"
        ) from ended


def _failed(where: str, ended: ChildEnded) -> DecoderFailed:
    return DecoderFailed(
        where,
        f"the decoder {ended.cause}, twice, and no part alone is to blame",
        "Look for a lack of memory or a damaged machine, allow for more memory (QUANTLAB_MEMORY_BUDGET), and run again",
    )
