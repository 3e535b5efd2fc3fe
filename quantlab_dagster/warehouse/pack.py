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
_GOOD_PART = 3.0
"""The smallest earlier output is merged again if it is at most so many times as large as what is new: then late files
that trickle in are written a number of times that grows with the logarithm of their number."""
_FADING = 0.7
"""For each further output that number is less: else a late file that is worth one of them would be worth them all."""
_MOST_LEFT = 12
"""More earlier outputs than these are not left beside new files. One more, which a merge adds, is not left without new
ones either: others than us may have named many tiny files so, and then all are merged."""
_LEFT = 8
"""Of too many, the smallest are merged with the new ones, so that no more than these are left beside what they become:
it costs little, and there is room again."""


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
    before are merged again only if there are new ones, so that a second run finds nothing to do; and only if these are
    a good part of them, so that tiny late files do not rewrite an hour; or if they are too many.

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
    settled = len(small) <= _MOST_LEFT + 1 and all(is_compacted(file.name) for file in small)
    if len(small) < max(rules.min_files, _LEAST_FILES) or settled:
        return []
    small = _worth_merging(small)
    bins = _fewest_bins(small, weights, capacity)
    chosen = [tuple(sorted(found, key=_byte_order)) for found in bins if len(found) >= _LEAST_FILES]
    return sorted(chosen, key=lambda found: _byte_order(found[0]))


def _fewest_bins(small: list[ObjectInfo], weights: dict[ObjectInfo, int], capacity: int) -> list[list[ObjectInfo]]:
    """As few even bins as hold the files: by bisection, since one by one would take cubic time."""
    too_few, number, step = 0, max(1, -(-sum(weights[file] for file in small) // capacity)), 1
    while (found := _spread(small, weights, number, capacity)) is None:
        too_few, number, step = number, number + step, 2 * step
    if too_few:
        while number - too_few > 1:
            middle = (too_few + number) // 2
            fewer = _spread(small, weights, middle, capacity)
            if fewer is None:
                too_few = middle
            else:
                number, found = middle, fewer
    return found


def _spread(
    small: list[ObjectInfo], weights: dict[ObjectInfo, int], number: int, capacity: int
) -> list[list[ObjectInfo]] | None:
    """So many bins, each file in the one that is emptiest by then; None if one of them overflows."""
    bins: list[list[ObjectInfo]] = [[] for _ in range(number)]
    emptiest_first = [(0, index) for index in range(number)]
    for file in small:
        filled, index = heapq.heappop(emptiest_first)
        if filled + weights[file] > capacity:
            return None
        bins[index].append(file)
        heapq.heappush(emptiest_first, (filled + weights[file], index))
    return bins


def _worth_merging(small: list[ObjectInfo]) -> list[ObjectInfo]:
    """The new files, and those earlier outputs of which they are a good part, the smallest first; in the same order.

    Their sizes decide, not what is expected of a merge: whoever looks, and whoever works, must choose the same.
    """
    taken = {file for file in small if not is_compacted(file.name)}
    if not taken:
        return small
    size_bytes = sum(file.size_bytes for file in taken)
    outputs = sorted(
        (file for file in small if file not in taken), key=lambda file: (file.size_bytes, _byte_order(file))
    )
    number, part = 0, _GOOD_PART
    while number < len(outputs) and outputs[number].size_bytes <= part * size_bytes:
        size_bytes += outputs[number].size_bytes
        number, part = number + 1, part * _FADING
    if len(outputs) - number > _MOST_LEFT:
        number = len(outputs) - _LEFT
    taken.update(outputs[:number])
    return [file for file in small if file in taken]


def _weight(file: ObjectInfo, shrink: float) -> int:
    """Bytes that a file is expected to add to an output. Whole ones: sums must not depend on the order."""
    return file.size_bytes if is_compacted(file.name) else round(file.size_bytes * shrink)


def _byte_order(file: ObjectInfo) -> bytes:
    return file.key.encode()
