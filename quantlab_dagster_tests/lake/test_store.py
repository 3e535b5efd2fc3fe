"""The store, on a local directory, on SeaweedFS and on Ceph: what it promises, and what it does when things break."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import secrets
import subprocess
import sys
import time
import traceback
from asyncio import run
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from quantlab_dagster.errors import (
    AccessDenied,
    ConditionalWriteUnsupported,
    Conflict,
    ObjectNotFound,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from quantlab_dagster.lake import store as module
from quantlab_dagster.lake.store import ObjectInfo, S3Options, Store, first_error, open_store
from quantlab_dagster_tests.conftest import s3_options
from quantlab_dagster_tests.faults import FaultProxy, Rule
from quantlab_dagster_tests.lake.test_layout import HOSTILE
from quantlab_dagster_tests.servers import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from quantlab_dagster_tests.conftest import Rig

Request = Callable[[], Coroutine[Any, Any, Any]]

ON_SERVERS = pytest.mark.parametrize(
    "rig",
    [pytest.param("seaweedfs", marks=pytest.mark.server), pytest.param("ceph", marks=pytest.mark.server)],
    indirect=True,
)
ON_SEAWEEDFS = pytest.mark.parametrize("rig", [pytest.param("seaweedfs", marks=pytest.mark.server)], indirect=True)

CROWD = 1003
MIB = 1 << 20
NO_ETAG = "0" * 32


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.new_store()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 0.01)


def keys_of(infos: list[ObjectInfo] | tuple[ObjectInfo, ...]) -> list[str]:
    return [info.key for info in infos]


def put_all(store: Store, *keys: str) -> None:
    async def put() -> None:
        await asyncio.gather(*(store.put(key, key.encode()) for key in keys))

    run(put())


def raw_client(rig: Rig) -> tuple[S3Client, str, str]:
    """A client of somebody else's making; a bucket, and a new prefix in it ending in a slash."""
    assert rig.server is not None
    bucket, _, prefix = rig.new_url().removeprefix("s3://").partition("/")
    return rig.server.client(), bucket, f"{prefix}/"


@contextmanager
def proxied(rig: Rig, url: str | None = None, *, retries: int = 2) -> Iterator[tuple[FaultProxy, Store, Store]]:
    """A proxy before the rig's server; a place as seen directly, and through it."""
    assert rig.server is not None
    url = url or rig.new_url()
    with FaultProxy(rig.server.endpoint_url) as proxy:
        options = replace(s3_options(rig.server, retries=retries), endpoint_url=proxy.url)
        yield proxy, rig.store(url), open_store(url, options)


# ---- reading and writing ---------------------------------------------------------------------------------------------


def test_what_is_put_can_be_got_listed_and_deleted(store: Store, tmp_path: Path) -> None:
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


def test_a_put_replaces_what_was_there(store: Store, tmp_path: Path) -> None:
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
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(module, "_MULTIPART_CHUNK", 5 * MIB)  # the least that S3 takes
    store = rig.new_store()
    content = os.urandom(13 * MIB)
    file, copy = tmp_path / "data", tmp_path / "copy"
    file.write_bytes(content)
    etag = run(store.put("m/data.parquet", file))
    assert store.requests.by_kind()["PUT"] == (1 if store.is_local else 5)  # begin, three parts, end
    info = ObjectInfo("m/data.parquet", len(content), etag)
    assert run(store.head("m/data.parquet")) == info
    assert run(store.list_objects("m/")) == [info]
    assert run(store.get("m/data.parquet")) == (content, info)
    assert run(store.download("m/data.parquet", copy)) == info
    assert copy.read_bytes() == content
    if rig.server:
        assert etag.endswith("-3"), "not put in parts"
    file.write_bytes(b"small")
    run(store.put("m/data.parquet", file))
    assert run(store.get("m/data.parquet"))[0] == b"small"


@pytest.mark.slow
def test_a_file_beyond_the_real_limit_comes_back_identical(rig: Rig, tmp_path: Path) -> None:
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


# ---- listing ---------------------------------------------------------------------------------------------------------


