"""The JSON objects beside a published day: meta.json, sources.json, quarantine.json. Typed, both ways.

No wall-clock value is in any of them but quarantine's, so that the same raw objects give the same bytes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from quantlab_dagster.lake.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = ["DayMeta", "Quarantine", "Source", "Sources", "fingerprint"]


UNKNOWN = "UNKNOWN"
"""Label of a day that no quality windows speak of."""


class Source(BaseModel):
    """One raw object that was read."""

    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: int
    etag: str

    @classmethod
    def of(cls, info: ObjectInfo) -> Self:
        """The source that a listed object is."""
        return cls(name=info.name, size_bytes=info.size_bytes, etag=info.etag)


def fingerprint(sources: Iterable[Source]) -> str:
    """What was read, as one SHA-256 over names, sizes and ETags in key order: equal fingerprints, equal raw objects."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name}\t{source.size_bytes}\t{source.etag}\n".encode())
    return digest.hexdigest()


class DayMeta(Record):
    """meta.json: what replay clients read first, and the commit mark of a published day.

    Everything after `post_filter_version` is this project's; days that other software published lack it.
    `quality_fingerprint` is of the windows and rules by which the day was labelled; None if it has no windows. `gaps`
    is how many silences above its stream's limit its rows have (quality_day.json tells them); None where nobody judges.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"quality_fingerprint", "gaps"})

    schema_version: Literal[1] = 1
    rows: int
    ts_event_min: int | None
    ts_event_max: int | None
    ordering_columns: tuple[str, ...] = ("ts_event", "seq")
    stream_type: str
    sha256: str | None = None
    source_files: int | None = None
    day_quality: str = UNKNOWN
    post_filter_version: str | None = None
    data_size_bytes: int | None = None
    data_etag: str | None = None
    raw_fingerprint: str | None = None
    raw_bytes: int | None = None
    revision: int = 1
    writer: str | None = None
    writer_version: str | None = None
    quality_fingerprint: str | None = None
    gaps: int | None = None

    @property
    def is_adopted(self) -> bool:
        """Whether other software published the day."""
        return self.raw_fingerprint is None


class Sources(Record):
    """sources.json: the raw objects that a published day was made of, in key order."""

    schema_version: Literal[1] = 1
    raw_fingerprint: str
    objects: tuple[Source, ...]


class Quarantine(Record):
    """quarantine.json: why a symbol-day is not published.

    `day_quality` is BAD where the day is the reason, and not its parts.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"day_quality"})

    schema_version: Literal[1] = 1
    raw_fingerprint: str
    part: str | None = None
    reason: str
    writer_version: str | None = None
    source_files: int = Field(default=0)
    day_quality: str | None = None
