"""What a run may use of the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Limits", "usable_cores"]

DECODER_FIXED_BYTES = 1 << 30
DECODER_SILENCE_SECONDS = 60.0
DECODER_BYTES_PER_SECOND = 1 << 20


def usable_cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use of the machine.

    Attributes:
        memory_budget: bytes for downloaded parts and the merge together.
        request_concurrency: requests in flight at once.
        scratch_base: where temporary directories are made; None for the system's place.
    """

    memory_budget: int = 512 << 20
    request_concurrency: int = 64
    scratch_base: Path | None = None

    @property
    def download_budget(self) -> int:
        """Share of the memory budget for downloaded parts, in bytes."""
        return self.memory_budget // 4

    @property
    def merge_budget(self) -> int:
        """Share of the memory budget for merging, in bytes."""
        return self.memory_budget - self.download_budget

    @property
    def decoder_memory(self) -> int:
        """Bytes at which a decoding process is ended: 1 GiB above twice the budget; usual days take half the budget."""
        return DECODER_FIXED_BYTES + 2 * self.memory_budget

    def decoder_patience(self, size_bytes: int) -> float:
        """Seconds without progress after which a decoding process is ended.

        Args:
            size_bytes: what it has to read.
        """
        return DECODER_SILENCE_SECONDS + size_bytes / DECODER_BYTES_PER_SECOND