def test_listings_are_in_byte_order(store: Store) -> None:
    # SeaweedFS has m/a/1 before m/a-b, a local directory any order; é is two bytes, both above those of z.
    keys = ["m/a/1", "m/a-b", "m/a", "m/B", "m/z", "m/é", "m/z/1/2", "m/a0", "m/😀", "m/\uffee"]
    keys = [key for key in keys if key not in ("m/a", "m/z")] if store.is_local else keys
    for key in keys:  # one by one: SeaweedFS may lose one of two racing writes of an object and a directory of one name
        put_all(store, key)
    assert keys_of(run(store.list_objects("m/"))) == sorted(keys, key=str.encode)
    directory = run(store.list_directory("m/"))
    assert set(directory.directories) == {"a", "z"}
    assert keys_of(directory.objects) == sorted((key for key in keys if key.count("/") == 1), key=str.encode)


def test_a_prefix_is_a_directory(store: Store) -> None:
    put_all(store, "x/symbol=btc/1", "x/symbol=btc/deep/2", "x/symbol=btcusdt/3", "x/symbol=bt/4", "x/symbol=btc-5")
    assert keys_of(run(store.list_objects("x/symbol=btc/"))) == ["x/symbol=btc/1", "x/symbol=btc/deep/2"]
    directory = run(store.list_directory("x/symbol=btc/"))
    assert (directory.directories, keys_of(directory.objects)) == (("deep",), ["x/symbol=btc/1"])
    directory = run(store.list_directory("x/"))
    assert directory.directories == ("symbol=bt", "symbol=btc", "symbol=btcusdt")
    assert keys_of(directory.objects) == ["x/symbol=btc-5"]
    assert len(run(store.list_objects(""))) == 5


def test_a_missing_prefix_is_empty(store: Store) -> None:
    for prefix in ("nothing/", "nothing/here/", ""):
        assert run(store.list_objects(prefix)) == []
        assert run(store.list_directory(prefix)) == module.Directory((), ())
    put_all(store, "m/x")
    run(store.delete("m/x"))
    assert run(store.list_objects("m/")) == []


@pytest.fixture(scope="module")
def crowds() -> dict[str, str]:
    return {}


