"""Compacting one (exchange, stream) pair's day: its symbol-days side by side, each planned, fetched, merged, published.

Downloads of later symbol-days run while earlier ones are merged, within one memory budget; one merge runs at a time,
because it uses every core. The event loop stays on the main thread, so that a signal can stop it at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from quantlab_dagster.days.eligibility import check_eligible
from quantlab_dagster.days.plan import Action, Plan, Requested, plan_symbol_day
from quantlab_dagster.days.publish import publish_day, publish_quarantine
from quantlab_dagster.days.timeunit import ticks_per_second
from quantlab_dagster.errors import BadPart, Conflict, ObjectChanged, QuantlabError
from quantlab_dagster.kernel.merge import Merged, merge
from quantlab_dagster.kernel.survey import Order, Survey
from quantlab_dagster.lake.discovery import find_symbols
from quantlab_dagster.lake.layout import Pair, SymbolDay
from quantlab_dagster.work.clock import Clock, utc_now
from quantlab_dagster.work.digests import file_sha256
from quantlab_dagster.work.fetch import MemoryGate, fetch_survey
from quantlab_dagster.work.garbage import objects_frozen
from quantlab_dagster.work.scratch import scratch_directory
from quantlab_dagster.work.threads import Worker

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection
    from pathlib import Path

    from quantlab_dagster.days.records import DayMeta
    from quantlab_dagster.lake.store import Store

__all__ = ["Listener", "Outcome", "PairOutcome", "Status", "Workplace", "compact_pair"]

logger = logging.getLogger(__name__)

ORDER = Order(column="ts_event", numbered=True)

_SYMBOL_DAYS_AT_ONCE = 16
_ATTEMPTS = 4


class Status(StrEnum):
    """How a symbol-day ended; the names of the state file."""

    SUCCESS = "success"
    QUARANTINE = "quarantine"
    SKIPPED = "skipped"
    NO_FILES = "no_files"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one symbol-day ended.

    Attributes:
        symbol_day: which.
        status: for the state file.
        action: what the plan said.
        reason: why, for people; of a failure or quarantine, its cause.
        error: class name of the error that made it fail, empty otherwise.
        rows: rows now published; 0 where nothing is.
        parts: raw parts listed.
        raw_bytes: their compressed bytes.
        data_bytes: size of data.parquet; 0 where nothing is published.
        seconds: wall-clock time of planning, merging and publishing, without waiting for other symbol-days.
        ts_event_min: least ts_event published.
        ts_event_max: greatest ts_event published.
        revision: of the published day; None where nothing is.
        columns: name to dtype of the built file; empty where nothing was built.
        minute_width: one minute in units of ts_event, None where the unit is not known.
        minutes: (ts_event // minute_width, rows) of the built file.
    """

    symbol_day: SymbolDay
    status: Status
    action: Action
    reason: str
    error: str = ""
    rows: int = 0
    parts: int = 0
    raw_bytes: int = 0
    data_bytes: int = 0
    seconds: float = 0.0
    ts_event_min: int | None = None
    ts_event_max: int | None = None
    revision: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    minute_width: int | None = None
    minutes: tuple[tuple[int, int], ...] = ()

    @property
    def built(self) -> bool:
        """Whether a file was built and published just now."""
        return self.status is Status.SUCCESS and self.action is Action.BUILD


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """How a pair's day ended.

    Attributes:
        pair: which.
        day: UTC day.
        outcomes: one per symbol that has, or had, raw parts or a published file that day; sorted by symbol.
        seconds: wall-clock time.
        requests: requests by store and kind, as "raw GET".
    """

    pair: Pair
    day: dt.date
    outcomes: tuple[Outcome, ...]
    seconds: float
    requests: dict[str, int]

    def having(self, status: Status) -> list[Outcome]:
        """The symbol-days that ended so."""
        return [outcome for outcome in self.outcomes if outcome.status is status]


