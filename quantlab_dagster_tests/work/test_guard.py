"""What a decoder does to its process is done to that process: aborts, memory, hangs, and deaths from outside."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import AuditFailed, BadPart, CorruptPart, DecoderFailed, MachineFault, StoreUnavailable
from quantlab_dagster.work import child, decoder, limits
from quantlab_dagster.work.decoder import Child, ChildEnded
from quantlab_dagster.work.limits import Limits
from quantlab_dagster.work.merging import Merging, Recipe
from quantlab_dagster.work.messages import Digest, Failed
from quantlab_dagster_tests import in_child
from quantlab_dagster_tests.kernel.building import part_from, part_of
from quantlab_dagster_tests.kernel.lying import varint, with_negative_page, with_rows
from quantlab_dagster_tests.work.test_merging import ORDER, Fixture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BAD = 3
"""Which of the parts is the deadly one."""


def children() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    before = set(children())
    yield
    assert set(children()) - before == set(), "processes are left"
    left = [path for path in (tmp_path / "scratch").rglob("*") if path.is_file() and path.name != "out.parquet"]
    assert left == []


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fixture:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Fixture(tmp_path)


def names(parts: Fixture) -> list[str]:
    return sorted(parts.contents)


def deadly(parts: Fixture) -> str:
    """Make one of the parts what Polars aborts at."""
    name = names(parts)[BAD]
    bad = with_negative_page(part_from(name, parts.contents[name])).source
    assert isinstance(bad, bytes)
    parts.contents[name] = parts.sent[name] = bad
    return name


@pytest.mark.parametrize("budget", [64 << 20, 1 << 14], ids=["in memory", "through the disk"])
def test_the_part_at_which_polars_aborts_is_found(parts: Fixture, budget: int) -> None:
    name = deadly(parts)
    with pytest.raises(
        CorruptPart, match=r"the decoder was ended by SIGABRT \(.*\) when it read nothing but this part"
    ) as e:
        parts.build(Limits(budget))
    assert e.value.part == name


def test_who_shares_a_process_with_it_is_not_blamed(parts: Fixture) -> None:
    """Two jobs in one process, which dies of the second: the first is done again."""
    name = deadly(parts)
    sound = [info for info in parts.listed if info.key != name]
    first_is_there = asyncio.Event()

    async def build() -> list[Any]:
        get = parts.store.get_together

        async def get_late(keys: Sequence[str]) -> Any:
            # The deadly one only after the other job has handed over, so that it is there, waiting, when it dies.
            if name in keys:
                await first_is_there.wait()
            return await get(keys)

        parts.store.get_together = get_late  # type: ignore[method-assign]
        async with Merging(Limits(64 << 20)) as merging:

            async def one(at: int, listed: list[Any]) -> Any:
                directory = parts.scratch / str(at)
                directory.mkdir()
                slow = (lambda _: first_is_there.set()) if at == 0 else (lambda _: None)
                try:
                    built = await merging.build(parts.store, listed, Recipe(ORDER), directory / "o", progress=slow)
                    (directory / "o").unlink()
                    return built
                finally:
                    directory.rmdir()

            # The first job is held in the shared process: it may not merge before that has died.
            async with merging._cores.taken(1):
                tasks = [asyncio.ensure_future(one(0, sound)), asyncio.ensure_future(one(1, parts.listed))]
                while not merging._guard._children or not merging._guard._children[0].has_ended:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            return await asyncio.gather(*tasks, return_exceptions=True)

    built, error = asyncio.run(build())
    assert built.merged.rows == sum(_rows(parts, info.key) for info in sound)
    assert isinstance(error, CorruptPart)
    assert error.part == name


def _rows(parts: Fixture, name: str) -> int:
    return int(pq.read_metadata(pa.BufferReader(parts.contents[name])).num_rows)


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("abort", "was ended by SIGABRT"),
        ("segmentation fault", "was ended by SIGSEGV"),
        ("hang", "made no progress within"),
        ("take memory", r"took more than 268,435,456 bytes of memory"),
    ],
)
def test_whatever_a_decoder_does_is_its_part(
    parts: Fixture, monkeypatch: pytest.MonkeyPatch, deed: str, said: str
) -> None:
    # Only whoever waits for it: a busy machine takes longer to start one.
    monkeypatch.setattr(limits, "DECODER_SILENCE_SECONDS", 3.0 if deed == "hang" else 60.0)
    monkeypatch.setattr(limits, "DECODER_FIXED_BYTES", 128 << 20)
    name = names(parts)[BAD]
    in_child.happens(monkeypatch, in_child.footer_of, name, deed)
    with pytest.raises(CorruptPart, match=said) as caught:
        parts.build(Limits(64 << 20))
    assert caught.value.part == name


@pytest.mark.parametrize(
    ("deed", "said"), [("killed", "was ended by SIGKILL"), ("leave", "ended by itself with code 3")]
)
def test_a_death_from_outside_is_no_parts_fault(
    parts: Fixture, monkeypatch: pytest.MonkeyPatch, deed: str, said: str
) -> None:
    in_child.happens(monkeypatch, in_child.footer_of, names(parts)[BAD], deed)
    with pytest.raises(DecoderFailed, match=said) as caught:
        parts.build()
    assert not isinstance(caught.value, BadPart)


def test_what_happens_once_is_survived(parts: Fixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_child.happens(monkeypatch, in_child.footer_of, names(parts)[BAD], "abort", str(tmp_path / "once"))
    assert parts.build().merged.rows == 400
    assert (tmp_path / "once").exists()


def test_what_no_part_alone_does_is_said_so(parts: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    in_child.happens(monkeypatch, in_child.merge_dies, "abort")
    with pytest.raises(DecoderFailed, match="was ended by SIGABRT, twice, and no part alone is to blame"):
        parts.build()


def test_the_part_after_the_one_that_did_it_is_not_blamed(parts: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is named has been read by a process that read nothing else, and that died of it."""
    in_child.happens(monkeypatch, in_child.footer_dies_after, names(parts)[BAD], "abort")
    with pytest.raises(DecoderFailed, match="no part alone is to blame"):
        parts.build()


