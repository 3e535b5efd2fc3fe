"""Staging, publishing and conditional deletes, on a local directory, on SeaweedFS and on Ceph; and what breaks them."""

from __future__ import annotations

import asyncio
import io
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
import traceback
from asyncio import run
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from quantlab_dagster.errors import AccessDenied, ObjectNotFound, StoreError, StoreUnavailable
from quantlab_dagster.lake import staging
from quantlab_dagster.lake import store as module
from quantlab_dagster.lake.store import Directory, ObjectInfo, S3Options, Staged, Store, open_store
from quantlab_dagster_tests.conftest import s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.lake.test_store import (
    MIB,
    NO_ETAG,
    ON_SEAWEEDFS,
    ON_SERVERS,
    assert_helpful,
    hostile_values,
    keys_of,
    proxied,
    put_all,
)
from quantlab_dagster_tests.servers import free_ports

if TYPE_CHECKING:
    from quantlab_dagster_tests.conftest import Rig
    from quantlab_dagster_tests.faults import Rule

T = TypeVar("T")
Request = Callable[[], Coroutine[Any, Any, Any]]

ON_CEPH = pytest.mark.parametrize("rig", [pytest.param("ceph", marks=pytest.mark.server)], indirect=True)

KEY = "event=a b/hour=2026010812/compacted_é.parquet"
CONTENT = b"sorted rows"


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.new_store()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MULTIPART_CHUNK", 5 * MIB)  # the least that S3 takes


def assert_absent(store: Store, key: str) -> None:
    assert run(store.head(key)) is None
    with pytest.raises(ObjectNotFound):
        run(store.get(key))
    assert run(store.list_objects("")) == []


def await_nothing_staged(store: Store) -> None:
    """What a failed upload leaves is removed after it has failed."""
    deadline = time.monotonic() + 10
    while left := run(store.staged_below("")):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


# ---- staging and publishing ------------------------------------------------------------------------------------------


def test_what_is_staged_is_invisible_until_it_is_published(store: Store, file: Path) -> None:
    staged = run(store.stage(KEY, file))
    assert (staged.key, staged.size_bytes) == (KEY, len(CONTENT))
    assert len(staged.etags) == (0 if store.is_local else 1)
    assert_absent(store, KEY)
    assert run(store.list_directory("")) == Directory((), ())
    file.unlink()  # it is of no use any more

    info = run(store.publish(staged))
    assert info is not None
    assert (info.key, info.size_bytes) == (KEY, len(CONTENT))
    assert run(store.get(KEY)) == (CONTENT, info)
    assert run(store.head(KEY)) == info
    assert run(store.list_objects("")) == [info]
    assert run(store.list_directory(KEY.rpartition("/")[0] + "/")).objects == (info,)
    assert run(store.staged_below("")) == []


def test_an_object_is_published_only_once(store: Store, file: Path) -> None:
    staged = run(store.stage(KEY, file))
    info = run(store.publish(staged))
    assert run(store.publish(staged)) is None
    assert run(store.head(KEY)) == info
    assert run(store.discard(staged)) is False
    assert run(store.get(KEY)) == (CONTENT, info)


def test_what_was_deleted_after_it_was_published_never_comes_back(store: Store, file: Path) -> None:
    staged = run(store.stage(KEY, file))
    run(store.publish(staged))
    run(store.delete(KEY))
    for _ in range(2):
        assert run(store.publish(staged)) is None
        assert run(store.discard(staged)) is False
        assert run(store.head(KEY)) is None
        assert run(store.list_objects("")) == []
    run(store.put(KEY, b"another"))
    assert run(store.publish(staged)) is None
    assert run(store.discard(staged)) is False
    assert run(store.get(KEY))[0] == b"another"


def test_what_is_discarded_never_appears(store: Store, file: Path) -> None:
    staged = run(store.stage(KEY, file))
    assert run(store.discard(staged)) is True
    assert run(store.staged_below("")) == []
    assert run(store.discard(staged)) is False
    assert run(store.publish(staged)) is None
    assert_absent(store, KEY)


def test_publishing_replaces_what_is_there_and_discarding_leaves_it(store: Store, file: Path) -> None:
    run(store.put(KEY, b"before"))
    first, second = run(store.stage(KEY, file)), run(store.stage(KEY, file))
    assert first.upload_id != second.upload_id
    assert run(store.get(KEY))[0] == b"before"
    assert run(store.discard(first)) is True
    assert run(store.get(KEY))[0] == b"before"
    info = run(store.publish(second))
    assert run(store.get(KEY)) == (CONTENT, info)
    assert run(store.publish(first)) is None
    assert run(store.get(KEY)) == (CONTENT, info)


def test_uploads_of_one_key_are_independent(store: Store, tmp_path: Path) -> None:
    uploads = []
    for number in range(3):
        path = tmp_path / str(number)
        path.write_bytes(b"%d" % number)
        uploads.append(run(store.stage(KEY, path)))
    for number in (1, 0):
        assert run(store.publish(uploads[number])) is not None
        assert run(store.get(KEY))[0] == b"%d" % number
    assert run(store.discard(uploads[2])) is True
    assert run(store.get(KEY))[0] == b"0"


