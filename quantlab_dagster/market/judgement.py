"""Is the lake as it should be? One judgement of every day; pure. Exit codes, checks and metrics only repeat it.

Nobody else decides what is fine: `status`, `catch-up`, the asset checks and the gauges are projections of a
`Judgement` (docs/adr/0013).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from quantlab_dagster.errors import AuditFailed, PathError
from quantlab_dagster.lake.market import Pair, SymbolDay, parse_day
from quantlab_dagster.market.catchup import CatchUp, Decision
from quantlab_dagster.market.eligibility import expected_day, last_eligible_day, yesterday
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.rollup import NO_PREFIX
from quantlab_dagster.market.settling import owing_pairs, unsettled_days
from quantlab_dagster.market.silence import USUAL_DAYS, Silence, silences
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from quantlab_dagster.market.catchup import Decided
    from quantlab_dagster.market.rollup import RawPrefixes
    from quantlab_dagster.market.state import PartitionRecord, QualityNote, State

__all__ = [
    "AUDITED",
    "FRESHNESS",
    "NOTHING_FAILED",
    "NOTHING_QUARANTINED",
    "NOTHING_SILENT",
    "NOT_STALE",
    "NO_UNCLAIMED_RAW_PREFIX",
    "STATE_UNDERSTOOD",
    "WINDOWS_UNDERSTOOD",
    "DayJudgement",
    "Judgement",
    "PairBacklog",
    "Standing",
    "judge",
]

FRESHNESS = "freshness"
NOT_STALE = "not_stale"
NO_UNCLAIMED_RAW_PREFIX = "no_unclaimed_raw_prefix"
NOTHING_QUARANTINED = "nothing_quarantined"
NOTHING_FAILED = "nothing_failed"
NOTHING_SILENT = "nothing_silent"
STATE_UNDERSTOOD = "state_understood"
WINDOWS_UNDERSTOOD = "quality_windows_understood"
AUDITED = "order_and_losslessness_audited"


class Standing(StrEnum):
    """How a day stands."""

    DUE = "due"
    RUNNING = "running"
    FAILED = "failed"
    WAITING = "waiting"
    EXHAUSTED = "exhausted"
    PARTIAL = "partial"
    SETTLED = "settled"


_OF_DECISION = {
    Decision.RUNNING: Standing.RUNNING,
    Decision.WAITING: Standing.WAITING,
    Decision.EXHAUSTED: Standing.EXHAUSTED,
    Decision.PARTIAL: Standing.PARTIAL,
}


@dataclass(frozen=True, slots=True)
class DayJudgement:
    """A day that is open, or settled with something to be said of it.

    Attributes:
        day: UTC day.
        standing: how it stands; of a settled one that is due for its late parts, how that stands.
        settled: whether it is, for every configured pair.
        overdue: whether it is open, and should be settled by now.
        pairs: configured pairs for which it is open; where it is open for others only, those that failed.
        reason: why, for people; empty where nothing was tried yet.
        attempts: that failed, since the last that did not.
        quarantined: symbol-days that nobody accepted, with the reason.
        accepted: symbol-days that an operator accepted as they are, with the reason given.
        stale: symbol-days with raw parts that the published file does not hold, or with another label, not accepted.
        failed: symbol-days whose last try failed, with the reason.
        unproved: of these, those whose new file was not proved.
        unreadable: symbol-days that cannot be looked at, with the reason.
        windows: quality windows that cannot be understood, by HHMM, with the reason.
    """

    day: dt.date
    standing: Standing
    settled: bool
    overdue: bool = False
    pairs: tuple[Pair, ...] = ()
    reason: str = ""
    attempts: int = 0
    quarantined: Mapping[str, str] = field(default_factory=dict)
    accepted: Mapping[str, str] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    unproved: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    windows: Mapping[str, str] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether nobody need look: nothing is wrong with it, or it has just become due."""
        trouble = (self.overdue, self.troubled, self.quarantined, self.stale, self.failed, self.unreadable)
        return not any(trouble) and not self.windows

    @property
    def troubled(self) -> bool:
        """Whether it failed, or is left for now although it is due."""
        return self.standing in (Standing.FAILED, Standing.WAITING, Standing.EXHAUSTED)


