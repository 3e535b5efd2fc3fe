"""Shared fixtures: real S3 servers, and the rig that runs the same tests on each kind of store."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from quantlab_dagster.lake.store.objects import S3Options
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.market.eligibility import DAY_SETTLES_AT
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.servers import S3Server, ceph, ceph_missing, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store

# In CI a skipped test is a failure, unless it needs what no package registry of Python's has.
_SKIPS_ALLOWED_IN_CI = ("needs Ceph",)

RIG_BUCKET = "rig"

# How long the tests marked `present` take, at most.
_PRESENT_TAKES = dt.timedelta(minutes=15)

# A shell's `&` lets its jobs ignore SIGINT, and every child would inherit that: tests that interrupt could not.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Wait for the next day to become eligible, if that would happen within the tests for which it is the present."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return  # somebody works on a few tests
    waiting = waiting_time(utc_now())
    if waiting:
        print(f"another day becomes eligible in {waiting}, which is waited for")  # noqa: T201
        time.sleep(waiting.total_seconds())


def waiting_time(now: dt.datetime) -> dt.timedelta:
    """How long it is until another day has become eligible, if that happens soon; else nothing."""
    settled = now.replace(hour=DAY_SETTLES_AT.hour, minute=DAY_SETTLES_AT.minute, second=5, microsecond=0)
    return settled - now if dt.timedelta(0) < settled - now < _PRESENT_TAKES else dt.timedelta(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is bound to the present comes first."""
    items.sort(key=lambda item: item.get_closest_marker("present") is None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:  # noqa: ARG001
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in _SKIPS_ALLOWED_IN_CI):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where it must run: {reason}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's machine reaches a test."""
    for name in os.environ:
        if name.startswith(("QUANTLAB_", "WAREHOUSE_", "COMPACTION_", "DAGSTER_HOME", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        server.create_bucket(RIG_BUCKET)
        yield server


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    missing = ceph_missing()
    if missing:
        pytest.skip(f"needs Ceph: {missing}")
    with ceph(tmp_path_factory.mktemp("ceph")) as server:
        server.create_bucket(RIG_BUCKET)
        yield server


@dataclass(frozen=True, slots=True)
class Rig:
    """One kind of store. `server` is None for local directories."""

    name: str
    server: S3Server | None
    directory: Path

    def new_url(self) -> str:
        """A place of its own: a directory, or a prefix. (SeaweedFS keeps volumes per bucket, and runs out of them.)"""
        if self.server is None:
            path = self.directory / uuid.uuid4().hex
            path.mkdir()
            return str(path)
        return f"s3://{RIG_BUCKET}/some prefix/{uuid.uuid4().hex}"

    def store(self, url: str) -> Store:
        """Open a place."""
        return open_store(url, s3_options(self.server) if self.server else None)

    def new_store(self) -> Store:
        """Open a new place."""
        return self.store(self.new_url())

    def env(self) -> dict[str, str]:
        """Environment variables with which the project reaches it."""
        return self.server.env() if self.server else {}


def s3_options(server: S3Server, *, retries: int = 3) -> S3Options:
    """How to reach a test server."""
    session = boto3.Session(server.access_key, server.secret_key, region_name=server.region)
    return S3Options(session, server.region, server.endpoint_url, retries=retries)


@pytest.fixture(
    params=[
        "local",
        pytest.param("seaweedfs", marks=pytest.mark.server),
        pytest.param("ceph", marks=pytest.mark.server),
    ]
)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    """The same test on every kind of store."""
    fixtures = {"local": None, "seaweedfs": "seaweed", "ceph": "ceph_server"}
    fixture = fixtures[request.param]
    server = request.getfixturevalue(fixture) if fixture else None
    directory = tmp_path / "lakes"
    directory.mkdir()
    return Rig(request.param, server, directory)
