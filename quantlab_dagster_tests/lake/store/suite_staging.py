"""What every kind of store promises of what is staged, published, discarded and deleted on condition."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from asyncio import run
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from quantlab_dagster.errors import ObjectNotFound, StoreError, StoreUnavailable
from quantlab_dagster.lake.store.multipart import BlockingS3
from quantlab_dagster.lake.store.objects import Directory, ObjectInfo, Staged
from quantlab_dagster_tests.lake.store.helpers import (
    CONTENT,
    KEY,
    MIB,
    NO_ETAG,
    assert_absent,
    assert_helpful,
    keys_of,
    probes_of,
    staging_requests_of,
)
from quantlab_dagster_tests.lake.store.suite_kind import Kind

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig

T = TypeVar("T")


# Of the publisher, in seconds: about as long as either takes; and two that leave no doubt.
HEAD_STARTS = (-0.1, -0.010, -0.008, -0.006, -0.004, -0.002, 0.0, 0.002, 0.004, 0.1)


class StagingSuite(Kind):
    """Inherited by `StoreSuite`."""

    # ---- staging and publishing ------------------------------------------------------------------------------------

    def test_what_is_staged_is_invisible_until_it_is_published(self, store: Store, file: Path) -> None:
        staged = run(store.stage(KEY, file))
        assert (staged.key, staged.size_bytes) == (KEY, len(CONTENT))
        assert len(staged.etags) == (1 if self.in_parts else 0)
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

    def test_an_object_is_published_only_once(self, store: Store, file: Path) -> None:
        staged = run(store.stage(KEY, file))
        info = run(store.publish(staged))
        assert run(store.publish(staged)) is None
        assert run(store.head(KEY)) == info
        assert run(store.discard(staged)) is False
        assert run(store.get(KEY)) == (CONTENT, info)

    @pytest.mark.guards("late-publication")
    def test_what_was_deleted_after_it_was_published_never_comes_back(self, store: Store, file: Path) -> None:
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

    def test_what_is_discarded_never_appears(self, store: Store, file: Path) -> None:
        staged = run(store.stage(KEY, file))
        assert run(store.discard(staged)) is True
        assert run(store.staged_below("")) == []
        assert run(store.discard(staged)) is False
        assert run(store.publish(staged)) is None
        assert_absent(store, KEY)

    @pytest.mark.guards("discard-overwrites")
    def test_publishing_replaces_what_is_there_and_discarding_leaves_it(self, store: Store, file: Path) -> None:
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

    def test_uploads_of_one_key_are_independent(self, store: Store, tmp_path: Path) -> None:
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
    def test_a_big_file_is_staged_in_parts(self, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store, content = rig.new_store(), os.urandom(100 * MIB + 1)
        path = tmp_path / "big"
        path.write_bytes(content)
        upload_part, lock = BlockingS3.upload_part, threading.Lock()
        at_once, most = 0, 0

        def counted(self: BlockingS3, key: str, upload_id: str, number: int, content: bytes) -> str:
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            try:
                return upload_part(self, key, upload_id, number, content)
            finally:
                with lock:
                    at_once -= 1

        monkeypatch.setattr(BlockingS3, "upload_part", counted)
        staged = run(store.stage(KEY, path))
        assert len(staged.etags) == (7 if self.in_parts else 0)
        info = run(store.publish(staged))
        assert run(store.get(KEY)) == (content, info)
        if self.in_parts:
            assert info is not None
            assert info.etag.endswith("-7")
            assert most == 4, "of 16 MiB each: memory is bounded"

    def test_an_empty_or_missing_file_is_refused(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        with pytest.raises(StoreError, match="is empty") as caught:
            run(store.stage(KEY, tmp_path / "empty"))
        assert_helpful(caught.value, store, KEY)
        with pytest.raises(StoreError, match="local file cannot be used"):
            run(store.stage(KEY, tmp_path / "missing"))
        assert run(store.staged_below("")) == []

    # ---- many at once ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("number", [2, 8])
    def test_of_publishers_at_once_one_at_least_hears_of_it(self, rig: Rig, file: Path, number: int) -> None:
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

    @pytest.mark.slow
    def test_publishing_and_discarding_at_once_end_in_one_of_both(self, rig: Rig, tmp_path: Path) -> None:
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
        self.collect_garbage(rig)  # it took the published bytes too, when discarding was merely aborting
        for key, content in there.items():
            assert run(publisher.get(key))[0] == content, key
        assert run(publisher.staged_below("")) == []

    def test_of_those_who_discard_at_once_one_at_least_did_it(self, rig: Rig, file: Path) -> None:
        url = rig.new_url()
        stores = [rig.store(url) for _ in range(8)]

        async def at_once(staged: Staged) -> list[bool]:
            return await asyncio.gather(*(store.discard(staged) for store in stores))

        staged = run(stores[0].stage(KEY, file))
        assert any(run(at_once(staged)))
        assert run(at_once(staged)) == [False] * 8
        assert_absent(stores[0], KEY)

    def test_many_uploads_of_one_directory_do_not_disturb_each_other(self, store: Store, file: Path) -> None:
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

    # ---- after crashes ---------------------------------------------------------------------------------------------

    def test_what_was_left_is_found_below_its_prefix_only(self, rig: Rig, file: Path) -> None:
        url = rig.new_url()
        store, sub = rig.store(url), rig.store(f"{url}/hour=1") if self.any_prefix_is_a_place else None
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

    # ---- deleting on condition -------------------------------------------------------------------------------------

    @pytest.mark.guards("drifted-retired")
    def test_only_what_is_unchanged_is_deleted(self, store: Store) -> None:
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
        assert run(store.list_objects("")) == []
        assert probes_of(store) == [], "the probe was left behind"

    def test_what_was_published_is_deleted_by_its_etag(self, store: Store, file: Path) -> None:
        info = run(store.publish(run(store.stage(KEY, file))))
        assert info is not None
        assert run(store.delete_unchanged(KEY, NO_ETAG)) is False
        assert run(store.delete_unchanged(KEY, info.etag)) is True
        assert_absent(store, KEY)

    def test_of_eight_who_delete_all_find_it_gone(self, rig: Rig) -> None:
        url = rig.new_url()
        stores = [rig.store(url) for _ in range(8)]

        async def at_once(etag: str) -> list[bool]:
            return await asyncio.gather(*(store.delete_unchanged("m/x", etag) for store in stores))

        for _ in range(3):
            etag = run(stores[0].put("m/x", b"x"))
            assert run(at_once(NO_ETAG)) == [False] * 8
            assert run(at_once(etag)) == [True] * 8
            assert run(stores[0].head("m/x")) is None

    def test_without_an_etag_to_compare_nothing_is_deleted(self, store: Store) -> None:
        run(store.put("x", b"x"))
        with pytest.raises(
            StoreError, match="no ETag to compare"
        ) as caught:  # SeaweedFS takes an empty If-Match for none
            run(store.delete_unchanged("x", ""))
        assert_helpful(caught.value, store, "x")
        assert run(store.head("x")) is not None

    # ---- odd keys --------------------------------------------------------------------------------------------------

    def test_hostile_keys_mean_themselves_when_staged(self, store: Store, tmp_path: Path) -> None:
        keys = [f"event={value}/hour=2026010812/x{value}.parquet" for value in self.hostile_values()]

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

    @pytest.mark.parametrize("key", ["..", "a/../b", "a/./b", ".", "a//b", "/a", "a\tb", "a\x7fb", "a\x00b", "../../a"])
    def test_keys_that_cannot_be_addressed_are_refused_by_every_method_of_staging(
        self, rig: Rig, key: str, file: Path
    ) -> None:
        store = rig.new_store()
        for request in staging_requests_of(store, key, file).values():
            with pytest.raises(StoreError, match="key that cannot be addressed") as caught:
                run(request())
            assert not isinstance(caught.value, StoreUnavailable | ObjectNotFound), "as if a retry could help"
            assert_helpful(caught.value, store, key)
