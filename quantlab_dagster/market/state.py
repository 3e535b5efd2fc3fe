"""The audit record `compacted/_state.json`: which days are settled, and what became of each symbol-day lately.

Everything in here is pure: a state in, a state out. `last_compacted_date` is a watermark: every day from
`catch_up_from` up to it is settled for all configured pairs. It never moves back, and never jumps over an open day.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator

from quantlab_dagster.errors import MalformedObject, PathError, QuantlabError
from quantlab_dagster.lake.market import Pair, day_text, parse_day
from quantlab_dagster.lake.record import Record
from quantlab_dagster.market.eligibility import check_eligible
from quantlab_dagster.market.outcome import Outcome, Status, worst

if TYPE_CHECKING:
    from collections.abc import Iterable


__all__ = [
    "STATE_KEY",
    "DayRecord",
    "LateScan",
    "PartitionRecord",
    "Seed",
    "State",
    "accept_day",
    "advance",
    "begin",
    "leave_open",
    "record_outcomes",
    "seed",
    "settle_day",
    "unsettled_days",
]

STATE_KEY = "compacted/_state.json"
LOOK_BACK_DAYS = 30
"""Symbol-days that succeeded are kept in the state for so many days; older detail is in the meta files."""

_ONE_DAY = dt.timedelta(days=1)
SETTLED = frozenset({Status.SUCCESS, Status.QUARANTINE, Status.SKIPPED, Status.NO_FILES})


def utc_text(moment: dt.datetime) -> str:
    """A moment as the state file has it: UTC, ISO 8601, ending in Z."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class DayRecord(Record):
    """One day: settled as what, or failed."""

    status: str
    updated_at: str
    reason: str | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be done for the day."""
        return self.status in SETTLED


class PartitionRecord(Record):
    """One symbol-day."""

    status: str
    rows: int = 0
    total_size_bytes: int = 0
    day_quality_post: str | None = None
    updated_at: str
    error: str | None = None


class LateScan(Record):
    """Where the search for late parts is, and what it found.

    Attributes:
        started_at: when the present or last round began.
        cursor: symbol-day after which it goes on; None between rounds.
        stale: symbol-days that have raw parts their published day does not hold, with the raw fingerprint seen; and
            those that cannot be looked at for a reason of their own, with that reason (see `unreadable`).
        odd: directories in the place of symbols that cannot be addressed, for people; None if there are none.
    """

    started_at: str | None = None
    cursor: str | None = None
    stale: dict[str, str] = Field(default_factory=dict)
    odd: tuple[str, ...] | None = None

    @property
    def unreadable(self) -> dict[str, str]:
        """Of the stale ones those that cannot be looked at, with the reason: a fingerprint is one word."""
        return {key: value for key, value in self.stale.items() if " " in value}


class Seed(Record):
    """A decision of an operator to move the watermark back."""

    last_compacted_date: str
    before: str | None
    reason: str
    updated_at: str


class State(Record):
    """The whole file. Unknown fields of other writers are kept.

    `open_days` says of each day at or after the watermark that is not settled how its (exchange, stream) pairs ended.
    """

    remedy: ClassVar[str] = "Restore it, or run `quantlab state rebuild`"

    last_compacted_date: str | None = None
    catch_up_from: str | None = None
    updated_at: str = ""
    days: dict[str, DayRecord] = Field(default_factory=dict)
    partitions: dict[str, PartitionRecord] = Field(default_factory=dict)
    open_days: dict[str, dict[str, str]] = Field(default_factory=dict)
    late_scan: LateScan = LateScan()
    seeds: tuple[Seed, ...] | None = None

    @field_validator("last_compacted_date", "catch_up_from")
    @classmethod
    def _is_a_day(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                day = parse_day(text, compact_only=True)
            except PathError as error:
                raise ValueError(str(error)) from None
            if day == dt.date.max:
                raise ValueError(f"{text} is the last day of the calendar: no day could follow it")
        return text

    @classmethod
    def read(cls, content: bytes, where: str) -> Self:
        """Parse the file.

        Raises:
            MalformedObject: it is no state, or says neither up to where nor from where on days are settled. Taken for
                a cold start, that would pass over every open day.
        """
        state = super().read(content, where)
        if state.last_compacted_date is None and state.catch_up_from is None:
            raise MalformedObject(where, "has neither last_compacted_date nor catch_up_from", cls.remedy)
        return state

    def dump(self) -> bytes:
        """The file's bytes."""
        document = self.model_dump(mode="json", exclude_none=True) | {
            "last_compacted_date": self.last_compacted_date,
        }
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

    @property
    def watermark(self) -> dt.date | None:
        """The last day up to which everything is settled."""
        return parse_day(self.last_compacted_date) if self.last_compacted_date else None

    @property
    def first_open_day(self) -> dt.date | None:
        """The first day not known to be settled; None if nothing was ever begun."""
        if self.watermark is not None:
            return self.watermark + _ONE_DAY
        return parse_day(self.catch_up_from) if self.catch_up_from else None

    def day(self, day: dt.date) -> DayRecord | None:
        """The record of a day."""
        return self.days.get(day_text(day))

    def is_settled(self, day: dt.date) -> bool:
        """Whether a day is settled: by the watermark, or by its own record."""
        record = self.day(day)
        first_open = self.first_open_day
        below = first_open is not None and day < first_open and self.watermark is not None
        return below or (record is not None and record.settled)


