"""What the servers of the event lake and of its slots honour, and what safety needs of them (docs/adr/0015)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from quantlab_dagster.errors import ServerUnsafe
from quantlab_dagster.work.finding import Finding

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.capabilities import Capabilities
    from quantlab_dagster.warehouse.place import WarehousePlace

__all__ = ["SERVER_IS_SAFE", "Servers", "check_servers", "judge_servers", "look_at_servers"]

# Compactors tell each other apart by compare-and-swap; and an upload is discarded by replacing one of its parts.
_NEEDED_OF_SLOTS = ("create_if_absent", "replace_if_match")
_NEEDED_OF_LAKE = ("part_etags",)
_REMEDY = (
    "Use a server that honours it: AWS S3 does, and SeaweedFS 4.48, with which this project is tested. If yours does,"
    " look at the proxies before it"
)

SERVER_IS_SAFE = "server_is_safe"


@dataclass(frozen=True, slots=True)
class Servers:
    """What the stores honour.

    Attributes:
        lake: the event lake's.
        slots: the slots', which mostly are in the lake.
    """

    lake: Capabilities
    slots: Capabilities

    def lacking(self) -> list[tuple[Literal["lake", "slots"], str]]:
        """What safety needs, and is not honoured, for people; with whose server it is."""
        return [("lake", text) for text in self.lake.missing(*_NEEDED_OF_LAKE)] + [
            ("slots", text) for text in self.slots.missing(*_NEEDED_OF_SLOTS)
        ]

    def __str__(self) -> str:
        """For people, in one line."""
        return f"{self.lake}" if self.lake == self.slots else f"{self.lake}. The slots' store: {self.slots}"


def judge_servers(servers: Servers) -> Finding:
    """Whether files can be replaced safely here."""
    lacking = servers.lacking()
    text = "; ".join(f"the server of the {where} does not honour {text}" for where, text in lacking)
    return Finding(
        SERVER_IS_SAFE,
        not lacking,
        f"{text}: nothing is compacted" if lacking else "the servers honour what safety needs",
        len(lacking),
    )


async def look_at_servers(place: WarehousePlace) -> Servers:
    """What the servers honour: tried out with objects of our own, once per process.

    Raises:
        AccessDenied: the credentials do not allow to try.
        StoreUnavailable: a server did not answer.
    """
    lake, slots = await asyncio.gather(place.lake.capabilities(), place.slots.capabilities())
    return Servers(lake, slots)


async def check_servers(place: WarehousePlace) -> Servers:
    """As `look_at_servers`, and refuse those with which rows could be lost or doubled.

    Raises:
        ServerUnsafe: one ignores a condition on which safety rests.
    """
    servers = await look_at_servers(place)
    if lacking := servers.lacking():
        where = place.lake.url if lacking[0][0] == "lake" else place.slots.url
        raise ServerUnsafe(where, judge_servers(servers).text, _REMEDY)
    return servers