@pytest.fixture
def crowd(rig: Rig, crowds: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a place with more objects, and as many directories, than one page of a listing holds."""
    if rig.name not in crowds:
        if rig.server is None:
            root = tmp_path_factory.mktemp("crowd")
            for number in range(CROWD):
                (root / f"m/d={number}").mkdir(parents=True)
                (root / f"m/d={number}/x").write_bytes(b"x")
            crowds[rig.name] = str(root)
        else:
            url = rig.new_url()
            bucket, _, prefix = url.removeprefix("s3://").partition("/")
            rig.server.put_objects(bucket, {f"{prefix}/m/d={number}/x": b"x" for number in range(CROWD)})
            crowds[rig.name] = url
    return crowds[rig.name]


def test_a_listing_of_many_pages_is_whole(rig: Rig, crowd: str) -> None:
    store = rig.store(crowd)
    expected = sorted(f"m/d={number}/x" for number in range(CROWD))
    assert keys_of(run(store.list_objects("m/"))) == expected
    assert store.requests.by_kind() == {"LIST": 2}
    assert run(store.list_directory("m/")).directories == tuple(key.split("/")[1] for key in expected)
    assert store.requests.by_kind() == {"LIST": 4}
    assert keys_of(run(store.list_objects("m/d=7/"))) == ["m/d=7/x"]
    assert store.requests.by_kind() == {"LIST": 5}
    assert store.requests.total == 5


# ---- hostile keys ----------------------------------------------------------------------------------------------------


def hostile_values(rig: Rig) -> list[str]:
    # To SeaweedFS a backslash is a slash, in listings.
    return [value for value in HOSTILE if not (rig.name == "seaweedfs" and "\\" in value)]


def test_hostile_keys_mean_themselves(rig: Rig, store: Store, tmp_path: Path) -> None:
    values = hostile_values(rig)
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


@pytest.mark.parametrize("key", ["..", "a/../b", "a/./b", ".", "a//b", "a\tb", "a\x7fb", "a\x00b"])
def test_keys_that_cannot_be_addressed_are_refused_by_every_method(rig: Rig, key: str, tmp_path: Path) -> None:
    store = rig.new_store()
    for request in requests_of(store, key, tmp_path / "copy").values():
        with pytest.raises(StoreError, match="key that cannot be addressed") as caught:
            run(request())
        assert not isinstance(caught.value, StoreUnavailable | ObjectNotFound), "as if a retry could help"
        assert_helpful(caught.value, store, key)


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
    assert run(store.list_directory("")) == module.Directory(("m",), ())


# ---- errors ----------------------------------------------------------------------------------------------------------


def assert_helpful(error: StoreError, store: Store, key: str) -> None:
    """It names the object by its URL, says what to do, and shows no secret."""
    text = str(error)
    assert text.startswith(f"{store.url}/{key}: "), text
    assert error.remedy
    assert text.endswith(error.remedy)
    assert "\n" not in text


def requests_of(store: Store, key: str, copy: Path) -> dict[str, Request]:
    """Everything that can be asked about a key."""
    return {
        "get": lambda: store.get(key),
        "get_if_exists": lambda: store.get_if_exists(key),
        "download": lambda: store.download(key, copy),
        "head": lambda: store.head(key),
        "put": lambda: store.put(key, b"x"),
        "create": lambda: store.compare_and_swap(key, b"x", None),
        "update": lambda: store.compare_and_swap(key, b"x", NO_ETAG),
        "delete": lambda: store.delete(key),
    }


def listings_of(store: Store, prefix: str) -> dict[str, Request]:
    return {"list_objects": lambda: store.list_objects(prefix), "list_directory": lambda: store.list_directory(prefix)}


def test_what_does_not_exist_is_not_found(store: Store, tmp_path: Path) -> None:
    requests = requests_of(store, "no/such key", tmp_path / "copy")
    for name in ("get", "download"):
        with pytest.raises(ObjectNotFound) as caught:
            run(requests[name]())
        assert_helpful(caught.value, store, "no/such key")
        assert isinstance(caught.value, FileNotFoundError)
    assert run(requests["get_if_exists"]()) is None
    assert run(requests["head"]()) is None
    run(requests["delete"]())


@ON_SERVERS
def test_a_missing_bucket_is_not_taken_for_a_missing_object(rig: Rig, tmp_path: Path) -> None:
    assert rig.server is not None
    store = open_store("s3://no-such-bucket/x", s3_options(rig.server))
    requests = {**requests_of(store, "a/b", tmp_path / "copy"), **listings_of(store, "a/")}
    del requests["head"]  # its answer has no body that would tell
    for name, request in requests.items():
        with pytest.raises(StoreError, match="the bucket does not exist") as caught:
            run(request())
        assert not isinstance(caught.value, ObjectNotFound | StoreUnavailable | Conflict), name
        assert_helpful(caught.value, store, "a/" if "list" in name else "a/b")


@pytest.mark.parametrize("who", ["wrong secret", "unknown key", "nobody"])
@ON_SERVERS
def test_access_denied(rig: Rig, who: str, tmp_path: Path) -> None:
    assert rig.server is not None
    url = rig.new_url()
    put_all(rig.store(url), "a/b")
    secret = secrets.token_hex(20)
    sessions = {
        "wrong secret": boto3.Session(rig.server.access_key, secret, region_name="us-east-1"),
        "unknown key": boto3.Session(secrets.token_hex(10).upper(), secret, region_name="us-east-1"),
        "nobody": None,
    }
    store = open_store(url, replace(s3_options(rig.server), session=sessions[who]))
    began = time.monotonic()
    for name, request in {**requests_of(store, "a/b", tmp_path / "copy"), **listings_of(store, "a/")}.items():
        with pytest.raises(AccessDenied) as caught:
            run(request())
        assert_helpful(caught.value, store, "a/" if "list" in name else "a/b")
        assert isinstance(caught.value, PermissionError)
        assert "credentials" in caught.value.remedy
        assert secret not in "".join(traceback.format_exception(caught.value))
    assert time.monotonic() - began < 5, "denied requests are retried"


def test_nothing_listening_at_the_endpoint(tmp_path: Path) -> None:
    [port] = free_ports(1)
    session = boto3.Session("key", "secret", region_name="us-east-1")
    store = open_store("s3://bucket/x", S3Options(session, "us-east-1", f"http://127.0.0.1:{port}", retries=1))
    for name, request in {**requests_of(store, "a/b", tmp_path / "copy"), **listings_of(store, "a/")}.items():
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            run(request())
        assert time.monotonic() - began < 3, name
        assert_helpful(caught.value, store, "a/" if "list" in name else "a/b")
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert isinstance(caught.value, ConnectionError)


def test_a_directory_that_has_gone_is_not_an_empty_lake(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    root.mkdir()
    store = open_store(str(root))
    root.rmdir()
    for request in listings_of(store, "").values():
        with pytest.raises(StoreError, match="directory has gone"):
            run(request())


def test_trouble_with_our_own_files_is_not_the_objects_fault(store: Store, tmp_path: Path) -> None:
    put_all(store, "x")
    with pytest.raises(StoreError, match="local file cannot be used") as caught:
        run(store.download("x", tmp_path / "no such directory" / "copy"))
    assert not isinstance(caught.value, ObjectNotFound | StoreUnavailable)
    assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy


def test_what_a_file_system_refuses_is_not_tried_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_all(store, "file")
    for key in ("file/below", "x" * 300):
        with pytest.raises(StoreError) as caught:
            run(store.put(key, b"x"))
        assert not isinstance(caught.value, StoreUnavailable | ObjectNotFound)
        assert_helpful(caught.value, store, key)
    (tmp_path / ".quantlab-locks").write_bytes(b"in the way")
    with pytest.raises(StoreError, match="local file cannot be used"):
        run(store.compare_and_swap("x", b"x", None))


@pytest.mark.parametrize("key", ["status404/x", "status code: 403", "NoSuchBucket", "illegal", "InvalidPath"])
@ON_SEAWEEDFS
def test_keys_cannot_pass_for_errors(rig: Rig, key: str, tmp_path: Path) -> None:
    with proxied(rig) as (proxy, _, store):
        with pytest.raises(ObjectNotFound):
            run(store.get(key))
        proxy.fail(500, path=f"/{re.escape(key)}", times=None)
        proxy.fail(500, path=f"prefix=.*{re.escape(key)}/", times=None)
        requests = {**requests_of(store, key, tmp_path / "copy"), **listings_of(store, f"{key}/")}
        del requests["delete"]  # the key is in its body
        for name, request in requests.items():
            with pytest.raises(StoreUnavailable):
                run(request())
            assert name


def test_first_error() -> None:
    inner = ExceptionGroup("inner", [Conflict("key", "changed"), ValueError("later")])
    error = first_error(ExceptionGroup("outer", [inner, ValueError("last")]))
    assert isinstance(error, Conflict)


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_urls_of_local_lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lake = tmp_path / "a lake #1"
    encoded = f"{tmp_path}/a%20lake%20%231"
    for url in (str(lake), "a lake #1", f"file://{encoded}", f"file://localhost{encoded}"):
        store = open_store(url, create=True)
        assert store.is_local
        run(store.put("x", url.encode()))
        assert (lake / "x").read_bytes() == url.encode()
        assert store.name("x") == f"{url}/x"
    assert os.listdir(tmp_path) == ["a lake #1"]  # noqa: PTH208


def test_a_missing_local_lake_is_made_only_where_asked(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="local lake does not exist") as caught:
        open_store(str(tmp_path / "lake"))
    assert str(tmp_path / "lake") in str(caught.value)
    assert "QUANTLAB_RAW_URL" in caught.value.remedy
    assert not (tmp_path / "lake").exists()
    (tmp_path / "file").touch()
    for create in (True, False):
        with pytest.raises(SettingsError) as caught:
            open_store(str(tmp_path / "file"), create=create)
        assert caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://",
        "s3:///prefix",
        "s3:/bucket/prefix",
        "S3://bucket/prefix",
        "s3://my bucket/prefix",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "https://bucket.s3.amazonaws.com/",
        "gs://bucket",
        "file://relative/lake",
        "file:///lake?x=y",
        "file:///lake#x",
        "file:/lake",
    ],
)
def test_urls_that_cannot_be_understood(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        open_store(url, S3Options(None, "us-east-1", None), create=True)
    assert caught.value.where == url
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == [], "a directory was made of it"


@pytest.mark.parametrize("endpoint_url", ["nonsense", "http://", "ftp://host", "localhost:8333", "http://a b:80"])
def test_bad_endpoints_are_refused_before_the_engine_sees_them(endpoint_url: str) -> None:
    with pytest.raises(SettingsError, match="is no endpoint") as caught:
        open_store("s3://bucket", S3Options(None, "us-east-1", endpoint_url))
    assert "AWS_ENDPOINT_URL" in caught.value.remedy


@pytest.mark.parametrize("region", ["", "no where", "us-east-1/x"])
def test_bad_regions_are_refused_before_the_engine_sees_them(region: str) -> None:
    with pytest.raises(SettingsError, match="is no region") as caught:
        open_store("s3://bucket", S3Options(None, region, None))
    assert "AWS_REGION" in caught.value.remedy


def test_s3_needs_options() -> None:
    with pytest.raises(SettingsError, match="needs S3 options"):
        open_store("s3://bucket")


@ON_SERVERS
def test_a_prefix_of_a_bucket_is_taken_literally(rig: Rig) -> None:
    assert rig.server is not None
    url = rig.new_url()
    root = rig.store(url)
    for prefix in ("a b", "a%20b", "é", "a+b", "a%2Fb", "a#b", "a?b", "x=y/z=w"):
        options = replace(s3_options(rig.server), endpoint_url=f"{rig.server.endpoint_url}/")
        store = open_store(f"{url}/{prefix}/", options)
        run(store.put("k/x", b"x"))
        assert keys_of(run(store.list_objects("k/"))) == ["k/x"]
        assert keys_of(run(root.list_objects(f"{prefix}/"))) == [f"{prefix}/k/x"]


# ---- compare and swap ------------------------------------------------------------------------------------------------


def test_compare_and_swap(store: Store) -> None:
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


def test_without_an_etag_to_compare_nothing_is_written(store: Store) -> None:
    run(store.put("x", b"before"))
    with pytest.raises(StoreError):  # SeaweedFS takes an empty If-Match for none
        run(store.compare_and_swap("x", b"after", ""))
    assert run(store.get("x"))[0] == b"before"


@ON_SERVERS
def test_what_each_server_makes_of_a_conditional_write(rig: Rig) -> None:
    with proxied(rig) as (proxy, _, store):
        etag = run(store.compare_and_swap("x", b"1", None))
        run(store.compare_and_swap("x", b"2", etag))
        results = [(seen.method, seen.result) for seen in proxy.seen]
    created = [("PUT", 200)]
    # Ceph refuses the right ETag in quotes; that nobody has changed the object shows only when it is read.
    updated = [("PUT", 412), ("GET", 200), ("PUT", 200)] if rig.name == "ceph" else [("PUT", 200)]
    assert results == created + updated


def test_of_writers_at_once_one_wins(store: Store) -> None:
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


# ---- many processes at once

PROCESSES = 4
INCREMENTS = 25
_barrier: Barrier | None = None


def _init_worker(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603  # a barrier reaches a process of a pool in no other way
    _barrier = barrier


def _append_tokens(rig: Rig, url: str, name: str) -> tuple[int, int]:
    """Append to a list in an object, one token after another. Returns the process and its number of conflicts."""
    assert _barrier is not None
    store = rig.store(url)
    _barrier.wait(60)  # now each is in a process of its own

    async def append() -> int:
        conflicts = 0
        for number in range(INCREMENTS):
            while True:
                current = await store.get_if_exists("m/list")
                content, etag = (current[0], current[1].etag) if current else (b"", None)
                try:
                    await store.compare_and_swap("m/list", content + f"{name}.{number}\n".encode(), etag)
                    break
                except Conflict:
                    conflicts += 1
        return conflicts

    return os.getpid(), run(append())


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context, _init_worker, (context.Barrier(PROCESSES),)) as pool:
        yield pool


@pytest.mark.slow
def test_nothing_is_lost_between_processes(rig: Rig, processes: ProcessPoolExecutor) -> None:
    url = rig.new_url()
    futures = [processes.submit(_append_tokens, rig, url, str(number)) for number in range(PROCESSES)]
    results = [future.result(120) for future in futures]
    assert len({pid for pid, _ in results}) == PROCESSES
    assert sum(conflicts for _, conflicts in results) > 0, "they were never at it at once"
    tokens = run(rig.store(url).get("m/list"))[0].decode().split()
    assert len(tokens) == PROCESSES * INCREMENTS
    for number in range(PROCESSES):  # each in its own order
        mine = [token for token in tokens if token.startswith(f"{number}.")]
        assert mine == [f"{number}.{i}" for i in range(INCREMENTS)]


# ---- swaps on local directories


def test_locks_of_local_lakes_stay_few_and_out_of_sight(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    keys = [f"{'😀' * 50}/{'é' * 100}/{number}" for number in range(100)]
    for key in keys:
        run(store.compare_and_swap(key, b"x", None))
    assert len(run(store.list_objects(""))) == len(keys)
    assert len(run(store.list_directory("")).directories) == 1
    assert len(list((tmp_path / ".quantlab-locks").iterdir())) <= 64


def test_an_old_etag_does_not_come_back_within_a_tick_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Store.put

    async def put_by_a_slow_clock(self: Store, key: str, content: bytes | Path) -> str:
        await put(self, key, content)
        os.utime(tmp_path / key, (1, 1))
        info = await self.head(key)
        assert info is not None
        return info.etag

    monkeypatch.setattr(Store, "put", put_by_a_slow_clock)
    store = open_store(str(tmp_path))
    etag, etags = None, set()
    for number in range(10):
        etag = run(store.compare_and_swap("x", b"%d" % number, etag))
        etags.add(etag)
    assert len(etags) == 10


HOLD_LOCK = """
import asyncio, sys
from quantlab_dagster.lake.store import open_store

async def main():
    async with open_store(sys.argv[1])._local_lock("x"):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(TimeoutError):
                run(asyncio.wait_for(store.compare_and_swap("x", b"1", None), 0.2))
        finally:
            holder.kill()
    run(asyncio.wait_for(store.compare_and_swap("x", b"2", None), 10))
    assert run(store.get("x"))[0] == b"2"


# ---- faults ----------------------------------------------------------------------------------------------------------


METHODS = {
    "get": "GET",
    "get_if_exists": "GET",
    "download": "GET",
    "head": "HEAD",
    "put": "PUT",
    "create": "PUT",
    "update": "PUT",
    "delete": "POST",
    "list_objects": "GET",
    "list_directory": "GET",
}
FAULTS: dict[str, Callable[[FaultProxy, str], Rule]] = {
    "500": lambda proxy, method: proxy.fail(500, method),
    "503 twice": lambda proxy, method: proxy.fail(503, method, times=2),
    "429": lambda proxy, method: proxy.fail(429, method),
    "reset": lambda proxy, method: proxy.reset(method),
    "reset twice": lambda proxy, method: proxy.reset(method, times=2),
    "answer lost": lambda proxy, method: proxy.drop(method),
    "answer cut": lambda proxy, method: proxy.truncate(method),
    "500 though done": lambda proxy, method: proxy.fail(500, method, after_forwarding=True),
}


@pytest.mark.parametrize("fault", FAULTS)
@ON_SERVERS
def test_what_passes_is_retried(rig: Rig, fault: str, tmp_path: Path) -> None:
    before = os.urandom(100_000)
    with proxied(rig) as (proxy, direct, store):
        for name, method in METHODS.items():
            etag = run(direct.put("m/x", before))
            run(direct.delete("m/new"))
            rule = FAULTS[fault](proxy, method)
            requests: dict[str, Request] = {
                **requests_of(store, "m/x", tmp_path / "copy"),
                **listings_of(store, "m/"),
                "create": lambda: store.compare_and_swap("m/new", b"x", None),
                "update": lambda: store.compare_and_swap("m/x", b"x", etag),  # noqa: B023  # used in this round only
            }
            result: Any = run(requests[name]())
            assert rule.fired == (2 if "twice" in fault else 1), name
            info = ObjectInfo("m/x", len(before), etag)
            if name in ("put", "create", "update"):
                key = "m/new" if name == "create" else "m/x"
                assert run(direct.get(key)) == (b"x", ObjectInfo(key, 1, result)), name
            elif name == "delete":
                assert run(direct.head("m/x")) is None
            elif name == "list_objects":
                assert result == [info]
            elif name == "list_directory":
                assert result == module.Directory((), (info,))
            elif name == "download":
                assert (result, (tmp_path / "copy").read_bytes()) == (info, before)
            else:
                assert result == (info if name == "head" else (before, info)), name


@ON_SERVERS
def test_what_does_not_pass_is_given_up(rig: Rig, tmp_path: Path) -> None:
    with proxied(rig, retries=2) as (proxy, direct, store):
        put_all(direct, "m/x")
        for fault in ("500", "reset"):
            for name, method in METHODS.items():
                rule = proxy.fail(500, method, times=None) if fault == "500" else proxy.reset(method, times=None)
                request = {**requests_of(store, "m/x", tmp_path / "copy"), **listings_of(store, "m/")}[name]
                # It is there, as reading it back shows, so these two are conflicts.
                expected = Conflict if name in ("create", "update") else StoreUnavailable
                with pytest.raises(expected) as caught:
                    run(request())
                assert_helpful(caught.value, store, "m/" if "list" in name else "m/x")
                assert rule.fired <= 3, "more than was asked for"
                rule.end()


@ON_SERVERS
def test_a_swap_that_never_reaches_the_server_is_given_up(rig: Rig) -> None:
    for fault in ("503", "reset"):
        with proxied(rig, retries=2) as (proxy, direct, store):
            etag = run(direct.put("x", b"before"))
            rule = proxy.fail(503, "PUT", times=None) if fault == "503" else proxy.reset("PUT", times=None)
            with pytest.raises(StoreUnavailable):
                run(store.compare_and_swap("x", b"after", etag))
            assert rule.fired == 3
            with pytest.raises(StoreUnavailable):
                run(store.compare_and_swap("new", b"after", None))
            assert rule.fired == 6
            assert run(direct.get("x"))[0] == b"before"
            assert run(direct.head("new")) is None


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


@ON_SERVERS
def test_a_swap_whose_answer_is_lost_is_a_success(rig: Rig) -> None:
    # The PUT that Ceph obeys is the second one of an update.
    with proxied(rig) as (proxy, direct, store):
        lost = proxy.drop("PUT", "/created$")
        etag = run(store.compare_and_swap("created", b"1", None))
        assert run(direct.get("created")) == (b"1", ObjectInfo("created", 1, etag))
        assert (lost.fired, proxy.count("PUT")) == (1, 1)  # one write, found when read back

        lost = proxy.drop("PUT", "/created$", nth=2 if rig.name == "ceph" else 1)
        etag = run(store.compare_and_swap("created", b"2", etag))
        assert run(direct.get("created")) == (b"2", ObjectInfo("created", 1, etag))
        assert lost.fired == 1


@ON_SERVERS
def test_a_swap_overtaken_after_its_answer_was_lost_is_a_conflict(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        proxy.drop("PUT")
        reading_back = proxy.stall("GET")
        swap = pool.submit(run, store.compare_and_swap("x", b"mine", None))
        reading_back.wait()
        content, info = run(direct.get("x"))
        assert content == b"mine"
        theirs = run(direct.compare_and_swap("x", b"theirs", info.etag))
        reading_back.release()
        with pytest.raises(Conflict):
            swap.result(30)
        assert run(direct.get("x")) == (b"theirs", ObjectInfo("x", 6, theirs))


@ON_SERVERS
def test_a_swap_that_arrives_late_is_a_conflict(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        etag = run(direct.put("x", b"before"))
        late = proxy.stall("PUT")
        swap = pool.submit(run, store.compare_and_swap("x", b"mine", etag))
        late.wait()
        run(direct.compare_and_swap("x", b"theirs", etag))
        late.release()
        with pytest.raises(Conflict):
            swap.result(30)
        assert run(direct.get("x"))[0] == b"theirs"


@ON_SERVERS
def test_a_swap_overwritten_before_its_answer_arrives_is_a_success(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
        held = proxy.stall("PUT", after_forwarding=True)
        swap = pool.submit(run, store.compare_and_swap("x", b"mine", None))
        held.wait()
        mine = run(direct.get("x"))[1].etag
        run(direct.put("x", b"theirs"))
        held.release()
        assert swap.result(30) == mine


@ON_SERVERS
def test_a_server_without_conditional_writes_is_found_out(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        etag = run(direct.put("x", b"before"))
        proxy.fail(412, "PUT", times=None)
        for key, expected_etag in (("x", etag), ("new", None)):
            with pytest.raises(ConditionalWriteUnsupported) as caught:
                run(store.compare_and_swap(key, b"after", expected_etag))
            assert_helpful(caught.value, store, key)
        assert run(direct.get("x"))[0] == b"before"
        assert run(direct.head("new")) is None
    with proxied(rig) as (proxy, _, store):
        proxy.fail(501, "PUT", times=None)
        with pytest.raises(StoreError, match="refused") as refused:
            run(store.compare_and_swap("new", b"after", None))
        assert not isinstance(refused.value, StoreUnavailable)


@ON_SERVERS
def test_a_write_that_collides_with_one_under_way_is_tried_again(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        rule = proxy.fail(409, "PUT")  # what AWS says then
        etag = run(store.compare_and_swap("x", b"1", None))
        assert rule.fired == 1
        rule = proxy.fail(409, "PUT")
        run(store.compare_and_swap("x", b"2", etag))
        assert rule.fired == 1
        assert run(direct.get("x"))[0] == b"2"


@pytest.mark.parametrize("fault", ["begin lost", "part lost", "part reset", "end lost", "end reset", "end 500"])
@ON_SERVERS
def test_an_upload_in_parts_survives_faults(
    rig: Rig, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(module, "_MULTIPART_CHUNK", 5 * MIB)
    content = os.urandom(6 * MIB)
    file = tmp_path / "data"
    file.write_bytes(content)
    with proxied(rig) as (proxy, direct, store):
        faults = {
            "begin lost": lambda: proxy.drop("POST", r"uploads"),
            "part lost": lambda: proxy.drop("PUT", r"partNumber=2"),
            "part reset": lambda: proxy.reset("PUT", r"partNumber=1"),
            "end lost": lambda: proxy.drop("POST", r"uploadId="),
            "end reset": lambda: proxy.reset("POST", r"uploadId="),
            "end 500": lambda: proxy.fail(500, "POST", r"uploadId="),
        }
        rule = faults[fault]()
        etag = run(store.put("data", file))
        assert rule.fired == 1
        assert run(direct.get("data")) == (content, ObjectInfo("data", len(content), etag))


@ON_SERVERS
def test_an_upload_in_parts_that_fails_changes_nothing(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(module, "_MULTIPART_CHUNK", 5 * MIB)
    file = tmp_path / "data"
    file.write_bytes(bytes(6 * MIB))
    with proxied(rig) as (proxy, direct, store):
        run(direct.put("data", b"before"))
        proxy.fail(500, "PUT", r"partNumber=2", times=None)
        with pytest.raises(StoreUnavailable):
            run(store.put("data", file))
        assert run(direct.get("data"))[0] == b"before"
        assert len(run(direct.list_objects(""))) == 1
        assert proxy.count("DELETE", r"uploadId=") == 1  # nothing is left behind to be paid for


@ON_SERVERS
def test_a_read_never_mixes_two_versions(rig: Rig, tmp_path: Path) -> None:
    old, new = os.urandom(3 * MIB), os.urandom(3 * MIB)
    for name in ("get", "download"):
        with proxied(rig) as (proxy, direct, store), ThreadPoolExecutor(1) as pool:
            run(direct.put("x", old))
            proxy.truncate("GET")
            resumed = proxy.stall("GET", nth=2)
            reading: Future[Any] = pool.submit(run, requests_of(store, "x", tmp_path / "copy")[name]())
            resumed.wait()
            run(direct.put("x", new))
            resumed.release()
            with pytest.raises(StoreError) as caught:
                reading.result(30)
            assert_helpful(caught.value, store, "x")


@ON_SEAWEEDFS
def test_waiting_can_be_cancelled(rig: Rig) -> None:
    with proxied(rig) as (proxy, direct, store):
        run(direct.put("x", b"x"))
        proxy.stall(times=None)
        swap = store.compare_and_swap("new", b"x", None)
        for request in (store.get("x"), store.list_objects(""), store.put("x", b"y"), swap):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                run(asyncio.wait_for(request, 0.1))
            assert time.monotonic() - began < 2
    assert run(direct.get("x"))[0] == b"x"


# ---- requests --------------------------------------------------------------------------------------------------------


@ON_SERVERS
def test_requests_are_few_and_counted(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(module, "_MULTIPART_CHUNK", 5 * MIB)
    file = tmp_path / "data"
    file.write_bytes(bytes(6 * MIB))
    with proxied(rig) as (proxy, _, store):

        async def all_of_them() -> None:
            etag = await store.put("m/x", b"x")
            await store.get("m/x")
            await store.get_if_exists("m/x")
            await store.get_if_exists("m/none")
            await store.download("m/x", tmp_path / "copy")
            await store.head("m/x")
            await store.list_objects("m/")
            await store.list_directory("")
            await store.compare_and_swap("m/x", b"y", etag)
            await store.compare_and_swap("m/y", b"y", None)
            await store.put("m/big", file)
            await store.delete("m/x")

        run(all_of_them())
        seen = Counter(_kind(one.method, one.target) for one in proxy.seen)
    assert store.requests.by_kind() == dict(sorted(seen.items()))
    more = rig.name == "ceph"  # a swap takes three there, and a multipart upload comes back without an ETag
    expected = {"DELETE": 1, "GET": 4 + more, "HEAD": 1 + more, "LIST": 2, "PUT": 7 + more}
    assert store.requests.by_kind() == expected
    assert store.requests.total == sum(expected.values())


def _kind(method: str, target: str) -> str:
    if method == "GET" and "list-type=2" in target:
        return "LIST"
    if method == "POST":
        return "DELETE" if target.endswith("?delete") else "PUT"
    return method
