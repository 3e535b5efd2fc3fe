"""How the work on a symbol-day, and on a pair's day, ended. Pure: what a plan means is decided here, once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from quantlab_dagster.market.pace import gap_within, longest_gap
from quantlab_dagster.market.plan import Action, Plan
from quantlab_dagster.market.timeunit import minute_width
from quantlab_dagster.work.wording import format_bytes

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection

    from quantlab_dagster.errors import BadPart, ShrinkRefused
    from quantlab_dagster.kernel.terms import Merged
    from quantlab_dagster.lake.market import Pair, SymbolDay
    from quantlab_dagster.market.records import DayMeta

__all__ = [
    "Listener",
    "Outcome",
    "PairOutcome",
    "Status",
    "Verdict",
    "VerifiedDay",
    "failed",
    "line",
    "published",
    "quarantined",
    "refused",
    "relabelled",
    "skipped",
    "standing",
    "withheld",
    "worst",
]


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
        bytes_in: their compressed bytes.
        bytes_out: size of data.parquet; 0 where nothing is published.
        seconds: wall-clock time of planning, merging and publishing, without waiting for other symbol-days.
        ts_event_min: least ts_event published.
        ts_event_max: greatest ts_event published.
        revision: of the published day; None where nothing is.
        day_quality: label of the published day, or for which it is not published; None where nothing is said.
        columns: name to dtype of the built file; empty where nothing was built.
        widened: name to the types of a column in the parts and the wider one that it got; of the built file.
        minute_width: one minute in units of ts_event, None where the unit is not known.
        minutes: (ts_event // minute_width, rows) of the built file.
        raw_fingerprint: of the raw parts listed; empty where that is not known.
        checks: what was counted in the rows of the published day (`stream_checks`); None where nobody knows.
        longest_gap_seconds: between two flushes of the parts of the built file; None where nothing was built.
        longest_gap_within_seconds: without the time before the first flush, where that makes a difference.
    """

    symbol_day: SymbolDay
    status: Status
    action: Action
    reason: str
    error: str = ""
    rows: int = 0
    parts: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    ts_event_min: int | None = None
    ts_event_max: int | None = None
    revision: int | None = None
    day_quality: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    widened: dict[str, str] = field(default_factory=dict)
    minute_width: int | None = None
    minutes: tuple[tuple[int, int], ...] = ()
    raw_fingerprint: str = ""
    checks: dict[str, Any] | None = None
    longest_gap_seconds: int | None = None
    longest_gap_within_seconds: int | None = None

    @property
    def findings(self) -> dict[str, str]:
        """What is not as it should be in the rows of the published day, by check."""
        return dict((self.checks or {}).get("findings") or {})

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


def failed(symbol_day: SymbolDay, error: Exception, reason: str) -> Outcome:
    """The outcome of a symbol-day whose work raised an error."""
    return Outcome(symbol_day, Status.FAILED, Action.BUILD, reason, type(error).__name__)


def quarantined(plan: Plan, error: BadPart) -> Outcome:
    """The outcome of a build that met a part which cannot be merged."""
    reason = f"{error.part}: {error.cause}"
    return _bare(plan, Status.QUARANTINE, reason)


def withheld(plan: Plan) -> Outcome:
    """The outcome of a symbol-day that is not published because its day is BAD."""
    return replace(_bare(plan, Status.QUARANTINE, plan.reason), day_quality=plan.label)


def skipped(plan: Plan) -> Outcome:
    """The outcome of a symbol-day that is not published because its day is PARTIAL."""
    return replace(_bare(plan, Status.SKIPPED, plan.reason), day_quality=plan.label)


def relabelled(plan: Plan, meta: DayMeta) -> Outcome:
    """The outcome of a published day that got another label.

    Args:
        plan: by which it got that.
        meta: as it now stands.
    """
    return _as_published(plan, meta, plan.published.data.size_bytes if plan.published.data else 0)


def refused(plan: Plan, error: ShrinkRefused) -> Outcome:
    """The outcome of a build that would have lost rows: a committed day stays, quarantined; any other has failed."""
    meta, data = plan.published.meta, plan.published.data
    reason = f"{plan.reason}; {error}"
    if meta is None or data is None or not plan.published.committed:
        return failed(plan.symbol_day, error, reason)
    stays = _as_published(plan, meta, data.size_bytes)
    return replace(stays, status=Status.QUARANTINE, action=Action.KEEP, reason=reason)


def published(
    plan: Plan, meta: DayMeta, merged: Merged, seconds: float, checks: dict[str, Any] | None = None
) -> Outcome:
    """The outcome of a build that was published.

    Args:
        plan: by which it was built.
        meta: as published.
        merged: what the audit found in the file.
        seconds: wall-clock time of the work.
        checks: what was counted in its rows.
    """
    names, day = [part.name for part in plan.parts], plan.symbol_day.day
    longest, within = longest_gap(names, day), gap_within(names, day)
    return replace(
        _as_published(plan, meta, merged.size_bytes),
        seconds=seconds,
        columns=merged.columns,
        widened=merged.widened,
        longest_gap_seconds=longest,
        longest_gap_within_seconds=within if within != longest else None,
        minute_width=minute_width(meta.ts_event_min, meta.ts_event_max, plan.symbol_day.day),
        minutes=merged.histogram,
        checks=checks,
    )


