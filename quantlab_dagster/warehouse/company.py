"""Files of the event lake that are alone of their kind: until when they wait for company. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from quantlab_dagster.lake.warehouse import is_compacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.warehouse.slot import Corrupt

__all__ = ["company_of", "still_aside", "without"]


def without(files: Iterable[ObjectInfo], aside: Iterable[Corrupt]) -> list[ObjectInfo]:
    """The files that were not set aside as they are now."""
    known = {(item.name, item.etag) for item in aside}
    return [file for file in files if (file.name, file.etag) not in known]


def company_of(files: Iterable[ObjectInfo]) -> str | None:
    """A name for the new files among these, each as it is now; None if there are none.

    Args:
        files: of a partition, without those that were set aside.
    """
    new = sorted(f"{file.name}\t{file.etag}" for file in files if not is_compacted(file.name))
    return hashlib.sha256("\n".join(new).encode()).hexdigest() if new else None


def still_aside(files: Sequence[ObjectInfo], aside: tuple[Corrupt, ...], company: str | None) -> tuple[Corrupt, ...]:
    """What stays aside: all that is damaged; what waits for company, unless other new files lie there than before.

    So what waits is tried again when a file comes, and only then.

    Args:
        files: of the partition.
        aside: what was set aside.
        company: which new files lay beside it then.
    """
    if company_of(without(files, aside)) == company:
        return aside
    return tuple(item for item in aside if not item.waits)