@pytest.mark.slow
def test_a_big_file_is_staged_in_parts(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, content = rig.new_store(), os.urandom(100 * MIB + 1)
    path = tmp_path / "big"
    path.write_bytes(content)
    upload_part, lock = staging.S3Staging.upload_part, threading.Lock()
    at_once, most = 0, 0

    def counted(self: staging.S3Staging, key: str, upload_id: str, number: int, content: bytes) -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return upload_part(self, key, upload_id, number, content)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(staging.S3Staging, "upload_part", counted)
    staged = run(store.stage(KEY, path))
    assert len(staged.etags) == (0 if store.is_local else 7)
    info = run(store.publish(staged))
    assert run(store.get(KEY)) == (content, info)
    if not store.is_local:
        assert info is not None
        assert info.etag.endswith("-7")
        assert most == 4, "of 16 MiB each: memory is bounded"


def test_an_empty_or_missing_file_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(StoreError, match="is empty") as caught:
        run(store.stage(KEY, tmp_path / "empty"))
    assert_helpful(caught.value, store, KEY)
    with pytest.raises(StoreError, match="local file cannot be used"):
        run(store.stage(KEY, tmp_path / "missing"))
    assert run(store.staged_below("")) == []


# ---- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 8])
def test_of_publishers_at_once_one_at_least_hears_of_it(rig: Rig, file: Path, number: int) -> None:
    url = rig.new_url()
    stores = [rig.store(url) for _ in range(number)]

    async def at_once(staged: Staged) -> list[ObjectInfo | None]:
        return await asyncio.gather(*(store.publish(staged) for store in stores))

    for round_number in range(4):
        key = f"{round_number}/x"
        staged = run(stores[0].stage(key, file))
        found = run(at_once(staged))
        info = run(stores[0].head(key))
        assert info is not None
        assert set(found) <= {info, None}
        assert info in found
        assert run(stores[0].get(key)) == (CONTENT, info)
        run(stores[0].delete(key))
        assert run(at_once(staged)) == [None] * number
        assert run(stores[0].head(key)) is None


def collect_garbage(rig: Rig) -> None:
    """Have Ceph do at once what it does hours after something was deleted."""
    if rig.name == "ceph":
        assert rig.server is not None
        variables = Path(f"/proc/{rig.server.pids[-1]}/environ").read_text().split("\0")
        [conf] = [line.partition("=")[2] for line in variables if line.startswith("CEPH_CONF=")]
        command = ["radosgw-admin", "gc", "process", "--include-all"]
        subprocess.run(command, env={**os.environ, "CEPH_CONF": conf}, check=True, capture_output=True)


# Of the publisher, in seconds: about as long as either takes; and two that leave no doubt.
HEAD_STARTS = (-0.1, -0.010, -0.008, -0.006, -0.004, -0.002, 0.0, 0.002, 0.004, 0.1)


@pytest.mark.slow
def test_publishing_and_discarding_at_once_end_in_one_of_both(rig: Rig, tmp_path: Path) -> None:
    url = rig.new_url()
    publisher, discarder = rig.store(url), rig.store(url)
    path = tmp_path / "output"
    ends: Counter[tuple[bool, bool]] = Counter()
    there: dict[str, bytes] = {}

    async def at_once(staged: Staged, head_start: float) -> tuple[ObjectInfo | None, bool]:
        async def late(request: Coroutine[Any, Any, T], seconds: float) -> T:
            await asyncio.sleep(seconds)
            return await request

        publishing = late(publisher.publish(staged), max(0, -head_start))
        return await asyncio.gather(publishing, late(discarder.discard(staged), max(0, head_start)))

    async def rounds() -> None:
        for number in range(40):
            content = os.urandom(5 * MIB if number % 4 == 0 else 100)
            path.write_bytes(content)
            staged = await publisher.stage(f"{number}/x", path)
            info, discarded = await at_once(staged, HEAD_STARTS[number % len(HEAD_STARTS)])
            ends[info is not None, discarded] += 1
            assert await publisher.head(staged.key) == info
            if info is not None:
                there[staged.key] = content
            assert await publisher.publish(staged) is None

    run(rounds())
    assert set(ends) <= {(True, False), (False, True)}, ends
    assert len(ends) == 2
    collect_garbage(rig)  # it took the published bytes too, when discarding was merely aborting
    for key, content in there.items():
        assert run(publisher.get(key))[0] == content, key
    assert run(publisher.staged_below("")) == []


def test_of_those_who_discard_at_once_one_at_least_did_it(rig: Rig, file: Path) -> None:
    url = rig.new_url()
    stores = [rig.store(url) for _ in range(8)]

    async def at_once(staged: Staged) -> list[bool]:
        return await asyncio.gather(*(store.discard(staged) for store in stores))

    staged = run(stores[0].stage(KEY, file))
    assert any(run(at_once(staged)))
    assert run(at_once(staged)) == [False] * 8
    assert_absent(stores[0], KEY)


def test_many_uploads_of_one_directory_do_not_disturb_each_other(store: Store, file: Path) -> None:
    async def use(number: int) -> None:
        for _ in range(5):
            staged = await store.stage(f"a/b/{number}", file)
            if number % 2:
                assert await store.discard(staged) is True
            else:
                assert await store.publish(staged) is not None

    async def use_all() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(use(number))

    run(use_all())
    assert keys_of(run(store.list_objects("a/b/"))) == [f"a/b/{number}" for number in (0, 2, 4, 6)]


# ---- after crashes ---------------------------------------------------------------------------------------------------


def test_what_was_left_is_found_below_its_prefix_only(rig: Rig, file: Path) -> None:
    url = rig.new_url()
    store, sub = rig.store(url), rig.store(f"{url}/hour=1") if rig.server else None
    keys = ["hour=1/a", "hour=1/b c.parquet", "hour=1/é/deep", "hour=10/a", "hour=1-/a", "top"]
    uploads = {key: run(store.stage(key, file)) for key in keys}
    again = run(store.stage("hour=1/a", file))

    def found(prefix: str, store: Store = store) -> list[tuple[str, str]]:
        return [(staged.key, staged.upload_id) for staged in run(store.staged_below(prefix))]

    ids = sorted([uploads["hour=1/a"].upload_id, again.upload_id])
    expected = [("hour=1/a", ids[0]), ("hour=1/a", ids[1])]
    expected += [(key, uploads[key].upload_id) for key in ("hour=1/b c.parquet", "hour=1/é/deep")]
    assert found("hour=1/") == expected
    assert len(found("")) == len(keys) + 1
    assert found("hour=1/é/") == [("hour=1/é/deep", uploads["hour=1/é/deep"].upload_id)]
    for prefix in ("nothing/", "hour=/", "hour=1/a/"):
        assert found(prefix) == []
    if sub:
        assert found("", sub) == [(key.removeprefix("hour=1/"), upload) for key, upload in expected]

    for staged in run(store.staged_below("hour=1/")):
        assert run(store.discard(staged)) is True
    assert found("hour=1/") == []
    assert [key for key, _ in found("")] == ["hour=1-/a", "hour=10/a", "top"]
    assert run(store.publish(again)) is None
    assert run(store.publish(uploads["hour=10/a"])) is not None
    assert keys_of(run(store.list_objects(""))) == ["hour=10/a"]


@ON_SERVERS
def test_what_was_left_is_found_on_all_pages(rig: Rig) -> None:
    store = rig.new_store()
    area = store._staging
    assert isinstance(area, staging.S3Staging)
    keys = sorted(f"m/{number}" for number in range(1003))
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(area.begin, keys))
    assert [(staged.key, staged.upload_id) for staged in run(store.staged_below("m/"))] == list(
        zip(keys, ids, strict=True)
    )
    assert store.requests.by_kind() == {"LIST": 2}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(area.abort, keys, ids))
    assert run(store.staged_below("m/")) == []


