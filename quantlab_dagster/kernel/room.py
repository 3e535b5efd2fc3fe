"""Room on a disk: work that would fill it fails before, and says so. Nobody's disk runs full because of us."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from quantlab_dagster.errors import MachineFault

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_room", "room_at"]

_LEFT_BYTES = 256 << 20
_LEFT_SHARE = 20
_MIB = 1 << 20


def room_at(directory: Path) -> int:
    """Bytes that may be written there: all that are free, but 256 MiB, or a twentieth of a smaller disk.

    Raises:
        OSError: the directory is not there.
    """
    found = shutil.disk_usage(directory)
    return max(0, found.free - min(_LEFT_BYTES, found.total // _LEFT_SHARE))


def check_room(directory: Path, size_bytes: int, where: str) -> None:
    """See that there is room.

    Args:
        directory: where it is needed.
        size_bytes: how much.
        where: what is worked on, for the message.

    Raises:
        MachineFault: there is less.
    """
    room = room_at(directory)
    if size_bytes > room:
        cause = f"{directory} has room for {room // _MIB:,} MiB, and this takes about {-(-size_bytes // _MIB):,} MiB"
        raise MachineFault(
            where, cause, "Make room there, or set QUANTLAB_SCRATCH_DIR to another disk; nothing was changed"
        )
