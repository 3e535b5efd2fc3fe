"""What the tests of stores share."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from asyncio import run
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import pytest

from quantlab_dagster.errors import ObjectNotFound, StoreError
from quantlab_dagster.lake.store.base import PROBE_DIRECTORY, Store
from quantlab_dagster.lake.store.objects import ObjectInfo, Staged
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.store.s3 import S3Store
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.faults import FaultProxy, Rule
from quantlab_dagster_tests.lake.test_market import HOSTILE

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from quantlab_dagster.lake.store.multipart import BlockingS3

Request = Callable[[], Coroutine[Any, Any, Any]]


ON_SERVERS = pytest.mark.parametrize(
    "rig",
    [pytest.param("seaweedfs", marks=pytest.mark.server), pytest.param("ceph", marks=pytest.mark.server)],
    indirect=True,
)


ON_SEAWEEDFS = pytest.mark.parametrize("rig", [pytest.param("seaweedfs", marks=pytest.mark.server)], indirect=True)


ON_CEPH = pytest.mark.parametrize("rig", [pytest.param("ceph", marks=pytest.mark.server)], indirect=True)


CROWD = 1003


MIB = 1 << 20


NO_ETAG = "0" * 32


KEY = "event=a b/hour=2026010812/compacted_é.parquet"


CONTENT = b"sorted rows"


# The path of a request about a probe.
PROBE = rf"/{re.escape(PROBE_DIRECTORY)}/[0-9a-f]+$"


STAGING_FAULTS: dict[str, Callable[[FaultProxy, str, str], Rule]] = {
    "500": lambda proxy, method, path: proxy.fail(500, method, path),
    "503 twice": lambda proxy, method, path: proxy.fail(503, method, path, times=2),
    "429": lambda proxy, method, path: proxy.fail(429, method, path),
    "reset": lambda proxy, method, path: proxy.reset(method, path),
    "answer lost": lambda proxy, method, path: proxy.drop(method, path),
    "answer lost twice": lambda proxy, method, path: proxy.drop(method, path, times=2),
    "answer cut": lambda proxy, method, path: proxy.truncate(method, path),
    "500 though done": lambda proxy, method, path: proxy.fail(500, method, path, after_forwarding=True),
}


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


def hostile_values(rig: Rig) -> list[str]:
    # To SeaweedFS a backslash is a slash, in listings.
    return [value for value in HOSTILE if not (rig.name == "seaweedfs" and "\\" in value)]


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


def staging_requests_of(store: Store, key: str, file: Path) -> dict[str, Request]:
    """Everything that can be asked about an upload of a key, or its deletion."""
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


def on_key(key: str, query: str = "") -> str:
    """A pattern of requests about a key and nothing else."""
    return rf"/{re.escape(key)}\?.*{query}" if query else rf"/{re.escape(key)}$"


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


def probes_of(store: Store) -> list[str]:
    """Keys of the probes that are there. No listing of a store shows them, so the engine is asked."""

    async def listing() -> list[str]:
        chunks = obstore.list(store._engine, f"{PROBE_DIRECTORY}/")
        return [meta["path"] async for chunk in chunks for meta in chunk]

    return run(listing())


def blocking_of(store: Store) -> BlockingS3:
    """The requests of a store that go through boto3."""
    assert isinstance(store, S3Store)
    return store._blocking


def if_match_of(store: Store) -> str | None:
    """How a store words the condition of a deletion, if it has found out."""
    assert isinstance(store, S3Store)
    return store._answers.get("delete_if_match")


def collect_garbage(rig: Rig) -> None:
    """Have Ceph do at once what it does hours after something was deleted."""
    if rig.name == "ceph":
        assert rig.server is not None
        variables = Path(f"/proc/{rig.server.pids[-1]}/environ").read_text().split("\0")
        [conf] = [line.partition("=")[2] for line in variables if line.startswith("CEPH_CONF=")]
        command = ["radosgw-admin", "gc", "process", "--include-all"]
        subprocess.run(command, env={**os.environ, "CEPH_CONF": conf}, check=True, capture_output=True)
