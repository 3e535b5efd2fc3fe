"""Where the inventory goes that `_state.json` would grow too large of: months, in files of their own.

`partitions` of the state is an inventory of every symbol-day and loses nothing. Above a stated number of records the
oldest successes move to `compacted/inventory/YYYYMM.json`, which has the same records under the same name. Where a
symbol-day is in both, the state is right. What fails later is brought back first: it still is what was published.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from quantlab_dagster.errors import Conflict, MalformedObject, ObjectNotFound
from quantlab_dagster.lake.record import Record
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.silence import REMEMBERED_DAYS, has_data
from quantlab_dagster.market.state import STATE_KEY, PartitionRecord, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from quantlab_dagster.lake.store.base import Store

__all__ = [
    "KEEP_RECORDS",
    "MOST_RECORDS",
    "MonthInventory",
    "inventory_key",
    "move_oldest",
    "oldest_successes",
    "recalled",
]

logger = logging.getLogger(__name__)

MOST_RECORDS = 100_000
"""Symbol-days in `_state.json` before the oldest successes move; the file is then of about 25 MB."""

KEEP_RECORDS = 80_000
"""How many stay: so that moving happens now and then, and not every day."""

_PREFIX = "compacted/inventory/"


class MonthInventory(Record):
    """The symbol-days of one month that the state file no longer holds: records as in the state, by the same names.

    Plain values: a month may have 300,000 of them, and as records they would take three times the memory.
    """

    partitions: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def dump(self) -> bytes:
        """The file's bytes."""
        return (self.model_dump_json(exclude_none=True, indent=1) + "\n").encode()


def inventory_key(month: str) -> str:
    """Key of a month's (YYYYMM) file."""
    return f"{_PREFIX}{month}.json"


def oldest_successes(state: State, *, most: int = MOST_RECORDS, keep: int = KEEP_RECORDS) -> dict[str, PartitionRecord]:
    """The records that are to move: none up to `most`; above, the oldest successes until `keep` are left. Pure.

    The last days with data of each symbol move after all others: without them nobody would know that it is silent, or
    rests.
    """
    if len(state.partitions) <= most:
        return {}
    done = [key for key, record in state.partitions.items() if record.status in (Status.SUCCESS, Status.NO_FILES)]
    done.sort(key=lambda key: key.rpartition("/")[2])
    last = _last_of_each(state, done)
    done.sort(key=last.__contains__)
    return {key: state.partitions[key] for key in done[: len(state.partitions) - keep]}


def _last_of_each(state: State, done: Iterable[str]) -> set[str]:
    """Of keys in the order of their days, the last ones of each symbol that had data."""
    last: dict[str, deque[str]] = {}
    for key in done:
        if has_data(state.partitions[key]):
            last.setdefault(key.rpartition("/")[0], deque(maxlen=REMEMBERED_DAYS)).append(key)
    return {key for keys in last.values() for key in keys}


async def move_oldest(
    store: Store,
    state: State,
    update: Callable[[Callable[[State | None], State]], Awaitable[State]],
    *,
    most: int = MOST_RECORDS,
    keep: int = KEEP_RECORDS,
) -> State:
    """Move the oldest successes to their months' files, if there are too many: first into these, then out of the state.

    Args:
        store: the compact lake.
        state: as it stands.
        update: changes it where it is.
        most: above so many records.
        keep: so many are left.

    Returns:
        The state that now stands.
    """
    moving = oldest_successes(state, most=most, keep=keep)
    if not moving:
        return state
    del state  # of 170 MB by now, and a month is as large
    months: dict[str, dict[str, PartitionRecord]] = {}
    for key, record in moving.items():
        months.setdefault(_month(key), {})[key] = record
    for month, records in sorted(months.items()):
        await _add(store, month, records)

    def change(before: State | None) -> State:
        assert before is not None  # a state is never removed
        # What changed meanwhile stays.
        left = {key: record for key, record in before.partitions.items() if moving.get(key) != record}
        known = sorted({*(before.inventory_months or ()), *months})
        return before.model_copy(update={"partitions": left, "inventory_months": tuple(known)})

    after = await update(change)
    logger.warning(
        "%s had more than %d symbol-days: the %d oldest that succeeded are now in %s",
        store.name(STATE_KEY),
        most,
        len(moving),
        ", ".join(store.name(inventory_key(month)) for month in sorted(months)),
    )
    return after


async def recalled(store: Store, state: State, keys: Collection[str]) -> State:
    """The state with those of these records that had moved to their months' files; read only if there are some.

    A month's file that is gone, or cannot be understood, is told and stops nothing else.

    Args:
        store: the compact lake.
        state: as it stands.
        keys: of symbol-days of which something else is about to be recorded.

    Raises:
        StoreError: a month's file cannot be read.
    """
    months = set(state.inventory_months or ())
    gone = {key for key in keys if key not in state.partitions and _month(key) in months}
    back: dict[str, PartitionRecord] = {}
    for month in sorted({_month(key) for key in gone}):
        try:
            content, _ = await store.get(inventory_key(month))
            moved = MonthInventory.read(content, store.name(inventory_key(month))).partitions
            back |= {key: PartitionRecord.model_validate(moved[key]) for key in sorted(gone & moved.keys())}
        except (ObjectNotFound, MalformedObject, ValidationError) as error:
            logger.warning("what is published of symbol-days of month %s cannot be seen: %s", month, error)
    return state.model_copy(update={"partitions": {**state.partitions, **back}}) if back else state


def _month(key: str) -> str:
    """The month (YYYYMM) of a state key."""
    return key.rpartition("/")[2][:6]


async def _add(store: Store, month: str, records: dict[str, PartitionRecord]) -> None:
    key = inventory_key(month)
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Conflict),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        stop=stop_after_delay(120),
        reraise=True,
    ):
        with attempt:
            content, etag = await _month_of(store, key, records)
            await store.compare_and_swap(key, content, etag)


async def _month_of(store: Store, key: str, records: dict[str, PartitionRecord]) -> tuple[bytes, str | None]:
    """A month's file with these records added, and the ETag of the one that it is to replace."""
    found = await store.get_if_exists(key)
    if found is None:
        inventory, etag = MonthInventory(), None
    else:
        inventory, etag = MonthInventory.read(found[0], store.name(key)), found[1].etag
    del found  # its bytes
    for name, record in records.items():
        inventory.partitions[name] = record.model_dump(exclude_none=True)
    return inventory.dump(), etag
