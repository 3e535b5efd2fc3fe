"""What keeps rows from being read: each error names the day, the cause and what to do."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from quantlab_dagster.errors import PathError, QuantlabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "REPAIR",
    "ColumnsDiffer",
    "CursorError",
    "DayBad",
    "DayMisordered",
    "DayQuarantined",
    "DayRebuilt",
    "DayUncommitted",
    "DayWithheld",
    "NothingPublished",
    "TimeUnitUnclear",
    "one_of",
    "unknown_column",
]

REPAIR = "Run `quantlab verify`; `quantlab compact --repair` rebuilds it while its raw parts are there"


class NothingPublished(QuantlabError, LookupError):
    """The lake has nothing of what was asked for."""


class DayWithheld(QuantlabError, RuntimeError):
    """A day is not read unless it is asked for as it is."""


class DayUncommitted(DayWithheld):
    """data.parquet is not what meta.json speaks of: the day is being published, or its publication died."""


class DayQuarantined(DayWithheld):
    """The day is in quarantine: rows that collectors wrote are not in it, or it is not published at all."""


class DayBad(DayWithheld):
    """The day is published, and its label is BAD."""


class DayRebuilt(QuantlabError, RuntimeError):
    """The day has other content than the one that was begun with: late rows renumber `seq`."""


class DayMisordered(QuantlabError, ValueError):
    """The rows of a day are not in the order that they should be in."""


class ColumnsDiffer(QuantlabError, ValueError):
    """A column is nowhere, or has types that cannot be united."""


class TimeUnitUnclear(QuantlabError, ValueError):
    """A time cannot be said in the unit of `ts_event`: no unit fits the day, days differ, or the time has no zone."""


class CursorError(QuantlabError, ValueError):
    """A cursor is none, or of another day."""


def unknown_column(name: str, known: Iterable[str]) -> ColumnsDiffer:
    """The error for a column that is nowhere; it names the nearest."""
    names = list(known)
    near = ", ".join(get_close_matches(name, names, 3) or names)
    return ColumnsDiffer(f"column {name}", "is in none of these days", f"Nearest are: {near}")


def one_of(what: str, given: str, words: Sequence[str]) -> None:
    """Let one of some words pass.

    Raises:
        PathError: it is none of them.
    """
    if given not in words:
        raise PathError(f"{what} {given!r}", "is not known", f"Known are: {', '.join(words)}")
