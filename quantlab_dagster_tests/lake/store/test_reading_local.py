"""Local files that are read without the engine: they and their ETags are what the engine says, or it is asked."""

from __future__ import annotations

import errno
import os
import zlib
from asyncio import run
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import ObjectChanged, ObjectNotFound, ScratchUnusable, StoreError
from quantlab_dagster.lake.store.local import check_downloaded, local_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantlab_dagster.lake.store.local import LocalStore

_NOBODY = 65_534


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return local_store(tmp_path)


@pytest.mark.parametrize("nanoseconds", [1_767_830_426_123_456_789, 999, 0, -1, -5_000_000_000])
def test_etags_are_those_of_the_engine(store: LocalStore, tmp_path: Path, nanoseconds: int) -> None:
    """Else every part would read as replaced."""
    (tmp_path / "x").write_bytes(b"content")
    os.utime(tmp_path / "x", ns=(nanoseconds, nanoseconds))
    [(content, info)] = run(store.get_together(["x"]))
    assert (content, info) == run(store.get("x"))
    assert [info] == run(store.list_objects(""))


def test_what_is_replaced_while_it_is_read_is_never_half_of_each(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")
    looks, stat = list[int](), os.fstat

    def written_to_meanwhile(descriptor: int) -> os.stat_result:
        looks.append(descriptor)
        if len(looks) == 2:
            path.write_bytes(b"afterwards")
        return stat(descriptor)

    monkeypatch.setattr(os, "fstat", written_to_meanwhile)
    [(content, info)] = run(store.get_together(["x"]))
    assert content == b"afterwards"  # asked for once more
    assert [info] == run(store.list_objects(""))


def test_a_file_that_grows_while_it_is_read_is_read_again(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")
    stat, looks = os.fstat, list[int]()

    def grown_since(descriptor: int) -> os.stat_result:
        found = stat(descriptor)
        looks.append(descriptor)
        if len(looks) == 1:
            with path.open("ab") as file:
                file.write(b" and more")
            os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
        return found

    monkeypatch.setattr(os, "fstat", grown_since)
    [(content, info)] = run(store.get_together(["x"]))
    assert content == b"before and more"
    assert info.size_bytes == len(content)


@contextmanager
def no_root() -> Iterator[None]:
    """Within, root is nobody: root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_read_is_said_so() -> None:
    with TemporaryDirectory() as name:  # unlike those of pytest, it can be opened to others
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "x").touch(0o000)
        store = local_store(directory)
        with no_root(), pytest.raises(StoreError, match=r"Permission denied.*Check the space and the permissions"):
            run(store.get_together(["x"]))


def test_a_directory_is_no_object(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StoreError):
        run(store.get_together(["x"]))


# ---- linked, not copied ----------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "copy"


def test_a_download_within_one_disk_is_the_file_itself(store: LocalStore, tmp_path: Path, copy: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    got = run(store.download("x", copy))
    assert (got, got.linked) == (run(store.head("x")), True)
    assert copy.samefile(tmp_path / "x")
    assert store.requests.by_kind()["GET"] == 1
    check_downloaded("x", copy, got)
    run(store.put("x", b"another"))  # what is replaced stays what it was, to whoever reads it
    assert copy.read_bytes() == b"content"
    check_downloaded("x", copy, got)


def test_a_file_that_is_written_into_is_noticed(store: LocalStore, tmp_path: Path, copy: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    got = run(store.download("x", copy))
    with (tmp_path / "x").open("r+b") as file:
        file.write(b"C")
    with pytest.raises(ObjectChanged, match="was written to while it was read"):
        check_downloaded("x", copy, got)
    copy.unlink()
    with pytest.raises(ScratchUnusable, match="cannot be used"):
        check_downloaded("x", copy, got)


@pytest.mark.parametrize("why", ["another disk", "a link"])
def test_what_cannot_be_linked_is_copied(
    store: LocalStore, tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    if why == "a link":
        (tmp_path / "x").symlink_to(tmp_path / "file")
    else:
        (tmp_path / "file").rename(tmp_path / "x")

        def elsewhere(*_: object) -> None:
            raise OSError(errno.EXDEV, "another disk")

        monkeypatch.setattr(os, "link", elsewhere)
    got = run(store.download("x", copy))
    assert (got, got.linked, got.checksum) == (run(store.head("x")), False, zlib.crc32(b"content"))
    assert not copy.is_symlink()
    assert not copy.samefile(tmp_path / "x")


def test_a_copy_is_never_written_into_an_object(store: LocalStore, tmp_path: Path, copy: Path) -> None:
    """Where something lies in the way, it may be an object of the lake, by another name."""
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "y").write_bytes(b"another")
    assert run(store.download("x", copy)).linked
    assert not run(store.download("y", copy)).linked
    assert (copy.read_bytes(), (tmp_path / "x").read_bytes()) == (b"another", b"content")
    with pytest.raises(ObjectNotFound):
        run(store.download("z", copy))
