"""What every kind of store promises of many objects that are deleted on condition."""

from __future__ import annotations

import asyncio
from asyncio import run
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import StoreError
from quantlab_dagster.lake.store import limits
from quantlab_dagster_tests.lake.store.helpers import NO_ETAG, assert_helpful, keys_of, probes_of
from quantlab_dagster_tests.lake.store.suite_kind import Kind

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig


class DeletingSuite(Kind):
    """Inherited by `StoreSuite`."""

    @pytest.mark.guards("drifted-retired")
    def test_of_many_only_those_unchanged_are_deleted(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "BULK_DELETES", 3)  # so that there are several requests

        async def use() -> list[bool]:
            etags = {key: await store.put(key, key.encode()) for key in keys}
            etags[replaced] = await store.put(replaced, b"old")
            await store.put(replaced, b"new")
            await store.delete(gone)
            etags |= {other: NO_ETAG, missing: NO_ETAG}
            return await store.delete_all_unchanged([*etags.items()])

        keys = [f"a b/é={number}&<x>.parquet" for number in range(8)]
        replaced, gone, other, missing = keys[0], keys[3], keys[5], "a b/missing"
        assert run(use()) == [key not in (replaced, other) for key in [*keys, missing]]
        assert keys_of(run(store.list_objects(""))) == [replaced, other]
        assert run(store.get(replaced))[0] == b"new"
        assert probes_of(store) == []

    def test_none_and_one_are_many_too(self, store: Store) -> None:
        assert run(store.delete_all_unchanged([])) == []
        etag = run(store.put("x", b"x"))
        assert run(store.delete_all_unchanged([("x", NO_ETAG)])) == [False]
        assert run(store.delete_all_unchanged([("x", etag)])) == [True]
        assert run(store.delete_all_unchanged([("x", etag), ("y", etag)])) == [True, True]

    def test_of_eight_who_delete_many_all_find_them_gone(self, rig: Rig) -> None:
        url = rig.new_url()
        stores = [rig.store(url) for _ in range(8)]

        async def use() -> list[list[bool]]:
            etags = {f"m/{number}": await stores[0].put(f"m/{number}", b"x") for number in range(5)}
            return await asyncio.gather(*(store.delete_all_unchanged([*etags.items()]) for store in stores))

        assert run(use()) == [[True] * 5] * 8
        assert run(stores[0].list_objects("")) == []

    def test_nothing_is_deleted_if_one_has_no_etag_or_no_name(self, store: Store) -> None:
        etag = run(store.put("x", b"x"))
        for key, tag in (("y", ""), ("a//b", etag)):
            with pytest.raises(StoreError) as caught:
                run(store.delete_all_unchanged([("x", etag), (key, tag)]))
            assert_helpful(caught.value, store, key)
            assert run(store.head("x")) is not None
