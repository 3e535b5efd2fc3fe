"""Scratch directories do not outlive their work, nor a crash."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING

import pytest

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
