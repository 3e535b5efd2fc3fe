"""Which days are not read unless they are asked for as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.market.worth import BAD, Flaw
from quantlab_dagster.reader.errors import DayBad, DayQuarantined, DayUncommitted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from quantlab_dagster.market.worth import Day
    from quantlab_dagster.reader.errors import DayWithheld

__all__ = ["withheld"]

_ERRORS: dict[Flaw, type[DayWithheld]] = {
    Flaw.UNCOMMITTED: DayUncommitted,
    Flaw.QUARANTINED: DayQuarantined,
    Flaw.BAD: DayBad,
}
_REMEDIES = {
    Flaw.UNCOMMITTED: "Read again in a moment, if it is being published; else run `quantlab compact --date {day}`",
    Flaw.QUARANTINED: "Mend or remove the part, and run `quantlab compact --date {day}`",
    Flaw.BAD: "Look at its quality_day.json",
}
_BAD_REMEDY = (
    "`quantlab quality --date {day}` says why; `quantlab compact --date {day} --accept-bad --reason …` publishes it, "
    "labelled BAD"
)


def withheld(day: Day, allowed: Collection[Flaw], name: Callable[[str], str]) -> DayWithheld | None:
    """The error that says why a day is not read; None if it is.

    Args:
        day: which.
        allowed: flaws that are taken as they are.
        name: the full name of a key.
    """
    for flaw, why in day.flaws:
        if flaw not in allowed:
            is_for_its_label = flaw is Flaw.QUARANTINED and day.quality.upper() == BAD
            remedy = (_BAD_REMEDY if is_for_its_label else _REMEDIES[flaw]).format(day=day.date)
            otherwise = "takes it as it is" if day.data is not None else "goes on without it"
            return _ERRORS[flaw](name(day.symbol_day.prefix), why, f'{remedy}; allow=["{flaw}"] {otherwise}')
    return None
