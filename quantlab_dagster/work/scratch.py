"""Temporary directories that do not outlive a crash: each is held by a file lock, and the next start removes those
that nobody holds."""  # noqa: D205, D209

from __future__ import annotations

import getpass
import shutil
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["scratch_directory"]


@contextmanager
def scratch_directory(base: Path | None) -> Iterator[Path]:
    """A directory of our own below `base`, removed at the end whatever happens.

    Args:
        base: where; None for a directory of this user below the system's temporary directory.
    """
    home = (base or Path(tempfile.gettempdir())) / f"quantlab-{getpass.getuser()}"
    home.mkdir(parents=True, exist_ok=True)
    remove_abandoned(home)
    name = uuid.uuid4().hex
    with FileLock(home / f"{name}.lock"):
        directory = home / name
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            (home / f"{name}.lock").unlink(missing_ok=True)


def remove_abandoned(home: Path) -> list[str]:
    """Remove the directories below `home` whose owner is gone. Returns their names."""
    removed = []
    for path in home.glob("*.lock"):
        lock = FileLock(path)
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            shutil.rmtree(home / path.stem, ignore_errors=True)
            path.unlink(missing_ok=True)
            removed.append(path.stem)
    return removed
