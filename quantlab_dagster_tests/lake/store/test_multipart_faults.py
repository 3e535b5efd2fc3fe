"""Staging on servers that refuse, do not answer, or damage what is sent."""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import time
import traceback
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from quantlab_dagster.errors import AccessDenied, ObjectNotFound, StoreError, StoreUnavailable
from quantlab_dagster.lake.store.objects import S3Options, Staged
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.lake.store.helpers import (
    CONTENT,
    KEY,
    MIB,
    NO_ETAG,
    ON_SEAWEEDFS,
    ON_SERVERS,
    STAGING_FAULTS,
    assert_helpful,
    blocking_of,
    named,
    on_key,
    proxied,
    put_all,
    staging_requests_of,
)
from quantlab_dagster_tests.servers import free_ports

if TYPE_CHECKING:
    from pathlib import Path


@ON_SERVERS
def test_what_does_not_exist_is_no_error(rig: Rig) -> None:
    store = rig.new_store()
    staged = Staged("no/such", "nonsense", (NO_ETAG,), 1)
    assert run(store.publish(staged)) is None
    assert run(store.discard(staged)) is False


@pytest.mark.parametrize("who", ["wrong secret", "unknown key", "nobody"])
@ON_SERVERS
def test_access_denied(rig: Rig, who: str, file: Path) -> None:
    assert rig.server is not None
    url = rig.new_url()
    put_all(rig.store(url), KEY)
    secret = secrets.token_hex(20)
    sessions = {
        "wrong secret": boto3.Session(rig.server.access_key, secret, region_name="us-east-1"),
        "unknown key": boto3.Session(secrets.token_hex(10).upper(), secret, region_name="us-east-1"),
        "nobody": None,
    }
    store = open_store(url, replace(s3_options(rig.server), session=sessions[who]))
    began = time.monotonic()
    for name, request in staging_requests_of(store, KEY, file).items():
        with pytest.raises(AccessDenied) as caught:
            run(request())
        assert "credentials" in caught.value.remedy
        assert secret not in "".join(traceback.format_exception(caught.value))
        if name != "delete_unchanged":  # where the probe is denied
            assert_helpful(caught.value, store, named(name, KEY))
    assert time.monotonic() - began < 20, "denied requests are retried"


@pytest.mark.guards("missing-bucket-empty")
@ON_SERVERS
def test_a_missing_bucket_is_not_taken_for_a_missing_upload(rig: Rig, file: Path) -> None:
    assert rig.server is not None
    store = open_store("s3://no-such-bucket/x", s3_options(rig.server))
    for name, request in staging_requests_of(store, KEY, file).items():
        with pytest.raises(StoreError, match="the bucket does not exist") as caught:
            run(request())
        assert not isinstance(caught.value, ObjectNotFound | StoreUnavailable), name


@ON_SEAWEEDFS
def test_without_a_session_requests_are_sent_unsigned(rig: Rig, file: Path) -> None:
    assert rig.server is not None
    with FaultProxy(rig.server.endpoint_url) as proxy:
        store = open_store(rig.new_url(), S3Options(None, "us-east-1", proxy.url))
        with pytest.raises(AccessDenied):
            run(store.stage(KEY, file))
        assert proxy.count("POST") == 1


def test_nothing_listening_at_the_endpoint(file: Path) -> None:
    [port] = free_ports(1)
    session = boto3.Session("key", "secret", region_name="us-east-1")
    store = open_store("s3://bucket/x", S3Options(session, "us-east-1", f"http://127.0.0.1:{port}", retries=1))
    for name, request in staging_requests_of(store, KEY, file).items():
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            run(request())
        assert time.monotonic() - began < 10, name
        assert f"127.0.0.1:{port}" in str(caught.value)
        if name != "delete_unchanged":
            assert_helpful(caught.value, store, named(name, KEY))


@ON_SEAWEEDFS
def test_waiting_can_be_cancelled(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store):
        staged = run(direct.stage(KEY, file))
        etag = run(direct.put("x", b"x"))
        proxy.stall(times=None)
        deletion = store.delete_unchanged("x", etag)
        for request in (store.stage("y", file), store.publish(staged), store.discard(staged), deletion):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                run(asyncio.wait_for(request, 0.1))
            assert time.monotonic() - began < 10
        assert run(direct.head("x")) is not None


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [("POST", "uploads"), ("PUT", "partNumber=2"), ("PUT", "partNumber=")])
@pytest.mark.usefixtures("small_parts")
@ON_SERVERS
def test_staging_survives_faults(rig: Rig, request_: tuple[str, str], tmp_path: Path) -> None:
    content = os.urandom(6 * MIB)
    path = tmp_path / "output"
    path.write_bytes(content)
    with proxied(rig) as (proxy, direct, store):
        for key, (fault, make_rule) in zip("abcdefgh", STAGING_FAULTS.items(), strict=True):
            rule = make_rule(proxy, request_[0], on_key(key, request_[1]))
            info = run(store.publish(run(store.stage(key, path))))
            assert rule.fired == (2 if "twice" in fault else 1), fault
            assert run(direct.get(key)) == (content, info), fault
        assert len(run(direct.list_objects(""))) == len(STAGING_FAULTS)