class Listener(Protocol):
    """Is told how the work goes, always from the thread of the event loop."""

    def planned(self, pair: Pair, day: dt.date, symbols: int) -> None:
        """The pair's symbols are known; not all of them need have that day."""

    def building(self, plan: Plan) -> None:
        """A symbol-day's parts are going to be fetched."""

    def fetched(self, symbol_day: SymbolDay, parts: int, of_parts: int) -> None:
        """So many of its parts have arrived."""

    def finished(self, outcome: Outcome) -> None:
        """A symbol-day has ended."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What the work needs.

    Attributes:
        raw: lake of parts.
        compact: lake of published days.
        memory_budget: bytes for downloaded parts and the merge together.
        request_concurrency: requests in flight at once.
        scratch_base: where temporary directories are made; None for the system's place.
        clock: the present time, aware.
    """

    raw: Store
    compact: Store
    memory_budget: int
    request_concurrency: int = 64
    scratch_base: Path | None = None
    clock: Clock = utc_now

    @property
    def download_budget(self) -> int:
        """Share of the memory budget for downloaded parts."""
        return self.memory_budget // 4


async def compact_pair(
    place: Workplace,
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
    place: Workplace, pair: Pair, day: dt.date, listener: Listener, symbols: Collection[str], requested: Requested
) -> PairOutcome:
    started = time.monotonic()
    before = _requests(place)
    found = sorted(symbols) or await find_symbols(place.raw, pair)
    listener.planned(pair, day, len(found))
    with scratch_directory(place.scratch_base) as scratch:
        step = _Step(place, scratch, listener, requested)
        ended = await step.run([SymbolDay(pair.exchange, pair.stream, symbol, day) for symbol in found])
    outcomes = tuple(outcome for outcome in ended if outcome.status is not Status.NO_FILES or symbols)
    requests = {name: number - before.get(name, 0) for name, number in _requests(place).items()}
    return PairOutcome(pair, day, outcomes, time.monotonic() - started, requests)


def _requests(place: Workplace) -> dict[str, int]:
    stores = {"raw": place.raw, "compact": place.compact}
    return {
        f"{name} {kind}": number for name, store in stores.items() for kind, number in store.requests.by_kind().items()
    }


class _Step:
    """The work on one pair's day, with what its symbol-days share."""

    def __init__(self, place: Workplace, scratch: Path, listener: Listener, requested: Requested) -> None:
        self._place = place
        self._scratch = scratch
        self._listener = listener
        self._requested = requested
        self._requests = asyncio.Semaphore(place.request_concurrency)
        self._memory = MemoryGate(place.download_budget)
        self._slots = asyncio.Semaphore(_SYMBOL_DAYS_AT_ONCE)
        self._merging = asyncio.Lock()
        self._worker = Worker()

    async def run(self, symbol_days: list[SymbolDay]) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(symbol_day)) for symbol_day in symbol_days]
        return [task.result() for task in tasks]

    async def _one(self, symbol_day: SymbolDay) -> Outcome:
        async with self._slots:
            try:
                outcome = await self._attempts(symbol_day)
            except QuantlabError as error:
                outcome = _failed(symbol_day, error, str(error))
            except Exception as error:
                # A bug must not take the other symbol-days down with it; the step fails after they are done.
                logger.exception("unexpected error in %s", symbol_day)
                outcome = _failed(symbol_day, error, f"unexpected {type(error).__name__}: {error}")
            self._listener.finished(outcome)
            return outcome

    async def _attempts(self, symbol_day: SymbolDay) -> Outcome:
        """Plan and build; plan anew when the raw parts or the published day changed under our hands."""
        for attempt in range(1, _ATTEMPTS + 1):
            plan = await plan_symbol_day(self._place.raw, self._place.compact, symbol_day, self._requested)
            if plan.action is not Action.BUILD:
                return _settled(plan)
            try:
                return await self._build(plan)
            except BadPart as error:
                await publish_quarantine(self._place.compact, plan, error)
                return Outcome(
                    symbol_day,
                    Status.QUARANTINE,
                    plan.action,
                    f"{error.part}: {error.cause}",
                    parts=len(plan.parts),
                    raw_bytes=plan.raw_bytes,
                )
            except (ObjectChanged, Conflict) as error:
                if attempt == _ATTEMPTS:
                    raise
                logger.info("%s: planning anew, attempt %d: %s", symbol_day, attempt + 1, error)
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _build(self, plan: Plan) -> Outcome:
        directory = self._scratch / f"{abs(hash(plan.symbol_day)):x}-{time.monotonic_ns():x}"
        directory.mkdir()
        spooled = plan.raw_bytes > self._place.download_budget
        held = 0 if spooled else plan.raw_bytes
        output = directory / "data.parquet"
        self._listener.building(plan)
        await self._memory.acquire(held)
        try:
            started = time.monotonic()
            survey = await self._survey(plan, directory if spooled else None)
            fetched = time.monotonic() - started
            async with self._merging:
                started = time.monotonic()
                merged, sha256 = await self._worker.run(lambda: self._merge(plan, survey, output, directory))
        finally:
            await self._memory.release(held)
        meta = await publish_day(self._place.compact, plan, output, merged, sha256)
        output.unlink()
        return _published(plan, meta, merged, fetched + time.monotonic() - started)

    async def _survey(self, plan: Plan, spool: Path | None) -> Survey:
        return await fetch_survey(
            self._place.raw,
            plan.parts,
            ORDER,
            memory_budget=self._place.memory_budget,
            gate=self._requests,
            worker=self._worker,
            spool=spool,
            progress=lambda arrived: self._listener.fetched(plan.symbol_day, arrived, len(plan.parts)),
        )

    def _merge(self, plan: Plan, survey: Survey, output: Path, scratch: Path) -> tuple[Merged, str]:
        ticks = ticks_per_second(*survey.key_range, plan.symbol_day.day) if survey.key_range else None
        merged = merge(
            survey,
            output,
            scratch=scratch,
            budget_bytes=self._place.memory_budget - self._place.download_budget,
            bucket_width=ticks * 60 if ticks else None,
            cancelled=self._worker.stopped,
        )
        return merged, file_sha256(output)


