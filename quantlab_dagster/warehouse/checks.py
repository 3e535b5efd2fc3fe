"""Is the event lake as it should be? Findings for asset checks and `quantlab warehouse status`; pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.template import likely_template
from quantlab_dagster.lake.warehouse import MOST_PEEKS, ONE_HOUR, SLOTS, AppHour, Told
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from quantlab_dagster.warehouse.look import HourLook
    from quantlab_dagster.warehouse.outcome import HourOutcome
    from quantlab_dagster.warehouse.slot import Slot

__all__ = [
    "EVERY_FILE_EXPLAINED",
    "EVERY_FILE_READABLE",
    "FEW_SMALL_FILES",
    "NO_CORRUPT_FILES",
    "NO_UNFINISHED_PLANS",
    "STANDING",
    "findings",
    "gauges",
]

NO_CORRUPT_FILES = "no_corrupt_files"
NO_UNFINISHED_PLANS = "no_unfinished_plans"
FEW_SMALL_FILES = "no_hours_of_small_files"
EVERY_FILE_EXPLAINED = "every_file_explained"
EVERY_FILE_READABLE = "every_file_readable"

STANDING = (NO_CORRUPT_FILES, EVERY_FILE_EXPLAINED)
"""A run that finds one of these ends with exit code 1, whatever else it did: no later run mends it. Late hours and open
plans may be another run's, and what is withheld is left out on purpose."""

_DUE_AFTER = dt.timedelta(hours=2)
"""So long after its end an hour that could be merged, and is not, is late."""


def findings(
    slots: dict[AppHour, Slot | MalformedObject],
    looks: Iterable[HourLook],
    now: dt.datetime,
    outcomes: Iterable[HourOutcome] = (),
    told: Told | None = None,
    withheld: Mapping[str, str] | None = None,
) -> list[Finding]:
    """What is wrong with the lake.

    Args:
        slots: as read just now.
        looks: at the partitions.
        now: the present time.
        outcomes: of the work done since then, if any.
        told: what is odd, unexplained, denied, or belongs to others.
        withheld: directories of partitions that runs may not read, and why.
    """
    outcomes, looks, told, withheld = list(outcomes), list(looks), told or Told(), withheld or {}
    odd = sorted(told.odd)
    done = {item.partition for item in outcomes if item.status in (HourStatus.COMPACTED, HourStatus.UNTOUCHED)}
    late = [look for look in looks if look.merges and look.partition.last_hour + ONE_HOUR + _DUE_AFTER <= now]
    small = [
        f"{look.partition.told} ({look.small})"
        for look in late
        if look.partition not in done and look.partition.prefix not in withheld
    ]
    readable = {partition: slot for partition, slot in slots.items() if not isinstance(slot, MalformedObject)}
    aside = [(partition, item) for partition, slot in readable.items() for item in slot.corrupt]
    corrupt = [f"{partition.key(item.name)} ({item.reason})" for partition, item in aside if not item.waits]
    waiting = [f"{partition.key(item.name)} ({item.reason})" for partition, item in aside if item.waits]
    corrupt += [f"{path} (no request can name it)" for path in odd if not path.startswith(SLOTS)]
    corrupt += [f"{look.partition.prefix} ({look.unreadable})" for look in looks if look.unlisted]
    open_plans = [partition.told for partition, slot in readable.items() if slot.plan is not None]
    open_plans += [f"{partition.told} (unreadable slot)" for partition in slots if partition not in readable]
    open_plans += [f"{path} (no request can name it)" for path in odd if path.startswith(SLOTS)]
    strangers = _strangers(told)
    closed = [f"{prefix} ({why})" for prefix, why in sorted({**withheld, **told.denied}.items())]
    return [
        Finding(
            NO_CORRUPT_FILES,
            not corrupt,
            _left_out(corrupt, waiting),
            len(corrupt),
        ),
        Finding(
            NO_UNFINISHED_PLANS,
            not open_plans,
            f"to be completed: {name_some(sorted(open_plans))}" if open_plans else "no replacement is unfinished",
            len(open_plans),
        ),
        Finding(
            FEW_SMALL_FILES,
            not small,
            f"could have been merged for {_DUE_AFTER.seconds // 3600} hours: {name_some(small)}"
            if small
            else "no hour waits for its small files to be merged",
            len(small),
        ),
        Finding(
            EVERY_FILE_EXPLAINED,
            not strangers,
            "; ".join(strangers) or "the layout explains every event file",
            len(told.tables) + len(told.unexplained) + len(told.unmatched) + told.empty,
        ),
        Finding(
            EVERY_FILE_READABLE,
            not closed,
            f"may not be read, and is left out: {name_some(closed)}" if closed else "nothing is withheld",
            len(closed),
        ),
    ]


def _left_out(corrupt: list[str], waiting: list[str]) -> str:
    """Files that are not merged. One that is merely alone of its kind is told, and nothing is wrong with it."""
    said = [f"cannot be merged, and stay as they are: {name_some(corrupt)}"] if corrupt else []
    if waiting:
        said.append(f"are alone of their kind, and stay until another comes: {name_some(waiting)}")
    return "; ".join(said) or "no file is left out"


def _strangers(told: Told) -> list[str]:
    """What lies in the lake and is not looked after, with what would help."""
    said = [
        f"{prefix or 'the lake'} belongs to a table of {kind}, and is left alone"
        for prefix, kind in sorted(told.tables.items())
    ]
    keys = sorted(told.unexplained.values())
    if keys:
        likely = sorted({likely_template(key) for key in keys} - {""})
        remedy = f"WAREHOUSE_LAYOUT may have to be {' or '.join(likely)}" if likely else "see WAREHOUSE_LAYOUT"
        said.append(f"the layout does not explain {name_some(keys, 3)}: {remedy}")
    names = sorted(told.unmatched.values())
    if names:
        said.append(f"WAREHOUSE_FILES matches no file of the directories of {name_some(names, 3)}")
    if told.empty:
        said.append("there is no file at all: WAREHOUSE_URL may be wrong, unless no event has come yet")
    if told.beside > MOST_PEEKS:
        said.append(
            f"{told.beside:,} directories are not of the layout, of which {MOST_PEEKS:,} at most are looked into"
        )
    return said


_NUMBERS = {
    NO_CORRUPT_FILES: "corrupt_files",
    NO_UNFINISHED_PLANS: "unfinished_plans",
    FEW_SMALL_FILES: "overdue_hours",
    EVERY_FILE_EXPLAINED: "unexplained_places",
    EVERY_FILE_READABLE: "withheld_places",
}


def gauges(found: Sequence[Finding]) -> dict[str, float]:
    """What was found of the whole lake in numbers, by the name of the metric."""
    numbers = {_NUMBERS[finding.name]: float(finding.number) for finding in found if finding.name in _NUMBERS}
    return {"fine": float(all(finding.passed for finding in found)), **numbers}
