"""Every failure is a domain error that names the object and says what to do."""

from __future__ import annotations

import pickle
import re
import secrets
import shutil
import time
import traceback
from asyncio import run
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from quantlab_dagster.errors import (
    AccessDenied,
    Conflict,
    ObjectNotFound,
    ScratchUnusable,
    StoreError,
    StoreUnavailable,
)
from quantlab_dagster.lake.store.faults import broke_off, map_error
from quantlab_dagster.lake.store.objects import S3Options, first_error
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.lake.store.helpers import (
    ON_SEAWEEDFS,
    ON_SERVERS,
    assert_helpful,
    listings_of,
    proxied,
    put_all,
    requests_of,
)
from quantlab_dagster_tests.servers import free_ports

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.guards("missing-bucket-empty")
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
    assert time.monotonic() - began < 20, "denied requests are retried"


def test_nothing_listening_at_the_endpoint(tmp_path: Path) -> None:
    [port] = free_ports(1)
    session = boto3.Session("key", "secret", region_name="us-east-1")
    store = open_store("s3://bucket/x", S3Options(session, "us-east-1", f"http://127.0.0.1:{port}", retries=1))
    for name, request in {**requests_of(store, "a/b", tmp_path / "copy"), **listings_of(store, "a/")}.items():
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            run(request())
        assert time.monotonic() - began < 10, name
        assert_helpful(caught.value, store, "a/" if "list" in name else "a/b")
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert isinstance(caught.value, ConnectionError)


@pytest.mark.guards("missing-bucket-empty")
def test_a_directory_that_has_gone_is_not_an_empty_lake(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    root.mkdir()
    store = open_store(str(root))
    root.rmdir()
    for request in listings_of(store, "").values():
        with pytest.raises(StoreError, match="directory has gone"):
            run(request())


def test_what_a_file_system_refuses_is_not_tried_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_all(store, "file")
    for key in ("file/below", "x" * 300):
        with pytest.raises(StoreError) as caught:
            run(store.put(key, b"x"))
        assert not isinstance(caught.value, StoreUnavailable | ObjectNotFound)
        assert_helpful(caught.value, store, key)
    shutil.rmtree(tmp_path / ".quantlab-locks")
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


def client_error(code: str, status: int, operation: str = "UploadPart") -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "status code: 500"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (client_error("AccessDenied", 403), AccessDenied),
        (client_error("403", 403, "HeadObject"), AccessDenied),
        (client_error("403", 403), AccessDenied),  # by a proxy that does not speak S3
        (client_error("ExpiredToken", 401), AccessDenied),
        (client_error("NoSuchKey", 404), ObjectNotFound),
        (client_error("NoSuchUpload", 404), ObjectNotFound),
        (client_error("NoSuchBucket", 404), StoreError),
        (client_error("InvalidArgument", 400), StoreError),
        (client_error("400", 400, "HeadObject"), StoreError),
        (client_error("NotImplemented", 501), StoreError),
        (client_error("400", 400), StoreUnavailable),  # the body was cut short
        (client_error("404", 404), StoreUnavailable),
        (client_error("RequestTimeout", 400), StoreUnavailable),
        (client_error("BadDigest", 400), StoreUnavailable),
        (client_error("ConditionalRequestConflict", 409), StoreUnavailable),
        (client_error("InternalError", 200), StoreUnavailable),  # which AWS may say of a completion
        (client_error("SlowDown", 503), StoreUnavailable),
        (client_error("TooManyRequests", 429), StoreUnavailable),
        (exceptions.NoCredentialsError(), AccessDenied),
        (exceptions.CredentialRetrievalError(provider="x", error_msg="y"), AccessDenied),
        (exceptions.EndpointConnectionError(endpoint_url="http://x"), StoreUnavailable),
        (exceptions.ReadTimeoutError(endpoint_url="http://x"), StoreUnavailable),
        (exceptions.ConnectionClosedError(endpoint_url="http://x"), StoreUnavailable),
        (ResponseParserError("cut"), StoreUnavailable),
        (exceptions.ParamValidationError(report="x"), StoreError),
    ],
    ids=repr,
)
def test_what_botocore_raises_is_named(error: Exception, expected: type[StoreError]) -> None:
    mapped = map_error("s3://bucket/x", error)
    assert type(mapped) is expected
    assert str(mapped).startswith("s3://bucket/x: ")
    mapped.__cause__ = error
    if isinstance(mapped, StoreUnavailable):
        assert broke_off(mapped), "it is not tried again"


def test_trouble_with_a_local_file_survives_a_process_boundary() -> None:
    error = ScratchUnusable("s3://bucket/x", "a local file cannot be used (full)")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (type(again), str(again)) == (ScratchUnusable, str(error))
    assert str(again).startswith("s3://bucket/x: a local file cannot be used (full). Check the space")