@ON_CEPH
def test_what_somebody_stopped_discarding_half_way_is_discarded(rig: Rig, file: Path) -> None:
    store = rig.new_store()
    staged = run(store.stage(KEY, file))
    area = store._staging
    assert isinstance(area, staging.S3Staging)
    area.upload_part(KEY, staged.upload_id, 1, b"discarded")
    assert run(store.publish(staged)) is None
    assert run(store.staged_below("")) == []
    assert_absent(store, KEY)


@pytest.mark.usefixtures("small_parts")
@ON_SERVERS
def test_an_upload_that_fails_is_removed(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(bytes(11 * MIB))
    with proxied(rig, retries=1) as (proxy, direct, store):
        rule = proxy.fail(500, "PUT", r"partNumber=2", times=None)
        with pytest.raises(StoreUnavailable) as caught:
            run(store.stage(KEY, path))
        assert rule.fired == 2
        assert_helpful(caught.value, store, KEY)
        await_nothing_staged(direct)
        assert_absent(direct, KEY)


@pytest.mark.usefixtures("small_parts")
@ON_SERVERS
def test_an_upload_that_is_cancelled_ends_at_once_and_is_removed(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(bytes(11 * MIB))
    with proxied(rig) as (proxy, direct, store):
        held = proxy.stall("PUT", r"partNumber=2")

        async def cancel() -> float:
            task = asyncio.create_task(store.stage(KEY, path))
            await asyncio.to_thread(held.wait)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - began

        assert run(cancel()) < 5
        assert len(run(direct.staged_below(""))) == 1
        held.release()
        await_nothing_staged(direct)


def test_a_copy_that_is_cancelled_or_fails_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "output").write_bytes(CONTENT)
    store = open_store(str(tmp_path / "lake"), create=True)
    copyfile, begun, let_go = shutil.copyfile, threading.Event(), threading.Event()

    def slow(source: Path, target: Path) -> None:
        copyfile(source, target)
        begun.set()
        assert let_go.wait(30)

    monkeypatch.setattr(shutil, "copyfile", slow)

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

    def full(source: Path, target: Path) -> None:
        copyfile(source, target)
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        run(store.stage(KEY, tmp_path / "output"))
    assert_helpful(caught.value, store, KEY)
    await_nothing_staged(store)
    assert not (tmp_path / "lake" / ".quantlab-staged").exists()


# ---- what comes late -------------------------------------------------------------------------------------------------


@ON_SERVERS
def test_a_publication_that_arrives_when_all_is_over_changes_nothing(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        staged = run(direct.stage(KEY, file))
        held = proxy.stall("POST", r"uploadId=")
        late = pool.submit(run, store.publish(staged))
        held.wait()
        assert run(direct.publish(staged)) is not None
        run(direct.delete(KEY))
        held.release()
        assert late.result(30) is None
        assert_absent(direct, KEY)


@ON_SERVERS
def test_a_publication_that_arrives_after_the_discarding_changes_nothing(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        staged = run(direct.stage(KEY, file))
        held = proxy.stall("POST", r"uploadId=")
        late = pool.submit(run, store.publish(staged))
        held.wait()
        assert run(direct.discard(staged)) is True
        held.release()
        assert late.result(30) is None
        assert_absent(direct, KEY)


@ON_SERVERS
def test_a_part_that_arrives_when_all_is_over_changes_nothing(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        held = proxy.stall("PUT", r"partNumber=1")
        late = pool.submit(run, store.stage(KEY, file))
        held.wait()
        [staged] = run(direct.staged_below(""))
        area = direct._staging
        assert isinstance(area, staging.S3Staging)
        staged = replace(staged, etags=(area.upload_part(KEY, staged.upload_id, 1, CONTENT),))
        assert run(direct.publish(staged)) is not None
        run(direct.delete(KEY))
        held.release()
        with pytest.raises(ObjectNotFound, match="published or discarded meanwhile") as caught:
            late.result(30)
        assert_helpful(caught.value, store, KEY)
        assert run(direct.publish(staged)) is None
        assert_absent(direct, KEY)


@ON_SERVERS
def test_discarding_that_arrives_late_leaves_the_object_alone(rig: Rig, file: Path) -> None:
    for step in (r"partNumber=1", r"uploadId="):
        with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
            staged = run(direct.stage(KEY, file))
            held = proxy.stall("PUT", step) if "part" in step else proxy.stall("DELETE", step)
            late = pool.submit(run, store.discard(staged))
            held.wait()
            info = run(direct.publish(staged))
            assert (info is None) == ("part" not in step and rig.name != "seaweedfs")  # spoilt already
            held.release()
            assert late.result(30) is (info is None)
            collect_garbage(rig)
            if info is not None:
                assert run(direct.get(KEY)) == (CONTENT, info)
            else:
                assert_absent(direct, KEY)


# ---- deleting on condition -------------------------------------------------------------------------------------------


def test_only_what_is_unchanged_is_deleted(store: Store) -> None:
    key = "a b/é=x.parquet"
    old = run(store.put(key, b"old"))
    assert run(store.delete_unchanged(key, NO_ETAG)) is False
    new = run(store.put(key, b"new"))
    assert run(store.delete_unchanged(key, old)) is False
    assert run(store.get(key)) == (b"new", ObjectInfo(key, 3, new))
    assert run(store.delete_unchanged(key, new)) is True
    assert run(store.head(key)) is None
    for etag in (new, NO_ETAG):
        assert run(store.delete_unchanged(key, etag)) is True
    assert run(store.list_objects("")) == [], "the probe was left behind"


def test_what_was_published_is_deleted_by_its_etag(store: Store, file: Path) -> None:
    info = run(store.publish(run(store.stage(KEY, file))))
    assert info is not None
    assert run(store.delete_unchanged(KEY, NO_ETAG)) is False
    assert run(store.delete_unchanged(KEY, info.etag)) is True
    assert_absent(store, KEY)


def test_of_eight_who_delete_all_find_it_gone(rig: Rig) -> None:
    url = rig.new_url()
    stores = [rig.store(url) for _ in range(8)]

    async def at_once(etag: str) -> list[bool]:
        return await asyncio.gather(*(store.delete_unchanged("m/x", etag) for store in stores))

    for _ in range(3):
        etag = run(stores[0].put("m/x", b"x"))
        assert run(at_once(NO_ETAG)) == [False] * 8
        assert run(at_once(etag)) == [True] * 8
        assert run(stores[0].head("m/x")) is None


def test_without_an_etag_to_compare_nothing_is_deleted(store: Store) -> None:
    run(store.put("x", b"x"))
    with pytest.raises(StoreError, match="no ETag to compare") as caught:  # SeaweedFS takes an empty If-Match for none
        run(store.delete_unchanged("x", ""))
    assert_helpful(caught.value, store, "x")
    assert run(store.head("x")) is not None


@ON_SEAWEEDFS
def test_what_is_replaced_while_the_request_is_under_way_stays(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        etag = run(direct.put("m/x", b"before"))
        held = proxy.stall("DELETE", "/m/x$")
        deletion = pool.submit(run, store.delete_unchanged("m/x", etag))
        held.wait()
        run(direct.put("m/x", b"after"))
        held.release()
        assert deletion.result(30) is False
        assert run(direct.get("m/x"))[0] == b"after"


def test_local_writers_who_compare_wait_for_a_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what they write is not deleted."""
    store = open_store(str(tmp_path))
    delete, order = Store.delete, []

    async def slow(self: Store, key: str) -> None:
        await asyncio.sleep(0.3)
        await delete(self, key)
        order.append("deleted")

    monkeypatch.setattr(Store, "delete", slow)

    async def race() -> bool:
        etag = await store.put("x", b"before")
        deletion = asyncio.create_task(store.delete_unchanged("x", etag))
        await asyncio.sleep(0.1)
        while True:
            current = await store.head("x")
            try:
                await store.compare_and_swap("x", b"after", current.etag if current else None)
                break
            except StoreError:
                continue
        order.append("written")
        return await deletion

    assert run(race()) is True
    assert order == ["deleted", "written"]
    assert run(store.get("x"))[0] == b"after"


@ON_SERVERS
def test_whether_a_server_deletes_on_condition_is_found_out_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with proxied(rig) as (proxy, direct, store):
        etags = {key: run(direct.put(key, b"x")) for key in map(str, range(40))}

        async def delete(keys: list[str]) -> list[bool]:
            return await asyncio.gather(*(store.delete_unchanged(key, etags[key]) for key in keys))

        for keys in (list(etags)[:30], list(etags)[30:]):
            assert run(delete(keys)) == [True] * len(keys)
        assert proxy.count("PUT", r"/_compaction/\.probe-") == 1
        assert run(direct.list_objects("")) == []
    warnings = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    if rig.name == "seaweedfs":
        assert warnings == []
        assert proxy.count("DELETE") == 42
        assert proxy.count("HEAD") == 0
    else:
        [warning] = warnings
        assert warning.startswith(f"{store.url}: this server ignores the condition")
        assert proxy.count("HEAD") == 40


@ON_SEAWEEDFS
def test_a_server_that_refuses_conditional_deletes_is_looked_at_instead(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with proxied(rig) as (proxy, direct, store):
        proxy.fail(501, "DELETE", r"\.probe-", times=None)
        etag = run(direct.put("m/x", b"x"))
        assert run(store.delete_unchanged("m/x", NO_ETAG)) is False
        assert run(store.delete_unchanged("m/x", etag)) is True
        assert proxy.count("HEAD", "/m/x$") == 2
        assert run(direct.list_objects("")) == []
    assert "ignores the condition" in caplog.text


@ON_SEAWEEDFS
def test_a_server_that_wants_etags_without_quotes_gets_them(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with proxied(rig) as (proxy, direct, store):
        proxy.fail(412, "DELETE", r"\.probe-", nth=2)
        etag = run(direct.put("m/x", b"x"))
        assert run(store.delete_unchanged("m/x", etag)) is True
        assert store._if_match == "{}"
        assert run(direct.list_objects("")) == []
    assert caplog.text == ""


@ON_SEAWEEDFS
def test_a_server_that_refuses_without_reason_is_not_obeyed(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        etag = run(direct.put("m/x", b"x"))
        proxy.fail(412, "DELETE", "/m/x$", times=None)
        with pytest.raises(StoreError, match="refuses a conditional delete although") as caught:
            run(store.delete_unchanged("m/x", etag))
        assert_helpful(caught.value, store, "m/x")
        assert run(direct.head("m/x")) is not None


@ON_SERVERS
def test_a_probe_that_fails_is_tried_again(rig: Rig) -> None:
    with proxied(rig, retries=1) as (proxy, direct, store):
        etag = run(direct.put("m/x", b"x"))
        rule = proxy.fail(503, "DELETE", r"\.probe-", times=2)
        with pytest.raises(StoreUnavailable):
            run(store.delete_unchanged("m/x", etag))
        assert rule.fired == 2
        assert run(store.delete_unchanged("m/x", etag)) is True


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_hostile_keys_mean_themselves(rig: Rig, store: Store, tmp_path: Path) -> None:
    keys = [f"event={value}/hour=2026010812/x{value}.parquet" for value in hostile_values(rig)]

    async def use(key: str) -> None:
        path = tmp_path / secrets.token_hex(8)
        path.write_bytes(key.encode())
        staged = await store.stage(key, path)
        [found] = await store.staged_below(key.rpartition("/")[0] + "/")
        assert (found.key, found.upload_id) == (key, staged.upload_id)
        info = await store.publish(staged)
        assert await store.get(key) == (key.encode(), info)
        assert info is not None
        assert await store.delete_unchanged(key, NO_ETAG) is False
        assert await store.delete_unchanged(key, info.etag) is True
        assert await store.discard(await store.stage(key, path)) is True

    async def use_all() -> None:
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(use(key))

    run(use_all())
    assert run(store.list_objects("")) == []


@ON_SERVERS
def test_a_prefix_of_a_bucket_is_taken_literally(rig: Rig, file: Path) -> None:
    url = rig.new_url()
    root = rig.store(url)
    for prefix in ("a b", "a%20b", "é", "a+b", "a%2Fb", "a#b", "a?b", "x=y/z=w"):
        store = rig.store(f"{url}/{prefix}/")
        staged = run(store.stage("k/x", file))
        assert [(found.key, found.upload_id) for found in run(root.staged_below(f"{prefix}/"))] == [
            (f"{prefix}/k/x", staged.upload_id)
        ]
        info = run(store.publish(staged))
        assert info is not None
        assert keys_of(run(root.list_objects(f"{prefix}/"))) == [f"{prefix}/k/x"]
        assert run(store.delete_unchanged("k/x", info.etag)) is True
        assert run(root.list_objects(f"{prefix}/")) == []


def requests_of(store: Store, key: str, file: Path) -> dict[str, Request]:
    staged = Staged(key, "0" * 32, (NO_ETAG,), 1)
    return {
        "stage": lambda: store.stage(key, file),
        "publish": lambda: store.publish(staged),
        "discard": lambda: store.discard(staged),
        "staged_below": lambda: store.staged_below(f"{key}/"),
        "delete_unchanged": lambda: store.delete_unchanged(key, NO_ETAG),
    }


def named(name: str, key: str) -> str:
    """The key that an error of this request names."""
    return f"{key}/" if name == "staged_below" else key


@pytest.mark.parametrize("key", ["..", "a/../b", "a/./b", ".", "a//b", "/a", "a\tb", "a\x7fb", "a\x00b", "../../a"])
def test_keys_that_cannot_be_addressed_are_refused_by_every_method(rig: Rig, key: str, file: Path) -> None:
    store = rig.new_store()
    for request in requests_of(store, key, file).values():
        with pytest.raises(StoreError, match="key that cannot be addressed") as caught:
            run(request())
        assert not isinstance(caught.value, StoreUnavailable | ObjectNotFound), "as if a retry could help"
        assert_helpful(caught.value, store, key)


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


# ---- errors ----------------------------------------------------------------------------------------------------------


@ON_SERVERS
def test_what_does_not_exist_is_no_error(rig: Rig) -> None:
    store = rig.new_store()
    staged = Staged("no/such", "nonsense", (NO_ETAG,), 1)
    assert run(store.publish(staged)) is None
    assert run(store.discard(staged)) is False


@pytest.mark.parametrize("who", ["wrong secret", "unknown key", "nobody"])
@ON_SERVERS
def test_access_denied(rig: Rig, who: str, file: Path) -> None:
    assert rig.server is not None
    url = rig.new_url()
    put_all(rig.store(url), KEY)
    secret = secrets.token_hex(20)
    sessions = {
        "wrong secret": boto3.Session(rig.server.access_key, secret, region_name="us-east-1"),
        "unknown key": boto3.Session(secrets.token_hex(10).upper(), secret, region_name="us-east-1"),
        "nobody": None,
    }
    store = open_store(url, replace(s3_options(rig.server), session=sessions[who]))
    began = time.monotonic()
    for name, request in requests_of(store, KEY, file).items():
        with pytest.raises(AccessDenied) as caught:
            run(request())
        assert "credentials" in caught.value.remedy
        assert secret not in "".join(traceback.format_exception(caught.value))
        if name != "delete_unchanged":  # where the probe is denied
            assert_helpful(caught.value, store, named(name, KEY))
    assert time.monotonic() - began < 5, "denied requests are retried"


@ON_SERVERS
def test_a_missing_bucket_is_not_taken_for_a_missing_upload(rig: Rig, file: Path) -> None:
    assert rig.server is not None
    store = open_store("s3://no-such-bucket/x", s3_options(rig.server))
    for name, request in requests_of(store, KEY, file).items():
        with pytest.raises(StoreError, match="the bucket does not exist") as caught:
            run(request())
        assert not isinstance(caught.value, ObjectNotFound | StoreUnavailable), name


@ON_SEAWEEDFS
def test_without_a_session_requests_are_sent_unsigned(rig: Rig, file: Path) -> None:
    assert rig.server is not None
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(rig.new_url(), S3Options(None, "us-east-1", proxy.url))
        with pytest.raises(AccessDenied):
            run(store.stage(KEY, file))
        assert proxy.count("POST") == 1


def test_nothing_listening_at_the_endpoint(file: Path) -> None:
    [port] = free_ports(1)
    session = boto3.Session("key", "secret", region_name="us-east-1")
    store = open_store("s3://bucket/x", S3Options(session, "us-east-1", f"http://127.0.0.1:{port}", retries=1))
    for name, request in requests_of(store, KEY, file).items():
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            run(request())
        assert time.monotonic() - began < 3, name
        assert f"127.0.0.1:{port}" in str(caught.value)
        if name != "delete_unchanged":
            assert_helpful(caught.value, store, named(name, KEY))


@ON_SEAWEEDFS
def test_waiting_can_be_cancelled(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store):
        staged = run(direct.stage(KEY, file))
        etag = run(direct.put("x", b"x"))
        proxy.stall(times=None)
        deletion = store.delete_unchanged("x", etag)
        for request in (store.stage("y", file), store.publish(staged), store.discard(staged), deletion):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                run(asyncio.wait_for(request, 0.1))
            assert time.monotonic() - began < 2
        assert run(direct.head("x")) is not None


# ---- faults ----------------------------------------------------------------------------------------------------------


FAULTS: dict[str, Callable[[FaultProxy, str, str], Rule]] = {
    "500": lambda proxy, method, path: proxy.fail(500, method, path),
    "503 twice": lambda proxy, method, path: proxy.fail(503, method, path, times=2),
    "429": lambda proxy, method, path: proxy.fail(429, method, path),
    "reset": lambda proxy, method, path: proxy.reset(method, path),
    "answer lost": lambda proxy, method, path: proxy.drop(method, path),
    "answer lost twice": lambda proxy, method, path: proxy.drop(method, path, times=2),
    "answer cut": lambda proxy, method, path: proxy.truncate(method, path),
    "500 though done": lambda proxy, method, path: proxy.fail(500, method, path, after_forwarding=True),
}


def on_key(key: str, query: str = "") -> str:
    """A pattern of requests about a key and nothing else."""
    return rf"/{re.escape(key)}\?.*{query}" if query else rf"/{re.escape(key)}$"


@pytest.mark.parametrize("request_", [("POST", "uploads"), ("PUT", "partNumber=2"), ("PUT", "partNumber=")])
@pytest.mark.usefixtures("small_parts")
@ON_SERVERS
def test_staging_survives_faults(rig: Rig, request_: tuple[str, str], tmp_path: Path) -> None:
    content = os.urandom(6 * MIB)
    path = tmp_path / "output"
    path.write_bytes(content)
    with proxied(rig) as (proxy, direct, store):
        for key, (fault, make_rule) in zip("abcdefgh", FAULTS.items(), strict=True):
            rule = make_rule(proxy, request_[0], on_key(key, request_[1]))
            info = run(store.publish(run(store.stage(key, path))))
            assert rule.fired == (2 if "twice" in fault else 1), fault
            assert run(direct.get(key)) == (content, info), fault
        assert len(run(direct.list_objects(""))) == len(FAULTS)


@ON_SERVERS
def test_a_part_that_is_damaged_on_its_way_is_sent_again(rig: Rig, file: Path) -> None:
    store = rig.new_store()
    area = store._staging
    assert isinstance(area, staging.S3Staging)
    sent = []

    def damage(request: Any, **_: object) -> None:
        sent.append(request)
        if len(sent) == 1:
            request.body = io.BytesIO(CONTENT[::-1])

    area._client.meta.events.register("before-send.s3.UploadPart", damage)
    info = run(store.publish(run(store.stage(KEY, file))))
    assert len(sent) == 2
    assert run(store.get(KEY)) == (CONTENT, info)


@ON_SERVERS
def test_publishing_survives_faults(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store):
        for method, query in (("GET", "uploadId="), ("POST", "uploadId="), ("HEAD", "")):
            for fault, make_rule in FAULTS.items():
                key = f"{method}/{fault}"
                staged = run(direct.stage(key, file))
                rule = make_rule(proxy, method, on_key(key, query))
                info = run(store.publish(staged))
                done = method == "POST" and ("lost" in fault or "cut" in fault or "done" in fault)
                assert rule.fired == (2 if "twice" in fault and not done else 1), key
                found = run(direct.head(key))
                assert found is not None
                assert info == (None if done else found), key
                assert run(direct.get(key)) == (CONTENT, found), key
                run(direct.delete(key))
                assert run(direct.publish(staged)) is None
                assert run(direct.head(key)) is None


@ON_SERVERS
def test_discarding_survives_faults(rig: Rig, file: Path) -> None:
    requests = (("PUT", "partNumber=1"), ("POST", "uploadId="), ("DELETE", "uploadId="), ("HEAD", ""))
    with proxied(rig) as (proxy, direct, store):
        for method, query in requests:
            for fault, make_rule in FAULTS.items():
                key = f"{method}/{fault}"
                staged = run(direct.stage(key, file))
                rule = make_rule(proxy, method, on_key(key, query))
                assert run(store.discard(staged)) is True, key
                assert rule.fired == (2 if "twice" in fault else 1), key
                assert run(direct.staged_below(f"{method}/")) == []
                assert run(direct.publish(staged)) is None
                assert run(direct.head(key)) is None


@ON_SERVERS
def test_deleting_survives_faults(rig: Rig) -> None:
    ceph = rig.name == "ceph"
    with proxied(rig) as (proxy, direct, store):
        for method in ("DELETE", "HEAD") if ceph else ("DELETE",):
            for fault, make_rule in FAULTS.items():
                for expected in (True, False):
                    key = f"{method}/{fault}/{expected}"
                    etag = run(direct.put(key, b"x"))
                    rule = make_rule(proxy, method, on_key(key))
                    assert run(store.delete_unchanged(key, etag if expected else NO_ETAG)) is expected, key
                    if ceph and method == "DELETE":  # each attempt looks first
                        done = "lost" in fault or "done" in fault
                        fired = 0 if not expected else 1 if done else None
                        assert fired is None or rule.fired == fired, key
                    else:
                        assert rule.fired == (2 if "twice" in fault else 1), key
                    assert (run(direct.head(key)) is None) is expected, key
                    rule.end()


@pytest.mark.parametrize("fault", FAULTS)
@ON_SERVERS
def test_probing_survives_faults(rig: Rig, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    url = rig.new_url()
    for method, nth in (("PUT", 1), ("DELETE", 1), ("DELETE", 2)):
        with proxied(rig, url) as (proxy, direct, store):
            rule = FAULTS[fault](proxy, method, r"/\.probe-[0-9a-f]+$")
            rule.nth = nth
            etag = run(direct.put("x", b"x"))
            assert run(store.delete_unchanged("x", NO_ETAG)) is False
            assert run(store.delete_unchanged("x", etag)) is True
            if not (rig.name == "ceph" and nth == 2):  # it is deleted by another request there
                assert rule.fired == (2 if "twice" in fault else 1), (method, nth)
            assert store._if_match == ("" if rig.name == "ceph" else '"{}"')
            assert run(direct.list_objects("")) == []
    assert caplog.text.count("ignores the condition") == (3 if rig.name == "ceph" else 0)


@ON_SERVERS
def test_finding_what_was_left_survives_faults(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store):
        staged = run(direct.stage(KEY, file))
        for fault, make_rule in FAULTS.items():
            rule = make_rule(proxy, "GET", r"\?uploads")
            assert [found.upload_id for found in run(store.staged_below(""))] == [staged.upload_id]
            assert rule.fired == (2 if "twice" in fault else 1), fault


@ON_SERVERS
def test_what_does_not_pass_is_given_up(rig: Rig, file: Path) -> None:
    cases: list[tuple[str, str, str]] = [
        ("stage", "POST", r"uploads"),
        ("stage", "PUT", r"partNumber="),
        ("publish", "GET", r"uploadId="),
        ("publish", "POST", r"uploadId="),
        ("discard", "PUT", r"partNumber="),
        ("discard", "POST", r"uploadId="),
        ("discard", "DELETE", r"uploadId="),
        ("staged_below", "GET", r"\?uploads"),
        ("delete_unchanged", "DELETE", f"/{KEY}$"),
    ]
    with proxied(rig, retries=2) as (proxy, direct, store):
        etag = run(direct.put(KEY, b"before"))
        run(store.delete_unchanged("x", NO_ETAG))  # with it the probe is done
        for name, method, path in cases:
            for fault in ("503", "reset"):
                staged = run(direct.stage(KEY, file))
                rule = proxy.fail(503, method, path) if fault == "503" else proxy.reset(method, path)
                rule.times = None
                requests = requests_of(store, KEY, file)
                requests["publish"] = lambda: store.publish(staged)  # noqa: B023  # used in this round only
                requests["discard"] = lambda: store.discard(staged)  # noqa: B023
                requests["delete_unchanged"] = lambda: store.delete_unchanged(KEY, etag)
                with pytest.raises(StoreUnavailable) as caught:
                    run(requests[name]())
                assert_helpful(caught.value, store, named(name, KEY))
                assert rule.fired == 3, (name, method, path, fault)
                rule.end()
                assert run(direct.get(KEY))[0] == b"before"


def client_error(code: str, status: int, operation: str = "UploadPart") -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "status code: 500"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (client_error("AccessDenied", 403), AccessDenied),
        (client_error("403", 403, "HeadObject"), AccessDenied),
        (client_error("403", 403), AccessDenied),  # by a proxy that does not speak S3
        (client_error("ExpiredToken", 401), AccessDenied),
        (client_error("NoSuchKey", 404), ObjectNotFound),
        (client_error("NoSuchUpload", 404), ObjectNotFound),
        (client_error("NoSuchBucket", 404), StoreError),
        (client_error("InvalidArgument", 400), StoreError),
        (client_error("400", 400, "HeadObject"), StoreError),
        (client_error("NotImplemented", 501), StoreError),
        (client_error("400", 400), StoreUnavailable),  # the body was cut short
        (client_error("404", 404), StoreUnavailable),
        (client_error("RequestTimeout", 400), StoreUnavailable),
        (client_error("BadDigest", 400), StoreUnavailable),
        (client_error("ConditionalRequestConflict", 409), StoreUnavailable),
        (client_error("InternalError", 200), StoreUnavailable),  # which AWS may say of a completion
        (client_error("SlowDown", 503), StoreUnavailable),
        (client_error("TooManyRequests", 429), StoreUnavailable),
        (exceptions.NoCredentialsError(), AccessDenied),
        (exceptions.CredentialRetrievalError(provider="x", error_msg="y"), AccessDenied),
        (exceptions.EndpointConnectionError(endpoint_url="http://x"), StoreUnavailable),
        (exceptions.ReadTimeoutError(endpoint_url="http://x"), StoreUnavailable),
        (exceptions.ConnectionClosedError(endpoint_url="http://x"), StoreUnavailable),
        (ResponseParserError("cut"), StoreUnavailable),
        (exceptions.ParamValidationError(report="x"), StoreError),
    ],
    ids=repr,
)
def test_what_botocore_raises_is_named(error: Exception, expected: type[StoreError]) -> None:
    mapped = module._map("s3://bucket/x", error)
    assert type(mapped) is expected
    assert str(mapped).startswith("s3://bucket/x: ")
    mapped.__cause__ = error
    if isinstance(mapped, StoreUnavailable):
        assert module._broke_off(mapped), "it is not tried again"


# ---- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_parts")
@ON_SERVERS
def test_requests_are_few_and_counted(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(bytes(6 * MIB))

    def kind(method: str, target: str) -> str:
        if method == "POST" and "delete" not in target:
            return "PUT"
        return {"GET": "LIST", "POST": "DELETE"}.get(method, method)  # every GET is of parts or of uploads

    def cost(request: Coroutine[Any, Any, Any]) -> tuple[dict[str, int], Any]:
        seen, before = len(proxy.seen), Counter(store.requests.by_kind())
        result = run(request)
        counted = Counter(store.requests.by_kind()) - before
        assert counted == Counter(kind(one.method, one.target) for one in proxy.seen[seen:])
        return dict(counted), result

    with proxied(rig) as (proxy, direct, store):
        stage, staged = cost(store.stage(KEY, path))
        assert stage == {"PUT": 3}
        assert cost(store.staged_below(""))[0] == {"LIST": 1}
        publish, info = cost(store.publish(staged))
        assert publish == {"LIST": 1, "PUT": 1, "HEAD": 1}
        assert cost(store.publish(staged))[0] == {"LIST": 1}
        assert cost(store.discard(staged))[0] == {"HEAD": 1, "PUT": 1}
        other = run(direct.stage(KEY, path))
        assert cost(store.discard(other))[0] == {"HEAD": 2, "PUT": 2, "DELETE": 1}
        cost(store.delete_unchanged(KEY, NO_ETAG))
        look = rig.name == "ceph"
        delete, _ = cost(store.delete_unchanged(KEY, info.etag))
        assert delete == ({"HEAD": 1, "DELETE": 1} if look else {"DELETE": 1})


@ON_SEAWEEDFS
def test_parts_are_sent_without_asking_first_and_without_checksums_that_aws_wants_again(rig: Rig, file: Path) -> None:
    store = rig.new_store()
    area = store._staging
    assert isinstance(area, staging.S3Staging)
    headers: list[str] = []

    def note(request: Any, **_: object) -> None:
        headers.extend(name.lower() for name in request.headers)

    area._client.meta.events.register("before-send.s3", note)
    assert run(store.publish(run(store.stage(KEY, file)))) is not None
    assert "content-md5" in headers
    assert [name for name in headers if name == "expect" or "checksum" in name] == []


@ON_SEAWEEDFS
def test_one_client_is_made_per_store(rig: Rig, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = staging.S3Staging._make_client, []

    def counted(self: staging.S3Staging) -> Any:
        made.append(self)
        return make(self)

    monkeypatch.setattr(staging.S3Staging, "_make_client", counted)
    store = rig.new_store()

    async def stage_all() -> None:
        await asyncio.gather(*(store.stage(f"{number}/x", file) for number in range(8)))

    run(store.put("x", b"x"))
    run(store.list_objects(""))
    assert made == []
    run(stage_all())
    run(stage_all())
    assert len(made) == 1


WITHOUT_BOTO = """
import asyncio, pathlib, sys
from quantlab_dagster.lake.store import open_store
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


# ---- local directories -----------------------------------------------------------------------------------------------


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
    copyfile, calls = shutil.copyfile, list[Path]()

    def tidied(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) < 3:
            shutil.rmtree(lake / ".quantlab-staged")
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", tidied)
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
