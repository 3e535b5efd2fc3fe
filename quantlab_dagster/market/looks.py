"""What a look at the lake says of a symbol-day: a plan without the listing that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.market.journal import record_of
from quantlab_dagster.market.outcome import Outcome, Status, standing
from quantlab_dagster.market.plan import Action

if TYPE_CHECKING:
    import datetime as dt

    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.market.settling import Note

__all__ = ["Look", "look_of", "note_of"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the lake says of a symbol-day; small, whatever the number of its parts.

    Attributes:
        symbol_day: which.
        action: what is to be done.
        reason: why, for people.
        outcome: what it counts as, as it stands; None for one that is open.
        stale: what is to be done: the fingerprint of the raw parts; or why it cannot be looked at; None if nothing.
        waits: whether it is open only because its day is PARTIAL, and looked at again.
    """

    symbol_day: SymbolDay
    action: Action
    reason: str
    outcome: Outcome | None
    stale: str | None
    waits: bool = False

    @property
    def open(self) -> bool:
        """Whether it is neither published nor quarantined, nor given up."""
        return self.outcome is None or self.outcome.status is Status.FAILED


_TO_DO = (Action.BUILD, Action.RELABEL, Action.QUARANTINE, Action.LIFT)


def look_of(plan: Plan) -> Look:
    """What a plan says, without the listing that it holds."""
    stale = plan.raw_fingerprint if plan.action in _TO_DO else None
    if plan.action is Action.BROKEN:
        stale = f"{plan.symbol_day}: {plan.reason}"
    return Look(plan.symbol_day, plan.action, plan.reason, standing(plan), stale, plan.waits)


def note_of(look: Look, now: dt.datetime) -> Note:
    """What the state is to note of a look: of an open symbol-day, only what is stale about it."""
    return (None if look.open or look.outcome is None else record_of(look.outcome, now), look.stale)
