"""What steps did, until it is folded into the state: an object per step, which nobody else writes.

A step so costs the same whatever the history holds, and steps of one day never wait for each other. The roll-up of the
day folds its entries into `_state.json`, once; entries of days without a roll-up are folded by the next look around.
An entry is removed after it was folded. One that is folded twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator

from quantlab_dagster.errors import MalformedObject, PathError
from quantlab_dagster.lake.market import Pair, day_text, parse_day
from quantlab_dagster.lake.record import Record
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.outcome import Outcome, Status, worst
from quantlab_dagster.market.state import PartitionRecord, utc_text

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.store.base import Store

__all__ = ["JOURNAL", "Journal", "JournalEntry", "Kept", "entry_of", "record_of"]

logger = logging.getLogger(__name__)

JOURNAL = "compacted/journal/"

_AT_ONCE = 32


class JournalEntry(Record):
    """What one step did.

    Attributes:
        exchange: of the pair.
        stream: of the pair.
        day: YYYYMMDD.
        whole: whether all symbols of the pair were looked at.
        ended: how the pair ended, as one status.
        updated_at: when.
        partitions: by state key, what became of each symbol-day.
        fingerprints: by state key, of the raw parts that were looked at, where the symbol-day did not fail.
    """

    exchange: str
    stream: str
    day: str
    whole: bool
    ended: str
    updated_at: str
    partitions: dict[str, PartitionRecord] = Field(default_factory=dict)
    fingerprints: dict[str, str] = Field(default_factory=dict)

    @field_validator("day")
    @classmethod
    def _is_a_day(cls, text: str) -> str:
        try:
            parse_day(text, compact_only=True)
        except PathError as error:
            raise ValueError(str(error)) from None
        return text

    @property
    def pair(self) -> Pair:
        """Which pair's step it was."""
        return Pair(self.exchange, self.stream)

    def dump(self) -> bytes:
        """The object's bytes."""
        return self.model_dump_json(exclude_none=True).encode()


def record_of(outcome: Outcome, now: dt.datetime) -> PartitionRecord:
    """The record of a symbol-day, from how the work on it ended or what it stands as."""
    explained = outcome.status in (Status.FAILED, Status.QUARANTINE, Status.SKIPPED)
    return PartitionRecord(
        status=outcome.status.value,
        rows=outcome.rows,
        total_size_bytes=outcome.bytes_in,
        day_quality_post=outcome.day_quality,
        updated_at=utc_text(now),
        error=outcome.reason if explained else None,
        raw_fingerprint=outcome.raw_fingerprint or None if outcome.status is Status.QUARANTINE else None,
        error_type=outcome.error or None if outcome.status is Status.FAILED else None,
        longest_gap_seconds=outcome.longest_gap_seconds,
        longest_gap_within_seconds=outcome.longest_gap_within_seconds,
    )


def entry_of(pair: Pair, day: dt.date, outcomes: Sequence[Outcome], now: dt.datetime, *, whole: bool) -> JournalEntry:
    """What a step did, from how its symbol-days ended."""
    return JournalEntry(
        exchange=pair.exchange,
        stream=pair.stream,
        day=day_text(day),
        whole=whole,
        ended=worst(outcomes).value,
        updated_at=utc_text(now),
        partitions={outcome.symbol_day.state_key: record_of(outcome, now) for outcome in outcomes},
        fingerprints={
            outcome.symbol_day.state_key: outcome.raw_fingerprint for outcome in outcomes if outcome.raw_fingerprint
        },
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What the journal holds.

    Attributes:
        entries: by key.
        unreadable: by key, why an entry cannot be understood. It stays for people, and stops nothing else.
    """

    entries: dict[str, JournalEntry]
    unreadable: dict[str, str]

    @property
    def troubled(self) -> set[str]:
        """State keys of what could not be built: of these an earlier record says what is published."""
        return {key for entry in self.entries.values() for key, record in entry.partitions.items() if record.troubled}

    def without(self, days: Iterable[dt.date]) -> Self:
        """The entries of all days but some."""
        unwanted = {day_text(day) for day in days}
        kept = {key: entry for key, entry in self.entries.items() if entry.day not in unwanted}
        return type(self)(kept, self.unreadable)


class Journal:
    """The entries of a compact lake that are not folded yet.

    Args:
        store: the compact lake.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, entry: JournalEntry) -> str:
        """Write an entry under a name of its own. Returns its key."""
        key = f"{JOURNAL}{entry.day}-{uuid.uuid4().hex}.json"  # no directories, which a local lake would keep for ever
        await self._store.put(key, entry.dump())
        return key

    async def read(self, day: dt.date | None = None) -> Kept:
        """All entries, or those of a day: one listing, and a GET for each.

        Raises:
            StoreError: they cannot be listed or read.
        """
        names = f"{day_text(day)}-" if day is not None else ""
        listed = await self._store.list_objects(JOURNAL)
        keys = [info.key for info in listed if info.name.startswith(names) and info.name.endswith(".json")]
        entries: dict[str, JournalEntry] = {}
        unreadable: dict[str, str] = {}
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(key: str) -> None:
            async with gate:
                found = await self._store.get_if_exists(key)  # somebody else may have folded it
            try:
                if found is not None:
                    entries[key] = JournalEntry.read(found[0], self._store.name(key))
            except MalformedObject as error:
                unreadable[key] = str(error)
                logger.warning("left where it is, and not folded: %s", error)

        await _all(one(key) for key in keys)
        return Kept({key: entries[key] for key in keys if key in entries}, unreadable)

    async def forget(self, kept: Kept) -> None:
        """Remove entries that are folded."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(key: str) -> None:
            async with gate:
                await self._store.delete(key)  # no error if somebody else has folded it, too

        await _all(one(key) for key in kept.entries)


async def _all(work: Iterable[object]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)  # type: ignore[arg-type]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