def begin(state: State | None, day: dt.date, now: dt.datetime) -> State:
    """The state before any work: a cold deployment starts with `day`, and remembers it even if that day fails."""
    if state is not None and state.catch_up_from is not None:
        return state
    base = state or State()
    # A state of other software has a watermark but says nothing of its beginning: ours is the day after it.
    day = base.first_open_day or day
    return base.model_copy(update={"catch_up_from": day_text(day), "updated_at": utc_text(now)})


def seed(state: State | None, last: dt.date, now: dt.datetime, *, move_back: str | None = None) -> State:
    """Say by hand that everything up to `last` is settled.

    Args:
        state: as it is.
        last: an eligible day.
        now: the present time.
        move_back: why the watermark is moved back, where an earlier seed was a mistake; kept in the state. Days that
            have a record of their own stay settled.

    Raises:
        DayRefused: the day is not eligible yet.
        QuantlabError: the watermark is later already, and is not to be moved back.
    """
    check_eligible(last, now)
    base = state or State()
    text, moment = day_text(last), utc_text(now)
    update: dict[str, Any] = {"last_compacted_date": text, "updated_at": moment}
    if base.watermark is not None and base.watermark > last:
        if not move_back:
            raise QuantlabError(
                STATE_KEY,
                f"last_compacted_date is {base.last_compacted_date} already, and never moves back by itself",
                "To compact older days, launch a backfill or use `quantlab compact`. If a seed was a mistake, "
                'add --move-back --reason "…"',
            )
        taken_back = Seed(
            last_compacted_date=text, before=base.last_compacted_date, reason=move_back, updated_at=moment
        )
        update["seeds"] = (*(base.seeds or ()), taken_back)
    first = day_text(last + _ONE_DAY)
    update["catch_up_from"] = min(base.catch_up_from or first, first) if move_back else base.catch_up_from or first
    return advance(base.model_copy(update=update), now)


def record_outcomes(
    state: State, pair: Pair, day: dt.date, outcomes: Iterable[Outcome], now: dt.datetime, *, whole: bool = True
) -> State:
    """Fold the results of a pair's step into the state: its symbol-days and, if it was `whole`, how the pair ended."""
    moment = utc_text(now)
    outcomes = list(outcomes)
    partitions = dict(state.partitions)
    stale = dict(state.late_scan.stale)
    for outcome in outcomes:
        key = outcome.symbol_day.state_key
        # What could not be built anew is still what was published before.
        stays = partitions.get(key) if outcome.status in (Status.FAILED, Status.QUARANTINE) else None
        partitions[key] = PartitionRecord(
            status=outcome.status.value,
            rows=stays.rows if stays else outcome.rows,
            total_size_bytes=outcome.bytes_in or (stays.total_size_bytes if stays else 0),
            day_quality_post=stays.day_quality_post if stays else outcome.day_quality,
            updated_at=moment,
            error=outcome.reason if outcome.status in (Status.FAILED, Status.QUARANTINE) else None,
        )
        if outcome.status is not Status.FAILED:
            stale.pop(key, None)
    days, open_days, text = dict(state.days), dict(state.open_days), day_text(day)
    if whole and state.first_open_day is not None and day >= state.first_open_day and not state.is_settled(day):
        open_days[text] = {**open_days.get(text, {}), str(pair): worst(outcomes).value}
        failed = [name for name, status in open_days[text].items() if status == Status.FAILED]
        if failed:
            reason = f"failed: {', '.join(sorted(failed))}"
            days[text] = DayRecord(status=Status.FAILED.value, updated_at=moment, reason=reason)
        else:
            days.pop(text, None)
    return state.model_copy(
        update={
            "partitions": partitions,
            "days": days,
            "open_days": open_days,
            "late_scan": state.late_scan.model_copy(update={"stale": stale}),
            "updated_at": moment,
        }
    )


