"""The audit record `compacted/_state.json`: which days are settled for which pairs, what became of each symbol-day.

The documents only; how they change is in `settling`. `last_compacted_date` is a watermark: every day from
`catch_up_from` up to it was settled for the pairs configured then, which `settled_pairs` names. It never moves back,
and never jumps over an open day.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, ValidationError, field_validator

from quantlab_dagster.errors import MalformedObject, PathError
from quantlab_dagster.lake.market import Pair, day_text, parse_day
from quantlab_dagster.lake.record import Record
from quantlab_dagster.market.days import Ranges, contains
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.quality.rules import Label

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ACCEPTED",
    "ADOPTED_KEY",
    "STATE_KEY",
    "Acceptance",
    "DayRecord",
    "Delisted",
    "LateScan",
    "PartitionRecord",
    "QualityNote",
    "Round",
    "Seed",
    "State",
    "salvage",
    "utc_text",
]

STATE_KEY = "compacted/_state.json"
ADOPTED_KEY = "compacted/_state.adopted.json"
"""The file of other software, as it was before we wrote to it for the first time."""

_ONE_DAY = dt.timedelta(days=1)
ACCEPTED = "accepted: "
"""How the reason of a day begins that an operator accepted."""

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

    @property
    def accepted(self) -> bool:
        """Whether an operator said that it may stay as it is."""
        return self.settled and (self.reason or "").startswith(ACCEPTED)


class PartitionRecord(Record):
    """One symbol-day.

    Attributes:
        raw_fingerprint: of a quarantined one, what lies in the raw lake: what an operator accepts.
        error_type: of a failed one, the class of the error.
        longest_gap_seconds: of a built one, the longest time between two flushes of its parts (see `pace`).
        longest_gap_within_seconds: the same without the time before the first flush, where that makes a difference.
    """

    status: str
    rows: int = 0
    total_size_bytes: int = 0
    day_quality_post: str | None = None
    updated_at: str
    error: str | None = None
    raw_fingerprint: str | None = None
    error_type: str | None = None
    longest_gap_seconds: int | None = None
    longest_gap_within_seconds: int | None = None

    @property
    def troubled(self) -> bool:
        """Whether somebody should look: it failed, or is quarantined."""
        return self.status in (Status.FAILED, Status.QUARANTINE)

    @property
    def withheld(self) -> bool:
        """Whether it is quarantined because its day is BAD."""
        return self.status == Status.QUARANTINE and self.day_quality_post == Label.BAD


class Round(Record):
    """A round of the search for late parts.

    Attributes:
        started_at: when the present or last round began.
        cursor: symbol-day after which it goes on; None between rounds.
    """

    started_at: str | None = None
    cursor: str | None = None


class LateScan(Record):
    """Where the search for late parts is, and what it found.

    Attributes:
        rounds: by the pairs that a deployment looks at (see `late.round_name`).
        stale: symbol-days that have raw parts their published day does not hold, with the raw fingerprint seen; and
            those that cannot be looked at for a reason of their own, with that reason (see `State.unreadable`).
        odd: directories in the place of symbols that cannot be addressed, for people; None if there are none.
    """

    rounds: dict[str, Round] = Field(default_factory=dict)
    stale: dict[str, str] = Field(default_factory=dict)
    odd: tuple[str, ...] | None = None


class Seed(Record):
    """A decision of an operator to move the watermark back."""

    last_compacted_date: str
    before: str | None
    reason: str
    updated_at: str


class Acceptance(Record):
    """A decision of an operator that a quarantined or stale symbol-day may stay as it is.

    Attributes:
        of: what was accepted: the fingerprint of the raw parts, or the text of what cannot be read. When the raw parts
            change it is something else, and the decision is void.
        reason: why.
        updated_at: when.
    """

    of: str
    reason: str
    updated_at: str


class QualityNote(Record):
    """What is to be said of a day's quality windows.

    Attributes:
        day_quality: what the day is worth.
        reason: why.
        waits: whether it is PARTIAL, and looked at again before it is given up.
        unreadable: by HHMM, why windows cannot be understood.
    """

    day_quality: str
    reason: str
    waits: bool = False
    unreadable: dict[str, str] = Field(default_factory=dict)


class Delisted(Record):
    """A decision of an operator that a symbol, or all of a pair, has no data any more, and nobody need look.

    Attributes:
        day: of the decision (UTC, YYYYMMDD). Data of a later day end it.
        reason: why.
        updated_at: when.
    """

    day: str
    reason: str
    updated_at: str


def is_fingerprint(text: str) -> bool:
    """Whether what is noted of a stale symbol-day is a fingerprint, one word, and not a sentence."""
    return " " not in text


class State(Record):
    """The whole file. Unknown fields of other writers are kept.

    Attributes:
        settled_pairs: for which days each pair was settled, by whatever deployment; None in a state of an earlier
            version, which is read as: up to the watermark, for all.
        open_days: of each day that is not settled for a pair, how the pair's last step ended.
        accepted: decisions on single symbol-days.
        delisted: by exchange/stream/symbol or exchange/stream, decisions that no more data are to come.
        inventory_months: months (YYYYMM) whose oldest successes have moved to files of their own.
        quality: days (YYYYMMDD) that wait because they are PARTIAL, or have windows that cannot be understood.
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
    settled_pairs: dict[str, Ranges] | None = None
    accepted: dict[str, Acceptance] | None = None
    delisted: dict[str, Delisted] | None = None
    inventory_months: tuple[str, ...] | None = None
    quality: dict[str, QualityNote] | None = None

    @field_validator("last_compacted_date", "catch_up_from")
    @classmethod
    def _is_a_day(cls, text: str | None) -> str | None:
        if text is not None:
            _check_day(text)
            if parse_day(text) == dt.date.max:
                raise ValueError(f"{text} is the last day of the calendar: no day could follow it")
        return text

    @field_validator("settled_pairs")
    @classmethod
    def _are_days(cls, pairs: dict[str, Ranges] | None) -> dict[str, Ranges] | None:
        for ranges in (pairs or {}).values():
            for first, last in ranges:
                _check_day(first)
                _check_day(last)
        return pairs

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
        _share_names(state.partitions.values())
        return state

    def dump(self) -> bytes:
        """The file's bytes."""
        text = self.model_dump_json(exclude_none=True, exclude={"last_compacted_date"}, indent=1)
        # Readers look for this one even while there is none.
        first = f'{{\n "last_compacted_date": {json.dumps(self.last_compacted_date)},\n '
        return f"{first}{text.removeprefix('{').lstrip()}\n".encode()

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

    @property
    def beginning(self) -> dt.date | None:
        """The first day that pairs owe, whoever configured them and when; None if nothing was ever begun."""
        return parse_day(self.catch_up_from) if self.catch_up_from else self.first_open_day

    def day(self, day: dt.date) -> DayRecord | None:
        """The record of a day."""
        return self.days.get(day_text(day))

    def is_settled(self, day: dt.date) -> bool:
        """Whether a day is settled for the pairs of whoever settled it: by the watermark, or by its own record."""
        record = self.day(day)
        first_open = self.first_open_day
        below = first_open is not None and day < first_open and self.watermark is not None
        return below or (record is not None and record.settled)

    def covers(self, pair: Pair, day: dt.date) -> bool:
        """Whether a day is settled for a pair."""
        return bool(self._covered(day, [pair]))

    def _covered(self, day: dt.date, pairs: Iterable[Pair]) -> list[Pair]:
        """The pairs for which a day is settled."""
        if self.settled_pairs is None:
            return list(pairs) if self.is_settled(day) else []
        text = day_text(day)
        return [pair for pair in pairs if contains(self.settled_pairs.get(str(pair), ()), text)]

    def is_covered_for_any(self, text: str) -> bool:
        """Whether a day (YYYYMMDD) is settled for some pair: then it stays failed until it is rolled up for all."""
        return any(contains(ranges, text) for ranges in (self.settled_pairs or {}).values())

    def owes(self, pair: Pair, day: dt.date) -> bool:
        """Whether a day is to be settled for a pair."""
        return bool(self.owing(day, [pair]))

    def owing(self, day: dt.date, pairs: Iterable[Pair]) -> list[Pair]:
        """The pairs that a day is to be settled for: it is not, and does not lie before the beginning, or was begun.

        What lies before the beginning is an operator's matter; but a day that was asked for, and put off because it is
        PARTIAL, is looked at again like any other.
        """
        asked = list(pairs)
        covered = set(self._covered(day, asked))
        first, begun = self.beginning, self.open_days.get(day_text(day), {})
        due = first is not None and day >= first
        return [pair for pair in asked if pair not in covered and (due or str(pair) in begun)]

    def waits(self, day: dt.date) -> QualityNote | None:
        """Why a day is left open although nothing failed: it is PARTIAL, and looked at again. None if it is not."""
        note = (self.quality or {}).get(day_text(day))
        return note if note is not None and note.waits else None

    def noted(self, state_key: str) -> str | None:
        """What an operator could accept about a symbol-day: that it is stale, or else that it is quarantined."""
        stale = self.late_scan.stale.get(state_key)
        record = self.partitions.get(state_key)
        quarantined = record is not None and record.status == Status.QUARANTINE
        return stale or ((record.raw_fingerprint or "") if record and quarantined else None)

    def is_accepted(self, state_key: str) -> bool:
        """Whether an operator has accepted a symbol-day as it is now."""
        return self.why_accepted(state_key) is not None

    def why_accepted(self, state_key: str) -> str | None:
        """Why an operator has accepted a symbol-day as it is now; None if nobody has."""
        acceptance = (self.accepted or {}).get(state_key)
        return acceptance.reason if acceptance is not None and acceptance.of == self.noted(state_key) else None

    @property
    def unreadable(self) -> dict[str, str]:
        """Symbol-days that cannot be looked at, with the reason."""
        return {key: text for key, text in self.late_scan.stale.items() if not is_fingerprint(text)}


