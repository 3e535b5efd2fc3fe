"""Temporary directories that do not outlive a crash: each is held by a file lock, and the next start removes those
that nobody holds."""  # noqa: D205, D209

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from quantlab_dagster.errors import ScratchUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["scratch_directory"]

_OURS = re.compile(r"([0-9a-f]{32})(\.lock)?")


@contextmanager
def scratch_directory(base: Path | None) -> Iterator[Path]:
    """A directory of our own below `base`, removed at the end whatever happens.

    Args:
        base: where; None for a directory of this user below the system's temporary directory.

    Raises:
        ScratchUnusable: it cannot be made, or what is in its place is a link, or somebody else's.
    """
    home = (base or Path(tempfile.gettempdir())) / f"quantlab-{os.geteuid()}"
    try:
        _make_home(home)
        remove_abandoned(home)
        name, lock = _new_lock(home)
    except OSError as error:
        if isinstance(error, ScratchUnusable):
            raise
        raise ScratchUnusable(str(home), f"cannot be used for temporary files ({error})") from error
    directory = home / name
    try:
        try:
            directory.mkdir(mode=0o700)
        except OSError as error:
            raise ScratchUnusable(str(home), f"cannot be used for temporary files ({error})") from error
        yield directory
    finally:
        _remove(home, name)
        os.close(lock)


def remove_abandoned(home: Path) -> list[str]:
    """Remove the directories below `home` whose owner is gone, with or without a lock file. Returns their names."""
    removed = []
    # A directory is made only while its lock is held: what nobody holds is nobody's.
    for name in sorted({found[1] for path in home.iterdir() if (found := _OURS.fullmatch(path.name))}):
        with suppress(OSError):  # held, or removed meanwhile
            lock = _locked(home, name)
            try:
                _remove(home, name)
                removed.append(name)
            finally:
                os.close(lock)
    return removed


def _make_home(home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        home.mkdir(mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ScratchUnusable(str(home), "is a link or a file, where a directory for temporary files should be")
    if found.st_uid != os.geteuid():
        raise ScratchUnusable(str(home), f"belongs to another user (uid {found.st_uid})")
    if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        home.chmod(0o700)


def _new_lock(home: Path) -> tuple[str, int]:
    while True:
        name = uuid.uuid4().hex
        lock = _locked(home, name)
        # Somebody who cleans up may have taken it, and removed the file, before it was locked.
        try:
            if (home / f"{name}.lock").lstat().st_ino == os.fstat(lock).st_ino:
                return name, lock
        except FileNotFoundError:
            pass
        os.close(lock)


def _locked(home: Path, name: str) -> int:
    """Lock a name, without waiting. Returns the descriptor that holds it; raises OSErrors."""
    lock = os.open(home / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove(home: Path, name: str) -> None:
    directory = home / name
    if directory.is_symlink() or directory.is_file():
        directory.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    (home / f"{name}.lock").unlink(missing_ok=True)
