"""Listings, and keys that others wrote."""

from __future__ import annotations

from asyncio import run
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.errors import StoreError, StoreUnavailable
from quantlab_dagster.lake.store.objects import Directory
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.lake.store.helpers import (
    CROWD,
    ON_SERVERS,
    assert_helpful,
    hostile_values,
    keys_of,
    listings_of,
    proxied,
    put_all,
    raw_client,
)
from quantlab_dagster_tests.lake.test_market import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig
    from quantlab_dagster_tests.faults import Rule


@ON_SERVERS
def test_other_clients_see_the_same_keys(rig: Rig) -> None:
    client, bucket, prefix = raw_client(rig)
    store = rig.store(f"s3://{bucket}/{prefix}")
    values = hostile_values(rig)
    with closing(client):
        for value in values:
            client.put_object(Bucket=bucket, Key=f"{prefix}theirs={value}/x", Body=value.encode())
        put_all(store, *(f"ours={value}/x" for value in values))
        assert [info.key for info in run(store.list_objects(""))] == sorted(
            (f"{who}={value}/x" for who in ("ours", "theirs") for value in values), key=str.encode
        )
        for value in values:
            assert run(store.get(f"theirs={value}/x"))[0] == value.encode()
            theirs = client.get_object(Bucket=bucket, Key=f"{prefix}ours={value}/x")
            with closing(theirs["Body"]) as body:
                assert body.read() == f"ours={value}/x".encode()


def test_local_keys_are_file_names(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for value in HOSTILE:
        path = tmp_path / f"theirs={value}" / "x"
        path.parent.mkdir()
        path.write_bytes(b"x")
        run(store.put(f"ours={value}/x", b"x"))
        assert (tmp_path / f"ours={value}" / "x").read_bytes() == b"x"
        assert keys_of(run(store.list_objects(f"theirs={value}/"))) == [f"theirs={value}/x"]
    names = {f"{who}={value}" for who in ("ours", "theirs") for value in HOSTILE}
    assert set(run(store.list_directory("")).directories) == names


@ON_SERVERS
def test_one_key_that_cannot_be_addressed_fails_its_listing(rig: Rig) -> None:
    client, bucket, prefix = raw_client(rig)
    store = rig.store(f"s3://{bucket}/{prefix}")
    put_all(store, "m/ok", "n/ok")
    with closing(client):
        client.put_object(Bucket=bucket, Key=f"{prefix}m/a\tb", Body=b"x")
    for listing in (store.list_objects, store.list_directory):
        with pytest.raises(StoreError, match=r"cannot be addressed \(.*m/a\tb") as caught:
            run(listing("m/"))
        assert "Rename or remove that object" in str(caught.value)
    assert keys_of(run(store.list_objects("n/"))) == ["n/ok"]


@ON_SERVERS
def test_markers_of_directories_are_no_objects(rig: Rig) -> None:
    client, bucket, prefix = raw_client(rig)
    store = rig.store(f"s3://{bucket}/{prefix}")
    with closing(client):
        for key in (prefix, f"{prefix}m/"):  # as the AWS console makes them
            client.put_object(Bucket=bucket, Key=key, Body=b"")
    put_all(store, "m/x")
    for name in ("m/", ""):
        listed = [info.key for info in run(store.list_objects(name))]
        assert [key for key in listed if key != "m"] == ["m/x"]
    directory = run(store.list_directory("m/"))
    assert (directory.directories, keys_of(directory.objects)) == ((), ["m/x"])
    assert run(store.list_directory("")) == Directory(("m",), ())


@pytest.mark.guards("short-listing")
@pytest.mark.parametrize("fault", ["500", "reset", "answer lost", "answer cut"])
@ON_SERVERS
def test_a_listing_that_fails_half_way_is_never_short(rig: Rig, crowd: str, fault: str) -> None:
    second_page = r"continuation-token="
    with proxied(rig, crowd) as (proxy, _, store):
        faults: dict[str, Callable[[int | None], Rule]] = {
            "500": lambda times: proxy.fail(500, "GET", second_page, times=times),
            "reset": lambda times: proxy.reset("GET", second_page, times=times),
            "answer lost": lambda times: proxy.drop("GET", second_page, times=times),
            "answer cut": lambda times: proxy.truncate("GET", second_page, times=times),
        }
        passing = faults[fault](1)
        assert len(run(store.list_objects("m/"))) == CROWD
        assert passing.fired == 1
        lasting = faults[fault](None)
        for number, listing in enumerate(listings_of(store, "m/").values(), 1):
            with pytest.raises(StoreUnavailable) as caught:
                run(listing())
            assert_helpful(caught.value, store, "m/")
            assert lasting.fired >= number
