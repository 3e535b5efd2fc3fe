"""Compacting the cold hours of the event lake, each (app, hour) by itself: claim, list, pack, merge, replace.

What a crash left is completed first. Partitions are worked on side by side. Large merges run one at a time, because
each uses every core; small ones use one each.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantlab_dagster.errors import (
    AccessDenied,
    BadPart,
    Conflict,
    ObjectChanged,
    QuantlabError,
    StoreError,
    StoreUnavailable,
    Withheld,
)
from quantlab_dagster.kernel.faults import machine_fault
from quantlab_dagster.kernel.room import check_room, room_at
from quantlab_dagster.kernel.terms import Order
from quantlab_dagster.lake.record import WRITER, WRITER_VERSION
from quantlab_dagster.lake.warehouse import is_compacted, list_hour, output_name
from quantlab_dagster.warehouse.company import company_of, still_aside, without
from quantlab_dagster.warehouse.looking import is_recent
from quantlab_dagster.warehouse.outcome import HourListener, HourOutcome, HourStatus, Replacement
from quantlab_dagster.warehouse.pack import Bin, pack, small_files
from quantlab_dagster.warehouse.place import Requested, WarehousePlace
from quantlab_dagster.warehouse.replace import complete
from quantlab_dagster.warehouse.slot import DRIFTED, Claim, Corrupt, Input, ReplacementPlan, read_slot
from quantlab_dagster.work.kept import Kept
from quantlab_dagster.work.merging import Built, Merging, Recipe
from quantlab_dagster.work.scratch import scratch_directory
from quantlab_dagster.work.shares import Shares, objects_frozen
from quantlab_dagster.work.stopping import ended_within

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.lake.warehouse import AppHour

__all__ = ["INPUTS_METADATA", "ORDER", "ROW_GROUP_ROWS", "compact_hours"]

logger = logging.getLogger(__name__)

ORDER = Order(column="timestamp_ms", numbered=False, nulls_first=True)

INPUTS_METADATA = "quantlab.inputs"
"""Key in an output's own metadata: a JSON object of its inputs' names and ETags."""

ROW_GROUP_ROWS = 131_072
"""Rows per row group, at most: half of the usual number, because rows of events are wide, and an engine that looks for
a few minutes of an hour reads less. The file is no larger (benchmarks/README.md)."""

_HOURS_AT_ONCE = 8
_SMALL_BYTES = 8 << 20
_STOP_SECONDS = 8.0
_MOST_CHANGES = 4
_REPACKINGS = 2
_OUTPUT = "output.parquet"
_SCRATCH_TIMES = 8
"""A merge takes about so many times its inputs' size of scratch where its rows have to wait on the disk: 6.7 times were
measured, for events that all span their hour. Where they need not wait, it is twice their size."""


async def compact_hours(
    place: WarehousePlace,
    partitions: Sequence[AppHour],
    listener: HourListener,
    requested: Requested | None = None,
) -> list[HourOutcome]:
    """Work on partitions, each by itself: one that fails does not stop the others.

    Where the store did not answer while a plan was being completed, this is tried once more when all else is done: else
    readers would see its rows twice until the next run. If the store does not answer then either, the rest is left.

    Args:
        place: what the work needs.
        partitions: those that may need work; the current hour is refused.
        listener: told of progress.
        requested: what is asked for, beyond the usual.

    Returns:
        One outcome each, in the order in which they ended.
    """
    listener.found(partitions)
    outcomes: list[HourOutcome] = []
    unfinished: list[HourOutcome] = []

    def end(outcome: HourOutcome) -> None:
        outcomes.append(outcome)
        listener.finished(outcome)

    with objects_frozen(), scratch_directory(place.limits.scratch_base) as scratch:
        async with Merging(place.limits, cores=min(4, os.cpu_count() or 1)) as merging:
            shared = _Shared(place, scratch, merging)
            waiting = iter(partitions)

            async def work_on_one_after_the_other() -> None:
                for partition in waiting:
                    work = _HourWork(shared, partition, requested or Requested())
                    outcome = await work.run()
                    if work.unfinished:
                        unfinished.append(outcome)
                    else:
                        end(outcome)

            async with asyncio.TaskGroup() as group:
                for _ in range(_HOURS_AT_ONCE):
                    group.create_task(work_on_one_after_the_other())
            answers = True
            for outcome in unfinished:
                if answers:
                    logger.info("%s: its plan is tried once more", outcome.partition)
                    work = _HourWork(shared, outcome.partition, requested or Requested())
                    end(outcome.then(await work.run()))
                    answers = not work.unfinished
                else:
                    end(outcome)
    return outcomes


class _Shared:
    """What the partitions of one run share."""

    def __init__(self, place: WarehousePlace, scratch: Path, merging: Merging) -> None:
        self.place = place
        self.scratch = scratch
        self.merging = merging
        self.replacing = asyncio.Lock()
        self.disk = Shares(room_at(scratch))
        """Bytes of scratch: hours that would not fit there together wait for each other."""
        self.tried: dict[str, float] = {}
        """When a plan was tried to be completed for the first time, by the id of its upload."""
        self.made: set[str] = set()
        """Uploads of the plans that this run has made."""
        self.shrink = 1.0
        """Bytes that the last merge made of a new file's byte: what packing expects of the next one."""


