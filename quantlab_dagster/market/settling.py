"""How the state changes: a state in, a state out. Everything in here is pure.

A day is settled for pairs. The watermark moves over settled days only; a pair that was not among those for which a day
below it was settled still owes that day, and is caught up without moving the watermark back (docs/adr/0012).
"""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from difflib import get_close_matches
from itertools import product
from typing import TYPE_CHECKING, Any

from quantlab_dagster.errors import NothingToAccept, PathError, QuantlabError
from quantlab_dagster.lake.market import Pair, SymbolDay, day_text, parse_day
from quantlab_dagster.market.days import kept_where, with_range
from quantlab_dagster.market.eligibility import check_eligible
from quantlab_dagster.market.journal import JournalEntry, entry_of
from quantlab_dagster.market.outcome import Outcome, Status
from quantlab_dagster.market.silence import still_delisted
from quantlab_dagster.market.state import (
    ACCEPTED,
    STATE_KEY,
    Acceptance,
    DayRecord,
    Delisted,
    PartitionRecord,
    QualityNote,
    Seed,
    State,
    utc_text,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from quantlab_dagster.market.quality.records import DayQuality

__all__ = [
    "Note",
    "accept_bad_day",
    "accept_day",
    "accept_symbol_day",
    "advance",
    "bad_symbol_days",
    "begin",
    "delist",
    "fold",
    "is_open",
    "leave_open",
    "leave_waiting",
    "missing_pairs",
    "note_looks",
    "note_quality",
    "owing_pairs",
    "record_outcomes",
    "seed",
    "settle_day",
    "unsettled_days",
]

Note = tuple[PartitionRecord | None, str | None]
"""What was seen of a symbol-day: its record (None for an open one), and what is stale about it (None if nothing)."""

_ONE_DAY = dt.timedelta(days=1)


def begin(state: State | None, day: dt.date, now: dt.datetime, pairs: Iterable[Pair] = ()) -> State:
    """The state before any work: a cold deployment starts with `day`, and remembers it even if that day fails.

    Args:
        state: as it is.
        day: where a cold deployment starts.
        now: the present time.
        pairs: the configured ones. A state of an earlier version does not say for which pairs its days were settled:
            it is taken to mean these.
    """
    if state is not None and state.catch_up_from is not None:
        return _with_pairs(state, list(pairs))
    base = state or State()
    # A state of other software has a watermark but says nothing of its beginning: ours is the day after it.
    day = base.first_open_day or day
    update = {"catch_up_from": day_text(day), "updated_at": utc_text(now), "settled_pairs": base.settled_pairs or {}}
    return base.model_copy(update=update)


def _with_pairs(state: State, pairs: Collection[Pair]) -> State:
    if state.settled_pairs is not None or not pairs or state.catch_up_from is None:
        return state
    first = parse_day(state.catch_up_from)
    ranges = with_range((), first, state.watermark) if state.watermark is not None else ()
    for text, record in state.days.items():
        if record.settled and text >= state.catch_up_from:
            ranges = with_range(ranges, parse_day(text), parse_day(text))
    return state.model_copy(update={"settled_pairs": {str(pair): ranges for pair in pairs}})


def seed(
    state: State | None, last: dt.date, now: dt.datetime, pairs: Iterable[Pair], *, move_back: str | None = None
) -> State:
    """Say by hand that everything up to `last` is settled for the configured pairs.

    Args:
        state: as it is.
        last: an eligible day.
        now: the present time.
        pairs: the configured ones.
        move_back: why the watermark is moved back, where an earlier seed was a mistake; kept in the state. Days that
            have a record of their own stay settled.

    Raises:
        DayRefused: the day is not eligible yet.
        QuantlabError: the watermark is later already, and is not to be moved back; or a day that it would jump over
            has failed.
    """
    check_eligible(last, now)
    pairs = list(pairs)
    base = _with_pairs(state or State(settled_pairs={}), pairs)
    if base.watermark is not None and base.watermark > last:
        base = _moved_back(base, last, now, move_back)
    else:
        _check_no_failed_day(base, last)
    first = day_text(last + _ONE_DAY)
    begun = base.catch_up_from
    from_ = first if begun is None else begun if base.watermark is not None and not move_back else min(begun, first)
    settled = base.settled_pairs
    if begun is not None and settled is not None:
        put_off = [day for day in _put_off_before(base, parse_day(begun), pairs) if day <= last]
        spans = [(parse_day(begun), last), *((day, day) for day in put_off)]
        for pair, span in product(map(str, pairs), spans):
            settled = settled | {pair: with_range(settled.get(pair, ()), *span)}
    update = {
        "last_compacted_date": day_text(last),
        "updated_at": utc_text(now),
        "catch_up_from": from_,
        "settled_pairs": settled,
    }
    return advance(base.model_copy(update=update), now)


def _check_no_failed_day(state: State, last: dt.date) -> None:
    first = state.first_open_day
    failed = [] if first is None else sorted(text for text, record in state.days.items() if not record.settled)
    over = [text for text in failed if first is not None and day_text(first) <= text <= day_text(last)]
    if over:
        cause = f"would jump over days that have failed: {', '.join(over)}"
        raise QuantlabError(STATE_KEY, cause, "Run them again, or say of each `quantlab state accept DAY --reason …`")


def _moved_back(state: State, last: dt.date, now: dt.datetime, why: str | None) -> State:
    if not why:
        raise QuantlabError(
            STATE_KEY,
            f"last_compacted_date is {state.last_compacted_date} already, and never moves back by itself",
            "To compact older days, launch a backfill or use `quantlab compact`. If a seed was a mistake, "
            'add --move-back --reason "…"',
        )
    undone = Seed(
        last_compacted_date=day_text(last), before=state.last_compacted_date, reason=why, updated_at=utc_text(now)
    )

    def stays(day: dt.date) -> bool:
        record = state.day(day)
        return day <= last or (record is not None and record.settled)

    settled = state.settled_pairs
    if settled is not None:
        settled = {pair: kept_where(ranges, stays) for pair, ranges in settled.items()}
    return state.model_copy(update={"seeds": (*(state.seeds or ()), undone), "settled_pairs": settled})


def record_outcomes(
    state: State, pair: Pair, day: dt.date, outcomes: Iterable[Outcome], now: dt.datetime, *, whole: bool = True
) -> State:
    """Fold what a pair's step did into the state, without a journal between."""
    return fold(state, [entry_of(pair, day, list(outcomes), now, whole=whole)])


def fold(state: State, entries: Iterable[JournalEntry]) -> State:
    """Fold what steps did into the state: their symbol-days and, of whole pairs, how each ended.

    An entry that is folded again, or after a later one, changes nothing that is newer than it.
    """
    for entry in sorted(entries, key=lambda entry: entry.updated_at):
        state = _folded(state, entry)
    return state


def _folded(state: State, entry: JournalEntry) -> State:
    partitions, stale = dict(state.partitions), dict(state.late_scan.stale)
    for key, new in entry.partitions.items():
        before = partitions.get(key)
        if before is not None and before.updated_at > new.updated_at:
            continue
        partitions[key] = _after(before, new)
        if new.status != Status.FAILED and _is_answered(stale.get(key), entry.fingerprints.get(key)):
            stale.pop(key, None)
    days, open_days, text = dict(state.days), dict(state.open_days), entry.day
    said = days.get(text)
    newer = said is not None and said.updated_at > entry.updated_at  # it was folded before, or comes late
    if entry.whole and not newer and _begins(state, entry):
        ended = {**open_days.get(text, {}), str(entry.pair): entry.ended}
        open_days[text] = ended
        failed = sorted(name for name, status in ended.items() if status == Status.FAILED)
        if failed:
            reason = f"failed: {', '.join(failed)}"
            days[text] = DayRecord(status=Status.FAILED.value, updated_at=entry.updated_at, reason=reason)
        elif said is not None and not said.settled and not state.is_covered_for_any(text):
            days.pop(text)
    update = {
        "partitions": partitions,
        "days": days,
        "open_days": open_days,
        "delisted": still_delisted(state.delisted, entry.partitions),
        "late_scan": state.late_scan.model_copy(update={"stale": stale}),
        "updated_at": max(state.updated_at, entry.updated_at),
    }
    return _without_void(state.model_copy(update=update))


def _begins(state: State, entry: JournalEntry) -> bool:
    """Whether a step's day is to be settled for its pair: the pair owes it, or the step put it off as PARTIAL."""
    day = parse_day(entry.day)
    put_off = any(record.status == Status.SKIPPED for record in entry.partitions.values())
    return state.owes(entry.pair, day) or (put_off and not state.covers(entry.pair, day))


def _after(before: PartitionRecord | None, new: PartitionRecord) -> PartitionRecord:
    """The record of a symbol-day after something was done, or seen, of it."""
    if before is None:
        return new
    update: dict[str, Any] = {}
    if new.troubled:  # what could not be built anew is still what was published before
        update = {"rows": before.rows, "day_quality_post": new.day_quality_post or before.day_quality_post}
    if new.longest_gap_seconds is None and new.status != Status.NO_FILES:
        update["longest_gap_seconds"] = before.longest_gap_seconds
        update["longest_gap_within_seconds"] = before.longest_gap_within_seconds
    if not new.total_size_bytes and new.status != Status.NO_FILES:
        update["total_size_bytes"] = before.total_size_bytes
    after = new.model_copy(update=update)
    return before if after.model_copy(update={"updated_at": before.updated_at}) == before else after


def _is_answered(stale: str | None, fingerprint: str | None) -> bool:
    """Whether a step has dealt with what was found stale: it read these very parts, or what could not be read."""
    return stale is not None and (" " in stale or fingerprint in (None, stale))


def note_looks(state: State, notes: Mapping[str, Note], *, troubled_only: bool = False) -> State:
    """Note what a look at the lake found of symbol-days: what each counts as, and what is stale about it.

    Args:
        state: as it is.
        notes: by state key.
        troubled_only: whether only records are renewed that speak of trouble: whether it is over.
    """
    partitions, stale = dict(state.partitions), dict(state.late_scan.stale)
    for key, (record, what) in notes.items():
        before = partitions.get(key)
        wanted = before is not None and before.troubled if troubled_only else True
        if record is not None and wanted and _may_say(before, record):
            partitions[key] = _after(before, record)
        if what is None:
            stale.pop(key, None)
        else:
            stale[key] = what
    seen = {key: record for key, (record, _) in notes.items() if record is not None}
    update = {
        "partitions": partitions,
        "delisted": still_delisted(state.delisted, seen),
        "late_scan": state.late_scan.model_copy(update={"stale": stale}),
    }
    return _without_void(state.model_copy(update=update))


def _may_say(before: PartitionRecord | None, seen: PartitionRecord) -> bool:
    """Whether what a look saw may take the place of a record.

    Not of a newer one; and a listing proves nothing: what a step failed to build or to prove, a step must make good.
    """
    if before is None:
        return seen.status != Status.NO_FILES
    proof_failed = before.status == Status.FAILED and seen.status == Status.SUCCESS
    return before.updated_at <= seen.updated_at and not proof_failed


def settle_day(
    state: State,
    day: dt.date,
    status: Status,
    now: dt.datetime,
    pairs: Iterable[Pair],
    *,
    reason: str | None = None,
) -> State:
    """Record a day as settled for pairs, and move the watermark over all settled days that follow it.

    A pair of another deployment that failed on that day keeps it open: the watermark never jumps over a failed day.
    """
    text, names = day_text(day), {str(pair) for pair in pairs}
    settled = state.settled_pairs
    if settled is not None:
        settled = settled | {name: with_range(settled.get(name, ()), day, day) for name in names}
    open_days = dict(state.open_days)
    others = {
        name: ended for name, ended in open_days.pop(text, {}).items() if name not in names and settled is not None
    }
    if others and names:
        open_days[text] = others
    record = DayRecord(status=status.value, updated_at=utc_text(now), reason=reason)
    if names and Status.FAILED in others.values():
        record = state.days.get(text) or DayRecord(status=Status.FAILED.value, updated_at=utc_text(now))
    update = {"days": {**state.days, text: record}, "open_days": open_days, "settled_pairs": settled}
    return advance(state.model_copy(update=update), now)


def leave_open(state: State, day: dt.date, pairs: Iterable[Pair], reason: str, now: dt.datetime) -> State:
    """Record that the roll-up found a day open, and for which pairs: these have to run again.

    A day that these pairs do not owe stays what it is.
    """
    text = day_text(day)
    owed = owing_pairs(state, day, pairs)
    if not owed:
        return state
    ended = {**state.open_days.get(text, {}), **{str(pair): Status.FAILED.value for pair in owed}}
    failed = DayRecord(status=Status.FAILED.value, updated_at=utc_text(now), reason=reason)
    return state.model_copy(
        update={
            "open_days": {**state.open_days, text: ended},
            "days": {**state.days, text: failed},
            "updated_at": utc_text(now),
        }
    )


def leave_waiting(state: State, day: dt.date, pairs: Iterable[Pair], now: dt.datetime) -> State:
    """Record that a day is open because it is PARTIAL, and for which pairs: nothing failed, and they run again.

    A day that these pairs do not owe stays what it is.
    """
    text = day_text(day)
    owed = owing_pairs(state, day, pairs)
    if not owed:
        return state
    ended = {**state.open_days.get(text, {}), **{str(pair): Status.SKIPPED.value for pair in owed}}
    failed = Status.FAILED in ended.values()  # for a pair of another deployment
    days = {other: record for other, record in state.days.items() if other != text or record.settled or failed}
    return state.model_copy(
        update={"open_days": {**state.open_days, text: ended}, "days": days, "updated_at": utc_text(now)}
    )


def note_quality(state: State, day: dt.date, quality: DayQuality) -> State:
    """Note what is to be said of a day's windows: that it waits for more, or that some cannot be understood."""
    verdict, notes = quality.verdict, dict(state.quality or {})
    notes.pop(day_text(day), None)
    if quality.waits or verdict.unreadable:
        notes[day_text(day)] = QualityNote(
            day_quality=quality.label.value,
            reason=verdict.why,
            waits=quality.waits,
            unreadable=dict(verdict.unreadable),
        )
    return state.model_copy(update={"quality": dict(sorted(notes.items())) or None})


def accept_bad_day(state: State, day: dt.date, reason: str, now: dt.datetime) -> State:
    """An operator's decision that a BAD day may stay as it is: every symbol-day that is not published for that.

    Raises:
        NothingToAccept: there is none.
    """
    keys = bad_symbol_days(state, day)
    if not keys:
        raise NothingToAccept(f"{day}", "is settled already, and no symbol-day waits for a decision on it")
    for key in keys:
        state = accept_symbol_day(state, SymbolDay.of_state_key(key), reason, now)
    return state


def bad_symbol_days(state: State, day: dt.date) -> list[str]:
    """The state keys of a day that are quarantined because it is BAD, and that nobody accepted."""
    return [
        key
        for key, record in state.partitions.items()
        if key.endswith(f"/{day_text(day)}") and record.withheld and not state.is_accepted(key)
    ]


def accept_day(state: State, day: dt.date, reason: str, now: dt.datetime, pairs: Iterable[Pair]) -> State:
    """An operator's decision that a day is good enough as it is, for the configured pairs and for all that failed.

    Raises:
        NothingToAccept: the day is settled already.
    """
    pairs = list(pairs)
    if not is_open(state, day, pairs):
        raise NothingToAccept(f"{day}", "is settled already", "There is nothing to accept")
    names = [Pair(*name.split("/", 1)) for name in state.open_days.get(day_text(day), {})]
    return settle_day(state, day, Status.SKIPPED, now, [*pairs, *names], reason=f"{ACCEPTED}{reason}")


def accept_symbol_day(state: State, symbol_day: SymbolDay, reason: str, now: dt.datetime) -> State:
    """An operator's decision that a quarantined or stale symbol-day may stay as it is, until its raw parts change.

    Raises:
        NothingToAccept: it is neither.
    """
    key = symbol_day.state_key
    of = state.noted(key)
    if of is None:
        raise NothingToAccept(key, "is neither quarantined nor stale", "There is nothing to accept")
    accepted = {**(state.accepted or {}), key: Acceptance(of=of, reason=reason, updated_at=utc_text(now))}
    return state.model_copy(update={"accepted": accepted, "updated_at": utc_text(now)})


def delist(state: State, names: Collection[str], reason: str, now: dt.datetime) -> State:
    """An operator's decision that symbols, or all of a pair, have no data any more. Data of a later day end it.

    Args:
        state: as it is.
        names: as exchange/stream/symbol or exchange/stream.
        reason: why.
        now: the present time; data of its UTC day do not end the decision yet.

    Raises:
        NothingToAccept: no record speaks of one of them.
    """
    known = {key.rpartition("/")[0] for key in state.partitions}
    known |= {name.rpartition("/")[0] for name in known}
    for name in names:
        if name not in known or not name:
            nearest = get_close_matches(name, sorted(known), 3)
            cause = "is no exchange/stream/symbol, and no exchange/stream, of which the state has a record"
            raise NothingToAccept(name, cause, f"Nearest are: {', '.join(nearest)}" if nearest else "See `state show`")
    decision = Delisted(day=day_text(now.astimezone(dt.UTC).date()), reason=reason, updated_at=utc_text(now))
    delisted = {**(state.delisted or {}), **dict.fromkeys(names, decision)}
    return state.model_copy(update={"delisted": delisted, "updated_at": utc_text(now)})


def _without_void(state: State) -> State:
    """Drop the decisions whose cause is gone, or has become another one."""
    kept = {key: item for key, item in (state.accepted or {}).items() if state.is_accepted(key)}
    return state if kept == (state.accepted or {}) else state.model_copy(update={"accepted": kept or None})


def is_open(state: State, day: dt.date, pairs: Iterable[Pair]) -> bool:
    """Whether a day is not settled at all, or not for one of the pairs."""
    return not state.is_settled(day) or bool(owing_pairs(state, day, pairs))


def advance(state: State, now: dt.datetime) -> State:
    """Move the watermark over settled days."""
    day = state.first_open_day
    last = state.watermark
    while day is not None and (record := state.day(day)) is not None and record.settled:
        last, day = day, day + _ONE_DAY
    update: dict[str, Any] = {"updated_at": utc_text(now)}
    if last is not None:
        update["last_compacted_date"] = day_text(last)
    return state.model_copy(update=update)


def unsettled_days(state: State, last_eligible: dt.date, pairs: Collection[Pair] = ()) -> list[dt.date]:
    """Every day up to the last eligible one that is not settled for all of the pairs, oldest first.

    Without pairs: for those of whoever settled it. Days before the beginning are among them once they were put off.
    """
    day = state.beginning if pairs else state.first_open_day
    found = _put_off_before(state, day, pairs) if day is not None else []
    while day is not None and day <= last_eligible:
        if owing_pairs(state, day, pairs) or not (pairs or state.is_settled(day)):
            found.append(day)
        day += _ONE_DAY
    return found


def _put_off_before(state: State, first: dt.date, pairs: Collection[Pair]) -> list[dt.date]:
    found = []
    for text in sorted(state.open_days):
        with suppress(PathError):  # of other software
            day = parse_day(text, compact_only=True)
            if day < first and owing_pairs(state, day, pairs):
                found.append(day)
    return found


def owing_pairs(state: State, day: dt.date, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs for which a day is open."""
    return state.owing(day, pairs)


def missing_pairs(state: State, day: dt.date, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs for which a day is not settled, and whose step is not known to have ended well, or was put off."""
    ended = state.open_days.get(day_text(day), {})
    again = (Status.FAILED.value, Status.SKIPPED.value)
    return [pair for pair in owing_pairs(state, day, pairs) if ended.get(str(pair), Status.FAILED.value) in again]
