"""The slot of a partition: who works on it, and the plan that must be completed (docs/adr/0006).

idle → claimed → planned → idle, each step by compare-and-swap. A slot is never deleted.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import socket
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator

from quantlab_dagster.errors import Conflict, MalformedObject, SettingsError, StoreUnavailable, UnaddressableKey
from quantlab_dagster.lake.record import Record
from quantlab_dagster.lake.store.objects import Staged, first_error
from quantlab_dagster.lake.warehouse import SLOTS, AppHour
from quantlab_dagster.work.stopping import ended_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.lake.template import Layout
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.work.clock import Clock

__all__ = [
    "DRIFTED",
    "SILENT_AFTER",
    "Claim",
    "Corrupt",
    "FoundSlots",
    "Input",
    "ReplacementPlan",
    "Slot",
    "find_slots",
    "new_holder",
    "read_slot",
    "refuse_slots_of_another_layout",
]

logger = logging.getLogger(__name__)

SILENT_AFTER = dt.timedelta(minutes=15)
"""A claim that was not renewed for so long may be taken over. Correctness does not depend on it, nor on clocks that
agree: whoever lost a slot cannot write into it, and throws its work away."""

DRIFTED = "does not unite with the others: "
"""How the reason begins of a file that is sound, and the only one of its kind."""

_RENEW_SECONDS = 120.0
_STOP_SECONDS = 5.0


class Input(BaseModel):
    """A file that a plan replaces: exactly these bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    etag: str
    size_bytes: int


class Corrupt(BaseModel):
    """A file that cannot be merged; it stays where it is."""

    model_config = ConfigDict(frozen=True)

    name: str
    etag: str
    reason: str

    @property
    def waits(self) -> bool:
        """Whether nothing is wrong with it but that it is alone: it is tried again when another file comes."""
        return self.reason.startswith(DRIFTED)

    def is_among(self, files: Sequence[ObjectInfo]) -> bool:
        """Whether it is still there, unchanged."""
        return any((file.name, file.etag) == (self.name, self.etag) for file in files)


class ReplacementPlan(BaseModel):
    """A replacement that is decided: its output is uploaded and audited, but perhaps not visible yet.

    Attributes:
        inputs: what the output replaces.
        output: name of the output.
        upload_id: of the upload that becomes visible once at most.
        upload_etags: of its parts.
        giving_up: whether somebody has begun to give it up, having seen that the output was not there: if neither it
            nor its upload is there now, that was done.
        size_bytes: of the output.
        rows: in it, as many as in all inputs.
        sha256: of the output, hexadecimal.
    """

    model_config = ConfigDict(frozen=True)

    inputs: tuple[Input, ...]
    output: str
    upload_id: str
    upload_etags: tuple[str, ...]
    giving_up: bool = False
    size_bytes: int
    rows: int
    sha256: str

    @property
    def bytes_in(self) -> int:
        """Compressed bytes of all inputs."""
        return sum(item.size_bytes for item in self.inputs)

    def staged(self, partition: AppHour) -> Staged:
        """The upload, as the store knows it."""
        return Staged(partition.key(self.output), self.upload_id, self.upload_etags, self.size_bytes)


class Slot(Record):
    """`_compaction/<app>/<hour>.json`.

    Attributes:
        state: idle (nobody is at work), claimed (somebody reads and merges), planned (a replacement is under way, and
            whoever finds it completes it).
        holder: who wrote it last.
        since: when; renewed while the holder is alive.
        plan: while planned.
        corrupt: files of the partition that are known not to be mergeable.
        company: which new files lay beside those of them that wait (`company_of`); None if there were none.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"company"})
    remedy: ClassVar[str] = (
        "Nothing is done in this partition until an operator restores the slot; never delete one that may hold a plan"
    )

    schema_version: Literal[1] = 1
    state: Literal["idle", "claimed", "planned"] = "idle"
    holder: str | None = None
    since: AwareDatetime | None = None
    plan: ReplacementPlan | None = None
    corrupt: tuple[Corrupt, ...] = ()
    company: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.state == "planned") != (self.plan is not None):
            raise ValueError("a plan belongs to the state 'planned', and to no other")
        if self.state == "claimed" and self.since is None:
            raise ValueError("a claim says since when")
        return self

    def is_silent(self, now: dt.datetime) -> bool:
        """Whether its claim may be taken over."""
        # A claim from the future is one of a machine whose clock is wrong: it must not hold its hour until then.
        return self.since is None or abs(now - self.since) > SILENT_AFTER


_IDLE_BYTES = len(Slot().dump())
"""An idle slot without corrupt files always has these bytes, every other one has more: a listing tells them apart."""


def new_holder() -> str:
    """A name for this attempt, unique, and telling for people."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


async def read_slot(slots: Store, partition: AppHour) -> tuple[Slot, str | None]:
    """The slot of a partition and its ETag; an idle one and None if it was never used.

    Raises:
        MalformedObject: there is something that is no slot. It is never treated as absent.
    """
    found = await slots.get_if_exists(partition.slot_key)
    if found is None:
        return Slot(), None
    content, info = found
    return Slot.read(content, slots.name(partition.slot_key)), info.etag


@dataclass(frozen=True, slots=True)
class FoundSlots:
    """Slots that say more than "idle".

    Attributes:
        items: their partitions.
        odd: paths that cannot be addressed, for people.
        of_another: keys of slots that another layout has for partitions of this one.
    """

    items: tuple[AppHour, ...]
    odd: tuple[str, ...]
    of_another: tuple[str, ...]


