"""What the work on the market-data lake needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.kernel.terms import Order
from quantlab_dagster.lake.market import find_symbols
from quantlab_dagster.work.clock import Clock, utc_now
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.lake.store.base import Store

__all__ = ["MarketPlace"]


@dataclass(frozen=True, slots=True)
class MarketPlace:
    """What the work needs.

    Attributes:
        raw: lake of parts.
        compact: lake of published days.
        limits: what a run may use of the machine.
        clock: the present time, aware.
        order: of the rows of published days.
    """

    raw: Store
    compact: Store
    limits: Limits = field(default_factory=Limits)
    clock: Clock = utc_now
    order: Order = field(default_factory=Order)

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
