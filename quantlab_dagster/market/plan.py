"""What is to be done with a symbol-day, decided from listings and the small records beside it; no part is read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from quantlab_dagster.errors import MalformedObject, ObjectNotFound, UnaddressableKey
from quantlab_dagster.lake.market import DATA, META, QUARANTINE, SOURCES, SymbolDay, find_parts, find_symbols_of
from quantlab_dagster.lake.store.objects import first_error
from quantlab_dagster.market.quality.rules import Label
from quantlab_dagster.market.records import DayMeta, Quarantine, Source, Sources, fingerprint

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Sequence

    from quantlab_dagster.errors import QuantlabError
    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.quality.reading import Qualities
    from quantlab_dagster.market.quality.records import DayQuality

__all__ = [
    "ITS_OWN_FAULT",
    "Action",
    "Plan",
    "Published",
    "Requested",
    "broken_plan",
    "each_plan",
    "load_published",
    "plan_days",
    "plan_each",
    "plan_symbol_day",
]

T = TypeVar("T")

ITS_OWN_FAULT = (UnaddressableKey, MalformedObject)
"""Errors that speak of what lies in one symbol-day's directory, and so of no other symbol-day."""


class Action(StrEnum):
    """What a plan says."""

    BUILD = "build"
    RELABEL = "relabel"
    QUARANTINE = "quarantine"
    SKIP = "skip"
    UP_TO_DATE = "up_to_date"
    QUARANTINED = "quarantined"
    LIFT = "lift"
    KEEP = "keep"
    BROKEN = "broken"
    NO_FILES = "no_files"


