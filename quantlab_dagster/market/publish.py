"""Publishing a built file: data and its sources, then the meta as commit mark (docs/adr/0004).

A reader that checks the meta against the data sees the old day, the new day, or a mismatch it can detect; the next run
repairs a mismatch. Writers that meet are told apart by compare-and-swap on the meta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantlab_dagster.errors import Conflict, MalformedObject, ShrinkRefused
from quantlab_dagster.lake.market import DATA, META, QUALITY, QUARANTINE, SOURCES
from quantlab_dagster.lake.record import WRITER, WRITER_VERSION
from quantlab_dagster.market.quality.records import QualityDay
from quantlab_dagster.market.quality.rules import Label
from quantlab_dagster.market.records import UNKNOWN, DayMeta, Quarantine, Source, Sources
from quantlab_dagster.market.stream_checks import number_of_gaps

if TYPE_CHECKING:
    from quantlab_dagster.errors import BadPart
    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.uploading import Upload
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.work.merging import Built

__all__ = [
    "lift_quarantine",
    "publish_day",
    "publish_label",
    "publish_quarantine",
    "publish_refusal",
    "publish_sources",
    "remove_withholding",
    "said_of_day",
    "withhold_day",
]


async def publish_day(
    compact: Store, plan: Plan, upload: Upload, built: Built, *, checks: dict[str, Any] | None = None
) -> DayMeta:
    """Publish a built and audited file; returns the meta that now stands.

    Args:
        compact: the compact lake.
        plan: by which the file was built: its parts and the meta to replace.
        upload: of the built file.
        built: what the audit found in it, and its SHA-256.
        checks: what the market-data checks counted in it.

    Raises:
        ShrinkRefused: it has fewer rows than the day it would replace, and the plan does not allow that.
        Conflict: another writer published meanwhile; plan anew.
        StoreError: a write failed. The old day, or a detectable mismatch, is there.
    """
    symbol_day, merged, before = plan.symbol_day, built.merged, plan.published.meta
    _refuse_fewer_rows(compact, plan, merged.rows)
    # A meta of other software is believed unseen, unless sources of ours lie beside it: there they go first, so that
    # data of ours never lies below it without them. Our own meta knows its data, and keeps its sources as long as that.
    sources_first = before is not None and before.is_adopted
    if sources_first:
        await publish_sources(compact, plan)
    etag = await upload.finish(built.sha256)
    if not sources_first:
        await publish_sources(compact, plan)
    await _publish_quality(compact, plan, checks, plan.accept_bad or await _accepted_before(compact, plan))
    meta = DayMeta(
        rows=merged.rows,
        ts_event_min=merged.key_min,
        ts_event_max=merged.key_max,
        stream_type=symbol_day.stream,
        sha256=built.sha256,
        source_files=len(plan.parts),
        data_size_bytes=merged.size_bytes,
        data_etag=etag,
        raw_fingerprint=plan.raw_fingerprint,
        raw_bytes=plan.bytes_in,
        revision=_next_revision(before, built.sha256),
        writer=WRITER,
        writer_version=WRITER_VERSION,
        gaps=number_of_gaps(checks),
        **_label(plan),
    )
    await compact.compare_and_swap(symbol_day.key(META), meta.dump(), plan.published.meta_etag)
    now = await compact.head(symbol_day.key(DATA))
    if now is None or (now.etag, now.size_bytes) != (etag, merged.size_bytes):
        raise Conflict(compact.name(symbol_day.key(DATA)), "was replaced while it was being published", "Run again")
    if plan.published.quarantine is not None:
        await compact.delete(symbol_day.key(QUARANTINE))
    return meta


def _label(plan: Plan) -> dict[str, Any]:
    """What a meta says of the day's worth."""
    quality = plan.quality
    if quality is None:
        return {"day_quality": UNKNOWN}
    return {
        "day_quality": quality.label.value,
        "post_filter_version": quality.version,
        "quality_fingerprint": quality.fingerprint or None,
    }


async def said_of_day(compact: Store, symbol_day: SymbolDay) -> QualityDay | None:
    """The quality_day.json beside a symbol-day; None if there is none, or it is not one that we can read.

    Raises:
        StoreError: it cannot be fetched.
    """
    key = symbol_day.key(QUALITY)
    found = await compact.get_if_exists(key)
    try:
        return QualityDay.read(found[0], compact.name(key)) if found else None
    except MalformedObject:
        return None  # of other software: it is written anew with the day


