"""Compacting one (exchange, stream) pair's day: its symbol-days side by side, each planned, fetched, merged, published.

Downloads of later symbol-days run while earlier ones are merged, within one memory budget. A large merge runs alone,
because it uses every core; small ones run side by side, a core and a share of the memory each. The event loop stays on
the main thread, so that a signal can stop it at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from quantlab_dagster.errors import BadPart, Conflict, ObjectChanged, QuantlabError, ShrinkRefused
from quantlab_dagster.kernel.faults import machine_fault
from quantlab_dagster.lake.market import DATA, Pair, SymbolDay, find_symbols
from quantlab_dagster.lake.store.limits import MULTIPART_BYTES
from quantlab_dagster.lake.store.uploading import uploading
from quantlab_dagster.market.chunks import Chunk, chunks_of, joined, left_to_do
from quantlab_dagster.market.eligibility import check_eligible, yesterday
from quantlab_dagster.market.journal import Journal, entry_of
from quantlab_dagster.market.outcome import (
    Listener,
    Outcome,
    PairOutcome,
    Status,
    failed,
    published,
    quarantined,
    refused,
    relabelled,
    skipped,
    standing,
    withheld,
)
from quantlab_dagster.market.plan import Action, Plan, Requested, each_plan, plan_symbol_day
from quantlab_dagster.market.publish import (
    lift_quarantine,
    publish_day,
    publish_label,
    publish_quarantine,
    publish_refusal,
    publish_sources,
    remove_withholding,
    said_of_day,
    withhold_day,
)
from quantlab_dagster.market.settling import begin
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.market.stream_checks import StreamObserver, checks_of, observer_of
from quantlab_dagster.market.timeunit import minute_width
from quantlab_dagster.work.merging import Merging, Recipe
from quantlab_dagster.work.scratch import scratch_directory
from quantlab_dagster.work.shares import objects_frozen

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from quantlab_dagster.market.place import MarketPlace

__all__ = ["compact_and_record", "compact_pair", "split_day"]

logger = logging.getLogger(__name__)

_SYMBOL_DAYS_AT_ONCE = 16
_ATTEMPTS = 4
_SMALL_BYTES = 8 << 20
_ACTED_UPON = (Action.BUILD, Action.RELABEL, Action.QUARANTINE, Action.SKIP)


async def compact_and_record(
    place: MarketPlace,
    pair: Pair,
    day: dt.date,
    *,
    listener: Listener,
    symbols: Collection[str] = (),
    done: Sequence[PairOutcome] = (),
    requested: Requested | None = None,
) -> PairOutcome:
    """Compact, and record the outcome in the journal: before the step can raise, so that a failure hides nothing.

    Args:
        place: the lakes, and what may be used.
        pair: which.
        day: UTC day.
        listener: told of progress.
        symbols: only these; empty for all.
        done: what other steps did of the same day, which is not done again, and is part of the outcome.
        requested: what is allowed, beyond the usual.

    Raises:
        DayRefused: the day is not eligible yet.
        StoreError: the symbols cannot be listed, or the state cannot be written.
    """
    await _begin(place, day)
    outcome = await compact_pair(place, pair, day, listener=listener, symbols=symbols, done=done, requested=requested)
    entry = entry_of(pair, day, outcome.outcomes, place.clock(), whole=not symbols)
    await Journal(place.compact).append(entry)
    return outcome


async def split_day(
    place: MarketPlace, pair: Pair, day: dt.date, limit: int, requested: Requested | None = None
) -> list[Chunk]:
    """The chunks of what is to be built of a pair's day; what stands as it is counts nothing.

    Args:
        place: the lakes.
        pair: which.
        day: UTC day.
        limit: bytes of raw parts of a chunk.
        requested: what is allowed, beyond the usual.

    Raises:
        DayRefused: the day is not eligible yet.
        StoreError: it cannot be looked at, or the state cannot be written.
    """
    await _begin(place, day)

    def size(plan: Plan) -> tuple[str, int]:
        return plan.symbol_day.symbol, plan.bytes_in if plan.action is Action.BUILD else 0

    looked_at = await each_plan(place, [pair], [day], size, requested=requested)
    return chunks_of({symbol: size for symbol, size in looked_at if size}, limit)


async def _begin(place: MarketPlace, day: dt.date) -> None:
    """Refuse a day that is not eligible; and write where the state begins before anything is done."""
    now = place.clock()
    check_eligible(day, now)
    states = StateStore(place.compact)
    if not await states.exists():
        await states.update(lambda before: begin(before, yesterday(now), now))


async def compact_pair(
    place: MarketPlace,
    pair: Pair,
    day: dt.date,
    *,
    listener: Listener,
    symbols: Collection[str] = (),
    done: Sequence[PairOutcome] = (),
    requested: Requested | None = None,
) -> PairOutcome:
    """Compact all symbols of a pair's day, or only those named, or all that other steps have not done.

    A bad symbol-day is quarantined, one that fails for another reason is reported as failed; the others go on.

    Raises:
        DayRefused: the day is not eligible yet.
        StoreError: the symbols cannot be listed.
    """
    check_eligible(day, place.clock())
    with objects_frozen():
        last = await _compact_pair(place, pair, day, listener, symbols, done, requested or Requested())
    return joined(done, last) if done else last


async def _compact_pair(
    place: MarketPlace,
    pair: Pair,
    day: dt.date,
    listener: Listener,
    symbols: Collection[str],
    done: Sequence[PairOutcome],
    requested: Requested,
) -> PairOutcome:
    started = time.monotonic()
    before = place.requests()
    found = left_to_do(sorted(symbols) or await find_symbols(place.raw, pair), done)
    listener.planned(pair, day, len(found))
    with scratch_directory(place.limits.scratch_base) as scratch:
        async with Merging(place.limits, cores=min(4, os.cpu_count() or 1)) as merging:
            step = _Step(place, scratch, merging, listener, requested)
            ended = await step.run([SymbolDay(pair.exchange, pair.stream, symbol, day) for symbol in found])
    # Where there are no files there is nothing to tell, unless a record says otherwise.
    outcomes = tuple(one for one in ended if symbols or one.status is not Status.NO_FILES or one.action is Action.LIFT)
    requests = {name: number - before.get(name, 0) for name, number in place.requests().items()}
    return PairOutcome(pair, day, outcomes, time.monotonic() - started, requests)


class _Step:
    """The work on one pair's day, with what its symbol-days share."""

    def __init__(
        self, place: MarketPlace, scratch: Path, merging: Merging, listener: Listener, requested: Requested
    ) -> None:
        self._place = place
        self._scratch = scratch
        self._listener = listener
        self._requested = requested
        self._merging = merging
        self._qualities = place.qualities()
        self._at_once = asyncio.Semaphore(_SYMBOL_DAYS_AT_ONCE)

    async def run(self, symbol_days: list[SymbolDay]) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(symbol_day)) for symbol_day in symbol_days]
        return [task.result() for task in tasks]

    async def _one(self, symbol_day: SymbolDay) -> Outcome:
        async with self._at_once:
            try:
                outcome = await self._with_checks(await self._attempts(symbol_day))
            except QuantlabError as error:
                outcome = failed(symbol_day, error, str(error))
            except Exception as error:
                fault = machine_fault(error, str(symbol_day))
                if fault is not None:
                    outcome = failed(symbol_day, fault, str(fault))
                else:
                    # A bug must not take the other symbol-days down with it; the step fails after they are done.
                    logger.exception("unexpected error in %s", symbol_day)
                    outcome = failed(symbol_day, error, f"unexpected {type(error).__name__}: {error}")
            self._listener.finished(outcome)
            return outcome

    async def _attempts(self, symbol_day: SymbolDay) -> Outcome:
        """Plan and build; plan anew when the raw parts or the published day changed under our hands."""
        for attempt in range(1, _ATTEMPTS + 1):
            plan, outcome = await self._look(symbol_day)
            if outcome is not None:
                if attempt > 1:
                    await self._mend_sources(plan)
                return outcome
            try:
                return await self._act(plan)
            except BadPart as error:
                await publish_quarantine(self._place.compact, plan, error)
                return quarantined(plan, error)
            except ShrinkRefused as error:
                if plan.published.committed and not self._requested.overwrite:
                    # It was due by itself, and would be built and refused again and again.
                    await publish_refusal(self._place.compact, plan, error)
                return refused(plan, error)
            except (ObjectChanged, Conflict) as error:
                if attempt == _ATTEMPTS:
                    raise
                logger.info("%s: planning anew, attempt %d: %s", symbol_day, attempt + 1, error)
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _look(self, symbol_day: SymbolDay) -> tuple[Plan, Outcome | None]:
        """Plan, and say what it counts as where nothing is to be done. A quarantine without its cause goes."""
        plan = before = await self._plan(symbol_day)
        if before.action is Action.LIFT:
            await lift_quarantine(self._place.compact, before)
            plan = await self._plan(symbol_day)
        outcome = standing(plan) if plan.action not in _ACTED_UPON else None
        if before.action is Action.LIFT and outcome is not None and outcome.status is Status.NO_FILES:
            outcome = replace(outcome, action=Action.LIFT, reason=before.reason)
        return plan, outcome

    async def _plan(self, symbol_day: SymbolDay) -> Plan:
        quality = await self._qualities.of(symbol_day.day)
        return await plan_symbol_day(self._place.raw, self._place.compact, symbol_day, self._requested, quality)

    async def _mend_sources(self, plan: Plan) -> None:
        """After a conflict the other writer's day stands, but our sources may lie over its own: then put those back."""
        meta = plan.published.meta
        if meta is not None and meta.raw_fingerprint == plan.raw_fingerprint:
            await publish_sources(self._place.compact, plan)

    async def _act(self, plan: Plan) -> Outcome:
        compact = self._place.compact
        if plan.action is Action.RELABEL:
            return relabelled(plan, await publish_label(compact, plan))
        if plan.action is Action.QUARANTINE:
            await withhold_day(compact, plan)
            return withheld(plan)
        if plan.action is Action.SKIP:
            await remove_withholding(compact, plan)
            return skipped(plan)
        return await self._build(plan)

    async def _build(self, plan: Plan) -> Outcome:
        directory = self._scratch / f"{abs(hash(plan.symbol_day)):x}-{time.monotonic_ns():x}"
        directory.mkdir()
        self._listener.building(plan)
        try:
            return await self._build_in(directory, plan)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def _build_in(self, directory: Path, plan: Plan) -> Outcome:
        def width(key_range: tuple[int, int] | None) -> int | None:
            return minute_width(*key_range, plan.symbol_day.day) if key_range else None

        observer: list[StreamObserver] = []

        def observed(key_range: tuple[int, int] | None) -> StreamObserver:
            observer[:] = [observer_of(plan.symbol_day, self._place.order.column, key_range)]
            return observer[0]

        compact, key = self._place.compact, plan.symbol_day.key(DATA)
        early = plan.bytes_in > MULTIPART_BYTES
        async with uploading(compact, key, directory / DATA, early=early) as upload:
            built = await self._merging.build(
                self._place.raw,
                plan.parts,
                Recipe(self._place.order, width, cores=1 if plan.bytes_in <= _SMALL_BYTES else None, observer=observed),
                directory / DATA,
                progress=lambda arrived: self._listener.fetched(plan.symbol_day, arrived, len(plan.parts)),
            )
            started = time.monotonic()
            checks = checks_of(observer[0], built.merged.seen)
            meta = await publish_day(compact, plan, upload, built, checks=checks)
        return published(plan, meta, built.merged, built.seconds + time.monotonic() - started, checks)

    async def _with_checks(self, outcome: Outcome) -> Outcome:
        """What was said of the rows of a published day when it was built; only it knows them."""
        if outcome.status is not Status.SUCCESS or outcome.checks is not None:
            return outcome
        said = await said_of_day(self._place.compact, outcome.symbol_day)
        return replace(outcome, checks=said.checks if said is not None else None)