@dataclass(frozen=True, slots=True)
class PairBacklog:
    """What a configured pair is behind.

    Attributes:
        pair: which.
        first: its first open day.
        last: its last one.
        days: how many there are.
    """

    pair: Pair
    first: dt.date
    last: dt.date
    days: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be said of the market-data lake.

    Attributes:
        pairs: configured ones.
        begun: whether there is a state at all.
        watermark: last day of the settled ones; None if there is none.
        ahead: whether the watermark lies in the future.
        expected: the latest day that should be settled by now.
        last_eligible: the latest day that may be compacted.
        lag_days: days from the watermark (or from the beginning) to `expected`.
        updated_at: when the state last changed; None if there is none.
        days: those to be looked at, and those of which something was accepted; ascending.
        behind: configured pairs with overdue days.
        raw: exchanges and streams of the raw lake; None if they could not be listed.
        odd: what stands in the raw lake in the place of symbols, but cannot be addressed.
        not_looked: why late parts could not be looked for; empty if they could, or were not to be.
        not_understood: entries of the journal and of the state that cannot be understood, with the reason.
        silent: pairs and symbols that had data in the last days, and have none on the latest settled day.
        delisted: those of which an operator said that no more data are to come, with the reason given.
    """

    pairs: tuple[Pair, ...]
    begun: bool
    watermark: dt.date | None
    ahead: bool
    expected: dt.date
    last_eligible: dt.date
    lag_days: int
    updated_at: str | None
    days: tuple[DayJudgement, ...]
    behind: tuple[PairBacklog, ...]
    raw: RawPrefixes | None
    odd: tuple[str, ...]
    not_looked: str
    not_understood: Mapping[str, str]
    silent: tuple[Silence, ...] = ()
    delisted: Mapping[str, str] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether nobody need look."""
        return all(finding.passed for finding in self.findings)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The judgement in single sentences: the asset checks of `compact/state`."""
        return (
            self._freshness(),
            self._not_stale(),
            self._raw_prefixes(),
            _nothing_quarantined(self.quarantined),
            self._nothing_failed(),
            self._nothing_silent(),
            self._understood(),
            self._windows(),
        )

    def findings_of(self, pair: Pair) -> tuple[Finding, ...]:
        """What is to be said of one pair, over all days: the asset checks of `compact/<exchange>/<stream>`."""
        unproved = {key: day.failed[key] for day in self.days for key in day.unproved}
        return (_audited(_of_pair(unproved, pair)), _nothing_quarantined(_of_pair(self.quarantined, pair)))

    @property
    def open_days(self) -> list[DayJudgement]:
        """Days that are not settled for every configured pair, or failed for another one."""
        return [day for day in self.days if not day.settled]

    @property
    def quarantined(self) -> dict[str, str]:
        """Symbol-days in quarantine that nobody accepted, with the reason."""
        return {key: why for day in self.days for key, why in day.quarantined.items()}

    @property
    def stale(self) -> list[str]:
        """Symbol-days with late parts or another label, not accepted, and not among the unreadable."""
        return [key for day in self.days for key in day.stale]

    @property
    def gauges(self) -> dict[str, float]:
        """The judgement in numbers, by the name of the metric."""
        days = self.days
        return {
            "fine": self.fine,
            "watermark_lag_days": self.lag_days,
            "open_days": len(self.open_days),
            "overdue_days": sum(day.overdue for day in days),
            "failed_days": sum(day.troubled for day in days),
            "exhausted_days": sum(day.standing is Standing.EXHAUSTED for day in days),
            "worst_day_failed_attempts": max((day.attempts for day in days), default=0),
            "stale_symbol_days": sum(len(day.stale) for day in days),
            "unreadable_symbol_days": sum(len(day.unreadable) for day in days),
            "quarantined_symbol_days": sum(len(day.quarantined) for day in days),
            "accepted_symbol_days": sum(len(day.accepted) for day in days),
            "failed_symbol_days": sum(len(day.failed) for day in days),
            "pairs_behind": len(self.behind),
            "silent_symbols": sum(item.symbols for item in self.silent),
            "delisted": len(self.delisted),
            "partial_days": sum(day.standing is Standing.PARTIAL for day in days),
            "unreadable_windows": sum(len(day.windows) for day in days),
        }

    def _freshness(self) -> Finding:
        overdue = [
            f"{day.day}{' (PARTIAL)' if day.standing is Standing.PARTIAL else ''}" for day in self.days if day.overdue
        ]
        if self.ahead:
            text = f"last_compacted_date {self.watermark} lies in the future, so nothing is caught up until then"
            return Finding(FRESHNESS, passed=False, text=f"{text}: `quantlab state seed --move-back` mends it")
        if not overdue and self.lag_days:
            text = f"every configured pair is settled, and yet last_compacted_date is {self.lag_days} days behind"
            return Finding(FRESHNESS, passed=False, text=f"{text}: a day has failed for another deployment's pairs")
        if not overdue:
            return Finding(FRESHNESS, passed=True, text=f"everything up to {self.expected} is settled")
        text = f"{name_some(overdue)} should have been done by 04:00 UTC"
        if len(self.behind) < len(self.pairs):
            text += f"; behind: {name_some([_backlog_text(item) for item in self.behind], separator='; ')}"
        return Finding(FRESHNESS, passed=False, text=text)

    def _not_stale(self) -> Finding:
        unreadable = [f"{key} ({why})" for day in self.days for key, why in sorted(day.unreadable.items())]
        texts = []
        if self.not_looked:
            texts.append(f"late parts could not be looked for: {self.not_looked}")
        if self.stale:
            texts.append(f"late parts, or another quality label: {name_some(self.stale)}")
        if unreadable:
            texts.append(f"cannot be looked at: {name_some(unreadable)}")
        return Finding(NOT_STALE, not texts, "; ".join(texts) or "no published day lacks raw parts, or its label")

    def _raw_prefixes(self) -> Finding:
        texts = []
        if self.raw is None:
            why = f": {self.not_looked}" if self.not_looked else ""
            texts.append(f"exchanges and streams of the raw lake could not be listed{why}")
        elif not self.raw.claimed:
            texts.append(f"{NO_PREFIX} in the raw lake: is its URL right?")
        if self.raw is not None and self.raw.unclaimed:
            texts.append(f"in the raw lake, but configured nowhere: {name_some(self.raw.unclaimed)}")
        if self.odd:
            texts.append(f"in the raw lake, but cannot be addressed: {name_some(self.odd)}")
        text = "; ".join(texts) or "every exchange and stream of the raw lake has an asset"
        return Finding(NO_UNCLAIMED_RAW_PREFIX, not texts, text)

    def _nothing_failed(self) -> Finding:
        days = [f"{day.day} {day.standing.value} ({day.reason})" for day in self.days if day.troubled]
        failed = [f"{key} ({why})" for day in self.days for key, why in sorted(day.failed.items())]
        texts = [name_some(days, separator="; ")] if days else []
        if failed:
            texts.append(f"symbol-days that failed: {name_some(failed, separator='; ')}")
        return Finding(NOTHING_FAILED, not texts, "; ".join(texts) or "no day has failed since it was last settled")

    def _nothing_silent(self) -> Finding:
        if not self.silent:
            return Finding(NOTHING_SILENT, passed=True, text="whatever had data in the last days has some still")
        text = name_some([item.text for item in self.silent], separator="; ")
        return Finding(NOTHING_SILENT, passed=False, text=f"{text}: see its collector, or `quantlab state delisted`")

    def _understood(self) -> Finding:
        bad = [f"{key} ({why})" for key, why in sorted(self.not_understood.items())]
        text = (
            f"stays until somebody mends or removes it: {name_some(bad)}" if bad else "every record can be understood"
        )
        return Finding(STATE_UNDERSTOOD, not bad, text)

    def _windows(self) -> Finding:
        bad = [f"{day.day} {name} ({why})" for day in self.days for name, why in sorted(day.windows.items())]
        text = name_some(bad, separator="; ") if bad else "every quality window of the look-back can be understood"
        return Finding(WINDOWS_UNDERSTOOD, not bad, text)


def _nothing_quarantined(quarantined: Mapping[str, str]) -> Finding:
    bad = [f"{key} ({why})" for key, why in sorted(quarantined.items())]
    return Finding(NOTHING_QUARANTINED, not bad, name_some(bad, separator="; ") or "nothing that nobody accepted")


def _audited(unproved: Mapping[str, str]) -> Finding:
    bad = [f"{key} ({why})" for key, why in sorted(unproved.items())]
    text = name_some(bad, separator="; ") or "every file that was published was read back and proved before"
    return Finding(AUDITED, not bad, text)


def _of_pair(found: Mapping[str, str], pair: Pair) -> dict[str, str]:
    return {key: why for key, why in found.items() if key.startswith(f"{pair}/")}


def _backlog_text(item: PairBacklog) -> str:
    return f"{item.pair} by {item.days} day{'s' if item.days != 1 else ''}, {item.first} … {item.last}"


def judge(
    state: State | None,
    pairs: Sequence[Pair],
    now: dt.datetime,
    *,
    decided: CatchUp | None = None,
    raw: RawPrefixes | None = None,
    not_looked: str = "",
    entries: Mapping[str, str] | None = None,
    usual_days: int = USUAL_DAYS,
) -> Judgement:
    """Judge every day of the lake.

    Args:
        state: as it is now, with all that steps did; None if there is none.
        pairs: configured pairs.
        now: the present time.
        decided: what catch-up decides of the days that are due, with what became of earlier attempts.
        raw: exchanges and streams of the raw lake; None if they could not be listed.
        not_looked: why late parts could not be looked for; empty if they could, or were not to be.
        entries: entries of the journal that cannot be understood, with the reason.
        usual_days: with data on so many of seven days a symbol is missed when it has none.
    """
    expected, last = expected_day(now), last_eligible_day(now)
    sheet = _Sheet(pairs, expected)
    if state is None or state.first_open_day is None:
        sheet.open[expected] = tuple(pairs)
    else:
        for day in unsettled_days(state, last, pairs):
            sheet.open[day] = tuple(owing_pairs(state, day, pairs))
        sheet.read(state)
    for one in (decided or CatchUp()).decided:
        sheet.decided[one.day] = one
    watermark = state.watermark if state else None
    first_open = state.first_open_day if state else None
    return Judgement(
        pairs=tuple(pairs),
        begun=state is not None,
        watermark=watermark,
        ahead=watermark is not None and watermark > yesterday(now),
        expected=expected,
        last_eligible=last,
        lag_days=max(0, (expected - (first_open or expected)).days + 1),
        updated_at=state.updated_at if state else None,
        days=sheet.days(state),
        behind=sheet.behind(),
        raw=raw,
        odd=(state.late_scan.odd if state else None) or (),
        not_looked=not_looked,
        not_understood={**(entries or {}), **sheet.not_understood},
        silent=silences(state, least=usual_days) if state else (),
        delisted={name: item.reason for name, item in sorted(((state.delisted if state else None) or {}).items())},
    )


class _Sheet:
    """What is to be said, by day, while it is gathered."""

    def __init__(self, pairs: Sequence[Pair], expected: dt.date) -> None:
        self._pairs = pairs
        self._expected = expected
        self.open: dict[dt.date, tuple[Pair, ...]] = {}
        self.decided: dict[dt.date, Decided] = {}
        self.not_understood: dict[str, str] = {}
        self._failed_days: set[dt.date] = set()
        self._noted_days: dict[dt.date, QualityNote] = {}
        self._said: dict[dt.date, dict[str, dict[str, str]]] = {}

    def read(self, state: State) -> None:
        """Gather what the state says of days and symbol-days, whosever pairs they are."""
        for text, record in state.days.items():
            if record.status == Status.FAILED:
                try:
                    self._failed_days.add(parse_day(text))
                except PathError as error:
                    self.not_understood[f"day {text}"] = str(error)
        for key, partition in state.partitions.items():
            if partition.troubled and (symbol_day := self._symbol_day(key)):
                self._say_record(state, key, symbol_day.day, partition)
        for key, text in state.late_scan.stale.items():
            if not (symbol_day := self._symbol_day(key)):
                continue
            if (why := state.why_accepted(key)) is not None:
                self._say("accepted", symbol_day.day, key, why)
            else:
                self._say("unreadable" if key in state.unreadable else "stale", symbol_day.day, key, text)

        self._read_notes(state)

    def _read_notes(self, state: State) -> None:
        for text, note in (state.quality or {}).items():
            try:
                self._noted_days[parse_day(text)] = note
            except PathError as error:
                self.not_understood[f"quality {text}"] = str(error)

    def _say_record(self, state: State, key: str, day: dt.date, record: PartitionRecord) -> None:
        whole_day = state.days.get(f"{day:%Y%m%d}")
        error = record.error or ""
        if (why := state.why_accepted(key)) is not None:
            self._say("accepted", day, key, why)
        elif record.status == Status.QUARANTINE:
            self._say("quarantined", day, key, error)
        elif whole_day is not None and whole_day.accepted and record.updated_at <= whole_day.updated_at:
            pass  # it was failed when an operator accepted the day
        else:
            self._say("failed", day, key, error)
            if record.error_type == AuditFailed.__name__:
                self._say("unproved", day, key, error)

    def _symbol_day(self, key: str) -> SymbolDay | None:
        try:
            return SymbolDay.of_state_key(key)
        except PathError as error:
            self.not_understood[key] = str(error)
            return None

    def _say(self, what: str, day: dt.date, key: str, text: str) -> None:
        self._said.setdefault(day, {}).setdefault(what, {})[key] = text

    def days(self, state: State | None) -> tuple[DayJudgement, ...]:
        """Every day of which there is something to say."""
        late = {day for day, one in self.decided.items() if one.late and one.decision in _OF_DECISION}
        windows = {day for day, note in self._noted_days.items() if note.unreadable}
        found = self.open.keys() | self._failed_days | self._said.keys() | late | windows
        return tuple(self._day(state, day) for day in sorted(found))

    def _day(self, state: State | None, day: dt.date) -> DayJudgement:
        said = self._said.get(day, {})
        decided = self.decided.get(day)
        failed = day in self._failed_days
        note = self._noted_days.get(day)
        settled = day not in self.open and not failed
        standing = _OF_DECISION.get(decided.decision) if decided else None
        if standing is None:
            unsettled = Standing.PARTIAL if note is not None and note.waits else Standing.DUE
            standing = Standing.SETTLED if settled else Standing.FAILED if failed else unsettled
        return DayJudgement(
            day=day,
            standing=standing,
            settled=settled,
            overdue=day in self.open and day <= self._expected,
            pairs=self.open.get(day) or (_failed_pairs(state, day) if failed else ()),
            reason=_reason(state, day, decided, settled=settled),
            attempts=decided.failed if decided else 0,
            quarantined=said.get("quarantined", {}),
            accepted=said.get("accepted", {}),
            stale=tuple(sorted(said.get("stale", {}))),
            failed=said.get("failed", {}),
            unproved=tuple(sorted(said.get("unproved", {}))),
            unreadable=said.get("unreadable", {}),
            windows=note.unreadable if note is not None else {},
        )

    def behind(self) -> tuple[PairBacklog, ...]:
        """The configured pairs with days that should be settled by now, and how far they are behind."""
        found = []
        for pair in self._pairs:
            days = [day for day, pairs in self.open.items() if pair in pairs]
            if days and min(days) <= self._expected:
                found.append(PairBacklog(pair, min(days), max(days), len(days)))
        return tuple(found)


def _failed_pairs(state: State | None, day: dt.date) -> tuple[Pair, ...]:
    ended = state.open_days.get(f"{day:%Y%m%d}", {}) if state else {}
    names = [name for name, status in sorted(ended.items()) if status == Status.FAILED and "/" in name]
    return tuple(Pair(*name.split("/", 1)) for name in names)


def _reason(state: State | None, day: dt.date, decided: Decided | None, *, settled: bool) -> str:
    record = state.day(day) if state is not None else None
    texts = [record.reason] if record is not None and record.reason and not settled else []
    waits = state.waits(day) if state is not None and not settled else None
    if waits is not None:
        texts.append(waits.reason)
    if decided is not None and decided.text:
        texts.append(decided.text)
    if state is None:
        texts.append("nothing has begun yet")
    return "; ".join(texts)