@dataclass(frozen=True, slots=True)
class Requested:
    """What the caller allows.

    Attributes:
        overwrite: build even what is up to date or quarantined.
        allow_shrink: build even if raw objects that were read once are gone, changed or not known, and publish even
            fewer rows than there are.
        retry_quarantine: try again what is quarantined for its parts, although these have not changed.
        accept_bad: why a day is published although it is BAD, labelled as that; empty: it is not.
    """

    overwrite: bool = False
    allow_shrink: bool = False
    retry_quarantine: bool = False
    accept_bad: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """What the compact lake holds of a symbol-day.

    Attributes:
        meta: the commit mark, None if there is none.
        meta_etag: its ETag, for replacing it.
        data: data.parquet as listed, None if there is none.
        committed: whether data.parquet is the file that the meta speaks of.
        sources: the raw objects it was made of; None if unknown.
        other_sources: what sources.json lists where it is not the meta's: of a publication of ours that did not end, or
            that other software wrote over; None if there is none, or it cannot be believed.
        written_over: whether a meta of other software lies beside sources of ours.
        quarantine: why the symbol-day could not be published, if so.
    """

    meta: DayMeta | None = None
    meta_etag: str | None = None
    data: ObjectInfo | None = None
    committed: bool = False
    sources: tuple[Source, ...] | None = None
    other_sources: tuple[Source, ...] | None = None
    written_over: bool = False
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
        allow_shrink: whether fewer rows may be published than there are now.
        quality: what the day is worth; None where nobody came to ask.
        accept_bad: why the day is published although it is BAD; empty of any other.
    """

    symbol_day: SymbolDay
    action: Action
    reason: str
    parts: tuple[ObjectInfo, ...]
    raw_fingerprint: str
    published: Published
    allow_shrink: bool = False
    quality: DayQuality | None = None
    accept_bad: str = ""

    @property
    def label(self) -> str | None:
        """What the day is worth, in one word."""
        return self.quality.label.value if self.quality is not None else None

    @property
    def waits(self) -> bool:
        """Whether the day is PARTIAL, and looked at again before it is given up."""
        return self.action is Action.SKIP and self.quality is not None and self.quality.waits

    @property
    def stale(self) -> bool:
        """Whether a published day lacks raw parts that are there now."""
        return self.action is Action.BUILD and self.published.committed

    @property
    def bytes_in(self) -> int:
        """Compressed bytes of all parts."""
        return sum(part.size_bytes for part in self.parts)


async def plan_symbol_day(
    raw: Store, compact: Store, symbol_day: SymbolDay, requested: Requested, quality: DayQuality
) -> Plan:
    """List the raw parts, look at what is published, decide.

    Args:
        raw: lake of parts.
        compact: lake of published days.
        symbol_day: which.
        requested: what the caller allows.
        quality: what its day is worth.

    Raises:
        StoreError: a listing or a read failed.
        MalformedObject: a record beside the day cannot be understood.
    """
    parts = tuple(await find_parts(raw, symbol_day))
    sources = [Source.of(part) for part in parts]
    raw_fingerprint = fingerprint(sources)
    published = await load_published(compact, symbol_day, raw_fingerprint)
    action, reason = decide(sources, raw_fingerprint, published, requested, quality)
    accept_bad = requested.accept_bad if quality.label is Label.BAD else ""
    return Plan(
        symbol_day, action, reason, parts, raw_fingerprint, published, requested.allow_shrink, quality, accept_bad
    )


def decide(
    sources: Sequence[Source], raw_fingerprint: str, published: Published, requested: Requested, quality: DayQuality
) -> tuple[Action, str]:
    """The rules, in order; pure.

    Args:
        sources: the raw parts as listed now.
        raw_fingerprint: of these.
        published: what the compact lake holds.
        requested: what the caller allows.
        quality: what the day is worth.
    """
    action, reason = _decide(sources, raw_fingerprint, published, requested, quality)
    stays = action in (Action.UP_TO_DATE, Action.KEEP) and not requested.overwrite
    label = _new_label(published, quality) if stays else ""
    over = _over(action, raw_fingerprint, published, requested)
    if over:
        return Action.LIFT, f"its quarantine is over: {over}"
    return (Action.RELABEL, f"{label}; {reason}") if label else (action, reason)


def _over(action: Action, raw_fingerprint: str, published: Published, requested: Requested) -> str:
    """Why the quarantine beside a symbol-day holds no longer, although nothing is built; empty if it does."""
    known, meta = published.quarantine, published.meta
    if known is None:
        return ""
    ours = meta is not None and meta.raw_fingerprint == raw_fingerprint
    if action is Action.UP_TO_DATE and (ours or known.raw_fingerprint != raw_fingerprint):
        return "the published day has the rows of all raw parts that there are"
    if action is Action.QUARANTINED and raw_fingerprint == fingerprint(()):
        if known.part is not None and known.source_files == 1 and not published.data:
            return "its only raw part is gone"
        if requested.allow_shrink:
            return "its raw parts are gone, which is allowed"
    return ""


def _decide(
    sources: Sequence[Source], raw_fingerprint: str, published: Published, requested: Requested, quality: DayQuality
) -> tuple[Action, str]:
    if not sources and published.meta is None and published.data is None:
        if published.quarantine is not None:
            return Action.QUARANTINED, f"{published.quarantine.reason}; its raw parts are gone"
        return Action.NO_FILES, "no raw parts"
    fine = _up_to_date(sources, raw_fingerprint, published)
    if fine and not requested.overwrite:
        return Action.UP_TO_DATE, fine
    lost = "" if requested.allow_shrink else _lost(sources, raw_fingerprint, published)
    if lost:
        return _stays(published, lost, "--allow-shrink rebuilds it")
    if not sources:
        return _stays(published, "there are no raw parts to build it from")
    quarantine = published.quarantine
    asked = requested.overwrite or requested.allow_shrink or requested.retry_quarantine
    of_parts = quarantine is not None and quarantine.day_quality is None
    if quarantine is not None and of_parts and quarantine.raw_fingerprint == raw_fingerprint and not asked:
        return _quarantined(quarantine, published)
    held = _held(raw_fingerprint, published, requested, quality)
    if held is not None:
        return held
    why = _why_built(published, requested)
    if quality.label is Label.BAD and requested.accept_bad:
        why = f"{why}; {quality.verdict.why}, and published all the same: {requested.accept_bad}"
    return Action.BUILD, why


def _held(
    raw_fingerprint: str, published: Published, requested: Requested, quality: DayQuality
) -> tuple[Action, str] | None:
    """What becomes of a day that is BAD or PARTIAL; None of any other.

    It is not published for the first time, unless somebody says why a BAD day is to be. What is published already is
    neither taken away nor replaced by itself: its label says what it is worth. A publication that did not end is
    brought to its end.
    """
    if quality.label not in (Label.BAD, Label.PARTIAL):
        return None
    why = quality.verdict.why
    meta = published.meta
    accepted_again = (
        quality.label is Label.BAD
        and requested.accept_bad
        and meta is not None
        and meta.raw_fingerprint != raw_fingerprint
    )
    if published.committed and not requested.overwrite and not accepted_again:
        return Action.KEEP, f"{why}; the published day stays as it is"
    if published.meta is not None or (quality.label is Label.BAD and requested.accept_bad):
        return None
    if quality.label is Label.PARTIAL:
        return Action.SKIP, why
    known = published.quarantine
    if known is not None and (known.day_quality, known.raw_fingerprint) == (Label.BAD.value, raw_fingerprint):
        return Action.QUARANTINED, known.reason
    return Action.QUARANTINE, why


def _new_label(published: Published, quality: DayQuality) -> str:
    """Why the label of a published day of ours is to be written anew; empty if it is right.

    Days of other software keep the label that they came with. And a day that had windows does not become unknown
    because nobody can find them any more.
    """
    meta = published.meta
    if meta is None or meta.is_adopted or published.written_over or not published.committed or not quality.fingerprint:
        return ""
    if meta.day_quality != quality.label.value:
        return f"the day is {quality.label}, and labelled {meta.day_quality}"
    if meta.quality_fingerprint != quality.fingerprint:
        return f"the evidence of its being {quality.label} has changed"
    return ""


def _quarantined(quarantine: Quarantine, published: Published) -> tuple[Action, str]:
    # One without a part says that rows would be lost: that is settled only while the day that has them stands.
    if quarantine.part is None and not published.committed:
        return Action.BUILD, _why_built(published, Requested())
    return Action.QUARANTINED, quarantine.reason


_WRITTEN_OVER = "meta.json is of other software, beside sources.json of this one"


def _up_to_date(sources: Sequence[Source], raw_fingerprint: str, published: Published) -> str:
    """Why a committed day lacks nothing; empty if it does, or if other software wrote over it."""
    meta = published.meta
    if meta is None or not published.committed or published.written_over:
        return ""
    if meta.raw_fingerprint == raw_fingerprint:
        return "published from the same raw parts"
    believed = meta.is_adopted and meta.source_files in (None, len(sources))
    return "published by other software" if believed else ""


def _lost(sources: Sequence[Source], raw_fingerprint: str, published: Published) -> str:
    """Why a rebuild from what is listed could lose rows; empty if it cannot.

    Raw objects that were once read must still be there, unchanged. Where it is not known which they were, nothing is
    safe; of a day of other software only their number is known.
    """
    meta = published.meta
    if meta is not None and meta.raw_fingerprint == raw_fingerprint:
        return ""
    read = _read(published)
    listed = {source.name: source for source in sources}
    gone = [source.name for source in read or () if listed.get(source.name) != source]
    if gone:
        return f"{len(gone)} raw parts that were read are gone or changed (first: {gone[0]})"
    before, now = meta.source_files if meta else None, len(sources)
    if before is not None and now < before:
        return f"only {now} of {before} raw parts are left"
    if read is None and meta is not None and (before is None or not meta.is_adopted):
        return "it is not known which raw parts were read"
    return ""


def _read(published: Published) -> tuple[Source, ...] | None:
    """The raw objects whose rows a rebuild must hold; None if unknown."""
    if published.sources is not None:
        return published.sources
    if published.committed and not published.written_over:
        return None
    # A publication of ours died before its meta: its own plan saw to it that nothing read before it was lost. With
    # fewer sources than the meta has, it is an older writer's that came too late, or lost rows as it was allowed to.
    meta, other = published.meta, published.other_sources
    too_few = meta is not None and not meta.is_adopted and len(other or ()) < (meta.source_files or 0)
    return None if too_few else other


def _stays(published: Published, cause: str, remedy: str = "") -> tuple[Action, str]:
    """The day is not built: what is published stays, what is half published is broken."""
    cause = f"{_WRITTEN_OVER}; {cause}" if published.written_over else cause
    quarantine = published.quarantine
    if published.committed and quarantine is not None and quarantine.day_quality is None:  # readers refuse it for that
        return Action.QUARANTINED, f"{quarantine.reason}; and {cause}{f' ({remedy})' if remedy else ''}"
    if published.committed:
        return Action.KEEP, f"{cause}; the published day stays as it is{f' ({remedy})' if remedy else ''}"
    wrong = "is not what meta.json says" if published.meta else "has no valid meta.json"
    return Action.BROKEN, f"data.parquet {wrong}, and {cause}{f'; {remedy}' if remedy else ''}"


def _why_built(published: Published, requested: Requested) -> str:
    if published.written_over:
        return f"{_WRITTEN_OVER}{'' if published.committed else ', and data.parquet is not known to be its data'}"
    if requested.overwrite:
        return "asked to overwrite"
    if published.committed:
        return "raw parts arrived since it was published"
    return "not committed" if published.data else "not published"


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
    meta = DayMeta.read(found[0], compact.name(symbol_day.key(META))) if found else None
    known = meta is not None and not meta.is_adopted and meta.raw_fingerprint == raw_fingerprint
    wanted = SOURCES in listed and not known and (meta is not None or data is not None)
    sources = await _sources(compact, symbol_day) if wanted else None
    of_meta = meta is not None and sources is not None and sources.raw_fingerprint == meta.raw_fingerprint
    written_over = meta is not None and meta.is_adopted and SOURCES in listed
    return Published(
        meta=meta,
        meta_etag=found[1].etag if found else None,
        data=data,
        committed=meta is not None and data is not None and await _matches(compact, meta, data, seen=written_over),
        sources=sources.objects if sources and of_meta else None,
        other_sources=sources.objects if sources and not of_meta else None,
        written_over=written_over,
        quarantine=quarantine,
    )


async def _matches(compact: Store, meta: DayMeta, data: ObjectInfo, *, seen: bool) -> bool:
    """Whether this is the data that the meta speaks of: by size and ETag, or else by content.

    A copied bucket has other ETags. A day of other software is believed, and `quantlab verify` checks it; but not
    unseen where we have written too: the data may be ours, from a run that died before its meta.
    """
    if meta.is_adopted and not seen:
        return True
    if meta.data_size_bytes not in ((None, data.size_bytes) if meta.is_adopted else (data.size_bytes,)):
        return False
    if meta.data_etag == data.etag:
        return True
    try:
        return meta.sha256 is not None and await compact.sha256(data.key) == meta.sha256
    except ObjectNotFound:
        return False


async def _sources(compact: Store, symbol_day: SymbolDay) -> Sources | None:
    """The sources beside a day; None, as if unknown, if they cannot be read or contradict their own fingerprint.

    That is the safe side: a day of which it is not known what was read is kept.
    """
    key = symbol_day.key(SOURCES)
    found = await compact.get_if_exists(key)
    if found is None:
        return None
    try:
        sources = Sources.read(found[0], compact.name(key))
    except MalformedObject:
        return None
    return sources if sources.raw_fingerprint == fingerprint(sources.objects) else None


async def plan_days(
    place: MarketPlace,
    pairs: Iterable[Pair],
    days: Sequence[dt.date],
    *,
    symbols: Sequence[str] = (),
    requested: Requested | None = None,
) -> list[Plan]:
    """Plan every symbol-day of the pairs and days that has raw parts or a published file; see `each_plan`.

    Nothing is written, what was read of the days' windows neither.
    """
    looking = place.qualities(keep=False)
    return await each_plan(
        place, pairs, days, lambda plan: plan, symbols=symbols, requested=requested, qualities=looking
    )


async def each_plan(
    place: MarketPlace,
    pairs: Iterable[Pair],
    days: Sequence[dt.date],
    reduce: Callable[[Plan], T],
    *,
    symbols: Sequence[str] = (),
    requested: Requested | None = None,
    qualities: Qualities | None = None,
) -> list[T]:
    """Plan every symbol-day of the pairs and days that has raw parts or a published file, many at a time.

    One with a record that cannot be understood, or a key that cannot be addressed, is broken, and stops no other.

    Args:
        place: the lakes.
        pairs: whose symbol-days.
        days: which days.
        reduce: what is kept of a plan: a plan holds the listing of its parts, and those of a large day fill the memory.
        symbols: only these; empty for all that the raw lake has or ever had.
        requested: what the caller allows.
        qualities: where it is asked what the days are worth; None asks anew.

    Raises:
        StoreError: a listing or a read failed for another reason: then nothing can be said of any.
    """
    pairs = list(pairs)
    found = dict.fromkeys(pairs, tuple(symbols))
    if not symbols:
        found, _ = await find_symbols_of(place.raw, pairs, at_once=place.limits.request_concurrency)
    wanted = [
        SymbolDay(pair.exchange, pair.stream, symbol, day) for pair in pairs for symbol in found[pair] for day in days
    ]
    return await plan_each(place, wanted, reduce, requested=requested, qualities=qualities)


def broken_plan(symbol_day: SymbolDay, error: QuantlabError) -> Plan:
    """What is to be done where a symbol-day cannot be planned for a reason of its own: nothing, but say it."""
    return Plan(symbol_day, Action.BROKEN, str(error), (), "", Published())


async def plan_each(
    place: MarketPlace,
    wanted: Iterable[SymbolDay],
    reduce: Callable[[Plan], T],
    *,
    requested: Requested | None = None,
    qualities: Qualities | None = None,
) -> list[T]:
    """Plan these symbol-days, in order; those that are nowhere are left out. As `each_plan` otherwise."""
    qualities = qualities or place.qualities()
    kept: dict[int, T] = {}
    next_ones = iter(enumerate(wanted))

    async def work() -> None:
        for number, symbol_day in next_ones:  # shared by all workers
            try:
                quality = await qualities.of(symbol_day.day)
                plan = await plan_symbol_day(place.raw, place.compact, symbol_day, requested or Requested(), quality)
            except ITS_OWN_FAULT as error:
                plan = broken_plan(symbol_day, error)
            if plan.action is not Action.NO_FILES:
                kept[number] = reduce(plan)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(place.limits.request_concurrency):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    return [kept[number] for number in sorted(kept)]