def test_a_fault_of_the_machine_in_there_comes_out_as_it_is(parts: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    in_child.happens(monkeypatch, in_child.merge_dies, "full disk")
    with pytest.raises(OSError, match="No space left"):
        parts.build()


def test_damage_on_the_way_is_the_stores_fault_even_if_a_decoder_dies_of_it(
    parts: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    name = names(parts)[BAD]
    sound = parts.contents[name]
    deadly(parts)
    parts.contents[name] = sound
    with pytest.raises(StoreUnavailable, match="MD5"):
        parts.build()
    assert "trying again" not in caplog.text, "it is known at once"


def test_a_process_that_cannot_start_is_nobodys_part(parts: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    in_child.happens(monkeypatch, in_child.cannot_start, "no engine here")
    with pytest.raises(DecoderFailed, match=r"could not start: it ended by itself with code 1 \(no engine here\)"):
        parts.build()


def test_a_tiny_part_that_declares_a_huge_page_ends_at_its_limit(
    parts: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bound knows what headers inside claim: here two thousand million bytes for one page."""
    monkeypatch.setattr(limits, "DECODER_FIXED_BYTES", 256 << 20)
    name = names(parts)[BAD]
    bad = huge_page(name)
    assert len(bad) < 2_000
    parts.contents[name] = parts.sent[name] = bad
    started = time.monotonic()
    with pytest.raises(CorruptPart) as caught:
        parts.build()
    assert caught.value.part == name
    assert time.monotonic() - started < 60


def huge_page(name: str) -> bytes:
    part = part_of(name, pa.table({"ts_event": np.arange(100)}), compression="zstd", use_dictionary=False)
    assert isinstance(part.source, bytes)
    data = part.source
    assert data[4:7] == b"\x15\x00\x15"
    end = 7
    while data[end] & 0x80:
        end += 1
    return data[:7] + varint((1 << 31) - 1) + data[end + 1 :]


def test_a_hundred_million_rows_of_one_run_are_refused_before(parts: Fixture) -> None:
    name = names(parts)[BAD]
    table = pa.table({"ts_event": pa.repeat(pa.scalar(5, pa.int64()), 1_000)})
    bomb = with_rows(part_of(name, table, compression="none"), 100_000_000).source
    assert isinstance(bomb, bytes)
    parts.contents[name] = parts.sent[name] = bomb
    with pytest.raises(CorruptPart, match="declares 100,000,000 rows") as caught:
        parts.build()
    assert caught.value.part == name


# -- Its life --------------------------------------------------------------------------------------------------------


def test_one_process_serves_many_and_none_is_started_for_nothing(parts: Fixture) -> None:
    async def build() -> tuple[int, set[int]]:
        pids, before = set(), set(children())
        async with Merging(Limits(64 << 20)) as merging:
            idle = len(set(children()) - before)
            for _ in range(3):
                await merging.build(parts.store, parts.listed, Recipe(ORDER), parts.scratch / "out.parquet")
                pids |= {child.pid for child in set(children()) - before}
        assert set(children()) - before == set(), "it ends when it is left, not when the loop does"
        return idle, pids

    idle, pids = asyncio.run(build())
    assert idle == 0
    assert len(pids) == 1


def test_being_cancelled_ends_it_at_once(parts: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    in_child.happens(monkeypatch, in_child.merge_dies, "hang")

    async def build() -> float:
        hanging = asyncio.Event()
        merge = Merging._merge

        def noticed(*arguments: Any) -> Any:
            hanging.set()
            return merge(*arguments)

        monkeypatch.setattr(Merging, "_merge", noticed)
        async with Merging(Limits(64 << 20)) as merging:
            task = asyncio.ensure_future(
                merging.build(parts.store, parts.listed, Recipe(ORDER), parts.scratch / "out.parquet")
            )
            await hanging.wait()
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return time.monotonic() - started

    assert asyncio.run(build()) < 1


def test_who_comes_after_the_end_starts_nothing(parts: Fixture) -> None:
    async def late() -> None:
        async with Merging(Limits(64 << 20)) as merging:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await merging.build(parts.store, parts.listed, Recipe(ORDER), parts.scratch / "out.parquet")

    asyncio.run(late())


def test_a_value_of_many_megabytes_in_a_few_kilobytes_ends_at_the_limit(
    parts: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bomb that is what it says it is: no header lies, and no bound is passed."""
    monkeypatch.setattr(limits, "DECODER_FIXED_BYTES", 128 << 20)
    name = names(parts)[BAD]
    table = pa.table({"ts_event": [5], "text": ["0" * (256 << 20)]})
    bomb = part_of(name, table, compression="zstd", use_dictionary=False, write_statistics=False).source
    del table
    assert isinstance(bomb, bytes)
    assert len(bomb) < 30_000
    parts.contents[name] = parts.sent[name] = bomb
    with pytest.raises(CorruptPart, match="took more than 268,435,456 bytes of memory when it read nothing but") as e:
        parts.build(Limits(64 << 20))
    assert e.value.part == name


def test_closing_is_done_even_when_it_is_cancelled(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()

    async def close() -> None:
        child = Child(Limits(scratch_base=tmp_path / "scratch"))
        task = asyncio.ensure_future(child.close())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert child._process.returncode is not None

    asyncio.run(close())


_PARENT = """
import asyncio, sys, pathlib
from quantlab_dagster.work.decoder import Child
from quantlab_dagster.work.limits import Limits
async def main():
    child = Child(Limits(scratch_base=pathlib.Path(sys.argv[1])))
    await asyncio.sleep(1)
    print(child.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path / "other")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert "python" in child.name()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_meant_for_the_parent_does_not_end_it(parts: Fixture, number: signal.Signals) -> None:
    """A terminal sends SIGINT to all of its processes, and systemd SIGTERM to all of a service's."""

    async def build() -> int:
        pids = set[int]()
        async with Merging(Limits(64 << 20)) as merging:
            for _ in range(2):
                built = await merging.build(parts.store, parts.listed, Recipe(ORDER), parts.scratch / "out.parquet")
                pids.add(merging._guard.shared().pid)
                os.kill(merging._guard.shared().pid, number)
                await asyncio.sleep(0.2)
            assert {child.pid for child in merging._guard._children} == pids
            return built.merged.rows

    assert asyncio.run(build()) == 400


def test_it_knows_no_credentials_and_has_its_engines_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("QUANTLAB_RAW_URL", "s3://somebody:secret@raw")
    (tmp_path / "scratch").mkdir()

    async def look() -> dict[str, str]:
        child = Child(Limits(256 << 20, scratch_base=tmp_path / "scratch"))
        with pytest.raises(AuditFailed):
            await child.call(Digest(Path(__file__), "ts_event"), size_bytes=1)
        found: dict[str, str] = psutil.Process(child.pid).environ()
        await child.close()
        return found

    found = asyncio.run(look())
    assert "secret" not in str(found)
    # Less would make Polars look for what it could spill all the time; more than what it is ended at is no bound.
    assert found["POLARS_OOC_MEMORY_BUDGET_MB"] == str(1024 + 2 * 256)
    assert found["POLARS_OOC_SPILL_DIR"].startswith(str(tmp_path / "scratch"))


def test_who_asks_one_that_has_ended_hears_how(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()

    async def ask() -> None:
        child = Child(Limits(scratch_base=tmp_path / "scratch"))
        await child.close()
        assert child.has_ended
        with pytest.raises(ChildEnded, match="SIGKILL") as caught:
            await child.call(Digest(Path(__file__), "ts_event"), size_bytes=1)
        assert not caught.value.own_fault

    asyncio.run(ask())


def test_an_answer_that_cannot_be_read_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(
        decoder, "PROGRAM", "import os, sys, time; os.write(int(sys.argv[2]), bytes(7) + b'\\x03abc'); time.sleep(60)"
    )

    async def ask() -> None:
        child = Child(Limits(scratch_base=tmp_path / "scratch"))
        with pytest.raises(ChildEnded, match="answered what cannot be read"):
            await child.call(Digest(Path(__file__), "ts_event"), size_bytes=1)
        await child.close()

    asyncio.run(ask())


def test_a_fault_of_the_machine_arrives_as_one() -> None:
    """In the child it is an error of Python or of an engine, and would pass for a bug or for a bad part."""
    said: list[Any] = []

    class Jobs:
        def run(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    replies = SimpleNamespace(send=said.append)
    child._answer(cast("Any", replies), cast("Any", Jobs()), 7, cast("Any", None), [])
    assert isinstance(said[-1], Failed)
    assert isinstance(said[-1].error, MachineFault)
    assert "QUANTLAB_SCRATCH_DIR" in str(said[-1].error)
