"""What every kind of store promises of objects: reading, listing, writing, odd keys, errors, and compare-and-swap."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from asyncio import run
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import Conflict, ObjectNotFound, ScratchUnusable, StoreError, StoreUnavailable
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.base import LOCK_DIRECTORY, PROBE_DIRECTORY, STAGED_DIRECTORY, Store
from quantlab_dagster.lake.store.objects import Directory, ObjectInfo
from quantlab_dagster_tests.lake.store.appending import INCREMENTS, PROCESSES, append_tokens
from quantlab_dagster_tests.lake.store.helpers import (
    CROWD,
    MIB,
    NO_ETAG,
    assert_helpful,
    keys_of,
    probes_of,
    put_all,
    requests_of,
)
from quantlab_dagster_tests.lake.store.suite_kind import Kind

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig


class ObjectSuite(Kind):
    """Inherited by `StoreSuite`."""

    def test_what_is_put_can_be_got_listed_and_deleted(self, store: Store, tmp_path: Path) -> None:
        etag = run(store.put("m/x.bin", b"content"))
        info = ObjectInfo("m/x.bin", 7, etag)
        assert etag
        assert '"' not in etag
        assert info.name == "x.bin"
        assert run(store.head("m/x.bin")) == info
        assert run(store.get("m/x.bin")) == (b"content", info)
        assert run(store.get_if_exists("m/x.bin")) == (b"content", info)
        assert run(store.download("m/x.bin", tmp_path / "copy")) == info
        assert (tmp_path / "copy").read_bytes() == b"content"
        assert run(store.list_objects("m/")) == [info]
        assert run(store.list_directory("m/")).objects == (info,)
        assert run(store.list_directory("")).directories == ("m",)

        run(store.delete("m/x.bin"))
        assert run(store.head("m/x.bin")) is None
        assert run(store.get_if_exists("m/x.bin")) is None
        assert run(store.list_objects("m/")) == []
        run(store.delete("m/x.bin"))

    def test_several_are_fetched_together_as_each_by_itself(self, store: Store) -> None:
        keys = [f"m/{number:02d} é%+" for number in range(40)]
        for key in keys:
            put_all(store, key)
        before = store.requests.by_kind().get("GET", 0)
        together = run(store.get_together(keys))
        assert store.requests.by_kind()["GET"] == before + len(keys)
        assert together == [run(store.get(key)) for key in keys]
        assert [info.received for _, info in together] == [run(store.get(key))[1].received for key in keys]

    @pytest.mark.guards("part-lost")
    def test_of_several_none_is_left_out(self, store: Store) -> None:
        put_all(store, "m/a", "m/c", "b")
        with pytest.raises(ObjectNotFound) as caught:
            run(store.get_together(["m/a", "m/b", "m/c"]))
        assert_helpful(caught.value, store, "m/b")
        with pytest.raises(StoreError) as refused:
            run(store.get_together(["m/a", "m/../b"]))
        assert_helpful(refused.value, store, "m/../b")

    def test_a_put_replaces_what_was_there(self, store: Store, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"from a file")
        first = run(store.put("x", b"first"))
        second = run(store.put("x", file))
        assert first != second
        assert run(store.get("x")) == (b"from a file", ObjectInfo("x", 11, second))
        run(store.put("x", b""))
        content, info = run(store.get("x"))
        assert (content, info.size_bytes) == (b"", 0)
        run(store.download("x", file))
        assert file.read_bytes() == b""

    def test_a_large_file_goes_up_in_parts_and_comes_back_identical(
        self, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "MULTIPART_BYTES", 5 * MIB)
        monkeypatch.setattr(limits, "PART_BYTES", 5 * MIB)  # the least that S3 takes
        store = rig.new_store()
        content = os.urandom(13 * MIB)
        file, copy = tmp_path / "data", tmp_path / "copy"
        file.write_bytes(content)
        etag = run(store.put("m/data.parquet", file))
        assert store.requests.by_kind()["PUT"] == (5 if self.in_parts else 1)  # begin, three parts, end
        info = ObjectInfo("m/data.parquet", len(content), etag)
        assert run(store.head("m/data.parquet")) == info
        assert run(store.list_objects("m/")) == [info]
        assert run(store.get("m/data.parquet")) == (content, info)
        assert run(store.download("m/data.parquet", copy)) == info
        assert copy.read_bytes() == content
        if self.in_parts:
            assert etag.endswith("-3"), "not put in parts"
        file.write_bytes(b"small")
        run(store.put("m/data.parquet", file))
        assert run(store.get("m/data.parquet"))[0] == b"small"

    @pytest.mark.slow
    def test_a_file_beyond_the_real_limit_comes_back_identical(self, rig: Rig, tmp_path: Path) -> None:
        store = rig.new_store()
        block = os.urandom(MIB)
        file, copy = tmp_path / "data", tmp_path / "copy"
        with file.open("wb") as out:
            for number in range(65):
                out.write(number.to_bytes(8, "big") + block)
        etag = run(store.put("data.parquet", file))
        assert run(store.download("data.parquet", copy)) == ObjectInfo("data.parquet", file.stat().st_size, etag)
        assert copy.read_bytes() == file.read_bytes()
        run(store.delete("data.parquet"))

    # ---- listing ---------------------------------------------------------------------------------------------------

    @pytest.mark.guards("four-digit-parts")
    def test_listings_are_in_byte_order(self, store: Store) -> None:
        # SeaweedFS has m/a/1 before m/a-b, a local directory any order; é is two bytes, both above those of z.
        keys = ["m/a/1", "m/a-b", "m/a", "m/B", "m/z", "m/é", "m/z/1/2", "m/a0", "m/😀", "m/\uffee"]
        keys = keys if self.key_may_be_directory else [key for key in keys if key not in ("m/a", "m/z")]
        # One by one: SeaweedFS may lose one of two racing writes of an object and a directory of one name.
        for key in keys:
            put_all(store, key)
        assert keys_of(run(store.list_objects("m/"))) == sorted(keys, key=str.encode)
        directory = run(store.list_directory("m/"))
        assert set(directory.directories) == {"a", "z"}
        assert keys_of(directory.objects) == sorted((key for key in keys if key.count("/") == 1), key=str.encode)

    def test_a_prefix_is_a_directory(self, store: Store) -> None:
        put_all(store, "x/symbol=btc/1", "x/symbol=btc/deep/2", "x/symbol=btcusdt/3", "x/symbol=bt/4", "x/symbol=btc-5")
        assert keys_of(run(store.list_objects("x/symbol=btc/"))) == ["x/symbol=btc/1", "x/symbol=btc/deep/2"]
        directory = run(store.list_directory("x/symbol=btc/"))
        assert (directory.directories, keys_of(directory.objects)) == (("deep",), ["x/symbol=btc/1"])
        directory = run(store.list_directory("x/"))
        assert directory.directories == ("symbol=bt", "symbol=btc", "symbol=btcusdt")
        assert keys_of(directory.objects) == ["x/symbol=btc-5"]
        assert len(run(store.list_objects(""))) == 5

    def test_a_missing_prefix_is_empty(self, store: Store) -> None:
        for prefix in ("nothing/", "nothing/here/", ""):
            assert run(store.list_objects(prefix)) == []
            assert run(store.list_directory(prefix)) == Directory((), ())
        put_all(store, "m/x")
        run(store.delete("m/x"))
        assert run(store.list_objects("m/")) == []

    @pytest.mark.guards("short-listing")
    def test_a_listing_of_many_pages_is_whole(self, rig: Rig, crowd: str) -> None:
        store = rig.store(crowd)
        expected = sorted(f"m/d={number}/x" for number in range(CROWD))
        assert keys_of(run(store.list_objects("m/"))) == expected
        assert store.requests.by_kind() == {"LIST": 2}
        assert run(store.list_directory("m/")).directories == tuple(key.split("/")[1] for key in expected)
        assert store.requests.by_kind() == {"LIST": 4}
        assert keys_of(run(store.list_objects("m/d=7/"))) == ["m/d=7/x"]
        assert store.requests.by_kind() == {"LIST": 5}
        assert store.requests.total == 5

    def test_what_a_store_keeps_for_itself_is_in_no_listing(self, store: Store) -> None:
        for name in (LOCK_DIRECTORY, STAGED_DIRECTORY, PROBE_DIRECTORY):
            put_all(store, f"{name}/ab", f"below/{name}/ab")
            assert run(store.list_objects(f"{name}/")) == []
            assert run(store.list_directory(f"{name}/")).objects == ()
        assert len(run(store.list_objects(""))) == 3, "those of other directories are the user's"
        assert run(store.list_directory("")) == Directory(("below",), ())
        assert probes_of(store) == [f"{PROBE_DIRECTORY}/ab"]

    def test_the_digest_of_an_object_is_that_of_its_content(self, store: Store) -> None:
        content = os.urandom(5 * MIB)
        run(store.put("m/x", content))
        assert run(store.sha256("m/x")) == hashlib.sha256(content).hexdigest()
        with pytest.raises(ObjectNotFound):
            run(store.sha256("m/none"))

    # ---- odd keys --------------------------------------------------------------------------------------------------

    def test_hostile_keys_mean_themselves(self, store: Store, tmp_path: Path) -> None:
        values = self.hostile_values()
        keys = {value: f"symbol={value}/date=20260108/x{value}.bin" for value in values}
        put_all(store, *keys.values())
        assert keys_of(run(store.list_objects(""))) == sorted(keys.values(), key=str.encode)
        directories = sorted((f"symbol={value}" for value in values), key=str.encode)
        assert list(run(store.list_directory("")).directories) == directories

        async def use(value: str) -> None:
            key = keys[value]
            assert keys_of(await store.list_objects(f"symbol={value}/")) == [key]
            assert keys_of(await store.list_objects(f"symbol={value}/date=20260108/")) == [key]
            assert (await store.list_directory(f"symbol={value}/")).directories == ("date=20260108",)
            content, info = await store.get(key)
            assert (content, info.key) == (key.encode(), key)
            assert await store.head(key) == info
            copy = tmp_path / secrets.token_hex(8)
            assert await store.download(key, copy) == info
            etag = await store.compare_and_swap(key, b"swapped", info.etag)
            assert (await store.get(key)) == (b"swapped", ObjectInfo(key, 7, etag))
            await store.delete(key)
            assert await store.head(key) is None

        async def use_all() -> None:
            async with asyncio.TaskGroup() as group:
                for value in values:
                    group.create_task(use(value))

        run(use_all())
        assert run(store.list_objects("")) == []

    @pytest.mark.parametrize("key", ["..", "a/../b", "a/./b", ".", "a//b", "a\tb", "a\x7fb", "a\x00b"])
    def test_keys_that_cannot_be_addressed_are_refused_by_every_method(
        self, rig: Rig, key: str, tmp_path: Path
    ) -> None:
        store = rig.new_store()
        for request in requests_of(store, key, tmp_path / "copy").values():
            with pytest.raises(StoreError, match="key that cannot be addressed") as caught:
                run(request())
            assert not isinstance(caught.value, StoreUnavailable | ObjectNotFound), "as if a retry could help"
            assert_helpful(caught.value, store, key)

    # ---- errors ----------------------------------------------------------------------------------------------------

    def test_what_does_not_exist_is_not_found(self, store: Store, tmp_path: Path) -> None:
        requests = requests_of(store, "no/such key", tmp_path / "copy")
        for name in ("get", "download"):
            with pytest.raises(ObjectNotFound) as caught:
                run(requests[name]())
            assert_helpful(caught.value, store, "no/such key")
            assert isinstance(caught.value, FileNotFoundError)
        assert run(requests["get_if_exists"]()) is None
        assert run(requests["head"]()) is None
        run(requests["delete"]())

    def test_trouble_with_our_own_files_is_not_the_objects_fault(self, store: Store, tmp_path: Path) -> None:
        put_all(store, "x")
        with pytest.raises(StoreError, match="local file cannot be used") as caught:
            run(store.download("x", tmp_path / "no such directory" / "copy"))
        assert isinstance(caught.value, ScratchUnusable)
        assert not isinstance(caught.value, ObjectNotFound | StoreUnavailable)
        assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy

    # ---- conditional writes ----------------------------------------------------------------------------------------

    @pytest.mark.guards("state-unconditional")
    def test_compare_and_swap(self, store: Store) -> None:
        first = run(store.compare_and_swap("m/state.json", b"first", None))
        assert run(store.get("m/state.json")) == (b"first", ObjectInfo("m/state.json", 5, first))
        with pytest.raises(Conflict) as caught:
            run(store.compare_and_swap("m/state.json", b"late", None))
        assert_helpful(caught.value, store, "m/state.json")

        second = run(store.compare_and_swap("m/state.json", b"second", first))
        assert second != first
        for stale in (first, NO_ETAG):
            with pytest.raises(Conflict):
                run(store.compare_and_swap("m/state.json", b"stale", stale))
        assert run(store.get("m/state.json")) == (b"second", ObjectInfo("m/state.json", 6, second))

        run(store.delete("m/state.json"))
        with pytest.raises(Conflict):
            run(store.compare_and_swap("m/state.json", b"stale", second))
        assert run(store.head("m/state.json")) is None
        run(store.compare_and_swap("m/state.json", b"anew", None))
        assert run(store.get("m/state.json"))[0] == b"anew"

    @pytest.mark.guards("state-unconditional")
    def test_without_an_etag_to_compare_nothing_is_written(self, store: Store) -> None:
        run(store.put("x", b"before"))
        with pytest.raises(StoreError):  # SeaweedFS takes an empty If-Match for none
            run(store.compare_and_swap("x", b"after", ""))
        assert run(store.get("x"))[0] == b"before"

    @pytest.mark.guards("state-unconditional")
    def test_of_writers_at_once_one_wins(self, store: Store) -> None:
        async def race(expected_etag: str | None, name: str) -> list[str]:
            contents = [f"{name} {number}" for number in range(4)]  # SeaweedFS lets them in one a second
            swaps = (store.compare_and_swap("x", content.encode(), expected_etag) for content in contents)
            results = await asyncio.gather(*swaps, return_exceptions=True)
            assert all(isinstance(result, str | Conflict) for result in results), results
            return [content for content, result in zip(contents, results, strict=True) if isinstance(result, str)]

        etag: str | None = None
        for round_number in range(2):
            [winner] = run(race(etag, f"round {round_number}"))
            content, info = run(store.get("x"))
            assert content == winner.encode()
            etag = info.etag

    @pytest.mark.guards("state-unconditional")
    @pytest.mark.slow
    def test_nothing_is_lost_between_processes(self, rig: Rig, processes: ProcessPoolExecutor) -> None:
        url = rig.new_url()
        futures = [processes.submit(append_tokens, rig, url, str(number)) for number in range(PROCESSES)]
        results = [future.result(120) for future in futures]
        assert len({pid for pid, _ in results}) == PROCESSES
        assert sum(conflicts for _, conflicts in results) > 0, "they were never at it at once"
        tokens = run(rig.store(url).get("m/list"))[0].decode().split()
        assert len(tokens) == PROCESSES * INCREMENTS
        for number in range(PROCESSES):  # each in its own order
            mine = [token for token in tokens if token.startswith(f"{number}.")]
            assert mine == [f"{number}.{i}" for i in range(INCREMENTS)]
