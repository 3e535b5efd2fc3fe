"""Is the event lake as it should be? Findings for asset checks and `quantlab warehouse status`; pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.template import likely_template
from quantlab_dagster.lake.warehouse import ONE_HOUR, SLOTS, AppHour, Told
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster.work.finding import Finding
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.warehouse.look import HourLook
    from quantlab_dagster.warehouse.outcome import HourOutcome
    from quantlab_dagster.warehouse.slot import Slot

__all__ = [
    "EVERY_FILE_EXPLAINED",
    "FEW_SMALL_FILES",
    "NO_CORRUPT_FILES",
    "NO_UNFINISHED_PLANS",
    "findings",
    "gauges",
]

NO_CORRUPT_FILES = "no_corrupt_files"
NO_UNFINISHED_PLANS = "no_unfinished_plans"
FEW_SMALL_FILES = "no_hours_of_small_files"
EVERY_FILE_EXPLAINED = "every_file_explained"

_DUE_AFTER = dt.timedelta(hours=2)
"""So long after its end an hour that could be merged, and is not, is late."""


def findings(
    slots: dict[AppHour, Slot | MalformedObject],
    looks: Iterable[HourLook],
    now: dt.datetime,
    outcomes: Iterable[HourOutcome] = (),
    told: Told | None = None,
) -> list[Finding]:
    """What is wrong with the lake.

    Args:
        slots: as read just now.
        looks: at the partitions.
        now: the present time.
        outcomes: of the work done since then, if any.
        told: what is odd, unexplained, or belongs to others.
    """
    outcomes, looks, told = list(outcomes), list(looks), told or Told()
    odd = sorted(told.odd)
    done = {item.partition for item in outcomes if item.status in (HourStatus.COMPACTED, HourStatus.UNTOUCHED)}
    late = [look for look in looks if look.merges and look.partition.last_hour + ONE_HOUR + _DUE_AFTER <= now]
    small = [f"{look.partition} ({look.small})" for look in late if look.partition not in done]
    readable = {partition: slot for partition, slot in slots.items() if not isinstance(slot, MalformedObject)}
    corrupt = [
        f"{partition.key(item.name)} ({item.reason})" for partition, slot in readable.items() for item in slot.corrupt
    ]
    corrupt += [f"{path} (no request can name it)" for path in odd if not path.startswith(SLOTS)]
    corrupt += [f"{look.partition.prefix} ({look.unreadable})" for look in looks if look.unlisted]
    open_plans = [f"{partition}" for partition, slot in readable.items() if slot.plan is not None]
    open_plans += [f"{partition} (unreadable slot)" for partition in slots if partition not in readable]
    open_plans += [f"{path} (no request can name it)" for path in odd if path.startswith(SLOTS)]
    strangers = _strangers(told)
    return [
        Finding(
            NO_CORRUPT_FILES,
            not corrupt,
            f"cannot be merged, and stay as they are: {name_some(corrupt)}" if corrupt else "no file is left out",
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
            len(told.tables) + len(told.unexplained),
        ),
    ]


def _strangers(told: Told) -> list[str]:
    """What lies in the lake and is not looked after, with what would help."""
    said = [f"{prefix} belongs to a table of {kind}, and is left alone" for prefix, kind in sorted(told.tables.items())]
    keys = sorted(told.unexplained.values())
    if keys:
        likely = sorted({likely_template(key) for key in keys} - {""})
        remedy = f"WAREHOUSE_LAYOUT may have to be {' or '.join(likely)}" if likely else "see WAREHOUSE_LAYOUT"
        said.append(f"the layout does not explain {name_some(keys, 3)}: {remedy}")
    return said


_NUMBERS = {
    NO_CORRUPT_FILES: "corrupt_files",
    NO_UNFINISHED_PLANS: "unfinished_plans",
    FEW_SMALL_FILES: "overdue_hours",
    EVERY_FILE_EXPLAINED: "unexplained_places",
}


def gauges(found: Sequence[Finding]) -> dict[str, float]:
    """What was found of the whole lake in numbers, by the name of the metric."""
    numbers = {_NUMBERS[finding.name]: float(finding.number) for finding in found if finding.name in _NUMBERS}
    return {"fine": float(all(finding.passed for finding in found)), **numbers}
