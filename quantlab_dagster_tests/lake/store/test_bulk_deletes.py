"""Deleting many objects in one request, each on condition: what its answer says, and what is lost of it."""

from __future__ import annotations

import asyncio
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.errors import AccessDenied, StoreUnavailable
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.deleting import delete_all
from quantlab_dagster.lake.store.multipart import BlockingS3
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.conftest import s3_options
from quantlab_dagster_tests.ignoring import IgnoringProxy
from quantlab_dagster_tests.lake.store.helpers import (
    NO_ETAG,
    ON_SEAWEEDFS,
    ON_SERVERS,
    STAGING_FAULTS,
    keys_of,
    proxied,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.conftest import Rig

BULK = r"\?delete$"


def put_many(store: Store, number: int = 10) -> list[tuple[str, str]]:
    async def put() -> list[tuple[str, str]]:
        return [(f"m/{at}", await store.put(f"m/{at}", b"x")) for at in range(number)]

    return run(put())


@ON_SERVERS
def test_many_are_one_request_where_the_server_can(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(store.capabilities())
        versions, before = put_many(direct), len(proxy.seen)
        assert run(store.delete_all_unchanged(versions)) == [True] * 10
        asked = [one.method for one in proxy.seen[before:]]
        assert asked == ["POST"] if rig.name == "seaweedfs" else sorted(asked) == ["DELETE"] * 10 + ["HEAD"] * 10
        assert run(direct.list_objects("")) == []


@pytest.mark.guards("drifted-retired")
@ON_SEAWEEDFS
def test_what_is_replaced_while_the_request_is_under_way_stays(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(store.capabilities())
        versions = put_many(direct)
        held = proxy.stall("POST", BULK)

        async def race() -> list[bool]:
            deletion = asyncio.create_task(store.delete_all_unchanged(versions))
            await asyncio.to_thread(held.wait)
            await direct.put("m/3", b"after")
            held.release()
            return await deletion

        assert run(race()) == [at != 3 for at in range(10)]
        assert run(direct.get("m/3"))[0] == b"after"


@pytest.mark.parametrize("fault", STAGING_FAULTS)
@ON_SEAWEEDFS
def test_it_survives_faults(rig: Rig, fault: str) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(store.capabilities())
        versions = [(key, NO_ETAG if key == "m/3" else etag) for key, etag in put_many(direct)]
        rule = STAGING_FAULTS[fault](proxy, "POST", BULK)
        assert run(store.delete_all_unchanged(versions)) == [at != 3 for at in range(10)]
        assert rule.fired == (2 if "twice" in fault else 1)
        assert keys_of(run(direct.list_objects(""))) == ["m/3"]


@ON_SEAWEEDFS
def test_an_outage_is_said(rig: Rig) -> None:
    with proxied(rig, retries=1) as (proxy, direct, store):
        run(store.capabilities())
        versions = put_many(direct)
        rule = proxy.fail(503, "POST", BULK, times=None)
        with pytest.raises(StoreUnavailable):
            run(store.delete_all_unchanged(versions))
        rule.end()
        assert run(store.delete_all_unchanged(versions)) == [True] * 10


@ON_SEAWEEDFS
def test_objects_that_the_answer_reports_as_failed_are_asked_about_one_by_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that could not, for some: it says so for each."""
    whole = BlockingS3.delete_together

    def partly(self: BlockingS3, versions: Sequence[tuple[str, str]]) -> set[str]:
        return whole(self, versions[::2])

    with proxied(rig) as (proxy, direct, store):
        run(store.capabilities())
        versions = put_many(direct)
        run(direct.put("m/1", b"after"))
        before = len(proxy.seen)
        monkeypatch.setattr(BlockingS3, "delete_together", partly)
        assert run(store.delete_all_unchanged(versions)) == [at != 1 for at in range(10)]
        asked = sorted(one.method for one in proxy.seen[before:])
        assert asked == ["DELETE"] * 5 + ["HEAD", "POST"]
        assert keys_of(run(direct.list_objects(""))) == ["m/1"]


@ON_SEAWEEDFS
def test_a_request_that_is_refused_as_such_hinders_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(store.capabilities())
        versions = put_many(direct)
        proxy.fail(501, "POST", BULK, times=None)
        assert run(store.delete_all_unchanged(versions)) == [True] * 10
        assert run(direct.list_objects("")) == []
    assert "they are deleted one by one" in caplog.text


@ON_SEAWEEDFS
def test_denied_is_denied(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(store.capabilities())
        versions = put_many(direct)
        proxy.fail(403, "POST", BULK, times=None)
        with pytest.raises(AccessDenied):
            run(store.delete_all_unchanged(versions))


@pytest.mark.guards("conditional-delete-assumed")
@ON_SEAWEEDFS
def test_a_server_that_ignores_the_etags_of_a_bulk_is_sent_none(rig: Rig) -> None:
    assert rig.server is not None
    url = rig.new_url()
    direct = rig.store(url)
    with IgnoringProxy(rig.server, "bulk_delete") as proxy:
        store = open_store(url, replace(s3_options(rig.server), endpoint_url=proxy.url))
        versions = put_many(direct)
        run(direct.put("m/3", b"after"))
        assert run(store.delete_all_unchanged(versions)) == [at != 3 for at in range(10)]
        assert run(direct.get("m/3"))[0] == b"after"


# ---- the rule itself -------------------------------------------------------------------------------------------------


def deleted(versions: int, together: Any, one: Any) -> list[bool]:
    return run(delete_all([(str(at), f"etag {at}") for at in range(versions)], one, together))


def test_only_what_an_answer_names_counts_as_deleted() -> None:
    asked: list[str] = []

    async def one(key: str, etag: str) -> bool:
        assert etag == f"etag {key}"
        asked.append(key)
        return key != "4"

    async def together(versions: Sequence[tuple[str, str]]) -> set[str]:
        return {key for key, _ in versions if key not in "24"}

    assert deleted(6, together, one) == [True, True, True, True, False, True]
    assert asked == ["2", "4"]


def test_there_are_only_so_many_in_a_request_and_requests_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BULK_DELETES", 10)
    sizes: list[int] = []
    busy = most = 0

    async def together(versions: Sequence[tuple[str, str]]) -> set[str]:
        nonlocal busy, most
        sizes.append(len(versions))
        busy, most = busy + 1, max(most, busy + 1)
        await asyncio.sleep(0.01)
        busy -= 1
        return {key for key, _ in versions}

    async def one(key: str, etag: str) -> bool:
        raise AssertionError((key, etag))

    assert deleted(95, together, one) == [True] * 95
    assert sizes == [10] * 9 + [5]
    assert most == limits.BULKS_AT_ONCE


def test_the_first_failure_is_raised_as_it_is() -> None:
    async def one(key: str, _: str) -> bool:
        if key == "1":
            raise StoreUnavailable(key, "timed out")
        return True

    with pytest.raises(StoreUnavailable):
        deleted(3, None, one)
