"""Publishing a built file: data and its sources, then the meta as commit mark (docs/adr/0004).

A reader that checks the meta against the data sees the old day, the new day, or a mismatch it can detect; the next run
repairs a mismatch. Writers that meet are told apart by compare-and-swap on the meta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.errors import Conflict, ShrinkRefused
from quantlab_dagster.lake.market import DATA, META, QUARANTINE, SOURCES
from quantlab_dagster.lake.record import WRITER, WRITER_VERSION
from quantlab_dagster.market.records import DayMeta, Quarantine, Source, Sources

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.errors import BadPart
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.work.merging import Built

__all__ = ["publish_day", "publish_quarantine", "publish_refusal", "publish_sources"]


async def publish_day(compact: Store, plan: Plan, file: Path, built: Built) -> DayMeta:
    """Publish a built and audited file; returns the meta that now stands.

    Args:
        compact: the compact lake.
        plan: by which the file was built: its parts and the meta to replace.
        file: the built file.
        built: what the audit found in it, and its SHA-256.

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
    etag = await compact.put(symbol_day.key(DATA), file, sha256=built.sha256)
    if not sources_first:
        await publish_sources(compact, plan)
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
    )
    await compact.compare_and_swap(symbol_day.key(META), meta.dump(), plan.published.meta_etag)
    now = await compact.head(symbol_day.key(DATA))
    if now is None or now.etag != etag:
        raise Conflict(compact.name(symbol_day.key(DATA)), "was replaced while it was being published", "Run again")
    if plan.published.quarantine is not None:
        await compact.delete(symbol_day.key(QUARANTINE))
    return meta


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


async def _quarantine(compact: Store, plan: Plan, part: str | None, reason: str) -> Quarantine:
    quarantine = Quarantine(
        raw_fingerprint=plan.raw_fingerprint,
        part=part,
        reason=reason,
        writer_version=WRITER_VERSION,
        source_files=len(plan.parts),
    )
    await compact.put(plan.symbol_day.key(QUARANTINE), quarantine.dump())
    return quarantine
