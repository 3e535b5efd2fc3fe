"""Disks: an hour for which there is no room is left as it was, and said; a directory on another disk; permissions."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pytest

from quantlab_dagster.errors import MachineFault, StoreError
from quantlab_dagster.kernel.room import check_room, room_at
from quantlab_dagster.lake.store import local
from quantlab_dagster.warehouse import compact as compact_module
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster.work.merging import Merging
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.kernel.building import compact, part_of
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, PARTITION, EventLake, rows_of, spec

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("local", None, tmp_path))


def with_free(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 1 << 40) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))


def untouched(lake: EventLake, original: list[bytes]) -> None:
    assert lake.rows() == rows_of(original)
    assert len(lake.names()) == len(original)
    assert lake.slot().state == "idle"
    assert lake.staged() == []
    assert [path for path in lake.scratch.rglob("*") if path.is_file()] == []


# ---- room ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "free", "room_bytes"),
    [(1 << 40, 1000 * MIB, 744 * MIB), (1 << 40, 100 * MIB, 0), (1000 * MIB, 100 * MIB, 50 * MIB)],
)
def test_some_of_a_disk_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, room_bytes: int
) -> None:
    with_free(monkeypatch, free, total)
    assert room_at(tmp_path) == room_bytes
    check_room(tmp_path, room_bytes, "x")
    with pytest.raises(MachineFault, match=rf"{tmp_path} has room for {room_bytes // MIB} MiB") as caught:
        check_room(tmp_path, room_bytes + 1, "x")
    assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy


@pytest.mark.guards("disk-runs-full")
def test_an_hour_for_which_there_is_no_room_is_left_as_it_was_and_nothing_is_fetched(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = lake.put_spec(spec())
    with_free(monkeypatch, 256 * MIB + 2 * sum(map(len, original)) - 1)
    done = lake.sweep()
    [outcome] = done.outcomes
    assert (outcome.status, outcome.error) == (HourStatus.FAILED, "MachineFault")
    assert "has room for" in outcome.reason
    assert done.requests["GET"] <= 4, "slot and record, and no input"
    untouched(lake, original)
    with_free(monkeypatch, 256 * MIB + 2 * sum(map(len, original)))
    assert [item.status for item in lake.sweep().outcomes] == [HourStatus.COMPACTED]


def test_hours_that_do_not_fit_together_wait_for_each_other(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [sum(map(len, lake.put_spec(spec(hour=HOUR - number * LATER)))) for number in range(4)]
    at_work: list[int] = []
    build = Merging.build

    async def counted(self: Merging, *arguments: Any, **options: Any) -> Any:
        at_work.append(1)
        most.append(len(at_work))
        try:
            await asyncio.sleep(0.05)
            return await build(self, *arguments, **options)
        finally:
            at_work.pop()

    monkeypatch.setattr(Merging, "build", counted)
    most: list[int] = []
    with_free(monkeypatch, 256 * MIB + compact_module._SCRATCH_TIMES * max(sizes))
    assert {item.status for item in lake.sweep().outcomes} == {HourStatus.COMPACTED}
    assert max(most) == 1
    for number in range(4):
        lake.put_spec(spec(hour=HOUR - number * LATER, seed=1))
    most.clear()
    with_free(monkeypatch, 1 << 39)
    lake.sweep()
    assert max(most) > 1


def test_rows_that_would_not_fit_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 200_000
    table = pa.table({"ts_event": [n * 7919 % 50_021 for n in range(rows)], "label": pa.repeat("x", rows)})
    part = part_of("part", table, row_group_size=7_000)
    with_free(monkeypatch, 257 * MIB)
    with pytest.raises(MachineFault, match="has room for 1 MiB, and this takes about"):
        compact([part], tmp_path, budget_bytes=24 << 20)
    assert list(tmp_path.rglob("run-*")) == []
    with_free(monkeypatch, 300 * MIB)
    assert compact([part], tmp_path, budget_bytes=24 << 20).merged.distributed


def test_a_disk_that_is_full_all_the_same_leaves_the_hour_as_it_was(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = lake.put_spec(spec())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local, "_copy", full)
    [outcome] = lake.sweep().outcomes
    assert outcome.status is HourStatus.FAILED
    assert "No space left" in outcome.reason
    untouched(lake, original)


# ---- another disk ----------------------------------------------------------------------------------------------------


@contextmanager
def on_another_disk(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[None]:
    disk_of = local._disk_of

    def pretended(path: Path) -> int:
        return -1 if path.is_relative_to(directory) else disk_of(path)

    with monkeypatch.context() as patched:
        patched.setattr(local, "_disk_of", pretended)
        yield


@pytest.mark.guards("another-disk")
def test_a_directory_on_another_disk_is_said_before_anything_is_done_and_the_others_go_on(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = lake.put_spec(spec())
    lake.put_spec(spec(app="shop"))
    with on_another_disk(monkeypatch, Path(lake.url) / "app_id=demo"):
        done = lake.sweep()
    ended = {item.partition.app: item for item in done.outcomes}
    assert ended["shop"].status is HourStatus.COMPACTED
    assert (ended["demo"].status, ended["demo"].error) == (HourStatus.FAILED, "StoreError")
    assert "lies on another disk" in ended["demo"].reason
    for path in (Path(lake.url) / "app_id=shop").rglob("*.parquet"):
        path.unlink()
    untouched(lake, original)


def test_a_link_to_a_real_other_disk_is_seen(lake: EventLake) -> None:
    """Where this machine has one at hand; the tests around do without."""
    other = next((path for path in map(Path, ("/dev/shm", "/run", "/proc")) if path.is_dir()), None)  # noqa: S108
    if other is None or other.stat().st_dev == Path(lake.url).stat().st_dev:
        return
    (Path(lake.url) / "app_id=link").symlink_to(other)
    with pytest.raises(StoreError, match="lies on another disk"):
        lake.store.check_place("app_id=link/x.parquet")
    lake.store.check_place("app_id=new/not there yet/x.parquet")


def test_a_move_that_turns_out_to_be_onto_another_disk_is_said_too(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounts of one disk at two places look alike, and do not let a file be moved either."""
    original = lake.put_spec(spec())
    with monkeypatch.context() as patched:

        def refused(_path: Path, _target: Path) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        patched.setattr(Path, "rename", refused)
        [outcome] = lake.sweep().outcomes
    assert outcome.status is HourStatus.FAILED
    assert "lies on another disk" in outcome.reason
    assert lake.rows() == rows_of(original)
    [outcome] = lake.sweep().outcomes
    assert (outcome.status, outcome.replacements[0].recovered) == (HourStatus.COMPACTED, True), "once it can be moved"
    assert lake.rows() == rows_of(original)


