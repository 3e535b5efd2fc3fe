"""What the work on the market-data lake needs."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.kernel.terms import Order
from quantlab_dagster.lake.market import find_symbols
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.quality.reading import Qualities
from quantlab_dagster.market.quality.rules import Rules
from quantlab_dagster.work.clock import Clock, utc_now
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.lake.store.base import Store

__all__ = ["LOOK_BACK_DAYS", "MarketPlace"]

LOOK_BACK_DAYS = 7


@dataclass(frozen=True, slots=True)
class MarketPlace:
    """What the work needs.

    Attributes:
        raw: lake of parts.
        compact: lake of published days.
        limits: what a run may use of the machine.
        clock: the present time, aware.
        order: of the rows of published days.
        quality_rules: by which days are judged.
        look_back_days: how many days back, from the last eligible one, a day is looked at again.
    """

    raw: Store
    compact: Store
    limits: Limits = field(default_factory=Limits)
    clock: Clock = utc_now
    order: Order = field(default_factory=Order)
    quality_rules: Rules = field(default_factory=Rules)
    look_back_days: int = LOOK_BACK_DAYS

    def qualities(self, *, keep: bool = True) -> Qualities:
        """What days are worth, for one step, one look, one command.

        Args:
            keep: whether what is read of the windows is kept for others; not by what only looks.
        """
        again_from = last_eligible_day(self.clock()) - dt.timedelta(days=self.look_back_days - 1)
        at_once = self.limits.request_concurrency
        return Qualities(self.raw, self.compact, self.quality_rules, again_from, at_once=at_once, keep=keep)

    async def symbols(self, pair: Pair) -> set[str]:
        """Symbols that a pair has, or ever had, in either lake.

        Raises:
            StoreError: a listing failed.
        """
        raw, compact = await asyncio.gather(find_symbols(self.raw, pair), find_symbols(self.compact, pair))
        return {*raw, *compact}

    def requests(self) -> dict[str, int]:
        """Requests so far by store and kind, as "raw GET"."""
        stores = {"raw": self.raw, "compact": self.compact}
        return {
            f"{name} {kind}": number
            for name, store in stores.items()
            for kind, number in store.requests.by_kind().items()
        }
