"""Parts of one directory become one proved file: fetched, surveyed, merged. The same for both lakes and for `verify`.

Downloads of later files run while earlier ones are merged, all within one memory budget.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import AuditFailed, BadPart
from quantlab_dagster.kernel.faults import machine_faults
from quantlab_dagster.kernel.merge import Merged, merge
from quantlab_dagster.work.fetch import Copies, fetch_parts, fetch_survey
from quantlab_dagster.work.shares import Shares
from quantlab_dagster.work.stopping import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.parts import Part
    from quantlab_dagster.kernel.survey import Order, Survey
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.work.limits import Limits

__all__ = ["Built", "Merging", "Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How parts are merged.

    Attributes:
        order: of the rows.
        bucket_width: from the survey, the width of the histogram's buckets in units of the order column; None for none.
        metadata: key-value pairs for the file.
        row_group_rows: rows per row group of the file; None for the usual number.
        cores: of those that the merges share; None for all.
    """

    order: Order
    bucket_width: Callable[[Survey], int | None] = lambda _: None
    metadata: dict[str, str] | None = None
    row_group_rows: int | None = None
    cores: int | None = None


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
    """The merges of one run, and what they share: requests in flight, memory, cores.

    Args:
        limits: of the run.
        cores: how many merges may run at once, each with its share of the memory; Polars itself uses every core.
    """

    def __init__(self, limits: Limits, *, cores: int = 1) -> None:
        self._limits = limits
        self._requests = asyncio.Semaphore(limits.request_concurrency)
        self._downloads = Shares(limits.download_budget)
        self._cores = Shares(cores)

    @property
    def cores(self) -> int:
        """How many merges may run at once."""
        return self._cores.capacity

    async def build(
        self,
        store: Store,
        listed: Sequence[ObjectInfo],
        recipe: Recipe,
        output: Path,
        *,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Built:
        """Fetch, survey and merge parts into a file.

        Args:
            store: where they are.
            listed: the parts, in key order.
            recipe: how they are merged.
            output: file to write, in a directory of its own, which serves as scratch space.
            progress: told how many parts have arrived.

        Raises:
            BadPart: a part cannot be merged.
            ObjectChanged: a part is not what was listed, or gone. List again.
            StoreError: any other failure of the store, damage in transit included.
            AuditFailed: the file is not proved to be right.
            MachineFault: this machine could not do it, which says nothing of the parts.
            ScratchUnusable: a part that lay in scratch was damaged there.
        """
        size_bytes = sum(info.size_bytes for info in listed)
        worker, copies = Worker(), Copies(store)
        with machine_faults(_directory(store, listed)), self._spool(size_bytes, output.parent) as spool:
            async with self._downloads.taken(0 if spool else size_bytes):
                started = time.monotonic()
                try:
                    survey = await fetch_survey(
                        store,
                        listed,
                        recipe.order,
                        memory_budget=self._limits.memory_budget,
                        gate=self._requests,
                        worker=worker,
                        spool=spool,
                        copies=copies,
                        progress=progress,
                    )
                    fetched = time.monotonic() - started
                    async with self._cores.taken(recipe.cores or self.cores):
                        started = time.monotonic()
                        merged = await worker.run(lambda: self._merge(survey, recipe, output, worker))
                except (BadPart, AuditFailed):
                    await worker.run(copies.check)  # a copy that was damaged here is no bad part
                    raise
                # Nor was what was read of it right, perhaps, if nothing stumbled over it.
                await worker.run(copies.check)
        return Built(merged, merged.sha256, fetched + time.monotonic() - started)

    def _merge(self, survey: Survey, recipe: Recipe, output: Path, worker: Worker) -> Merged:
        return merge(
            survey,
            output,
            scratch=output.parent,
            budget_bytes=self._limits.merge_budget * (recipe.cores or self.cores) // self.cores,
            bucket_width=recipe.bucket_width(survey),
            metadata=recipe.metadata,
            row_group_rows=recipe.row_group_rows,
            cancelled=worker.stopped,
        )

    async def fetch(self, store: Store, listed: Sequence[ObjectInfo], directory: Path) -> list[Part]:
        """Fetch parts into a directory, to look at them one by one; same errors of the store as `build`."""
        parts: list[Part] = []

        async def keep(batch: list[Part]) -> None:
            parts.extend(batch)

        await fetch_parts(store, listed, keep, gate=self._requests, spool=directory)
        return parts

    @contextmanager
    def _spool(self, size_bytes: int, scratch: Path) -> Iterator[Path | None]:
        """A directory for parts that do not fit into memory, removed afterwards; None where they do."""
        if size_bytes <= self._limits.download_budget:
            yield None
            return
        directory = scratch / uuid.uuid4().hex
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _directory(store: Store, listed: Sequence[ObjectInfo]) -> str:
    """Full name of the directory of the parts, for messages."""
    return store.name(listed[0].key.rpartition("/")[0]) if listed else store.url
