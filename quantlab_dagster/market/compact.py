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
from typing import TYPE_CHECKING

from quantlab_dagster.errors import BadPart, Conflict, ObjectChanged, QuantlabError, ShrinkRefused
from quantlab_dagster.kernel.faults import machine_fault
from quantlab_dagster.lake.market import DATA, Pair, SymbolDay, find_symbols
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
    standing,
)
from quantlab_dagster.market.plan import Action, Plan, Requested, plan_symbol_day
from quantlab_dagster.market.publish import publish_day, publish_quarantine, publish_refusal, publish_sources
from quantlab_dagster.market.settling import begin
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.market.timeunit import minute_width
from quantlab_dagster.work.merging import Merging, Recipe
from quantlab_dagster.work.scratch import scratch_directory
from quantlab_dagster.work.shares import objects_frozen

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection
    from pathlib import Path

    from quantlab_dagster.market.place import MarketPlace

__all__ = ["compact_and_record", "compact_pair"]

logger = logging.getLogger(__name__)

_SYMBOL_DAYS_AT_ONCE = 16
_ATTEMPTS = 4
_SMALL_BYTES = 8 << 20


async def compact_and_record(
    place: MarketPlace,
    pair: Pair,
    day: dt.date,
    *,
    listener: Listener,
    symbols: Collection[str] = (),
    requested: Requested | None = None,
) -> PairOutcome:
    """Compact, and record the outcome in the journal: before the step can raise, so that a failure hides nothing.

    Raises:
        DayRefused: the day is not eligible yet.
        StoreError: the symbols cannot be listed, or the state cannot be written.
    """
    now = place.clock()
    check_eligible(day, now)
    states = StateStore(place.compact)
    if not await states.exists():
        await states.update(lambda before: begin(before, yesterday(now), now))
    outcome = await compact_pair(place, pair, day, listener=listener, symbols=symbols, requested=requested)
    entry = entry_of(pair, day, outcome.outcomes, place.clock(), whole=not symbols)
    await Journal(place.compact).append(entry)
    return outcome


async def compact_pair(
    place: MarketPlace,
    pair: Pair,
    day: dt.date,
    *,
    listener: Listener,
    symbols: Collection[str] = (),
    requested: Requested | None = None,
) -> PairOutcome:
    """Compact all symbols of a pair's day, or only those named.

    A bad symbol-day is quarantined, one that fails for another reason is reported as failed; the others go on.

    Raises:
        DayRefused: the day is not eligible yet.
        StoreError: the symbols cannot be listed.
    """
    check_eligible(day, place.clock())
    with objects_frozen():
        return await _compact_pair(place, pair, day, listener, symbols, requested or Requested())


async def _compact_pair(
    place: MarketPlace, pair: Pair, day: dt.date, listener: Listener, symbols: Collection[str], requested: Requested
) -> PairOutcome:
    started = time.monotonic()
    before = place.requests()
    found = sorted(symbols) or await find_symbols(place.raw, pair)
    listener.planned(pair, day, len(found))
    with scratch_directory(place.limits.scratch_base) as scratch:
        async with Merging(place.limits, cores=min(4, os.cpu_count() or 1)) as merging:
            step = _Step(place, scratch, merging, listener, requested)
            ended = await step.run([SymbolDay(pair.exchange, pair.stream, symbol, day) for symbol in found])
    outcomes = tuple(outcome for outcome in ended if outcome.status is not Status.NO_FILES or symbols)
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
        self._at_once = asyncio.Semaphore(_SYMBOL_DAYS_AT_ONCE)

    async def run(self, symbol_days: list[SymbolDay]) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(symbol_day)) for symbol_day in symbol_days]
        return [task.result() for task in tasks]

    async def _one(self, symbol_day: SymbolDay) -> Outcome:
        async with self._at_once:
            try:
                outcome = await self._attempts(symbol_day)
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
            plan = await plan_symbol_day(self._place.raw, self._place.compact, symbol_day, self._requested)
            outcome = standing(plan) if plan.action is not Action.BUILD else None
            if outcome is not None:
                if attempt > 1:
                    await self._mend_sources(plan)
                return outcome
            try:
                return await self._build(plan)
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

    async def _mend_sources(self, plan: Plan) -> None:
        """After a conflict the other writer's day stands, but our sources may lie over its own: then put those back."""
        meta = plan.published.meta
        if meta is not None and meta.raw_fingerprint == plan.raw_fingerprint:
            await publish_sources(self._place.compact, plan)

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

        built = await self._merging.build(
            self._place.raw,
            plan.parts,
            Recipe(self._place.order, width, cores=1 if plan.bytes_in <= _SMALL_BYTES else None),
            directory / DATA,
            progress=lambda arrived: self._listener.fetched(plan.symbol_day, arrived, len(plan.parts)),
        )
        started = time.monotonic()
        meta = await publish_day(self._place.compact, plan, directory / DATA, built)
        return published(plan, meta, built.merged, built.seconds + time.monotonic() - started)
