"""Staging on servers: what is left behind, what comes late, what it costs."""

from __future__ import annotations

import asyncio
import time
from asyncio import run
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.errors import ObjectNotFound, StoreUnavailable
from quantlab_dagster.lake.store.multipart import BlockingS3
from quantlab_dagster_tests.lake.store.helpers import (
    CONTENT,
    KEY,
    MIB,
    NO_ETAG,
    ON_CEPH,
    ON_SEAWEEDFS,
    ON_SERVERS,
    assert_absent,
    assert_helpful,
    await_nothing_staged,
    blocking_of,
    collect_garbage,
    keys_of,
    proxied,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig


@ON_SERVERS
def test_what_was_left_is_found_on_all_pages(rig: Rig) -> None:
    store = rig.new_store()
    area = blocking_of(store)
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
    area = blocking_of(store)
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


# ---- what comes late -----------------------------------------------------------------------------------------------


@pytest.mark.guards("late-publication")
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


@pytest.mark.guards("late-publication")
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


@pytest.mark.guards("late-publication")
@ON_SERVERS
def test_a_part_that_arrives_when_all_is_over_changes_nothing(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        held = proxy.stall("PUT", r"partNumber=1")
        late = pool.submit(run, store.stage(KEY, file))
        held.wait()
        [staged] = run(direct.staged_below(""))
        area = blocking_of(direct)
        staged = replace(staged, etags=(area.upload_part(KEY, staged.upload_id, 1, CONTENT),))
        assert run(direct.publish(staged)) is not None
        run(direct.delete(KEY))
        held.release()
        with pytest.raises(ObjectNotFound, match="published or discarded meanwhile") as caught:
            late.result(30)
        assert_helpful(caught.value, store, KEY)
        assert run(direct.publish(staged)) is None
        assert_absent(direct, KEY)


@pytest.mark.guards("discard-overwrites")
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


# ---- keys and costs ------------------------------------------------------------------------------------------------


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
    area = blocking_of(store)
    headers: list[str] = []

    def note(request: Any, **_: object) -> None:
        headers.extend(name.lower() for name in request.headers)

    area._client.meta.events.register("before-send.s3", note)
    assert run(store.publish(run(store.stage(KEY, file)))) is not None
    assert "content-md5" in headers
    assert [name for name in headers if name == "expect" or "checksum" in name] == []


@ON_SEAWEEDFS
def test_one_client_is_made_per_store(rig: Rig, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = BlockingS3._make_client, []

    def counted(self: BlockingS3) -> Any:
        made.append(self)
        return make(self)

    monkeypatch.setattr(BlockingS3, "_make_client", counted)
    store = rig.new_store()

    async def stage_all() -> None:
        await asyncio.gather(*(store.stage(f"{number}/x", file) for number in range(8)))

    run(store.put("x", b"x"))
    run(store.list_objects(""))
    assert made == []
    run(stage_all())
    run(stage_all())
    assert len(made) == 1
