"""What a hook is told of a run over the event lake: the partitions whose files it replaced. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.warehouse.outcome import HourOutcome

__all__ = ["changed_directories", "facts"]

_MOST_BYTES = 64 << 10
"""A variable may have 128 KiB on Linux, and all of them together must fit, too."""


def changed_directories(outcomes: Iterable[HourOutcome]) -> list[str]:
    """Directories (they end in a slash) in which files were replaced, also where the work failed afterwards; sorted."""
    return sorted({outcome.partition.prefix for outcome in outcomes if outcome.replacements})


def facts(url: str, directories: Sequence[str]) -> dict[str, str]:
    """The variables that tell a hook what has changed.

    Args:
        url: of the event lake.
        directories: in which files were replaced.

    Returns:
        `COMPACTED_LAKE` (the URL), `COMPACTED_COUNT`, and `COMPACTED_PARTITIONS`, one a line. That one is left out
        where it would be too long for a variable: half a list would be taken for a whole one.
    """
    text = "\n".join(directories)
    told = {"COMPACTED_LAKE": url, "COMPACTED_COUNT": str(len(directories))}
    return told | ({"COMPACTED_PARTITIONS": text} if len(text.encode()) <= _MOST_BYTES else {})