async def _accepted_before(compact: Store, plan: Plan) -> str:
    """Why a published day that is built again was published although it is BAD."""
    said = await said_of_day(compact, plan.symbol_day) if plan.label == Label.BAD and plan.published.meta else None
    return said.accepted_because or "" if said is not None else ""


async def _publish_quality(compact: Store, plan: Plan, checks: dict[str, Any] | None, accepted: str) -> None:
    if plan.quality is not None:
        record = QualityDay.of(plan.symbol_day.day, plan.quality, checks, accepted)
        await compact.put(plan.symbol_day.key(QUALITY), record.dump())


async def publish_label(compact: Store, plan: Plan) -> DayMeta:
    """Say what a published day is worth now; its data stays, and so does its revision. Returns the meta that stands.

    The evidence goes first: a meta with the new label always has it beside it, and one with the old is written anew.

    Raises:
        Conflict: another writer published meanwhile; plan anew.
        StoreError: a write failed.
    """
    before = plan.published.meta
    assert before is not None  # only what is committed is labelled
    said = await said_of_day(compact, plan.symbol_day)  # its rows are what they were
    checks, accepted = (said.checks, said.accepted_because or "") if said is not None else (None, "")
    await _publish_quality(compact, plan, checks, accepted)
    meta = before.model_copy(update=_label(plan))
    await compact.compare_and_swap(plan.symbol_day.key(META), meta.dump(), plan.published.meta_etag)
    return meta


async def withhold_day(compact: Store, plan: Plan) -> Quarantine:
    """Say in the lake that a symbol-day is not published because its day is BAD."""
    return await _quarantine(compact, plan, None, plan.reason, day_quality=plan.label)


async def remove_withholding(compact: Store, plan: Plan) -> None:
    """Take back that a day is BAD, where it turned out to be something else."""
    quarantine = plan.published.quarantine
    if quarantine is not None and quarantine.day_quality is not None:
        await compact.delete(plan.symbol_day.key(QUARANTINE))


async def lift_quarantine(compact: Store, plan: Plan) -> None:
    """Take back that a symbol-day is quarantined, where its cause is gone and nothing is to be built."""
    await compact.delete(plan.symbol_day.key(QUARANTINE))


def _refuse_fewer_rows(compact: Store, plan: Plan, rows: int) -> None:
    """The last line of defence: whatever the plan said, rows that are published do not become fewer by themselves."""
    before = plan.published.meta
    if before is not None and rows < before.rows and not plan.allow_shrink:
        raise ShrinkRefused(compact.name(plan.symbol_day.key(META)), rows, before.rows)


async def publish_sources(compact: Store, plan: Plan) -> None:
    """Write the list of the plan's raw parts beside the day."""
    sources = Sources(raw_fingerprint=plan.raw_fingerprint, objects=tuple(Source.of(part) for part in plan.parts))
    await compact.put(plan.symbol_day.key(SOURCES), sources.dump())


def _next_revision(before: DayMeta | None, sha256: str) -> int:
    """1 for a first publication; one more whenever a rebuild changes the content."""
    if before is None:
        return 1
    return before.revision if before.sha256 == sha256 else before.revision + 1


async def publish_quarantine(compact: Store, plan: Plan, error: BadPart) -> Quarantine:
    """Say in the lake why a symbol-day is not published. What is published already stays untouched."""
    return await _quarantine(compact, plan, error.part, error.cause)


async def publish_refusal(compact: Store, plan: Plan, error: ShrinkRefused) -> Quarantine:
    """Say beside a published day why it is not replaced, until its raw parts change."""
    return await _quarantine(compact, plan, None, error.cause)


async def _quarantine(
    compact: Store, plan: Plan, part: str | None, reason: str, *, day_quality: str | None = None
) -> Quarantine:
    quarantine = Quarantine(
        raw_fingerprint=plan.raw_fingerprint,
        part=part,
        reason=reason,
        writer_version=WRITER_VERSION,
        source_files=len(plan.parts),
        day_quality=day_quality,
    )
    await compact.put(plan.symbol_day.key(QUARANTINE), quarantine.dump())
    return quarantine
