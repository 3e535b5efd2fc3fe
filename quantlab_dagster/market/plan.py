"""What is to be done with a symbol-day, decided from listings and the small records beside it; no part is read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject, ObjectNotFound, UnaddressableKey
from quantlab_dagster.lake.market import DATA, META, QUARANTINE, SOURCES, SymbolDay, find_parts, find_symbols_of
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.records import DayMeta, Quarantine, Source, Sources, fingerprint

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.market.place import MarketPlace

__all__ = [
    "ITS_OWN_FAULT",
    "Action",
    "Plan",
    "Published",
    "Requested",
    "load_published",
    "plan_days",
    "plan_symbol_day",
]

ITS_OWN_FAULT = (UnaddressableKey, MalformedObject)
"""Errors that speak of what lies in one symbol-day's directory, and so of no other symbol-day."""


class Action(StrEnum):
    """What a plan says."""

    BUILD = "build"
    UP_TO_DATE = "up_to_date"
    QUARANTINED = "quarantined"
    KEEP = "keep"
    BROKEN = "broken"
    NO_FILES = "no_files"


@dataclass(frozen=True, slots=True)
class Requested:
    """What the caller allows.

    Attributes:
        overwrite: build even what is up to date or quarantined.
        allow_shrink: build even if raw objects that were read once are gone or changed.
    """

    overwrite: bool = False
    allow_shrink: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """What the compact lake holds of a symbol-day.

    Attributes:
        meta: the commit mark, None if there is none.
        meta_etag: its ETag, for replacing it.
        data: data.parquet as listed, None if there is none.
        committed: whether data.parquet is the file that the meta speaks of.
        sources: the raw objects it was made of; None if unknown.
        quarantine: why the symbol-day could not be published, if so.
    """

    meta: DayMeta | None = None
    meta_etag: str | None = None
    data: ObjectInfo | None = None
    committed: bool = False
    sources: tuple[Source, ...] | None = None
    quarantine: Quarantine | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with a symbol-day, and why.

    Attributes:
        symbol_day: which.
        action: what to do.
        reason: why, for people.
        parts: the raw parts as listed, in key order.
        raw_fingerprint: of these parts.
        published: what is there now.
    """

    symbol_day: SymbolDay
    action: Action
    reason: str
    parts: tuple[ObjectInfo, ...]
    raw_fingerprint: str
    published: Published

    @property
    def stale(self) -> bool:
        """Whether a published day lacks raw parts that are there now."""
        return self.action is Action.BUILD and self.published.committed

    @property
    def bytes_in(self) -> int:
        """Compressed bytes of all parts."""
        return sum(part.size_bytes for part in self.parts)


async def plan_symbol_day(raw: Store, compact: Store, symbol_day: SymbolDay, requested: Requested) -> Plan:
    """List the raw parts, look at what is published, decide.

    Raises:
        StoreError: a listing or a read failed.
        MalformedObject: a record beside the day cannot be understood.
    """
    parts = tuple(await find_parts(raw, symbol_day))
    sources = [Source.of(part) for part in parts]
    raw_fingerprint = fingerprint(sources)
    published = await load_published(compact, symbol_day, raw_fingerprint)
    action, reason = decide(sources, raw_fingerprint, published, requested)
    return Plan(symbol_day, action, reason, parts, raw_fingerprint, published)


def decide(  # noqa: C901  # the rules in order; splitting them would hide the order
    sources: Sequence[Source], raw_fingerprint: str, published: Published, requested: Requested
) -> tuple[Action, str]:
    """The rules, in order; pure.

    Args:
        sources: the raw parts as listed now.
        raw_fingerprint: of these.
        published: what the compact lake holds.
        requested: what the caller allows.
    """
    meta = published.meta
    if not sources and meta is None and published.data is None:
        return Action.NO_FILES, "no raw parts"
    if meta is not None and published.committed and not requested.overwrite:
        if meta.raw_fingerprint == raw_fingerprint:
            return Action.UP_TO_DATE, "published from the same raw parts"
        if meta.is_adopted:
            return Action.UP_TO_DATE, "published by other software"
    if meta is not None and not requested.allow_shrink:
        lost = _lost(sources, raw_fingerprint, published)
        if lost and published.committed:
            return Action.KEEP, f"{lost}; the published day stays as it is (--allow-shrink rebuilds it)"
        if lost:
            return Action.BROKEN, f"data.parquet is not what meta.json says, and {lost}; --allow-shrink rebuilds it"
    if not sources:
        return Action.BROKEN, "data.parquet has no valid meta.json, and there are no raw parts to build it from"
    quarantine = published.quarantine
    if quarantine is not None and quarantine.raw_fingerprint == raw_fingerprint and not requested.overwrite:
        return Action.QUARANTINED, quarantine.reason
    if requested.overwrite:
        return Action.BUILD, "asked to overwrite"
    if meta is not None and published.committed:
        return Action.BUILD, "raw parts arrived since it was published"
    return Action.BUILD, "not committed" if published.data else "not published"


def _lost(sources: Sequence[Source], raw_fingerprint: str, published: Published) -> str:
    """Which raw objects that were once read are gone or changed; empty if none."""
    meta = published.meta
    if meta is None or meta.raw_fingerprint == raw_fingerprint:
        return ""
    if published.sources is None:
        before, now = meta.source_files or 0, len(sources)
        return f"only {now} of {before} raw parts are left" if now < before else ""
    listed = {source.name: source for source in sources}
    lost = [source.name for source in published.sources if listed.get(source.name) != source]
    return f"{len(lost)} raw parts that were read are gone or changed (first: {lost[0]})" if lost else ""


async def load_published(compact: Store, symbol_day: SymbolDay, raw_fingerprint: str | None = None) -> Published:
    """Look at what the compact lake holds of a symbol-day: one listing, and only the records that matter.

    Args:
        compact: the compact lake.
        symbol_day: which.
        raw_fingerprint: if the meta carries this one, its sources are known and not read.
    """
    listed = {info.name: info for info in await compact.list_objects(symbol_day.prefix)}
    quarantine = None
    if QUARANTINE in listed:
        found = await compact.get_if_exists(symbol_day.key(QUARANTINE))
        quarantine = Quarantine.read(found[0], compact.name(symbol_day.key(QUARANTINE))) if found else None
    data = listed.get(DATA)
    found = await compact.get_if_exists(symbol_day.key(META)) if META in listed else None
    if found is None:
        return Published(data=data, quarantine=quarantine)
    meta = DayMeta.read(found[0], compact.name(symbol_day.key(META)))
    return Published(
        meta=meta,
        meta_etag=found[1].etag,
        data=data,
        committed=data is not None and await _matches(compact, meta, data),
        sources=None if meta.raw_fingerprint == raw_fingerprint else await _sources(compact, symbol_day, meta),
        quarantine=quarantine,
    )


async def _matches(compact: Store, meta: DayMeta, data: ObjectInfo) -> bool:
    """Whether this is the data that the meta speaks of: by size and ETag, or else by content.

    A copied bucket has other ETags. A day of other software is believed; `quantlab verify` checks it.
    """
    if meta.is_adopted:
        return True
    if meta.data_size_bytes != data.size_bytes:
        return False
    if meta.data_etag == data.etag:
        return True
    try:
        return await compact.sha256(data.key) == meta.sha256
    except ObjectNotFound:
        return False


async def _sources(compact: Store, symbol_day: SymbolDay, meta: DayMeta) -> tuple[Source, ...] | None:
    if meta.is_adopted:
        return None
    key = symbol_day.key(SOURCES)
    found = await compact.get_if_exists(key)
    if found is None:
        return None
    sources = Sources.read(found[0], compact.name(key))
    return sources.objects if sources.raw_fingerprint == meta.raw_fingerprint else None


async def plan_days(
    place: MarketPlace,
    pairs: Iterable[Pair],
    days: Sequence[dt.date],
    *,
    symbols: Sequence[str] = (),
    requested: Requested | None = None,
) -> list[Plan]:
    """Plan every symbol-day of the pairs and days that has raw parts or a published file, many at a time.

    One with a record that cannot be understood, or a key that cannot be addressed, is broken, and stops no other.

    Raises:
        StoreError: a listing or a read failed for another reason: then nothing can be said of any.
    """
    at_once = place.limits.request_concurrency
    gate = asyncio.Semaphore(at_once)
    pairs = list(pairs)

    async def one(symbol_day: SymbolDay) -> Plan:
        async with gate:
            try:
                return await plan_symbol_day(place.raw, place.compact, symbol_day, requested or Requested())
            except ITS_OWN_FAULT as error:
                return Plan(symbol_day, Action.BROKEN, str(error), (), "", Published())

    found = dict.fromkeys(pairs, tuple(symbols))
    if not symbols:
        found, _ = await find_symbols_of(place.raw, pairs, at_once=at_once)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(one(SymbolDay(pair.exchange, pair.stream, symbol, day)))
                for pair in pairs
                for symbol in found[pair]
                for day in days
            ]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return [plan for task in tasks if (plan := task.result()).action is not Action.NO_FILES]
