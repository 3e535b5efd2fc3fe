"""Compacting the cold hours of the event lake, each (app, hour) by itself: claim, list, pack, merge, replace.

What a crash left is completed first. Partitions are worked on side by side. Large merges run one at a time, because
each uses every core; small ones use one each.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from quantlab_dagster.errors import (
    BadPart,
    Conflict,
    ObjectChanged,
    QuantlabError,
    SchemaConflict,
    StoreError,
)
from quantlab_dagster.hours.pack import Bin, Rules, pack, small_files
from quantlab_dagster.hours.replace import complete
from quantlab_dagster.hours.slot import Claim, Corrupt, Input, Plan, read_slot
from quantlab_dagster.kernel.columns import odd_ones
from quantlab_dagster.kernel.merge import merge
from quantlab_dagster.kernel.parts import FooterReader, Part
from quantlab_dagster.kernel.survey import Order
from quantlab_dagster.lake.events import ONE_HOUR, Scope, is_compacted, list_hour
from quantlab_dagster.lake.record import WRITER, WRITER_VERSION
from quantlab_dagster.work.cancelling import ended_within
from quantlab_dagster.work.clock import Clock, utc_now
from quantlab_dagster.work.digests import file_sha256
from quantlab_dagster.work.fetch import MemoryGate, fetch_parts, fetch_survey
from quantlab_dagster.work.garbage import objects_frozen
from quantlab_dagster.work.scratch import scratch_directory
from quantlab_dagster.work.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.merge import Merged
    from quantlab_dagster.lake.events import AppHour
    from quantlab_dagster.lake.store import ObjectInfo, Store

__all__ = ["EventPlace", "HourListener", "HourOutcome", "HourStatus", "Replacement", "compact_hours", "last_cold_hour"]

logger = logging.getLogger(__name__)

ORDER = Order(column="timestamp_ms", numbered=False, nulls_first=True)

INPUTS_METADATA = "quantlab.inputs"
"""Key in an output's own metadata: a JSON object of its inputs' names and ETags."""

ROW_GROUP_ROWS = 131_072
"""Rows per row group: half of the usual number, because rows of events are wide, and an engine that looks for a few
minutes of an hour reads less. The file is no larger (benchmarks/README.md)."""

_HOURS_AT_ONCE = 8
_SMALL_BYTES = 8 << 20
_STOP_SECONDS = 8.0
_MOST_CORRUPT = 20
_MOST_CHANGES = 4
_REPACKINGS = 2
_NAMESPACE = uuid.UUID("0c5ab3a4-54f5-5d1b-9d8c-3f5f0c2f3a51")


class HourStatus(StrEnum):
    """How the work on a partition ended."""

    COMPACTED = "compacted"
    UNTOUCHED = "untouched"
    BUSY = "busy"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Replacement:
    """One output that took the place of its inputs.

    Attributes:
        output: its name.
        files: inputs.
        bytes_in: of the inputs.
        bytes_out: of the output.
        rows: in it.
        doubled_seconds: how long a reader that lists the partition may have seen its rows twice.
        kept: inputs that had changed meanwhile and were left alone.
        recovered: whether the plan was found, rather than made just now.
    """

    output: str
    files: int
    bytes_in: int
    bytes_out: int
    rows: int
    doubled_seconds: float
    kept: tuple[str, ...] = ()
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class HourOutcome:
    """How the work on one partition ended.

    Attributes:
        partition: which.
        status: how.
        reason: why, for people, where it is not simply compacted.
        error: class name of the error that made it fail, empty otherwise.
        replacements: what was replaced, also before a failure.
        corrupt: files that cannot be merged, and stay.
        files: event files that are there now, as far as known.
        seconds: wall-clock time.
    """

    partition: AppHour
    status: HourStatus
    reason: str = ""
    error: str = ""
    replacements: tuple[Replacement, ...] = ()
    corrupt: tuple[Corrupt, ...] = ()
    files: int = 0
    seconds: float = 0.0

    def total(self, name: str) -> int:
        """Sum of an attribute over the replacements."""
        return sum(getattr(item, name) for item in self.replacements)


class HourListener(Protocol):
    """Is told how the work goes, always from the thread of the event loop."""

    def found(self, partitions: Sequence[AppHour]) -> None:
        """These partitions need work, and are going to get it."""

    def finished(self, outcome: HourOutcome) -> None:
        """The work on a partition has ended."""


@dataclass(frozen=True, slots=True)
class EventPlace:
    """What the work needs.

    Attributes:
        lake: the event lake.
        rules: when files are merged.
        memory_budget: bytes for downloaded files and the merge together.
        request_concurrency: requests in flight at once.
        scratch_base: where temporary directories are made; None for the system's place.
        clock: the present time, aware.
    """

    lake: Store
    rules: Rules
    memory_budget: int
    request_concurrency: int = 64
    scratch_base: Path | None = None
    clock: Clock = utc_now

    @property
    def download_budget(self) -> int:
        """Share of the memory budget for downloaded files."""
        return self.memory_budget // 4

    def cold(self, scope: Scope) -> Scope:
        """The scope without the current hour and what comes after it."""
        return scope.until(last_cold_hour(self.clock()))


def last_cold_hour(now: dt.datetime) -> dt.datetime:
    """The latest hour that nobody writes to any more: the one before the current one."""
    return now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0) - ONE_HOUR


async def compact_hours(
    place: EventPlace,
    partitions: Sequence[AppHour],
    listener: HourListener,
    *,
    recover_only: bool = False,
    give_up: bool = False,
    retry_corrupt: bool = False,
) -> list[HourOutcome]:
    """Work on partitions, each by itself: one that fails does not stop the others.

    Args:
        place: what the work needs.
        partitions: those that may need work; the current hour is refused.
        listener: told of progress.
        recover_only: complete what was left unfinished, and merge nothing.
        retry_corrupt: forget which files are known not to be mergeable.
        give_up: with plans that can neither be completed nor given up safely, do the latter.

    Returns:
        One outcome each, in the order in which they ended.
    """
    listener.found(partitions)
    with objects_frozen(), scratch_directory(place.scratch_base) as scratch:
        shared = _Shared(place, scratch)
        waiting = iter(partitions)
        outcomes: list[HourOutcome] = []

        async def work_on_one_after_the_other() -> None:
            for partition in waiting:
                outcome = await _HourWork(shared, partition, recover_only, give_up, retry_corrupt).run()
                outcomes.append(outcome)
                listener.finished(outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(_HOURS_AT_ONCE):
                group.create_task(work_on_one_after_the_other())
    return outcomes


class _Shared:
    """What the partitions of one run share."""

    def __init__(self, place: EventPlace, scratch: Path) -> None:
        self.place = place
        self.scratch = scratch
        self.requests = asyncio.Semaphore(place.request_concurrency)
        self.memory = MemoryGate(place.download_budget)
        self.slots = min(4, os.cpu_count() or 1)
        self.merging = MemoryGate(self.slots)
        self.replacing = asyncio.Lock()
        self.shrink = 1.0
        """Bytes that the last merge made of a new file's byte: what packing expects of the next one."""


