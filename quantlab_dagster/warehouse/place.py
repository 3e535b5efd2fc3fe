"""What the work on the event lake needs, and what was asked for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.lake.warehouse import DEFAULT_LAYOUT, ONE_HOUR, Scope
from quantlab_dagster.work.clock import Clock, utc_now
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.template import Layout
    from quantlab_dagster.warehouse.pack import Rules

__all__ = ["Requested", "WarehousePlace", "last_cold_hour"]


@dataclass(frozen=True, slots=True)
class Requested:
    """What the caller asks for, beyond the usual.

    Attributes:
        recover_only: complete what was left unfinished, and merge nothing.
        retry_corrupt: forget which files are known not to be mergeable; the next run that merges tries them again.
        give_up: give up plans whose output and inputs are both gone: an operator has seen that nothing is missing.
    """

    recover_only: bool = False
    retry_corrupt: bool = False
    give_up: bool = False


@dataclass(frozen=True, slots=True)
class WarehousePlace:
    """What the work needs.

    Attributes:
        lake: the event lake.
        rules: when files are merged.
        limits: what a run may use of the machine.
        clock: the present time, aware.
        layout: of the lake's paths.
        grace: how long after its end an hour is still written to.
        slots_elsewhere: where the slots are, if not in the lake.
    """

    lake: Store
    rules: Rules
    limits: Limits = field(default_factory=Limits)
    clock: Clock = utc_now
    layout: Layout = DEFAULT_LAYOUT
    slots_elsewhere: Store | None = None
    grace: dt.timedelta = dt.timedelta(0)

    @property
    def slots(self) -> Store:
        """Where the slots are."""
        return self.slots_elsewhere or self.lake

    def cold(self, scope: Scope) -> Scope:
        """The scope without the current hour and what comes after it."""
        return scope.until(self.last_cold_hour())

    def last_cold_hour(self) -> dt.datetime:
        """The latest hour that nobody writes to any more."""
        return last_cold_hour(self.clock(), self.grace)


def last_cold_hour(now: dt.datetime, grace: dt.timedelta) -> dt.datetime:
    """The latest hour that nobody writes to any more: the one before the current one, once the grace is over."""
    return (now - grace).astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0) - ONE_HOUR