async def find_slots(slots: Store, layout: Layout, scope: Scope) -> FoundSlots:
    """Slots of the scope that say more than "idle": one listing per app and thousand slots.

    An app among whose slots is a name that no request can hold is left out, and told as odd.
    """
    found: list[AppHour] = []
    of_another: list[str] = []
    names = await slots.list_names(SLOTS)
    odd = [f"{SLOTS}{name}" for name in names.odd]
    for app in layout.apps_of_slots(names.directories):
        if scope.apps and app not in scope.apps:
            continue
        prefix = layout.slots_of(app)
        try:
            async for page in slots.pages(prefix, layout.slot_keys(app, scope.first, scope.last)):
                for info in page:
                    if info.size_bytes == _IDLE_BYTES:
                        continue
                    partition = AppHour.of_slot(info.key, layout)
                    if partition is not None and partition in scope:
                        found.append(partition)
                    elif partition is None and layout.is_slot_of_another(info.key):
                        of_another.append(info.key)
        except UnaddressableKey:
            odd.append(f"{prefix} (something in it)")
            continue
    return FoundSlots(tuple(found), tuple(odd), tuple(of_another))


async def refuse_slots_of_another_layout(slots: Store, keys: Iterable[str]) -> None:
    """See that another layout has left nothing unfinished where this one would work.

    Its plan would not be known here: inputs and output would be merged, and their rows be there twice, for good.

    Args:
        slots: where the slots are.
        keys: of slots that another layout has for partitions of this one.

    Raises:
        SettingsError: one of them is not idle, or cannot be read.
        StoreError: one cannot be fetched.
    """
    for key in keys:
        found = await slots.get_if_exists(key)
        try:
            said: str = Slot.read(found[0], slots.name(key)).state if found is not None else "idle"
        except MalformedObject:
            said = "unreadable"
        if said != "idle":
            raise SettingsError(
                "WAREHOUSE_LAYOUT",
                f"{slots.name(key)}, by another layout the slot of a directory that this one explains, too, is {said}",
                "Set the layout that was there before, and run `quantlab warehouse recover`; then change it",
            )


class Claim:
    """A slot that is ours, as long as nobody takes it over.

    Args:
        store: where the slots are.
        partition: whose slot.
        slot: as it is.
        etag: of the slot; None if there is none yet.
        clock: the present time.
    """

    def __init__(self, store: Store, partition: AppHour, slot: Slot, etag: str | None, clock: Clock) -> None:
        self.slot = slot
        self._store = store
        self._partition = partition
        self._etag = etag
        self._clock = clock
        self._holder = new_holder()
        self._writing = asyncio.Lock()

    @property
    def name(self) -> str:
        """Full name of the slot, for messages."""
        return self._store.name(self._partition.slot_key)

    @property
    def is_held(self) -> bool:
        """Whether the slot is claimed by us."""
        return self.slot.state == "claimed" and self.slot.holder == self._holder

    async def take(self, corrupt: tuple[Corrupt, ...] | None = None) -> None:
        """Claim the slot, or go back from a completed plan to the claim.

        Raises:
            Conflict: another compactor was faster.
        """
        known = self.slot.corrupt if corrupt is None else corrupt
        await self._write(Slot(state="claimed", holder=self._holder, since=self._clock(), corrupt=known))

    async def write_plan(self, plan: ReplacementPlan, corrupt: tuple[Corrupt, ...]) -> None:
        """From here on the plan must be completed.

        Raises:
            Conflict: the slot is no longer ours; the work must be thrown away.
        """
        await self._write(Slot(state="planned", holder=self._holder, since=self._clock(), plan=plan, corrupt=corrupt))

    async def release(self, corrupt: tuple[Corrupt, ...], company: str | None = None) -> None:
        """Make the slot idle.

        Raises:
            Conflict: another compactor has it now.
        """
        await self._write(Slot(corrupt=corrupt, company=company if any(item.waits for item in corrupt) else None))

    async def check(self) -> None:
        """See that the slot is still as we know it.

        Raises:
            Conflict: it is not.
        """
        info = await self._store.head(self._partition.slot_key)
        if info is None or info.etag != self._etag:
            raise Conflict(self.name, "was changed by another compactor", "Run again")

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew the claim while the body runs.

        Raises:
            Conflict: the slot is no longer ours; the body was cancelled.
        """
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep())
                try:
                    yield
                finally:
                    # Not while it writes: then we would not know what the slot is now.
                    async with self._writing:
                        keeper.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                # What is renewed is what stands when it is our turn to write, not what stood before: that may be a
                # claim, and by now a plan.
                async with self._writing:
                    if self.slot.state == "idle":
                        return
                    await self._swap(self.slot.model_copy(update={"since": self._clock()}))
            except StoreUnavailable as error:
                logger.warning("the claim of %s could not be renewed: %s", self._partition, error)

    async def _write(self, slot: Slot) -> None:
        async with self._writing:
            await self._swap(slot)

    async def _swap(self, slot: Slot) -> None:
        # Told to stop or not, we want to know what we wrote: else nobody could release it.
        await ended_within(_STOP_SECONDS, self._swap_and_note(slot))

    async def _swap_and_note(self, slot: Slot) -> None:
        key = self._partition.slot_key
        self._etag = await self._store.compare_and_swap(key, slot.dump(), self._etag)
        self.slot = slot