@dataclass(slots=True)
class _HourWork:
    """The work on one partition."""

    shared: _Shared
    partition: AppHour
    requested: Requested
    corrupt: tuple[Corrupt, ...] = ()
    company: str | None = None
    listed: list[ObjectInfo] = field(default_factory=list)
    tried: Bin = ()
    known: set[str] = field(default_factory=set)
    families: dict[str, int] = field(default_factory=dict)
    replacements: list[Replacement] = field(default_factory=list)
    unfinished: bool = False
    """Whether the store did not answer, and a plan stays."""
    _claim: Claim | None = None
    _kept: Kept = field(init=False)

    async def run(self) -> HourOutcome:
        started, withheld = time.monotonic(), ""
        try:
            status, reason = await self._work()
            error = ""
        except Withheld as closed:
            # Nothing is wrong with it, nor with us: the others go on, and it is said as long as it is so.
            status, withheld = HourStatus.UNTOUCHED, str(closed)
            status = HourStatus.COMPACTED if self.replacements else status
            reason, error = f"left out: {withheld}", type(closed.denied).__name__
        except Conflict as conflict:
            # Whoever took the slot over completes what was planned, and goes on.
            done = HourStatus.COMPACTED if self.replacements else HourStatus.BUSY
            status, reason, error = done, str(conflict), ""
        except QuantlabError as expected:
            status, reason, error = HourStatus.FAILED, str(expected), type(expected).__name__
            planned = self._claim is not None and self._claim.slot.plan is not None
            self.unfinished = planned and isinstance(expected, StoreUnavailable)
        except Exception as unexpected:
            fault = machine_fault(unexpected, str(self.partition))
            if fault is not None:
                status, reason, error = HourStatus.FAILED, str(fault), type(fault).__name__
            else:
                # A bug must not take the other partitions down with it; the run fails after they are done.
                logger.exception("unexpected error in %s", self.partition)
                error = type(unexpected).__name__
                status, reason = HourStatus.FAILED, f"unexpected {error}: {unexpected}"
        finally:
            self._kept.forget()
        return HourOutcome(
            self.partition,
            status,
            reason,
            error,
            tuple(self.replacements),
            tuple(item for item in self.corrupt if not item.waits),
            len(self.listed),
            time.monotonic() - started,
            withheld,
            tuple(item for item in self.corrupt if item.waits),
        )

    def __post_init__(self) -> None:
        self._kept = Kept(self.shared.place.lake, self.shared.scratch / uuid.uuid4().hex)

    @property
    def _place(self) -> WarehousePlace:
        return self.shared.place

    async def _work(self) -> tuple[HourStatus, str]:
        if self.partition.last_hour > self._place.last_cold_hour():
            return HourStatus.FAILED, "it is not over yet: it can be compacted when it is"
        claim = self._claim = await self._read()
        if claim.slot.state == "claimed" and not claim.slot.is_silent(self._place.clock()):
            return HourStatus.BUSY, f"{claim.slot.holder} has been at work on it since {claim.slot.since}"
        try:
            if claim.slot.plan is not None:  # whoever made it
                await self._complete(claim, claim.slot.plan)
            await claim.take(self.corrupt)
            async with claim.kept():
                reason = "only what was unfinished" if self.requested.recover_only else await self._replace_all(claim)
                await claim.release(self.corrupt, self.company)
        except BaseException:
            if claim.is_held:
                # Others need not wait until the claim has been silent for long. If this fails, they do.
                with suppress(StoreError):
                    await claim.release(self.corrupt)
            raise
        return (HourStatus.COMPACTED, "") if self.replacements else (HourStatus.UNTOUCHED, reason)

    async def _read(self) -> Claim:
        """The slot as it is, not claimed yet."""
        slot, etag = await read_slot(self._place.slots, self.partition)
        self.corrupt, self.company = () if self.requested.retry_corrupt else slot.corrupt, slot.company
        return Claim(self._place.slots, self.partition, slot, etag, self._place.clock)

    async def _replace_all(self, claim: Claim) -> str:
        """Replace bin after bin until there is nothing left to merge. Returns why there was nothing at all."""
        changes = 0
        while True:
            self.listed = await list_hour(self._place.lake, self.partition)
            if not self.known:
                self.known = {file.name for file in self.listed}
                self.corrupt = still_aside(self.listed, self.corrupt, self.company)
            self.corrupt = tuple(item for item in self.corrupt if item.is_among(self.listed))
            bins = self._bins() or self._bins_of_strangers()
            if not bins:
                self.company = company_of(self._mergeable())
                return self._untouched()
            if claim.slot.plan is not None:
                await claim.take(self.corrupt)
            try:
                done = await self._replace(claim, bins[0])
            except BadPart as error:
                await self._sort_out(error)
                continue
            except ObjectChanged as error:
                self._kept.forget()
                done, reason = False, str(error)
            else:
                reason = "its inputs changed again and again"
            if not done:
                changes += 1
                if changes == _MOST_CHANGES:
                    raise ObjectChanged(str(self.partition), reason, "Run again when nobody writes to this hour")

    def _bins(self) -> list[Bin]:
        """What is left to merge; whether there is anything does not depend on what earlier merges taught."""
        families: dict[int, list[ObjectInfo]] = {}
        for file in self._mergeable():
            families.setdefault(self.families.get(file.name, 0), []).append(file)
        bins: list[Bin] = []
        for family, files in families.items():
            rules = self._place.rules
            if self.replacements or family:
                # There were enough of them; what the first outputs left over is finished, too.
                rules = replace(rules, min_files=2)
            bins += pack(files, rules, self.shared.shrink) or pack(files, rules)
        # First those without a new file: they would not be merged any more when no new one is left.
        return sorted(bins, key=lambda found: not all(is_compacted(file.name) for file in found))

    def _bins_of_strangers(self) -> list[Bin]:
        """What whoever looks, and knows no families, would find nevertheless, and was not tried together yet.

        What was does not unite, and waits: a new file, or else the outputs of all families but one.
        """
        rules = self._place.rules
        while bins := pack(self._mergeable(), rules):
            families = {file.name: self.families.get(file.name, 0) for file in self._mergeable()}
            found = [chosen for chosen in bins if any(families[file.name] == 0 for file in chosen)]
            if found:
                return found
            small = [file for file in small_files(self._mergeable(), rules) if families[file.name]]
            first = families[bins[0][0].name]
            waiting = [file for file in small if not is_compacted(file.name)]
            waiting = waiting or [file for file in small if families[file.name] != first]
            if not waiting:
                return bins
            self._set_aside({file.name: f"{DRIFTED}of its own kind is nothing to merge it with" for file in waiting})
        return []

    def _mergeable(self) -> list[ObjectInfo]:
        # What arrives while we are at work waits for the next run: else a replay of old events would hold this one.
        ours = self.known | {item.output for item in self.replacements}
        return without([file for file in self.listed if file.name in ours], self.corrupt)

    def _untouched(self) -> str:
        small = small_files(self._mergeable(), self._place.rules)
        aside = f", {len(self.corrupt)} left out" if self.corrupt else ""
        return f"{len(self.listed)} files, {len(small)} of them small{aside}: nothing to merge"

    async def _sort_out(self, error: BadPart) -> None:
        """Find all bad files of the bin that failed, and which of the others unite: each group becomes its own output.

        A new file that is alone is set aside: it waits for company, be it the first of them all. An output that is
        alone stays; but where outputs are merged for their number, all but those of the first group wait.
        Nothing is fetched again. Files that wait since before are looked at, too: they may have company.

        Args:
            error: what stopped the merge; raised again if none of our files is to blame.
        """
        aside = {item.name for item in self.corrupt if item.waits}
        tried = {file.name for file in self.tried}
        files = [file for file in self.listed if file.name in tried | aside]
        with self._reading():
            found = await self.shared.merging.inspect(self._kept, files, ORDER, self.shared.scratch)
        bad = dict(found.bad)
        why = next(iter(found.why.values()), error.cause)
        outputs = all(is_compacted(name) for name in tried)
        for number, group in enumerate(found.groups if len(found.groups) > 1 else ()):
            if (number and outputs) or (len(group) == 1 and not is_compacted(group[0])):
                bad |= {name: DRIFTED + found.why.get(name, why) for name in group}
            else:
                family = 1 + max(self.families.values(), default=0)
                self.families |= dict.fromkeys(group, family)
        if not bad and len(found.groups) <= 1:  # only together do they fail
            bad = {error.part: error.cause}
        sound = {name for group in found.groups for name in group} - set(bad)
        self.corrupt = tuple(item for item in self.corrupt if item.name not in sound)
        self._exclude(error, bad)

    def _exclude(self, error: BadPart, bad: dict[str, str]) -> None:
        """Leave files out from now on, so that the others can be merged."""
        if bad and not any(file.name in bad for file in self.listed):
            raise error
        self._set_aside(bad)

    def _set_aside(self, bad: dict[str, str]) -> None:
        found = [file for file in self.listed if file.name in bad]
        for file in found:
            logger.info("%s stays as it is: %s", self._place.lake.name(file.key), bad[file.name])
        names = {file.name for file in found}
        self.corrupt = tuple(item for item in self.corrupt if item.name not in names)
        self.corrupt += tuple(Corrupt(name=file.name, etag=file.etag, reason=bad[file.name]) for file in found)

    async def _replace(self, claim: Claim, chosen: Bin) -> bool:
        """Merge a bin, and replace its files. False if they changed before anything did."""
        self._place.lake.check_place(self.partition.key(_OUTPUT))
        size_bytes = sum(file.size_bytes for file in chosen)
        # Copies and the output. What rows take that wait decoded is known only when the footers are.
        check_room(self.shared.scratch, 2 * size_bytes, str(self.partition))
        async with self.shared.disk.taken(_SCRATCH_TIMES * size_bytes):
            return await self._replace_with_room(claim, chosen)

    async def _replace_with_room(self, claim: Claim, chosen: Bin) -> bool:
        directory = self.shared.scratch / uuid.uuid4().hex
        directory.mkdir()
        try:
            chosen, built = await self._build(chosen, directory)
            name = output_name(chosen)
            key = self.partition.key(name)
            like = [file.key for file in chosen]
            staged = await self._place.lake.stage(key, directory / _OUTPUT, sha256=built.sha256, like=like)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        plan = ReplacementPlan(
            inputs=tuple(Input(name=file.name, etag=file.etag, size_bytes=file.size_bytes) for file in chosen),
            output=name,
            upload_id=staged.upload_id,
            upload_etags=staged.etags,
            size_bytes=built.merged.size_bytes,
            rows=built.merged.rows,
            sha256=built.sha256,
        )
        try:
            await claim.write_plan(plan, self.corrupt)
        except Conflict:
            await self._place.lake.discard(staged)
            raise
        self.shared.made.add(staged.upload_id)
        self._kept.forget(file.key for file in chosen)
        self.families[name] = self.families.get(chosen[0].name, 0)
        return await self._complete(claim, plan)

    async def _build(self, chosen: Bin, directory: Path) -> tuple[Bin, Built]:
        """Merge a bin. Where the output's size shows that other files would make a better one, merge those instead."""
        for _ in range(_REPACKINGS):
            built = await self._merge(chosen, directory)
            self._learn(chosen, built.merged.size_bytes)
            if self._place.rules.in_range(built.merged.size_bytes):
                return chosen, built
            better = self._bins()
            if not better or better[0] == chosen:
                return chosen, built
            chosen = better[0]
        return chosen, await self._merge(chosen, directory)

    def _learn(self, chosen: Bin, size_bytes: int) -> None:
        old = sum(file.size_bytes for file in chosen if is_compacted(file.name))
        new = sum(file.size_bytes for file in chosen) - old
        if new:
            self.shared.shrink = min(4.0, max(0.05, (size_bytes - old) / new))

    async def _merge(self, chosen: Bin, directory: Path) -> Built:
        self.tried = chosen
        inputs = {file.name: file.etag for file in chosen}
        recipe = Recipe(
            ORDER,
            metadata={INPUTS_METADATA: json.dumps(inputs), "quantlab.writer": f"{WRITER} {WRITER_VERSION}"},
            row_group_rows=ROW_GROUP_ROWS,
            cores=1 if sum(file.size_bytes for file in chosen) <= _SMALL_BYTES else None,
            split=False,  # engines that read this lake do not know it
        )
        with self._reading():
            return await self.shared.merging.build(self._kept, chosen, recipe, directory / _OUTPUT)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Within, history that may not be read is told apart from a store that lets us do nothing at all.

        Raises:
            Withheld: an input may not be read, and the partition is history.
        """
        try:
            yield
        except AccessDenied as error:
            if is_recent(self._place, self.partition):
                raise
            raise Withheld(error) from error

    async def _complete(self, claim: Claim, plan: ReplacementPlan) -> bool:
        # One at a time: then the requests of each are fewer seconds apart, in which readers see its rows twice.
        async with self.shared.replacing:
            first = self.shared.tried.setdefault(plan.upload_id, time.monotonic())
            # A run that is told to stop deletes what it has just replaced: else rows are there twice until the next.
            work = complete(self._place.lake, self.partition, plan, claim, give_up=self.requested.give_up)
            done = await ended_within(_STOP_SECONDS, work)
            again = time.monotonic() - first
        if done.replaced:
            self.replacements.append(
                Replacement(
                    output=plan.output,
                    inputs=len(plan.inputs),
                    bytes_in=plan.bytes_in,
                    bytes_out=plan.size_bytes,
                    rows=plan.rows,
                    doubled_seconds=max(done.doubled_seconds, again),
                    kept=done.kept,
                    recovered=plan.upload_id not in self.shared.made,
                )
            )
        return done.replaced
