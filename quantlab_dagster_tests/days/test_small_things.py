"""Scratch directories, the memory gate, time units."""

from __future__ import annotations

import asyncio
import datetime as dt
import multiprocessing
import time
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.days.timeunit import ticks_per_second, time_of
from quantlab_dagster.work.fetch import MemoryGate
from quantlab_dagster.work.scratch import scratch_directory

if TYPE_CHECKING:
    from pathlib import Path


def _hold(base: Path, started: object) -> None:
    with scratch_directory(base) as directory:
        (directory / "big.bin").write_bytes(b"x")
        started.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_scratch_is_removed_also_after_an_error(tmp_path: Path) -> None:
    def work() -> None:
        with scratch_directory(tmp_path) as directory:
            (directory / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


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


def test_the_memory_gate_admits_what_fits_and_never_starves_what_does_not() -> None:
    held: list[int] = []

    async def use(gate: MemoryGate, size: int) -> None:
        await gate.acquire(size)
        held.append(size)
        assert sum(held) <= max(gate.capacity_bytes, size)
        await asyncio.sleep(0.001)
        held.remove(size)
        await gate.release(size)

    async def main() -> None:
        gate = MemoryGate(100)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for size in (60, 60, 30, 100, 500, 1, 0, 99):
                group.create_task(use(gate, size))

    asyncio.run(main())


@pytest.mark.parametrize("ticks", [1, 10**3, 10**6, 10**9])
def test_the_unit_is_guessed_from_the_day(ticks: int) -> None:
    midnight = int(dt.datetime(2026, 1, 8, tzinfo=dt.UTC).timestamp())
    low, high = (midnight - 5) * ticks, (midnight + 86_400 + 5) * ticks
    assert ticks_per_second(low, high, dt.date(2026, 1, 8)) == ticks
    assert time_of(low, ticks) == dt.datetime(2026, 1, 7, 23, 59, 55, tzinfo=dt.UTC)


def test_a_range_far_from_the_day_has_no_known_unit() -> None:
    assert ticks_per_second(0, 10, dt.date(2026, 1, 8)) is None
    assert ticks_per_second(-(1 << 63), (1 << 63) - 1, dt.date(2026, 1, 8)) is None
