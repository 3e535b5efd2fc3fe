"""The market-data checks of a symbol-day: numbers, summed up while the merge hands its rows to the file.

The kernel calls an observer, and knows nothing of streams. Here it is made from the rules of the stream, and its
numbers become findings. Loads no engine: the sums are in `stream_sums`, which the process that merges loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantlab_dagster.market.stream_rules import CHECKS_VERSION, EARLY_SECONDS, NEIGHBOURS_SHARE, rules_of_stream
from quantlab_dagster.market.stream_seen import Seen, Watched
from quantlab_dagster.market.timeunit import ticks_per_second, time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster.market.stream_sums import StreamSums

__all__ = ["StreamObserver", "checks_of", "number_of_gaps", "observer_of"]

_MOST_GAPS = 10


@dataclass(frozen=True, slots=True)
class StreamObserver(Watched):
    """Looks at the rows of one symbol-day; travels to the process that merges."""

    def begin(self, constants: Mapping[str, Any]) -> StreamSums:
        """Begin with the first window of a merge.

        Args:
            constants: columns that have the same value in every row, and are in no window.
        """
        from quantlab_dagster.market.stream_sums import StreamSums  # noqa: PLC0415 - loads the engine

        return StreamSums(self, constants)


def observer_of(symbol_day: SymbolDay, column: str, key_range: tuple[int, int] | None) -> StreamObserver:
    """What looks at the rows of a symbol-day.

    Args:
        symbol_day: which.
        column: that orders the rows.
        key_range: its least and greatest value; None without rows.
    """
    ticks = ticks_per_second(*key_range, symbol_day.day) if key_range else None
    return StreamObserver(rules_of_stream(symbol_day.stream), symbol_day.day, column, ticks)


def checks_of(observer: Watched, seen: Seen) -> dict[str, Any]:
    """What was counted, as it stands in quality_day.json: numbers, and a sentence for what is not as it should be.

    What was not judged is null.
    """
    return {
        "version": CHECKS_VERSION,
        "rows": seen.rows,
        "findings": _findings(observer, seen),
        "gaps": _gaps(observer, seen),
        "rows_repeated": seen.repeated,
        "ids": _ids(seen),
        "rows_crossed": seen.crossed,
        "values_not_positive": dict(seen.not_positive),
        "rows_received_early": None
        if seen.early is None
        else {
            "bound_seconds": EARLY_SECONDS,
            "rows": seen.early,
            "most_seconds": _seconds(observer, seen.earliest_ticks),
        },
        "rows_of_neighbouring_days": None if seen.before is None else {"before": seen.before, "after": seen.after},
    }


def number_of_gaps(checks: dict[str, Any] | None) -> int | None:
    """How many silences above the stream's limit were counted; None where they are not judged."""
    gaps = (checks or {}).get("gaps")
    return gaps["number"] if gaps is not None else None


def _gaps(observer: Watched, seen: Seen) -> dict[str, Any] | None:
    if seen.gaps is None or observer.rules.gap_seconds is None:
        return None
    return {
        "limit_seconds": float(observer.rules.gap_seconds),
        "number": seen.gaps_number,
        "seconds": _seconds(observer, seen.gaps_ticks),
        "longest": [
            {"from": _time(observer, start), "seconds": _seconds(observer, ticks)}
            for start, ticks in seen.gaps[:_MOST_GAPS]
        ],
    }


def _ids(seen: Seen) -> dict[str, Any] | None:
    if seen.ids_repeated is None:
        return None
    return {"missing": seen.ids_missing, "jumps": seen.ids_jumps, "repeated": seen.ids_repeated}


def _findings(observer: Watched, seen: Seen) -> dict[str, str]:
    neighbours = (seen.before or 0) + (seen.after or 0)
    sentences: list[tuple[str, object, Callable[[], str]]] = [
        ("gaps", seen.gaps, lambda: _gaps_text(observer, seen)),
        ("rows_repeated", seen.repeated, lambda: f"{seen.repeated:,} rows repeat another one"),
        ("ids_missing", seen.ids_missing, lambda: f"{seen.ids_missing:,} ids missing, in {seen.ids_jumps:,} places"),
        ("ids_repeated", seen.ids_repeated, lambda: f"{seen.ids_repeated:,} ids repeat another one"),
        ("rows_crossed", seen.crossed, lambda: f"{seen.crossed:,} rows have a bid above their ask"),
        (
            "received_early",
            seen.early,
            lambda: (
                f"{seen.early:,} rows received before their event, "
                f"by {_seconds(observer, seen.earliest_ticks):,g} s at most"
            ),
        ),
        (
            "neighbouring_days",
            neighbours > seen.rows * NEIGHBOURS_SHARE,
            lambda: f"{neighbours:,} of {seen.rows:,} rows are of the neighbouring days",
        ),
        (
            "times_not_judged",
            seen.rows and observer.ticks is None,
            lambda: f"times were not judged: in no usual unit do they lie near {observer.day}",
        ),
        ("not_checked", seen.problem, lambda: f"not everything could be looked at: {seen.problem}"),
    ]
    found = {name: text() for name, holds, text in sentences if holds}
    prices = [f"{number:,} of {column}" for column, number in seen.not_positive if number]
    if prices:
        found["values_not_positive"] = f"values that are not above 0: {', '.join(prices)}"
    return found


def _gaps_text(observer: Watched, seen: Seen) -> str:
    start, ticks = (seen.gaps or ())[0]
    longest = f"the longest {_seconds(observer, ticks):,g} s from {_time(observer, start)} on"
    silences = "1 silence" if seen.gaps_number == 1 else f"{seen.gaps_number:,} silences"
    return f"{silences} above {observer.rules.gap_seconds:g} s, {longest}"


def _seconds(observer: Watched, ticks: int) -> float:
    return round(ticks / (observer.ticks or 1), 3)


def _time(observer: Watched, value: int) -> str:
    return f"{time_of(value, observer.ticks or 1):%H:%M:%S}"