def _share_names(records: Iterable[PartitionRecord]) -> None:
    """Let records with the same fields share the set of their names that pydantic keeps for each: 0.7 of 1.8 KB."""
    known: dict[frozenset[str], set[str]] = {}
    for record in records:
        names = record.__pydantic_fields_set__  # never changed: a copy of a record has one of its own
        object.__setattr__(record, "__pydantic_fields_set__", known.setdefault(frozenset(names), names))


def _check_day(text: str) -> None:
    try:
        parse_day(text, compact_only=True)
    except PathError as error:
        raise ValueError(str(error)) from None


def salvage(content: bytes) -> State | None:
    """What can be believed of a state file that is not valid as a whole; None if nothing can.

    Every field, and every record within one, is believed by itself. Without both dates nothing can be said of the
    days: a rebuild then finds the beginning anew.
    """
    try:
        document = json.loads(content)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    kept: dict[str, Any] = {}
    for name, value in document.items():
        if name in ("days", "partitions", "accepted", "delisted", "open_days", "quality") and isinstance(value, dict):
            kept[name] = {key: item for key, item in value.items() if _is_valid({name: {key: item}})}
        elif name == "settled_pairs":
            # None would mean a state of an earlier version, in which days are settled for whatever pair.
            pairs = value if isinstance(value, dict) else {}
            kept[name] = {pair: ranges for pair, ranges in pairs.items() if _is_valid({name: {pair: ranges}})}
        elif _is_valid({name: value}):
            kept[name] = value
    return State.model_validate(kept)


def _is_valid(document: dict[str, Any]) -> bool:
    try:
        State.model_validate(document)
    except ValidationError:
        return False
    return True