_UNBUILT = {
    Action.RELABEL: Status.SUCCESS,
    Action.SKIP: Status.SKIPPED,
    Action.UP_TO_DATE: Status.SUCCESS,
    Action.KEEP: Status.SUCCESS,
    Action.QUARANTINED: Status.QUARANTINE,
    Action.LIFT: Status.QUARANTINE,
    Action.BROKEN: Status.FAILED,
    Action.NO_FILES: Status.NO_FILES,
}


def standing(plan: Plan) -> Outcome | None:
    """What a symbol-day counts as, as it stands: what the plan means while nothing is built.

    Returns:
        None for a day that is open: it has raw parts, and is neither published nor quarantined, nor given up as
        PARTIAL. A stale day, or one with an old label, counts as the success that it still is.
    """
    if (plan.action is Action.BUILD and not plan.stale) or plan.action is Action.QUARANTINE or plan.waits:
        return None
    status = Status.SUCCESS if plan.stale else _UNBUILT[plan.action]
    meta, data, quarantine = plan.published.meta, plan.published.data, plan.published.quarantine
    if status is Status.SUCCESS and meta is not None:
        outcome = _as_published(plan, meta, data.size_bytes if data else 0)
        return replace(outcome, action=Action.KEEP) if plan.stale or plan.action is Action.RELABEL else outcome
    if plan.action is Action.SKIP:
        return skipped(plan)
    if plan.action is Action.QUARANTINED and quarantine and quarantine.day_quality:
        return replace(_bare(plan, status, plan.reason), day_quality=quarantine.day_quality)
    reason = plan.reason
    if plan.action is Action.QUARANTINED and quarantine and quarantine.part:
        reason = f"{quarantine.part}: {reason}"
    return _bare(plan, status, reason)


def _bare(plan: Plan, status: Status, reason: str) -> Outcome:
    return Outcome(
        plan.symbol_day,
        status,
        plan.action,
        reason,
        parts=len(plan.parts),
        bytes_in=plan.bytes_in,
        raw_fingerprint=plan.raw_fingerprint,
    )


def _as_published(plan: Plan, meta: DayMeta, bytes_out: int) -> Outcome:
    return Outcome(
        plan.symbol_day,
        Status.SUCCESS,
        plan.action,
        plan.reason,
        rows=meta.rows,
        parts=len(plan.parts),
        bytes_in=plan.bytes_in,
        bytes_out=bytes_out,
        ts_event_min=meta.ts_event_min,
        ts_event_max=meta.ts_event_max,
        revision=meta.revision,
        day_quality=meta.day_quality,
        raw_fingerprint=plan.raw_fingerprint,
    )


def worst(outcomes: Collection[Outcome]) -> Status:
    """One status for many symbol-days: what needs attention wins."""
    found = {outcome.status for outcome in outcomes}
    order = (Status.FAILED, Status.QUARANTINE, Status.SKIPPED, Status.SUCCESS)
    return next((status for status in order if status in found), Status.NO_FILES)


class Verdict(StrEnum):
    """What verification found."""

    RIGHT = "right"
    WRONG = "wrong"
    QUARANTINED = "quarantined"
    NOT_PUBLISHED = "not_published"


@dataclass(frozen=True, slots=True)
class VerifiedDay:
    """What verification found in one symbol-day.

    Attributes:
        symbol_day: which.
        verdict: the result.
        findings: what is wrong, for people; or why it is not published.
        rows: rows read from data.parquet.
        against_raw: whether the rows were compared with the raw parts.
        note: what kept it from being compared, or what arrived since.
    """

    symbol_day: SymbolDay
    verdict: Verdict
    findings: tuple[str, ...] = ()
    rows: int = 0
    against_raw: bool = False
    note: str = ""


def line(outcome: Outcome) -> str:
    """One line on a symbol-day: parts merged, bytes in and out, rows, time, and how it ended."""
    if outcome.built:
        widened = "".join(f", widened {name}: {how}" for name, how in outcome.widened.items())
        return (
            f"{outcome.symbol_day}: {outcome.parts:,} parts, {format_bytes(outcome.bytes_in)} → "
            f"{format_bytes(outcome.bytes_out)}, {outcome.rows:,} rows, {outcome.seconds:.2f} s, "
            f"published as revision {outcome.revision}{widened}"
        )
    if outcome.action is Action.RELABEL:
        return f"{outcome.symbol_day}: labelled {outcome.day_quality} ({outcome.reason})"
    if outcome.status is Status.SKIPPED:
        return f"{outcome.symbol_day}: skipped: {outcome.reason}"
    if outcome.status is Status.SUCCESS:
        verb = "kept" if outcome.action is Action.KEEP else "up to date"
        return f"{outcome.symbol_day}: {verb}, {outcome.rows:,} rows ({outcome.reason})"
    if outcome.status is Status.NO_FILES:
        return f"{outcome.symbol_day}: no raw parts"
    word = "QUARANTINED" if outcome.status is Status.QUARANTINE else "FAILED"
    return f"{outcome.symbol_day}: {word}: {outcome.reason}"