def settle_day(state: State, day: dt.date, status: Status, now: dt.datetime, *, reason: str | None = None) -> State:
    """Record a day as settled, and move the watermark over all settled days that follow it."""
    days = {**state.days, day_text(day): DayRecord(status=status.value, updated_at=utc_text(now), reason=reason)}
    open_days = {text: pairs for text, pairs in state.open_days.items() if text != day_text(day)}
    return advance(state.model_copy(update={"days": days, "open_days": open_days}), now)


def leave_open(state: State, day: dt.date, pairs: Iterable[Pair], reason: str, now: dt.datetime) -> State:
    """Record that the roll-up found a day open, and for which pairs: these have to run again.

    A day that is settled already, or lies before the beginning, stays what it is.
    """
    text, first_open = day_text(day), state.first_open_day
    if first_open is None or day < first_open or state.is_settled(day):
        return state
    ended = {**state.open_days.get(text, {}), **{str(pair): Status.FAILED.value for pair in pairs}}
    failed = DayRecord(status=Status.FAILED.value, updated_at=utc_text(now), reason=reason)
    return state.model_copy(
        update={
            "open_days": {**state.open_days, text: ended},
            "days": {**state.days, text: failed},
            "updated_at": utc_text(now),
        }
    )


def accept_day(state: State, day: dt.date, reason: str, now: dt.datetime) -> State:
    """An operator's decision that a day is good enough as it is.

    Raises:
        QuantlabError: the day is settled already.
    """
    if state.is_settled(day):
        raise QuantlabError(f"{day}", "is settled already", "There is nothing to accept")
    return settle_day(state, day, Status.SKIPPED, now, reason=f"accepted: {reason}")


def advance(state: State, now: dt.datetime) -> State:
    """Move the watermark over settled days, and forget old successes."""
    day = state.first_open_day
    last = state.watermark
    while day is not None and (record := state.day(day)) is not None and record.settled:
        last, day = day, day + _ONE_DAY
    update: dict[str, Any] = {"updated_at": utc_text(now)}
    if last is not None:
        update["last_compacted_date"] = day_text(last)
    return _pruned(state.model_copy(update=update), now)


def _pruned(state: State, now: dt.datetime) -> State:
    oldest = day_text(now.astimezone(dt.UTC).date() - dt.timedelta(days=LOOK_BACK_DAYS))
    first_open = state.first_open_day
    keep_from = min(oldest, day_text(first_open)) if first_open else oldest
    kept_days = {
        day: record
        for day, record in state.days.items()
        if day >= keep_from or record.status not in (Status.SUCCESS, Status.NO_FILES)
    }
    kept_partitions = {
        key: record
        for key, record in state.partitions.items()
        if key.rpartition("/")[2] >= oldest or record.status not in (Status.SUCCESS, Status.NO_FILES)
    }
    return state.model_copy(update={"days": kept_days, "partitions": kept_partitions})


def unsettled_days(state: State, last_eligible: dt.date) -> list[dt.date]:
    """Every day from the first open one to the last eligible one that is not settled, oldest first."""
    day = state.first_open_day
    found = []
    while day is not None and day <= last_eligible:
        if not state.is_settled(day):
            found.append(day)
        day += _ONE_DAY
    return found


def missing_pairs(state: State, day: dt.date, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs of an unsettled day whose step is not known to have ended well."""
    ended = state.open_days.get(day_text(day), {})
    return [pair for pair in pairs if ended.get(str(pair), Status.FAILED.value) == Status.FAILED.value]
