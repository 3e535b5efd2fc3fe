"""Verifying published days from the store: is what readers see what it says it is, and is it all of the raw parts?

Works on days that other software published; nothing of the meta is believed without looking at the data.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from quantlab_dagster.errors import AuditFailed, BadPart, QuantlabError
from quantlab_dagster.kernel.sums import file_sha256
from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.lake.store.local import check_downloaded
from quantlab_dagster.market.outcome import Verdict, VerifiedDay
from quantlab_dagster.market.plan import Action, Plan, Requested, plan_symbol_day
from quantlab_dagster.work.merging import Merging, Recipe
from quantlab_dagster.work.scratch import scratch_directory

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection
    from pathlib import Path

    from quantlab_dagster.kernel.terms import FileDigest
    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.market.quality.reading import Qualities
    from quantlab_dagster.market.records import DayMeta
    from quantlab_dagster.work.messages import Digested

__all__ = ["verify_pair", "verify_symbol_day"]


async def verify_pair(
    place: MarketPlace, pair: Pair, day: dt.date, *, symbols: Collection[str] = (), against_raw: bool = True
) -> list[VerifiedDay]:
    """Verify all symbols of a pair that have, or should have, a published day; one after the other.

    Raises:
        StoreError: a listing or a download failed: then nothing can be said.
    """
    if not symbols:
        symbols = await place.symbols(pair)
    qualities = place.qualities(keep=False)
    async with Merging(place.limits) as merging:
        verified = [
            await verify_symbol_day(
                place,
                SymbolDay(pair.exchange, pair.stream, symbol, day),
                merging,
                against_raw=against_raw,
                qualities=qualities,
            )
            for symbol in sorted(symbols)
        ]
    return [item for item in verified if item is not None]


async def verify_symbol_day(
    place: MarketPlace,
    symbol_day: SymbolDay,
    merging: Merging,
    *,
    against_raw: bool = True,
    qualities: Qualities | None = None,
) -> VerifiedDay | None:
    """Verify one symbol-day; None where there is neither a published day nor a raw part.

    Args:
        place: both lakes.
        symbol_day: which.
        merging: reads the published file, and merges the raw parts again.
        against_raw: whether to do that.
        qualities: where it is asked what the day is worth; None asks anew.

    Raises:
        StoreError: a listing or a download failed.
    """
    try:
        quality = await (qualities or place.qualities(keep=False)).of(symbol_day.day)
        plan = await plan_symbol_day(place.raw, place.compact, symbol_day, Requested(), quality)
    except QuantlabError as error:
        if isinstance(error, OSError):
            raise
        return VerifiedDay(symbol_day, Verdict.WRONG, (str(error),))
    if plan.action is Action.NO_FILES:
        return None
    if plan.published.data is None:
        if plan.action is Action.QUARANTINED:
            return VerifiedDay(symbol_day, Verdict.QUARANTINED, (plan.reason,))
        if plan.action in (Action.QUARANTINE, Action.SKIP):
            return VerifiedDay(symbol_day, Verdict.NOT_PUBLISHED, (plan.reason,))
        return VerifiedDay(symbol_day, Verdict.NOT_PUBLISHED, (f"{len(plan.parts)} raw parts, but no data.parquet",))
    with scratch_directory(place.limits.scratch_base) as scratch:
        return await _verify_file(place, plan, merging, scratch, against_raw=against_raw)


async def _verify_file(
    place: MarketPlace, plan: Plan, merging: Merging, scratch: Path, *, against_raw: bool
) -> VerifiedDay:
    assert plan.published.data is not None
    path = scratch / "published.parquet"
    info = await place.compact.download(plan.published.data.key, path)

    async def check_copy() -> None:  # what was damaged here since is no wrong day
        await asyncio.to_thread(check_downloaded, place.compact.name(info.key), path, info)

    try:
        digested = await merging.digest(path, place.order.column)
    except (AuditFailed, BadPart) as error:
        await check_copy()
        return VerifiedDay(plan.symbol_day, Verdict.WRONG, (f"data.parquet: {error.cause}",))
    digest = digested.digest
    findings = _file_findings(digest)
    meta = plan.published.meta
    if meta is None:
        findings.append("there is no meta.json")
    else:
        findings += _meta_findings(meta, digest, info, await asyncio.to_thread(file_sha256, path))
    if findings:
        await check_copy()
    parts, note = _comparable_parts(plan)
    compared = against_raw and not note
    if compared:
        findings += await _raw_findings(place, parts, digested, merging, scratch)
        await check_copy()
    late = _late_parts(plan)
    return VerifiedDay(
        plan.symbol_day,
        Verdict.WRONG if findings else Verdict.RIGHT,
        tuple(findings),
        digest.rows,
        compared,
        "; ".join(text for text in (note if against_raw else "", late) if text),
    )


def _file_findings(digest: FileDigest) -> list[str]:
    findings = []
    if digest.inversions:
        findings.append(f"{digest.inversions:,} rows have a smaller ts_event than the row before")
    if digest.misnumbered:
        findings.append(f"{digest.misnumbered:,} rows do not have their index as seq")
    if digest.nulls:
        findings.append(f"{digest.nulls:,} rows have no ts_event")
    return findings


def _meta_findings(meta: DayMeta, digest: FileDigest, info: ObjectInfo, sha256: str) -> list[str]:
    said_and_found = [
        ("rows", meta.rows, digest.rows),
        ("ts_event_min", meta.ts_event_min, digest.key_min),
        ("ts_event_max", meta.ts_event_max, digest.key_max),
        ("sha256", meta.sha256, sha256),
        ("data_size_bytes", meta.data_size_bytes, info.size_bytes),
    ]
    optional = ("sha256", "data_size_bytes")
    return [
        f"meta.json says {name} {said}, data.parquet has {found}"
        for name, said, found in said_and_found
        if said != found and not (said is None and name in optional)
    ]


def _comparable_parts(plan: Plan) -> tuple[list[ObjectInfo], str]:
    """The listed parts that the published day was made of; or why it cannot be compared with them."""
    meta, sources = plan.published.meta, plan.published.sources
    if not plan.parts:
        return [], "raw parts are gone: not compared with them"
    if meta is not None and meta.raw_fingerprint == plan.raw_fingerprint:
        return list(plan.parts), ""
    if sources is not None:
        listed = {part.name: part for part in plan.parts}
        kept = [listed[source.name] for source in sources if source.name in listed]
        same = all((p.size_bytes, p.etag) == (s.size_bytes, s.etag) for p, s in zip(kept, sources, strict=False))
        if len(kept) < len(sources) or not same:
            return [], "some raw parts are gone or changed: not compared with them"
        return kept, ""
    if meta is not None and meta.source_files is not None and meta.source_files != len(plan.parts):
        return [], f"made of {meta.source_files} raw parts where {len(plan.parts)} are listed: not compared with them"
    return list(plan.parts), ""


def _late_parts(plan: Plan) -> str:
    sources = plan.published.sources
    if sources is None:
        return ""
    late = len({part.name for part in plan.parts} - {source.name for source in sources})
    return f"{late} raw parts arrived since it was published" if late else ""


async def _raw_findings(
    place: MarketPlace, listed: list[ObjectInfo], published: Digested, merging: Merging, scratch: Path
) -> list[str]:
    """Merge the raw parts again, and compare the result with the published file: its columns, rows and order."""
    merged = scratch / "merged.parquet"
    try:
        await merging.build(place.raw, listed, Recipe(place.order), merged)
    except BadPart as error:
        return [f"the raw parts cannot be merged any more: {error.part}: {error.cause}"]
    expected = await merging.digest(merged, place.order.column)
    return _comparison(published.columns, published.digest, expected.columns, expected.digest)


def _comparison(
    columns: dict[str, str], digest: FileDigest, expected_columns: dict[str, str], expected: FileDigest
) -> list[str]:
    if columns != expected_columns:
        return [f"the columns are {_text(columns)}, from the raw parts they would be {_text(expected_columns)}"]
    if digest.rows != expected.rows:
        return [f"{digest.rows:,} rows, but the raw parts have {expected.rows:,}"]
    if digest.content != expected.content:
        return ["the rows are not those of the raw parts"]
    if digest.sequence != expected.sequence:
        return ["the rows are those of the raw parts, but not in the order (ts_event, part, row)"]
    return []


def _text(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in columns.items())