@dataclass(slots=True)
class _HourWork:
    """The work on one partition."""

    shared: _Shared
    partition: AppHour
    recover_only: bool = False
    give_up: bool = False
    retry_corrupt: bool = False
    corrupt: tuple[Corrupt, ...] = ()
    files: list[ObjectInfo] = field(default_factory=list)
    tried: Bin = ()
    known: set[str] = field(default_factory=set)
    replacements: list[Replacement] = field(default_factory=list)

    async def run(self) -> HourOutcome:
        started = time.monotonic()
        try:
            status, reason = await self._work()
            error = ""
        except Conflict as conflict:
            # Whoever took the slot over completes what was planned, and goes on.
            done = HourStatus.COMPACTED if self.replacements else HourStatus.BUSY
            status, reason, error = done, str(conflict), ""
        except QuantlabError as expected:
            status, reason, error = HourStatus.FAILED, str(expected), type(expected).__name__
        except Exception as unexpected:
            # A bug must not take the other partitions down with it; the run fails after they are done.
            logger.exception("unexpected error in %s", self.partition)
            error = type(unexpected).__name__
            status, reason = HourStatus.FAILED, f"unexpected {error}: {unexpected}"
        return HourOutcome(
            self.partition,
            status,
            reason,
            error,
            tuple(self.replacements),
            self.corrupt,
            len(self.files),
            time.monotonic() - started,
        )

    @property
    def _place(self) -> EventPlace:
        return self.shared.place

    async def _work(self) -> tuple[HourStatus, str]:
        if self.partition.hour > last_cold_hour(self._place.clock()):
            return HourStatus.FAILED, "this hour is not over yet: it can be compacted when it is"
        claim = await self._read()
        if claim.slot.state == "claimed" and not claim.slot.is_silent(self._place.clock()):
            return HourStatus.BUSY, f"{claim.slot.holder} has been at work on it since {claim.slot.since}"
        try:
            if claim.slot.plan is not None:  # whoever made it
                await self._complete(claim, claim.slot.plan, recovered=True)
            await claim.take(self.corrupt)
            async with claim.kept():
                reason = "only what was unfinished" if self.recover_only else await self._replace_all(claim)
                await claim.release(self.corrupt)
        except BaseException:
            if claim.is_held:
                # Others need not wait until the claim has been silent for long. If this fails, they do.
                with suppress(StoreError):
                    await claim.release(self.corrupt)
            raise
        return (HourStatus.COMPACTED, "") if self.replacements else (HourStatus.UNTOUCHED, reason)

    async def _read(self) -> Claim:
        """The slot as it is, not claimed yet."""
        slot, etag = await read_slot(self._place.lake, self.partition)
        self.corrupt = () if self.retry_corrupt else slot.corrupt
        return Claim(self._place.lake, self.partition, slot, etag, self._place.clock)

    async def _replace_all(self, claim: Claim) -> str:
        """Replace bin after bin until there is nothing left to merge. Returns why there was nothing at all."""
        changes = 0
        while True:
            self.files = await list_hour(self._place.lake, self.partition)
            self.known = self.known or {file.name for file in self.files}
            self.corrupt = tuple(item for item in self.corrupt if item.is_among(self.files))
            bins = self._bins()
            if not bins:
                return self._untouched()
            if claim.slot.plan is not None:
                await claim.take(self.corrupt)
            try:
                done = await self._replace(claim, bins[0])
            except SchemaConflict as error:
                self._exclude(error, await self._odd_ones())
                continue
            except BadPart as error:
                self._exclude(error, {error.part: error.cause})
                continue
            except ObjectChanged as error:
                done, reason = False, str(error)
            else:
                reason = "its inputs changed again and again"
            if not done:
                changes += 1
                if changes == _MOST_CHANGES:
                    raise ObjectChanged(str(self.partition), reason, "Run again when nobody writes to this hour")

    def _bins(self) -> list[Bin]:
        """What is left to merge; whether there is anything does not depend on what earlier merges taught."""
        files, rules = self._mergeable(), self._place.rules
        if self.replacements:
            # There were enough of them; what the first outputs left over is finished, too.
            rules = replace(rules, min_files=2)
        bins = pack(files, rules, self.shared.shrink) or pack(files, rules)
        # First those without a new file: they would not be merged any more when no new one is left.
        return sorted(bins, key=lambda found: not all(is_compacted(file.name) for file in found))

    def _mergeable(self) -> list[ObjectInfo]:
        bad = {(item.name, item.etag) for item in self.corrupt}
        # What arrives while we are at work waits for the next run: else a replay of old events would hold this one.
        ours = self.known | {item.output for item in self.replacements}
        return [file for file in self.files if file.name in ours and (file.name, file.etag) not in bad]

    def _untouched(self) -> str:
        small = small_files(self._mergeable(), self._place.rules)
        corrupt = f", {len(self.corrupt)} corrupt" if self.corrupt else ""
        return f"{len(self.files)} files, {len(small)} of them small{corrupt}: nothing to merge"

    def _exclude(self, error: BadPart, bad: dict[str, str]) -> None:
        """Leave files out from now on, so that the others can be merged.

        Args:
            error: what stopped the merge; raised again if there are too many of them, or none of ours.
            bad: names, and why they cannot be merged.
        """
        found = [file for file in self.files if file.name in bad]
        if not found or len(self.corrupt) + len(found) > _MOST_CORRUPT:
            raise error
        for file in found:
            logger.info("%s stays as it is: %s", self._place.lake.name(file.key), bad[file.name])
        self.corrupt += tuple(Corrupt(name=file.name, etag=file.etag, reason=bad[file.name]) for file in found)

    async def _odd_ones(self) -> dict[str, str]:
        """Which files do not unite with the others. The merge blames the one it meets last, which need not be it."""
        directory = self.shared.scratch / uuid.uuid4().hex
        directory.mkdir()
        parts: list[Part] = []

        async def keep(batch: list[Part]) -> None:
            parts.extend(batch)

        def read() -> dict[str, str]:
            reader, bad, readable = FooterReader(), dict[str, str](), []
            for part in parts:
                try:
                    readable.append((part, reader.read(part)))
                except BadPart as error:
                    bad[part.key] = error.cause
            return bad | odd_ones([part for part, _ in readable], [footer for _, footer in readable], ORDER.column)

        try:
            await fetch_parts(self._place.lake, self.tried, keep, gate=self.shared.requests, spool=directory)
            return await Worker().run(read)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def _replace(self, claim: Claim, chosen: Bin) -> bool:
        """Merge a bin, and replace its files. False if they changed before anything did."""
        directory = self.shared.scratch / uuid.uuid4().hex
        directory.mkdir()
        try:
            chosen, merged, sha256 = await self._build(chosen, directory)
            name = output_name(chosen)
            staged = await self._place.lake.stage(self.partition.key(name), directory / _OUTPUT)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        plan = Plan(
            inputs=tuple(Input(name=file.name, etag=file.etag, size_bytes=file.size_bytes) for file in chosen),
            output=name,
            upload_id=staged.upload_id,
            upload_etags=staged.etags,
            size_bytes=merged.size_bytes,
            rows=merged.rows,
            sha256=sha256,
        )
        try:
            await claim.write_plan(plan, self.corrupt)
        except Conflict:
            await self._place.lake.discard(staged)
            raise
        return await self._complete(claim, plan, recovered=False)

    async def _build(self, chosen: Bin, directory: Path) -> tuple[Bin, Merged, str]:
        """Merge a bin. Where the output's size shows that other files would make a better one, merge those instead."""
        for _ in range(_REPACKINGS):
            merged, sha256 = await self._merge(chosen, directory)
            self._learn(chosen, merged.size_bytes)
            if self._place.rules.in_range(merged.size_bytes):
                return chosen, merged, sha256
            better = self._bins()
            if not better or better[0] == chosen:
                return chosen, merged, sha256
            chosen = better[0]
        merged, sha256 = await self._merge(chosen, directory)
        return chosen, merged, sha256

    def _learn(self, chosen: Bin, size_bytes: int) -> None:
        old = sum(file.size_bytes for file in chosen if is_compacted(file.name))
        new = sum(file.size_bytes for file in chosen) - old
        if new:
            self.shared.shrink = min(4.0, max(0.05, (size_bytes - old) / new))

    async def _merge(self, chosen: Bin, directory: Path) -> tuple[Merged, str]:
        self.tried = chosen
        place, worker = self._place, Worker()
        size_bytes = sum(file.size_bytes for file in chosen)
        spool = directory / uuid.uuid4().hex if size_bytes > place.download_budget else None
        if spool:
            spool.mkdir()
        held = 0 if spool else size_bytes
        inputs = {file.name: file.etag for file in chosen}
        metadata = {INPUTS_METADATA: json.dumps(inputs), "quantlab.writer": f"{WRITER} {WRITER_VERSION}"}
        output = directory / _OUTPUT
        slots = 1 if size_bytes <= _SMALL_BYTES else self.shared.slots
        await self.shared.memory.acquire(held)
        try:
            survey = await fetch_survey(
                place.lake,
                chosen,
                ORDER,
                memory_budget=place.memory_budget,
                gate=self.shared.requests,
                worker=worker,
                spool=spool,
            )

            def work() -> tuple[Merged, str]:
                budget = (place.memory_budget - place.download_budget) * slots // self.shared.slots
                done = merge(
                    survey,
                    output,
                    scratch=directory,
                    budget_bytes=budget,
                    metadata=metadata,
                    row_group_rows=ROW_GROUP_ROWS,
                    cancelled=worker.stopped,
                )
                return done, file_sha256(output)

            await self.shared.merging.acquire(slots)
            try:
                return await worker.run(work)
            finally:
                await self.shared.merging.release(slots)
        finally:
            await self.shared.memory.release(held)
            if spool:
                shutil.rmtree(spool, ignore_errors=True)

    async def _complete(self, claim: Claim, plan: Plan, *, recovered: bool) -> bool:
        # One at a time: then the requests of each are fewer seconds apart, in which readers see its rows twice.
        async with self.shared.replacing:
            # A run that is told to stop deletes what it has just replaced: else rows are there twice until the next.
            work = complete(self._place.lake, self.partition, plan, claim, give_up=self.give_up)
            done = await ended_within(_STOP_SECONDS, work)
        if done.replaced:
            self.replacements.append(
                Replacement(
                    output=plan.output,
                    files=len(plan.inputs),
                    bytes_in=plan.bytes_in,
                    bytes_out=plan.size_bytes,
                    rows=plan.rows,
                    doubled_seconds=done.doubled_seconds,
                    kept=done.kept,
                    recovered=recovered,
                )
            )
        return done.replaced


_OUTPUT = "output.parquet"


def output_name(files: Bin) -> str:
    """Name of the file that these are merged into: the same inputs always make the same name."""
    identity = "\n".join(f"{file.key}\t{file.etag}" for file in files)
    return f"compacted_{uuid.uuid5(_NAMESPACE, identity)}.parquet"
