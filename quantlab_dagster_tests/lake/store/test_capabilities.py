"""What a server honours is found out by trying, once, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from quantlab_dagster.errors import StoreError, StoreUnavailable
from quantlab_dagster.lake.store.capabilities import Capabilities
from quantlab_dagster.lake.store.multipart import BlockingS3
from quantlab_dagster.lake.store.objects import PROBE_DIRECTORY
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.conftest import s3_options
from quantlab_dagster_tests.ignoring import CONDITIONS, IgnoringProxy
from quantlab_dagster_tests.lake.store.helpers import ON_SEAWEEDFS, ON_SERVERS, probes_of, proxied

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.probing import Condition
    from quantlab_dagster_tests.conftest import Rig

EVERYTHING = Capabilities(
    create_if_absent=True, replace_if_match=True, delete_if_match=True, bulk_delete=True, part_etags=True
)
OF = {"seaweedfs": EVERYTHING, "ceph": replace(EVERYTHING, delete_if_match=False, bulk_delete=False)}


def left_behind(store: Store) -> list[str]:
    return [*probes_of(store), *(upload.key for upload in run(store.staged_below("")))]


@pytest.mark.guards("conditional-delete-assumed")
@ON_SERVERS
def test_a_server_is_asked_once_and_keeps_nothing(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        user = run(direct.put("events.parquet", b"a user's"))

        async def at_once() -> list[Capabilities]:
            return await asyncio.gather(*(store.capabilities() for _ in range(5)))

        assert run(at_once()) == [OF[rig.name]] * 5
        asked = len(proxy.seen)
        assert 0 < asked < 40
        assert run(store.capabilities()) == OF[rig.name]
        assert run(open_store(store.url, replace(s3_options(rig.server), endpoint_url=proxy.url)).capabilities())  # type: ignore[arg-type]
        assert len(proxy.seen) == asked, "it is known in this process"
        assert not [one for one in proxy.seen if PROBE_DIRECTORY not in one.target and "?delete" not in one.target]
        assert left_behind(direct) == []
        found = run(direct.head("events.parquet"))
        assert found is not None
        assert found.etag == user


@pytest.mark.guards("conditional-delete-assumed")
@pytest.mark.parametrize("ignored", CONDITIONS)
@ON_SEAWEEDFS
def test_a_server_that_ignores_a_condition_is_seen_through(rig: Rig, ignored: Condition) -> None:
    assert rig.server is not None
    url = rig.new_url()
    with IgnoringProxy(rig.server, ignored) as proxy:
        store = open_store(url, replace(s3_options(rig.server), endpoint_url=proxy.url))
        assert run(store.capabilities()) == replace(EVERYTHING, **{ignored: False})
        assert proxy.taken_out
    assert left_behind(rig.store(url)) == []


@ON_SEAWEEDFS
def test_what_a_server_does_not_know_it_does_not_honour(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> set[str]:
        answer = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
        raise ClientError(answer, "DeleteObjects")  # type: ignore[arg-type]

    monkeypatch.setattr(BlockingS3, "delete_together", unknown)
    with proxied(rig) as (proxy, direct, store):
        proxy.fail(501, "DELETE", rf"{PROBE_DIRECTORY}/[0-9a-f]+$")
        assert run(store.capabilities()) == replace(EVERYTHING, delete_if_match=False, bulk_delete=False)
        assert left_behind(direct) == []


@pytest.mark.parametrize("nth", [1, 2, 4])
@ON_SEAWEEDFS
def test_asking_survives_lost_answers(rig: Rig, nth: int) -> None:
    """What was done the first time must mislead nobody when it is sent again."""
    with proxied(rig, retries=3) as (proxy, direct, store):
        rules = [proxy.drop(method, nth=nth) for method in ("PUT", "POST", "DELETE", "HEAD")]
        assert run(store.capabilities()) == EVERYTHING
        assert sum(rule.fired for rule in rules) >= 2
        assert probes_of(direct) == []  # of an upload whose id was lost the next run hears, and discards it


@ON_SEAWEEDFS
def test_an_outage_decides_nothing_and_is_asked_again(rig: Rig) -> None:
    with proxied(rig, retries=0) as (proxy, direct, store):
        rule = proxy.fail(503, times=None)
        with pytest.raises(StoreUnavailable):
            run(store.capabilities())
        rule.end()
        assert run(store.capabilities()) == EVERYTHING
        assert left_behind(direct) == []


@ON_SEAWEEDFS
def test_a_bucket_that_is_not_there_is_no_server_without_capabilities(rig: Rig) -> None:
    assert rig.server is not None
    store = open_store("s3://no-such-bucket/x", s3_options(rig.server))
    with pytest.raises(StoreError, match="the bucket does not exist"):
        run(store.capabilities())


def test_a_local_store_says_so_itself(tmp_path: Path) -> None:
    found = run(open_store(str(tmp_path)).capabilities())
    assert found == replace(EVERYTHING, delete_if_match=False, bulk_delete=False)
    assert list(tmp_path.iterdir()) == []


def test_it_is_worded_for_people() -> None:
    one = replace(EVERYTHING, part_etags=False, bulk_delete=False)
    assert one.missing() == [
        "bulk delete with an ETag for each object",
        "part ETags compared when an upload is completed",
    ]
    assert one.missing("part_etags", "create_if_absent") == ["part ETags compared when an upload is completed"]
    assert str(one) == (
        "PUT only if absent, PUT only if unchanged, DELETE only if unchanged;"
        " not: bulk delete with an ETag for each object; not: part ETags compared when an upload is completed"
    )
