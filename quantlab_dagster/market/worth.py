"""What the compact lake holds of a symbol-day, and what that is worth; decided from the small records beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.market import DATA, META, QUARANTINE, SOURCES, SymbolDay
from quantlab_dagster.market.records import DayMeta, Quarantine
from quantlab_dagster.market.timeunit import ticks_per_second, time_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = ["BAD", "Day", "Flaw", "judge"]

BAD = "BAD"


class Flaw(StrEnum):
    """Why a day is not read unless it is asked for as it is."""

    UNCOMMITTED = "uncommitted"
    QUARANTINED = "quarantined"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Day:
    """A symbol-day of the compact lake.

    Attributes:
        symbol_day: which: exchange, stream, symbol as in the path, and day.
        rows: of its data; None where that is not known.
        ts_event_min: the least `ts_event`; None without rows, or where it is not known.
        ts_event_max: the greatest.
        quality: its label: GOOD, DEGRADED, BAD, or UNKNOWN; of a day that is not published BAD where that is why.
        sha256: of data.parquet; None where the meta does not say it.
        revision: grows with each rebuild that changed the content.
        data: data.parquet, this version of it; None if nothing is published.
        proved: whether `data` is what meta.json speaks of. None: its ETag does not say so (a copied lake, other
            software); the SHA-256 will, when it is read.
        flaws: why it is not read unless asked for, with the reasons.
        foreign: whether other software published it.
        gaps: how many its meta says it has; None where that is not known.
    """

    symbol_day: SymbolDay
    rows: int | None = None
    ts_event_min: int | None = None
    ts_event_max: int | None = None
    quality: str = "UNKNOWN"
    sha256: str | None = None
    revision: int = 1
    data: ObjectInfo | None = None
    proved: bool | None = None
    flaws: tuple[tuple[Flaw, str], ...] = ()
    foreign: bool = False
    gaps: int | None = None

    @property
    def exchange(self) -> str:
        """As in the path."""
        return self.symbol_day.exchange

    @property
    def stream(self) -> str:
        """As in the path."""
        return self.symbol_day.stream

    @property
    def symbol(self) -> str:
        """As in the path: lower case."""
        return self.symbol_day.symbol

    @property
    def date(self) -> dt.date:
        """The UTC day of the directory."""
        return self.symbol_day.day

    @property
    def size_bytes(self) -> int:
        """Of data.parquet; 0 if there is none."""
        return self.data.size_bytes if self.data else 0

    @property
    def ticks(self) -> int | None:
        """How many ticks of `ts_event` make a second; None without rows, or where no usual unit fits the day."""
        if self.ts_event_min is None or self.ts_event_max is None:
            return None
        return ticks_per_second(self.ts_event_min, self.ts_event_max, self.date)

    @property
    def first(self) -> dt.datetime | None:
        """The time (UTC) of the first row, to the microsecond, where the unit is known."""
        return time_of(self.ts_event_min, self.ticks) if self.ticks and self.ts_event_min is not None else None

    @property
    def last(self) -> dt.datetime | None:
        """The time (UTC) of the last row, likewise."""
        return time_of(self.ts_event_max, self.ticks) if self.ticks and self.ts_event_max is not None else None

    @property
    def status(self) -> str:
        """In one word: `published`, or the first flaw."""
        return self.flaws[0][0].value if self.flaws else "published"

    def __str__(self) -> str:
        return str(self.symbol_day)


def judge(symbol_day: SymbolDay, listed: Sequence[ObjectInfo], records: dict[str, bytes]) -> Day | None:
    """What a directory says of its day; pure. None if nothing is published, nor in quarantine.

    Args:
        symbol_day: which.
        listed: the objects of its directory.
        records: the contents of meta.json and quarantine.json, where they are.
    """
    objects = {info.name: info for info in listed}
    data = objects.get(DATA)
    flaws: list[tuple[Flaw, str]] = []
    unpublished = Day(symbol_day, data=data, proved=False)
    if QUARANTINE in records:
        reason, quality = _quarantine(records[QUARANTINE])
        flaws.append((Flaw.QUARANTINED, f"in quarantine: {reason}"))
        unpublished = replace(unpublished, quality=quality or unpublished.quality)
    if META not in records:
        if data is not None:
            flaws.insert(0, (Flaw.UNCOMMITTED, "data.parquet has no meta.json"))
        return replace(unpublished, flaws=tuple(flaws)) if flaws else None
    try:
        meta = DayMeta.read(records[META], META)
    except MalformedObject as error:
        flaws.insert(0, (Flaw.UNCOMMITTED, error.cause))
        return replace(unpublished, flaws=tuple(flaws))
    proved, why = _proved(meta, data, beside_ours=SOURCES in objects)
    if why:
        flaws.insert(0, (Flaw.UNCOMMITTED, why))
    if meta.day_quality.upper() == BAD:
        flaws.append((Flaw.BAD, "its label is BAD"))
    return Day(
        symbol_day,
        rows=meta.rows,
        ts_event_min=meta.ts_event_min,
        ts_event_max=meta.ts_event_max,
        quality=meta.day_quality,
        sha256=meta.sha256,
        revision=meta.revision,
        data=data,
        proved=proved,
        flaws=tuple(flaws),
        foreign=meta.is_adopted,
        gaps=meta.gaps,
    )


def _quarantine(content: bytes) -> tuple[str, str | None]:
    """Why a day is in quarantine; and its label, where that is why."""
    try:
        found = Quarantine.read(content, QUARANTINE)
    except MalformedObject as error:
        return error.cause, None
    return f"{found.part}: {found.reason}" if found.part else found.reason, found.day_quality


def _proved(meta: DayMeta, data: ObjectInfo | None, *, beside_ours: bool) -> tuple[bool | None, str]:
    """Whether the data is what the meta speaks of, without reading it; and why it is not.

    Of other software's day no size and no ETag are known, but mostly the SHA-256. Without that it is believed, unless
    sources of this project lie beside it: then the data may be ours, from a publication that did not end.
    """
    if data is None:
        return False, "meta.json has no data.parquet beside it"
    if meta.data_size_bytes not in (None, data.size_bytes):
        return False, f"data.parquet has {data.size_bytes:,} bytes, and meta.json says {meta.data_size_bytes:,}"
    if meta.data_etag is not None and meta.data_etag == data.etag:
        return True, ""
    if meta.sha256 is not None:
        return None, ""
    if meta.is_adopted and not beside_ours:
        return True, ""
    return False, "meta.json is of other software, beside sources.json of this one, and says no sha256"
