"""What a killed put leaves in a local directory goes with the next put of that object, and nothing else does."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from asyncio import run
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.errors import StoreError
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.store.transfers import Sending

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "a b/data.parquet"
CONTENT = bytes(range(256)) * 100


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    lake = tmp_path / "lake"
    (lake / "a b").mkdir(parents=True)
    return lake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def files(lake: Path) -> set[str]:
    return {path.name for path in (lake / "a b").iterdir()}


def stalling(self: Sending, size_bytes: int) -> Iterator[bytes]:  # noqa: ARG001
    """A file of which half comes, and then nothing while a file `stall` is beside it."""
    yield CONTENT[: len(CONTENT) // 2]
    while (self._path.parent / "stall").exists():
        time.sleep(0.01)
    yield CONTENT[len(CONTENT) // 2 :]
    self.size_bytes = len(CONTENT)


def put_and_stall(lake: Path, file: Path) -> None:
    Sending.pieces = stalling  # type: ignore[method-assign]
    run(open_store(str(lake)).put(KEY, file))


def await_half_put(lake: Path) -> None:
    for _ in range(3000):
        if any("#" in name for name in files(lake)):
            return
        time.sleep(0.01)
    raise AssertionError("the put did not begin")


@pytest.mark.guards("scratch-left")
@pytest.mark.parametrize("in_memory", [True, False])
def test_what_a_killed_put_left_goes_with_the_next_put(lake: Path, file: Path, *, in_memory: bool) -> None:
    (file.parent / "stall").touch()
    process = multiprocessing.get_context("spawn").Process(target=put_and_stall, args=(lake, file))
    process.start()
    await_half_put(lake)
    run(open_store(str(lake)).put(KEY, b"of another, meanwhile"))
    assert files(lake) == {"data.parquet", "data.parquet#1"}, "a living put keeps its file"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert files(lake) == {"data.parquet", "data.parquet#1"}
    run(open_store(str(lake)).put(KEY, CONTENT if in_memory else file))
    assert files(lake) == {"data.parquet"}
    assert (lake / KEY).read_bytes() == CONTENT


def test_a_put_that_goes_on_while_others_put_the_same_ends_well(
    lake: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = file.parent / "stall"
    stall.touch()
    monkeypatch.setattr(Sending, "pieces", stalling)
    store = open_store(str(lake))

    async def both() -> None:
        slow = asyncio.create_task(store.put(KEY, file))
        await asyncio.to_thread(await_half_put, lake)
        for _ in range(3):
            await open_store(str(lake)).put(KEY, b"quick")
        assert files(lake) == {"data.parquet", "data.parquet#1"}
        stall.unlink()
        await slow

    run(both())
    assert files(lake) == {"data.parquet"}
    assert (lake / KEY).read_bytes() == CONTENT


def test_only_what_puts_of_this_object_left_goes(lake: Path) -> None:
    for name in ("data.parquet#1", "data.parquet#2", "other.parquet#1", "data.parquet#x", "data.parquet#1.old"):
        (lake / "a b" / name).write_bytes(b"x")
    run(open_store(str(lake)).put(KEY, b"x"))
    assert files(lake) == {"data.parquet", "other.parquet#1", "data.parquet#x", "data.parquet#1.old"}


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_no_put_can_have_left_stays(lake: Path, kind: str) -> None:
    odd = lake / "a b" / "data.parquet#1"
    if kind == "link":
        odd.symlink_to(lake)
    else:
        odd.mkdir()
    run(open_store(str(lake)).put(KEY, b"x"))
    assert files(lake) == {"data.parquet", "data.parquet#1"}
    assert odd.is_symlink() == (kind == "link")


@pytest.mark.parametrize("key", ["../data.parquet", "a b/../../data.parquet", "/data.parquet"])
def test_a_key_that_leads_elsewhere_removes_nothing(lake: Path, key: str) -> None:
    victims = [lake / "data.parquet#1", lake.parent / "data.parquet#1"]
    for victim in victims:
        victim.write_bytes(b"mine")
    with pytest.raises(StoreError):
        run(open_store(str(lake)).put(key, b"x"))
    assert [victim.read_bytes() for victim in victims] == [b"mine", b"mine"]


def test_where_no_lock_can_be_had_nothing_is_put(lake: Path) -> None:
    (lake / ".quantlab-locks").write_bytes(b"in the way")
    with pytest.raises(StoreError):
        run(open_store(str(lake)).put(KEY, b"x"))
    assert files(lake) == set[Any]()
