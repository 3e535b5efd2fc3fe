"""Looking at the event lake and judging it, without doing anything: what `status` says, and so does a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import AccessDenied
from quantlab_dagster.lake.warehouse import Scope
from quantlab_dagster.warehouse.checks import findings
from quantlab_dagster.warehouse.look import look_at_slots, look_over, read_slots
from quantlab_dagster.warehouse.looking import look_at_changes, read_look, withheld_of
from quantlab_dagster.warehouse.servers import Servers, judge_servers, look_at_servers

if TYPE_CHECKING:
    import datetime as dt

    from quantlab_dagster.warehouse.look import LakeLook
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.work.finding import Finding

__all__ = ["Judged", "judge_now"]


@dataclass(frozen=True, slots=True)
class Judged:
    """How the event lake is.

    Attributes:
        lake: what was found.
        findings: what is wrong.
        whole: whether all of its history was looked at just now, or that of the apps asked for; else recent hours and
            what runs had found in trouble.
        seen_whole_at: when all of the history of all apps was last looked at; None if it never was, as far as known.
        servers: what the stores honour, or why that is not known: who may only read may look nevertheless.
    """

    lake: LakeLook
    findings: tuple[Finding, ...]
    whole: bool
    seen_whole_at: dt.datetime | None
    servers: Servers | AccessDenied

    @property
    def fine(self) -> bool:
        """Whether nobody need look."""
        return all(finding.passed for finding in self.findings)


async def judge_now(place: WarehousePlace, scope: Scope | None = None, *, full: bool = False) -> Judged:
    """Look at what an hourly run looks at, but for its slice of the history; at everything where that was never seen.

    Args:
        place: the event lake.
        scope: only some apps: then all of their history is looked at.
        full: look at everything.

    Raises:
        StoreError: a listing failed; it is never taken for an empty one.
    """
    scope = scope or Scope()
    record, _ = await read_look(place)
    if full or scope != Scope() or record is None or not record.suffices:
        lake = await look_over(place, scope)
        slots = await look_at_slots(place, scope, lake.told)
        whole = True
    else:
        lake = (await look_at_changes(place, record, history=False)).lake
        slots = await read_slots(place, [look.partition for look in lake.looks if look.slot or look.unreadable])
        whole = False
    now = place.clock()
    found = findings(slots, lake.looks, now, told=lake.told, withheld=withheld_of(record))
    before = record.seen_whole_at if record is not None else None
    seen_at = now if whole and scope == Scope() else before
    servers = await _servers(place)
    if isinstance(servers, Servers):
        found = [*found, judge_servers(servers)]
    return Judged(lake, tuple(found), whole, seen_at, servers)


async def _servers(place: WarehousePlace) -> Servers | AccessDenied:
    try:
        return await look_at_servers(place)
    except AccessDenied as denied:
        return denied
