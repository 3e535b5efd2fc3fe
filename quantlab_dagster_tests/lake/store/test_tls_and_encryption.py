"""A server behind a certificate of a private authority, and what it is asked to encrypt: by both libraries alike."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme

from quantlab_dagster.access import Access
from quantlab_dagster.access import s3_options as options_of
from quantlab_dagster.errors import SettingsError, StoreError
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.reader.places import open_place
from quantlab_dagster.settings import load_aws
from quantlab_dagster_tests.conftest import RIG_BUCKET, s3_options
from quantlab_dagster_tests.faults import FaultProxy, Request
from quantlab_dagster_tests.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.servers import S3Server

pytestmark = pytest.mark.server

KEY = "arn:aws:kms:eu-central-1:111122223333:key/0f0e"


# ---- a private authority ---------------------------------------------------------------------------------------------


@contextmanager
def behind_tls(server: S3Server, authority: trustme.CA) -> Iterator[str]:
    """Serve a server over TLS; yields the endpoint."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    upstream = urlsplit(server.endpoint_url)
    listener = socket.create_server((HOST, 0))
    listener.settimeout(0.2)
    ending = threading.Event()

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                sink.sendall(content)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        try:
            client = context.wrap_socket(plain, server_side=True)
        except OSError:
            return  # who does not trust us goes
        onward = socket.create_connection((upstream.hostname, upstream.port))
        back = threading.Thread(target=copy, args=(onward, client), daemon=True)
        back.start()
        copy(client, onward)
        back.join(10)
        client.close()
        onward.close()

    def accept() -> None:
        while not ending.is_set():
            with suppress(TimeoutError):
                plain, _ = listener.accept()
                threading.Thread(target=serve, args=(plain,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"https://{HOST}:{listener.getsockname()[1]}"
    finally:
        ending.set()
        thread.join()
        listener.close()


@pytest.fixture
def secured(seaweed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The environment of a server behind TLS; its endpoint, and the authority's certificate."""
    authority = trustme.CA()
    bundle = tmp_path / "company.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with behind_tls(seaweed, authority) as endpoint:
        for name, value in {**seaweed.env(), "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        yield endpoint, bundle


def opened(name: str) -> Store:
    url = f"s3://{RIG_BUCKET}/{name}"
    return open_store(url, options_of(url, Access(retries=1), load_aws("compact")))


def work(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of each library: objects by obstore, one of them in parts, and a listing of uploads by boto3."""
    monkeypatch.setattr(limits, "MULTIPART_BYTES", 1 << 20)
    file = tmp_path / "large"
    file.write_bytes(b"x" * (2 << 20))

    async def all_of_it() -> None:
        await store.put("small", b"small")
        await store.put("large", file)
        assert (await store.get("small"))[0] == b"small"
        assert len((await store.get("large"))[0]) == 2 << 20
        assert len(await store.list_objects("")) == 2
        assert await store.staged_below("") == []

    asyncio.run(all_of_it())


def test_a_private_authority_is_trusted_by_both_libraries_when_it_is_named(
    secured: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(secured[1]))
    work(opened("trusted"), tmp_path, monkeypatch)


def test_an_authority_can_be_that_of_one_lake(
    secured: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_COMPACT_AWS_CA_BUNDLE", str(secured[1]))
    work(opened("one-lake"), tmp_path, monkeypatch)
    assert load_aws("raw").ca_bundle is None


def test_a_server_of_an_unknown_authority_is_refused(secured: tuple[str, Path], tmp_path: Path) -> None:
    assert secured[1].exists()
    store = opened("refused")
    says = "certificate is not trusted.*CA bundle"
    with pytest.raises(StoreError, match=says):
        asyncio.run(store.put("small", b"small"))
    with pytest.raises(StoreError, match=says):
        asyncio.run(store.staged_below(""))
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    url = f"s3://{RIG_BUCKET}/refused"
    options = replace(options_of(url, Access(retries=0), load_aws("compact")), ca_bundle=str(other))
    with pytest.raises(StoreError, match=says):
        asyncio.run(open_store(url, options).put("small", b"small"))


def test_who_only_reads_trusts_it_too(secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="certificate is not trusted"):
        open_place(f"s3://{RIG_BUCKET}/read").directories("")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(secured[1]))
    assert open_place(f"s3://{RIG_BUCKET}/read").directories("") == ()


def test_a_bundle_that_is_not_there_is_said_when_the_lake_is_opened(
    secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert secured[1].exists()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(SettingsError, match=r"AWS_CA_BUNDLE: .*missing\.pem cannot be read"):
        opened("missing")


# ---- encryption ------------------------------------------------------------------------------------------------------


class Recording(FaultProxy):
    """Remembers what is asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.requests: list[Request] = []

    def rewritten(self, request: Request) -> Request:
        self.requests.append(request)
        return request

    def asked(self) -> dict[str, tuple[str | None, str | None]]:
        """Of each request that begins an object: the encryption, and the key."""
        found = {}
        for request in self.requests:
            whole_object = request.method == "PUT" and "uploadId" not in request.target
            if whole_object or (request.method == "POST" and "?uploads" in request.target):
                headers = {name.lower(): value for name, value in request.headers}
                prefix = "x-amz-server-side-encryption"
                key = headers.get(f"{prefix}-aws-kms-key-id")
                found[request.target.rpartition("/")[2].rstrip("=")] = (headers.get(prefix), key)
        return found


def test_what_is_written_is_encrypted_as_it_is_set(
    seaweed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SeaweedFS itself, which knows SSE-S3: objects come back as they were, and ETags do not confuse anybody."""
    for name, value in {**seaweed.env(), "AWS_SERVER_SIDE_ENCRYPTION": "AES256"}.items():
        monkeypatch.setenv(name, value)
    with Recording(seaweed.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = opened("encrypted")
        work(store, tmp_path, monkeypatch)
        asyncio.run(store.compare_and_swap("state", b"1", None))
        assert proxy.asked() == dict.fromkeys(("small", "large?uploads", "state"), ("AES256", None))
    head = seaweed.client().head_object(Bucket=RIG_BUCKET, Key="encrypted/large")
    assert head["ServerSideEncryption"] == "AES256"


def test_a_key_goes_with_every_object(seaweed: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a server without AWS's key service can show: both libraries ask for it."""
    settings = {"AWS_SERVER_SIDE_ENCRYPTION": "aws:kms", "AWS_SSE_KMS_KEY_ID": KEY}
    for name, value in {**seaweed.env(), **settings}.items():
        monkeypatch.setenv(name, value)
    with Recording(seaweed.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = opened("kms")
        with suppress(StoreError):  # it has no such key
            asyncio.run(store.put("small", b"small"))
        with suppress(StoreError):
            asyncio.run(store._begin("large"))
        assert proxy.asked() == dict.fromkeys(("small", "large?uploads"), ("aws:kms", KEY))


def test_without_a_setting_the_bucket_decides(
    seaweed: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recording(seaweed.endpoint_url) as proxy:
        url = f"s3://{RIG_BUCKET}/plain"
        store = open_store(url, replace(s3_options(seaweed), endpoint_url=proxy.url))
        work(store, tmp_path, monkeypatch)
        assert set(proxy.asked().values()) == {(None, None)}


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_SSE_KMS_KEY_ID": KEY}, "AWS_SSE_KMS_KEY_ID is set, and AWS_SERVER_SIDE_ENCRYPTION is not aws:kms"),
        (
            {"QUANTLAB_COMPACT_AWS_SSE_KMS_KEY_ID": KEY, "QUANTLAB_COMPACT_AWS_SERVER_SIDE_ENCRYPTION": "AES256"},
            "QUANTLAB_COMPACT_AWS_SERVER_SIDE_ENCRYPTION is not aws:kms",
        ),
        ({"AWS_SERVER_SIDE_ENCRYPTION": "sse-c"}, "AWS_SERVER_SIDE_ENCRYPTION: Input should be"),
    ],
)
def test_encryption_that_makes_no_sense_is_refused(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=says):
        load_aws("compact")
