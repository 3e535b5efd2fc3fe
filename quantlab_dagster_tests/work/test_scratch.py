"""Scratch directories do not outlive their work, nor a crash."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import ScratchUnusable
from quantlab_dagster.work import scratch
from quantlab_dagster.work.scratch import scratch_directory

if TYPE_CHECKING:
    from pathlib import Path


def _hold(base: Path, started: object) -> None:
    with scratch_directory(base) as directory:
        (directory / "big.bin").write_bytes(b"x")
        started.set()  # type: ignore[attr-defined]
        time.sleep(60)


@pytest.mark.guards("scratch-left")
def test_scratch_is_removed_also_after_an_error(tmp_path: Path) -> None:
    def work() -> None:
        with scratch_directory(tmp_path) as directory:
            (directory / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.guards("scratch-left")
def test_the_next_start_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, started))
    process.start()
    assert started.wait(30)
    with scratch_directory(tmp_path):
        assert list(tmp_path.rglob("big.bin")), "a living process keeps its directory"
    process.kill()
    process.join()
    assert list(tmp_path.rglob("big.bin"))
    with scratch_directory(tmp_path):
        assert list(tmp_path.rglob("big.bin")) == []


def home_of(base: Path) -> Path:
    with scratch_directory(base) as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        return directory.parent


@pytest.mark.guards("scratch-predictable")
def test_nobody_else_can_look_into_it(tmp_path: Path) -> None:
    home = home_of(tmp_path)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o755)
    assert stat.S_IMODE(home_of(tmp_path).stat().st_mode) == 0o700


@pytest.mark.guards("scratch-predictable")
def test_no_name_comes_twice_or_can_be_taken_before(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as first, scratch_directory(tmp_path) as second:
        names = {first.name, second.name}
    with scratch_directory(tmp_path) as third:
        names.add(third.name)
    assert len(names) == 3
    for name in names:
        assert uuid.UUID(name).version == 4, "122 bits that nobody can guess"


@pytest.mark.guards("scratch-predictable")
def test_what_lies_where_the_directory_should_be_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if somebody guesses: it is made, or it is an error."""
    home, treasure, name = home_of(tmp_path), tmp_path / "treasure", uuid.uuid4()
    treasure.mkdir()
    monkeypatch.setattr(scratch, "remove_abandoned", lambda _: [])
    monkeypatch.setattr(uuid, "uuid4", lambda: name)
    (home / name.hex).symlink_to(treasure)
    with pytest.raises(ScratchUnusable, match="cannot be used"):
        home_of(tmp_path)
    assert list(treasure.iterdir()) == []


def test_what_nobody_holds_is_removed_without_its_lock_file_too(tmp_path: Path) -> None:
    home = home_of(tmp_path)
    abandoned, users = home / ("a" * 32), home / "something else"
    for path in (abandoned, users):
        path.mkdir()
        (path / "big.bin").touch()
    home_of(tmp_path)
    assert list(home.iterdir()) == [users]


@pytest.mark.guards("scratch-predictable")
def test_links_are_not_followed(tmp_path: Path) -> None:
    home, treasure = home_of(tmp_path), tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold").write_text("gold")
    (home / ("b" * 32)).symlink_to(treasure)
    (home / ("c" * 32 + ".lock")).symlink_to(treasure / "gold")
    home_of(tmp_path)
    assert (treasure / "gold").read_text() == "gold"
    assert not (home / ("b" * 32)).is_symlink()
    shutil.rmtree(home)
    home.symlink_to(treasure)
    with pytest.raises(ScratchUnusable, match="link"):
        home_of(tmp_path)


@pytest.mark.guards("scratch-predictable")
def test_a_home_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(ScratchUnusable, match="another user") as caught:
        home_of(tmp_path)
    assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy


def test_a_place_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScratchUnusable, match="cannot be used"):
        home_of(tmp_path / "file")
