"""A file is sent while it is built, and becomes visible when it was audited: whole, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import os
from asyncio import run
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.errors import ScratchUnusable, StoreUnavailable
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.transfers import Growing
from quantlab_dagster.lake.store.uploading import uploading
from quantlab_dagster_tests.lake.store.helpers import KEY, MIB, ON_SEAWEEDFS, await_nothing_staged, proxied
from quantlab_dagster_tests.lake.store.test_transfers import sha256

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig

BEFORE = b"the day before"
CONTENT = os.urandom(23 * MIB)
SMALL = os.urandom(3 * MIB)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MULTIPART_BYTES", 6 * MIB)
    monkeypatch.setattr(limits, "PART_BYTES", 5 * MIB)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def half_puts(rig: Rig) -> list[str]:
    return [name for _, _, names in os.walk(rig.directory) for name in names if "#" in name]


async def append(file: Path, content: bytes) -> None:
    with file.open("ab") as written:
        written.write(content)
    await asyncio.sleep(0.2)  # it is looked at every 50 ms


@pytest.mark.parametrize("content", [CONTENT, SMALL, b"x"], ids=["in parts", "small", "tiny"])
def test_it_becomes_visible_when_it_is_released(rig: Rig, file: Path, content: bytes) -> None:
    store = rig.new_store()

    async def build() -> str:
        await store.put(KEY, BEFORE)
        async with uploading(store, KEY, file, early=True) as upload:
            for at in range(0, len(content), 4 * MIB):
                await append(file, content[at : at + 4 * MIB])
                assert (await store.get(KEY))[0] == BEFORE
            return await upload.finish(sha256(content))

    etag = run(build())
    got, info = run(store.get(KEY))
    assert (got, info.etag) == (content, etag)
    assert half_puts(rig) == []


@ON_SEAWEEDFS
def test_most_of_it_has_been_sent_by_then_in_no_more_requests(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, _, store):

        async def build(*, early: bool) -> int:
            file.unlink(missing_ok=True)
            async with uploading(store, KEY, file, early=early) as upload:
                await append(file, CONTENT)
                for _ in range(100):
                    if not early or proxy.count("PUT", "partNumber") >= 3:
                        break
                    await asyncio.sleep(0.1)
                sent = proxy.count("PUT", "partNumber")
                await upload.finish(sha256(CONTENT))
            return sent

        assert run(build(early=True)) == 3, "of five: a piece is held back, and one is read ahead"
        requests = store.requests.by_kind()
        assert run(build(early=False)) == 5, "nothing more of the second one"
        assert store.requests.by_kind() == {kind: 2 * number for kind, number in requests.items()}


@pytest.mark.parametrize("size_bytes", [len(CONTENT), len(SMALL), 0], ids=["in parts", "small", "none"])
def test_what_is_not_finished_leaves_the_object_as_it_was(rig: Rig, file: Path, size_bytes: int) -> None:
    store = rig.new_store()

    async def build() -> None:
        await store.put(KEY, BEFORE)
        async with uploading(store, KEY, file, early=True):
            await append(file, CONTENT[:size_bytes])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(build())
    assert run(store.get(KEY))[0] == BEFORE
    await_nothing_staged(store)
    assert half_puts(rig) == []


def test_a_cancelled_build_leaves_the_object_as_it_was(rig: Rig, file: Path) -> None:
    store = rig.new_store()

    async def build() -> None:
        async with uploading(store, KEY, file, early=True):
            await append(file, CONTENT)
            await asyncio.sleep(60)

    async def cancelled() -> None:
        await store.put(KEY, BEFORE)
        task = asyncio.create_task(build())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())
    assert run(store.get(KEY))[0] == BEFORE
    await_nothing_staged(store)
    assert half_puts(rig) == []


def test_bytes_that_changed_after_they_were_sent_are_sent_again(
    rig: Rig, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the process that builds dies, and another one builds the file anew, into the same place."""
    store = rig.new_store()

    async def build() -> None:
        async with uploading(store, KEY, file, early=True) as upload:
            await append(file, CONTENT[::-1])
            await asyncio.sleep(0.5)
            file.write_bytes(b"")
            await append(file, CONTENT)
            await upload.finish(sha256(CONTENT))

    run(build())
    assert run(store.get(KEY))[0] == CONTENT
    assert "is sent again, now that it is whole" in caplog.text
    await_nothing_staged(store)


def test_bytes_that_are_not_what_was_audited_never_become_visible(rig: Rig, file: Path) -> None:
    store = rig.new_store()

    async def build() -> None:
        await store.put(KEY, BEFORE)
        async with uploading(store, KEY, file, early=True) as upload:
            await append(file, CONTENT[:-1] + b"?")
            await upload.finish(sha256(CONTENT[:-1] + b"!"))

    with pytest.raises(ScratchUnusable, match="damaged"):
        run(build())
    assert run(store.get(KEY))[0] == BEFORE
    await_nothing_staged(store)
    assert half_puts(rig) == []


def test_a_failure_meanwhile_is_not_the_last_word(rig: Rig, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, really = rig.new_store(), Growing.reached
    failed: list[int] = []

    async def reached(self: Growing, size_bytes: int) -> None:
        await really(self, size_bytes)
        if not failed and self.sha256 is None:
            failed.append(size_bytes)
            raise StoreUnavailable(KEY, "an outage", "wait")

    monkeypatch.setattr(Growing, "reached", reached)

    async def build() -> None:
        async with uploading(store, KEY, file, early=True) as upload:
            await append(file, CONTENT)
            await upload.finish(sha256(CONTENT))

    run(build())
    assert failed
    assert run(store.get(KEY))[0] == CONTENT


@pytest.mark.parametrize("look", [1, 2, 3])
def test_a_file_that_is_written_anew_does_not_end_there(
    rig: Rig, file: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """The process that builds died between two looks, and the next one has opened the file: its end is not the end."""
    store, really, looks = rig.new_store(), Growing.reached, itertools.count(1)

    async def reached(self: Growing, size_bytes: int) -> None:
        await really(self, size_bytes)
        if next(looks) == look:
            os.truncate(file, size_bytes // 2)

    monkeypatch.setattr(Growing, "reached", reached)

    async def build() -> None:
        await store.put(KEY, BEFORE)
        async with uploading(store, KEY, file, early=True) as upload:
            await append(file, CONTENT)
            for _ in range(20):
                assert (await store.get(KEY))[0] == BEFORE
                await asyncio.sleep(0.05)
            monkeypatch.setattr(Growing, "reached", really)
            file.write_bytes(CONTENT)
            await upload.finish(sha256(CONTENT))

    run(build())
    assert run(store.get(KEY))[0] == CONTENT
    await_nothing_staged(store)


def test_nothing_is_begun_early_unless_asked(rig: Rig, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = rig.new_store()

    async def build(*, early: bool) -> list[Any]:
        begun: list[Any] = []
        put: Any = store.put

        async def noted(key: str, content: Any, **options: Any) -> str:
            begun.append(content)
            etag: str = await put(key, content, **options)
            return etag

        with monkeypatch.context() as patch:
            patch.setattr(store, "put", noted)
            file.write_bytes(SMALL)
            async with uploading(store, KEY, file, early=early) as upload:
                await asyncio.sleep(0)
                seen = list(begun)
                await upload.finish(sha256(SMALL))
        return seen

    assert run(build(early=False)) == []
    assert len(run(build(early=True))) == 1