@ON_SERVERS
def test_a_part_that_is_damaged_on_its_way_is_sent_again(rig: Rig, file: Path) -> None:
    store = rig.new_store()
    area = blocking_of(store)
    sent = []

    def damage(request: Any, **_: object) -> None:
        sent.append(request)
        if len(sent) == 1:
            request.body = io.BytesIO(CONTENT[::-1])

    area._client.meta.events.register("before-send.s3.UploadPart", damage)
    info = run(store.publish(run(store.stage(KEY, file))))
    assert len(sent) == 2
    assert run(store.get(KEY)) == (CONTENT, info)


@ON_SERVERS
def test_publishing_survives_faults(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store):
        for method, query in (("GET", "uploadId="), ("POST", "uploadId="), ("HEAD", "")):
            for fault, make_rule in STAGING_FAULTS.items():
                key = f"{method}/{fault}"
                staged = run(direct.stage(key, file))
                rule = make_rule(proxy, method, on_key(key, query))
                info = run(store.publish(staged))
                done = method == "POST" and ("lost" in fault or "cut" in fault or "done" in fault)
                assert rule.fired == (2 if "twice" in fault and not done else 1), key
                found = run(direct.head(key))
                assert found is not None
                assert info == (None if done else found), key
                assert run(direct.get(key)) == (CONTENT, found), key
                run(direct.delete(key))
                assert run(direct.publish(staged)) is None
                assert run(direct.head(key)) is None


@ON_SERVERS
def test_discarding_survives_faults(rig: Rig, file: Path) -> None:
    requests = (("PUT", "partNumber=1"), ("POST", "uploadId="), ("DELETE", "uploadId="), ("HEAD", ""))
    with proxied(rig) as (proxy, direct, store):
        for method, query in requests:
            for fault, make_rule in STAGING_FAULTS.items():
                key = f"{method}/{fault}"
                staged = run(direct.stage(key, file))
                rule = make_rule(proxy, method, on_key(key, query))
                assert run(store.discard(staged)) is True, key
                assert rule.fired == (2 if "twice" in fault else 1), key
                assert run(direct.staged_below(f"{method}/")) == []
                assert run(direct.publish(staged)) is None
                assert run(direct.head(key)) is None


@ON_SERVERS
def test_finding_what_was_left_survives_faults(rig: Rig, file: Path) -> None:
    with proxied(rig) as (proxy, direct, store):
        staged = run(direct.stage(KEY, file))
        for fault, make_rule in STAGING_FAULTS.items():
            rule = make_rule(proxy, "GET", r"\?uploads")
            assert [found.upload_id for found in run(store.staged_below(""))] == [staged.upload_id]
            assert rule.fired == (2 if "twice" in fault else 1), fault


@ON_SERVERS
def test_what_does_not_pass_is_given_up(rig: Rig, file: Path) -> None:
    cases: list[tuple[str, str, str]] = [
        ("stage", "POST", r"uploads"),
        ("stage", "PUT", r"partNumber="),
        ("publish", "GET", r"uploadId="),
        ("publish", "POST", r"uploadId="),
        ("discard", "PUT", r"partNumber="),
        ("discard", "POST", r"uploadId="),
        ("discard", "DELETE", r"uploadId="),
        ("staged_below", "GET", r"\?uploads"),
        ("delete_unchanged", "DELETE", f"/{KEY}$"),
    ]
    with proxied(rig, retries=2) as (proxy, direct, store):
        etag = run(direct.put(KEY, b"before"))
        run(store.delete_unchanged("x", NO_ETAG))  # with it the probe is done
        for name, method, path in cases:
            for fault in ("503", "reset"):
                staged = run(direct.stage(KEY, file))
                rule = proxy.fail(503, method, path) if fault == "503" else proxy.reset(method, path)
                rule.times = None
                requests = staging_requests_of(store, KEY, file)
                requests["publish"] = lambda: store.publish(staged)  # noqa: B023  # used in this round only
                requests["discard"] = lambda: store.discard(staged)  # noqa: B023
                requests["delete_unchanged"] = lambda: store.delete_unchanged(KEY, etag)
                with pytest.raises(StoreUnavailable) as caught:
                    run(requests[name]())
                assert_helpful(caught.value, store, named(name, KEY))
                assert rule.fired == 3, (name, method, path, fault)
                rule.end()
                assert run(direct.get(KEY))[0] == b"before"