# ---- permissions -----------------------------------------------------------------------------------------------------


@pytest.mark.guards("mode-lost")
@pytest.mark.parametrize(
    ("modes", "mask", "expected"),
    [
        ((0o644, 0o644), 0o027, 0o644),
        ((0o664, 0o664), 0o077, 0o664),
        ((0o644, 0o640), 0o022, 0o640),
        ((0o400, 0o400), 0o022, 0o600),
    ],
)
def test_an_output_may_be_read_by_those_who_may_read_all_of_its_inputs(
    lake: EventLake, modes: tuple[int, int], mask: int, expected: int
) -> None:
    lake.put_spec(spec(files=2))
    directory = Path(lake.url) / PARTITION.prefix
    for path, mode in zip(sorted(directory.glob("events_*")), modes, strict=True):
        path.chmod(mode)
    before = os.umask(mask)
    try:
        [outcome] = lake.sweep().outcomes
    finally:
        os.umask(before)
    assert outcome.status is HourStatus.COMPACTED
    [output] = directory.iterdir()
    assert stat.S_IMODE(output.stat().st_mode) == expected


def test_it_has_the_group_of_its_inputs_where_we_may_give_it(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put_spec(spec(files=2))
    given: list[tuple[int, int]] = []
    found = Path.stat

    def of_another_group(path: Path, **options: Any) -> os.stat_result:
        seen = found(path, **options)
        return os.stat_result([*seen[:5], 12345, *seen[6:]]) if path.name.startswith("events_") else seen

    def chown(_path: Path, uid: int, gid: int) -> None:
        given.append((uid, gid))
        raise PermissionError

    monkeypatch.setattr(Path, "stat", of_another_group)
    monkeypatch.setattr(os, "chown", chown)
    [outcome] = lake.sweep().outcomes
    assert outcome.status is HourStatus.COMPACTED, "where we may not, it is ours"
    assert given == [(-1, 12345)]


def test_disks_are_really_asked(tmp_path: Path) -> None:
    assert 0 < room_at(tmp_path) < shutil.disk_usage(tmp_path).total
