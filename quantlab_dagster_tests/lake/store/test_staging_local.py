"""Staging on a local directory: copies, renames, and what survives."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from asyncio import run
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import StoreError
from quantlab_dagster.lake.store import local
from quantlab_dagster.lake.store.objects import Staged
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.lake.store.helpers import CONTENT, KEY, assert_helpful, await_nothing_staged

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.transfers import Sending


def test_a_copy_that_is_cancelled_or_fails_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output").write_bytes(CONTENT)
    store = open_store(str(tmp_path / "lake"), create=True)
    copy, begun, let_go = local._copy, threading.Event(), threading.Event()

    def slow(source: Sending, target: Path) -> None:
        copy(source, target)
        begun.set()
        assert let_go.wait(30)

    monkeypatch.setattr(local, "_copy", slow)

    async def cancel() -> None:
        task = asyncio.create_task(store.stage(KEY, tmp_path / "output"))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel())
    assert len(run(store.staged_below(""))) == 1
    let_go.set()
    await_nothing_staged(store)

    def full(source: Sending, target: Path) -> None:
        copy(source, target)
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(local, "_copy", full)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        run(store.stage(KEY, tmp_path / "output"))
    assert_helpful(caught.value, store, KEY)
    await_nothing_staged(store)
    assert not (tmp_path / "lake" / ".quantlab-staged").exists()


@pytest.mark.parametrize("upload_id", ["../victim", "../../../victim", "/etc/passwd", "", ".", "x", "A" * 32])
def test_an_upload_id_cannot_lead_elsewhere(tmp_path: Path, upload_id: str) -> None:
    store = open_store(str(tmp_path))
    paths = [tmp_path / "victim", tmp_path / ".quantlab-staged" / "victim", tmp_path / ".quantlab-staged/x.staged/x"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    staged = Staged("x", upload_id, (), 4)
    assert run(store.publish(staged)) is None
    assert run(store.discard(staged)) is False
    assert [path.read_bytes() for path in paths] == [b"mine"] * 3
    assert not (tmp_path / "x").exists()


WITHOUT_BOTO = """
import asyncio, pathlib, sys
from quantlab_dagster.lake.store.opening import open_store
async def main():
    store = open_store(sys.argv[1])
    staged = await store.stage("a/x", pathlib.Path(sys.argv[2]))
    info = await store.publish(staged)
    assert await store.delete_unchanged("a/x", info.etag)
asyncio.run(main())
print([name for name in sys.modules if name.startswith("boto")])
"""


def test_local_lakes_need_no_boto(tmp_path: Path, file: Path) -> None:
    (tmp_path / "lake").mkdir()
    arguments = [sys.executable, "-c", WITHOUT_BOTO, str(tmp_path / "lake"), str(file)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_staging_area_looks_like_no_data_and_does_not_stay(tmp_path: Path, file: Path) -> None:
    lake = tmp_path / "lake"
    store = open_store(str(lake), create=True)
    for end in (store.publish, store.discard):
        staged = run(store.stage("a/b c/é.parquet", file))
        assert list(lake.rglob("*.parquet")) == []
        assert [path for path in lake.glob("[!.]*/**/*") if path.is_file()] == []
        run(end(staged))
        assert not (lake / ".quantlab-staged").exists()
        run(store.delete("a/b c/é.parquet"))


def test_a_directory_may_be_tidied_away_just_before_it_is_used(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    store = open_store(str(lake), create=True)
    copy, calls = local._copy, list[Path]()

    def tidied(source: Sending, target: Path) -> None:
        calls.append(target)
        if len(calls) < 3:
            shutil.rmtree(lake / ".quantlab-staged")
        copy(source, target)

    monkeypatch.setattr(local, "_copy", tidied)
    assert run(store.publish(run(store.stage(KEY, file)))) is not None
    assert len(calls) == 3


def test_what_is_published_survives_a_loss_of_power(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    store = open_store(str(lake), create=True)
    fsync, synced = os.fsync, list[Path]()

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    staged = run(store.stage("a/b/x", file))
    assert synced == [lake / ".quantlab-staged/a/b/x.staged" / staged.upload_id]
    synced.clear()
    run(store.publish(staged))
    assert synced == [lake / "a/b", lake / "a", lake]  # all of these may be new


def test_what_is_published_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.touch(mode=0o600)  # as temporary files are made
    path.write_bytes(CONTENT)
    store = open_store(str(tmp_path / "lake"), create=True)
    run(store.put("put", b"x"))
    run(store.publish(run(store.stage("published", path))))
    assert (tmp_path / "lake/published").stat().st_mode == (tmp_path / "lake/put").stat().st_mode


def test_a_directory_that_has_gone_is_not_made_anew(tmp_path: Path, file: Path) -> None:
    root = tmp_path / "lake"
    root.mkdir()
    store = open_store(str(root))
    staged = run(store.stage("x", file))
    shutil.rmtree(root)
    requests = (store.stage("y", file), store.publish(staged), store.discard(staged), store.staged_below(""))
    for request in requests:
        with pytest.raises(StoreError):
            run(request)
    assert not root.exists()
