"""Bin packing: which small files of a partition become one file. Pure and deterministic."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.lake.warehouse import is_compacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.lake.store.objects import ObjectInfo

__all__ = ["Bin", "Rules", "pack", "small_files"]

Bin = tuple["ObjectInfo", ...]
"""Files to merge into one, in byte order of their keys."""

_LARGEST = 2
"""No output shall be larger than so many times the target."""
_SETTLED = 0.75
"""An output of this share of the target is not merged again: to fill it up is not worth writing it anew."""
_LEAST_FILES = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """When files are merged.

    Attributes:
        target_size: files of so many bytes or more are left alone; outputs have up to twice as many.
        min_files: partitions with fewer small files are left alone.
    """

    target_size: int = 128 << 20
    min_files: int = _LEAST_FILES

    def in_range(self, size_bytes: int) -> bool:
        """Whether an output of this size is as large as wanted."""
        return self.target_size <= size_bytes <= _LARGEST * self.target_size


def small_files(files: Iterable[ObjectInfo], rules: Rules) -> list[ObjectInfo]:
    """The files that may be merged: small ones, unless they are outputs that nearly have the target's size."""
    settled = _SETTLED * rules.target_size
    return [file for file in files if file.size_bytes < (settled if is_compacted(file.name) else rules.target_size)]


def pack(files: Sequence[ObjectInfo], rules: Rules, shrink: float = 1.0) -> list[Bin]:
    """Which files of a partition are to be merged, one bin for each output.

    About as few outputs as fit into twice the target, of even sizes, so that no sliver is left. Files that were merged
    before are merged again only if there are new ones, so that a second run finds nothing to do.

    The largest file goes first, each into the bin that is emptiest by then (LPT: Graham, "Bounds on multiprocessing
    timing anomalies", 1969).

    Args:
        files: of one partition.
        rules: when files are merged.
        shrink: bytes that a merge is expected to make of a new file's byte.

    Returns:
        Bins of two or more files, in the order of their first keys; empty if there is nothing to do.
    """
    capacity = _LARGEST * rules.target_size
    weights = {file: _weight(file, shrink) for file in small_files(files, rules)}
    # What would outgrow an output by itself is left alone.
    small = sorted((file for file in weights if weights[file] <= capacity), key=lambda f: (-weights[f], f.key.encode()))
    if len(small) < max(rules.min_files, _LEAST_FILES) or all(is_compacted(file.name) for file in small):
        return []
    number = max(1, -(-sum(weights[file] for file in small) // capacity))
    while True:
        bins: list[list[ObjectInfo]] = [[] for _ in range(number)]
        emptiest_first = [(0, index) for index in range(number)]
        for file in small:
            filled, index = heapq.heappop(emptiest_first)
            bins[index].append(file)
            heapq.heappush(emptiest_first, (filled + weights[file], index))
        if max(emptiest_first)[0] <= capacity:
            break
        number += max(1, number // 16)  # one by one would take cubic time
    chosen = [tuple(sorted(found, key=_byte_order)) for found in bins if len(found) >= _LEAST_FILES]
    return sorted(chosen, key=lambda found: _byte_order(found[0]))


def _weight(file: ObjectInfo, shrink: float) -> int:
    """Bytes that a file is expected to add to an output. Whole ones: sums must not depend on the order."""
    return file.size_bytes if is_compacted(file.name) else round(file.size_bytes * shrink)


def _byte_order(file: ObjectInfo) -> bytes:
    return file.key.encode()