def _failed(symbol_day: SymbolDay, error: Exception, reason: str) -> Outcome:
    return Outcome(symbol_day, Status.FAILED, Action.BUILD, reason, type(error).__name__)


def _settled(plan: Plan) -> Outcome:
    """The outcome of a plan that builds nothing."""
    status = {
        Action.UP_TO_DATE: Status.SUCCESS,
        Action.KEEP: Status.SUCCESS,
        Action.QUARANTINED: Status.QUARANTINE,
        Action.BROKEN: Status.FAILED,
        Action.NO_FILES: Status.NO_FILES,
    }[plan.action]
    meta, data = plan.published.meta, plan.published.data
    shown = meta if status is Status.SUCCESS else None
    reason = plan.reason
    if plan.action is Action.QUARANTINED and plan.published.quarantine and plan.published.quarantine.part:
        reason = f"{plan.published.quarantine.part}: {reason}"
    return Outcome(
        plan.symbol_day,
        status,
        plan.action,
        reason,
        rows=shown.rows if shown else 0,
        parts=len(plan.parts),
        raw_bytes=plan.raw_bytes,
        data_bytes=data.size_bytes if shown and data else 0,
        ts_event_min=shown.ts_event_min if shown else None,
        ts_event_max=shown.ts_event_max if shown else None,
        revision=shown.revision if shown else None,
    )


def _published(plan: Plan, meta: DayMeta, merged: Merged, seconds: float) -> Outcome:
    ticks = None
    if meta.ts_event_min is not None and meta.ts_event_max is not None:
        ticks = ticks_per_second(meta.ts_event_min, meta.ts_event_max, plan.symbol_day.day)
    return Outcome(
        plan.symbol_day,
        Status.SUCCESS,
        plan.action,
        plan.reason,
        rows=meta.rows,
        parts=len(plan.parts),
        raw_bytes=plan.raw_bytes,
        data_bytes=merged.size_bytes,
        seconds=seconds,
        ts_event_min=meta.ts_event_min,
        ts_event_max=meta.ts_event_max,
        revision=meta.revision,
        columns=merged.columns,
        minute_width=ticks * 60 if ticks else None,
        minutes=merged.histogram,
    )
