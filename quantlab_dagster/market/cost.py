"""What days ask of the stores: requests and bytes, from a listing. Pure.

Measured (test_cost.py): a whole run through Dagster makes at most so many requests of each kind. Failed ones and their
repetitions are not foreseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from quantlab_dagster.lake.store import limits
from quantlab_dagster.work.prices import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.plan import Plan

__all__ = ["DAYS_A_MONTH", "Asked", "Size", "asked_of", "mean", "watched"]

DAYS_A_MONTH = 30

_ROUNDS_A_DAY = 24
"""Searches for late parts: `ROUND_EVERY` of late.py."""
_LIVE_LOOKS_A_DAY = 360
"""The sensor `live` ticks every four minutes."""
_SHRINKS_TO = 0.4
"""Of a raw byte, in data.parquet, where nothing is published yet that would tell."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a symbol-day is.

    Attributes:
        pair: whose.
        parts: raw ones.
        raw_bytes: of these.
        published_bytes: of data.parquet; None if there is none.
    """

    pair: Pair
    parts: int
    raw_bytes: int
    published_bytes: int | None

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Of a plan."""
        data = plan.published.data
        return cls(plan.symbol_day.pair, len(plan.parts), plan.bytes_in, data.size_bytes if data else None)

    @property
    def pages(self) -> int:
        """LIST requests that show all parts."""
        return max(1, -(-self.parts // limits.LIST_PAGE))


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of each store.

    Attributes:
        raw: lake of parts.
        compact: lake of published days.
    """

    raw: Usage
    compact: Usage

    @property
    def both(self) -> Usage:
        """Of both together."""
        return self.raw + self.compact


def asked_of(sizes: Sequence[Size]) -> Asked:
    """What building these symbol-days of one day asks for, once, with all that a run does around it.

    Each part is read once. Beside data.parquet three records are written; planning, the roll-up and the calendar list
    and read what is there.
    """
    if not sizes:
        return Asked(Usage({}), Usage({}))
    pairs, days = len({size.pair for size in sizes}), len(sizes)
    published = _published(sizes)
    raw = {"LIST": 2 * sum(size.pages for size in sizes) + 8 * pairs, "GET": sum(size.parts for size in sizes)}
    compact = {
        "LIST": 3 * days + 8 * pairs,
        "GET": 2 * days + 4 * pairs + 40,
        "HEAD": days + 2 * pairs,
        "PUT": 4 * days + pairs + 6 + sum(_further_puts(size) for size in published),
        "DELETE": pairs,
    }
    raw_bytes = sum(size.raw_bytes for size in sizes)
    return Asked(Usage(raw, raw_bytes, 0, raw_bytes), Usage(compact, 0, sum(published), sum(published)))


def watched(sizes: Sequence[Size], *, look_back_days: int) -> Asked:
    """What a day of looking for late parts and for silence asks for, where each day is of these sizes.

    Args:
        sizes: the symbol-days of one day.
        look_back_days: `QUANTLAB_LATE_LOOK_BACK_DAYS`.
    """
    pages, days = sum(size.pages for size in sizes), len(sizes)
    rounds = _ROUNDS_A_DAY * look_back_days
    raw = {"LIST": pages * rounds + days * _LIVE_LOOKS_A_DAY}
    return Asked(Usage(raw), Usage({"LIST": days * rounds, "GET": 2 * days * rounds}))


def _published(sizes: Sequence[Size]) -> list[int]:
    """Sizes of data.parquet, as they are, or as those that are there let expect."""
    known = [(size.raw_bytes, size.published_bytes) for size in sizes if size.published_bytes is not None]
    of_raw = sum(raw for raw, _ in known)
    share = sum(data for _, data in known) / of_raw if of_raw else _SHRINKS_TO
    return [
        size.published_bytes if size.published_bytes is not None else round(size.raw_bytes * share) for size in sizes
    ]


def _further_puts(size_bytes: int) -> int:
    """Requests beyond the first that a file takes, if it goes up in parts."""
    if size_bytes <= limits.MULTIPART_BYTES:
        return 0
    return 1 + -(-size_bytes // limits.PART_BYTES)


def mean(asked: Iterable[Asked]) -> Asked:
    """A day of the mean size, whole requests and bytes."""
    found = list(asked)

    def of(usages: Sequence[Usage]) -> Usage:
        kinds = {kind for usage in usages for kind in usage.requests}
        count = max(1, len(usages))
        return Usage(
            {kind: round(sum(usage.requests.get(kind, 0) for usage in usages) / count) for kind in sorted(kinds)},
            round(sum(usage.bytes_read for usage in usages) / count),
            round(sum(usage.bytes_written for usage in usages) / count),
            round(sum(usage.bytes_stored for usage in usages) / count),
        )

    return Asked(of([item.raw for item in found]), of([item.compact for item in found]))
