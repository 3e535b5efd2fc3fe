from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
import pytest
from botocore.exceptions import ClientError
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store

from quantlab_dagster_tests import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from quantlab_dagster_tests.servers import S3Server

pytestmark = pytest.mark.server

BUCKET = "quantlab-test"
WRONG_ETAG = "0" * 32
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    start: Callable[[Path], AbstractContextManager[S3Server]]
    quoted_if_match_works: bool
    conditional_complete_works: bool


KINDS = [
    pytest.param(Kind("seaweedfs", servers.seaweedfs, True, True), id="seaweedfs"),
    pytest.param(
        Kind("ceph", servers.ceph, False, False),
        id="ceph",
        marks=pytest.mark.skipif(servers.ceph_missing() is not None, reason=f"needs Ceph: {servers.ceph_missing()}"),
    ),
]


@dataclass(frozen=True, slots=True)
class Rig:
    kind: Kind
    server: S3Server
    client: S3Client
    store: S3Store


@pytest.fixture(scope="module", params=KINDS)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    kind: Kind = request.param
    with kind.start(tmp_path_factory.mktemp(kind.name)) as server, closing(server.client()) as client:
        server.create_bucket(BUCKET)
        yield Rig(kind, server, client, _store(server))


def _store(server: S3Server) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=server.endpoint_url,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region=server.region,
        client_options={"allow_http": True},
    )


def _get(client: S3Client, key: str) -> bytes:
    return client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


@contextmanager
def _refused(status: int) -> Iterator[None]:
    with pytest.raises(ClientError) as caught:
        yield
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def _listens(endpoint_url: str) -> bool:
    port = urlsplit(endpoint_url).port
    assert port is not None
    with socket.socket() as probe:
        return probe.connect_ex((servers.HOST, port)) == 0


def _runs(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):  # in a container nobody may collect an orphan that has ended
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_objects_can_be_put_and_read(rig: Rig) -> None:
    rig.client.put_object(Bucket=BUCKET, Key="a/b=1/ü c+%25.parquet", Body=b"content")
    assert _get(rig.client, "a/b=1/ü c+%25.parquet") == b"content"
    assert obstore.get(rig.store, "a/b=1/ü c+%25.parquet").bytes() == b"content"


def test_put_objects_puts_all(rig: Rig) -> None:
    objects = {f"many/{number:04}": f"content {number}".encode() for number in range(200)}
    rig.server.put_objects(BUCKET, objects)
    listed = rig.client.list_objects_v2(Bucket=BUCKET, Prefix="many/")["Contents"]
    assert sorted(item["Key"] for item in listed) == sorted(objects)
    assert {key: _get(rig.client, key) for key in objects} == objects


def test_put_objects_raises_for_a_missing_bucket(rig: Rig) -> None:
    with pytest.raises(FileNotFoundError):
        rig.server.put_objects("quantlab-absent", {"key": b"content"})


def test_only_our_bucket_is_left_by_the_readiness_check(rig: Rig) -> None:
    assert [bucket["Name"] for bucket in rig.client.list_buckets()["Buckets"]] == [BUCKET]


def test_wrong_credentials_are_refused(rig: Rig) -> None:
    for wrong in (
        replace(rig.server, secret_key=rig.server.secret_key[::-1]),
        replace(rig.server, access_key=rig.server.access_key[::-1]),
    ):
        with closing(wrong.client()) as client, _refused(403):
            client.list_objects_v2(Bucket=BUCKET)


def test_env_leads_obstore_and_boto3_to_the_server(rig: Rig) -> None:
    rig.client.put_object(Bucket=BUCKET, Key="env", Body=b"content")
    code = (
        "import boto3, obstore, obstore.store;"
        f"store = obstore.store.S3Store('{BUCKET}', client_options={{'allow_http': True}});"
        "assert obstore.get(store, 'env').bytes() == b'content';"
        f"assert boto3.client('s3').head_object(Bucket='{BUCKET}', Key='env')['ContentLength'] == 7"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    subprocess.run([sys.executable, "-c", code], env={**environment, **rig.server.env()}, check=True)


def test_if_none_match_creates_once(rig: Rig) -> None:
    rig.client.put_object(Bucket=BUCKET, Key="create", Body=b"1", IfNoneMatch="*")
    with _refused(412):
        rig.client.put_object(Bucket=BUCKET, Key="create", Body=b"2", IfNoneMatch="*")
    with pytest.raises(AlreadyExistsError):
        obstore.put(rig.store, "create", b"2", mode="create")
    assert _get(rig.client, "create") == b"1"


@pytest.mark.parametrize("quoted", [True, False], ids=["quoted", "unquoted"])
def test_if_match_replaces_only_what_was_read(rig: Rig, quoted: bool) -> None:
    quote = '"{}"' if quoted else "{}"
    right = quote.format(rig.client.put_object(Bucket=BUCKET, Key="swap", Body=b"1")["ETag"].strip('"'))
    for key, etag in (("swap", quote.format(WRONG_ETAG)), ("swap-absent", right)):
        with _refused(412):
            rig.client.put_object(Bucket=BUCKET, Key=key, Body=b"2", IfMatch=etag)
        with pytest.raises(PreconditionError):
            obstore.put(rig.store, key, b"2", mode={"e_tag": etag})
    assert _get(rig.client, "swap") == b"1"

    if quoted and not rig.kind.quoted_if_match_works:  # Ceph 16.2 compares the quotes too, so that nothing matches
        with _refused(412):
            rig.client.put_object(Bucket=BUCKET, Key="swap", Body=b"2", IfMatch=right)
        with pytest.raises(PreconditionError):
            obstore.put(rig.store, "swap", b"2", mode={"e_tag": right})
        assert _get(rig.client, "swap") == b"1"
        return
    rig.client.put_object(Bucket=BUCKET, Key="swap", Body=b"2", IfMatch=right)
    with _refused(412):  # it has changed since
        rig.client.put_object(Bucket=BUCKET, Key="swap", Body=b"3", IfMatch=right)
    current = obstore.head(rig.store, "swap")["e_tag"]
    assert current is not None
    right = quote.format(current.strip('"'))
    obstore.put(rig.store, "swap", b"3", mode={"e_tag": right})
    with pytest.raises(PreconditionError):
        obstore.put(rig.store, "swap", b"4", mode={"e_tag": right})
    assert _get(rig.client, "swap") == b"3"


def test_conditional_completion_of_an_upload(rig: Rig) -> None:
    rig.client.put_object(Bucket=BUCKET, Key="upload", Body=b"1")
    upload = rig.client.create_multipart_upload(Bucket=BUCKET, Key="upload")["UploadId"]
    part = rig.client.upload_part(Bucket=BUCKET, Key="upload", UploadId=upload, PartNumber=1, Body=b"2")

    def complete() -> None:
        rig.client.complete_multipart_upload(
            Bucket=BUCKET,
            Key="upload",
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
            IfNoneMatch="*",
        )

    if rig.kind.conditional_complete_works:
        with _refused(412):
            complete()
        assert _get(rig.client, "upload") == b"1"
    else:  # Ceph 16.2 ignores the condition
        complete()
        assert _get(rig.client, "upload") == b"2"


@pytest.mark.parametrize("kind", KINDS)
def test_two_started_at_once_are_apart_and_leave_nothing(kind: Kind, tmp_path: Path) -> None:
    with ExitStack() as stack:
        # These threads end before the servers do.
        with ThreadPoolExecutor(2) as pool:
            starting = [pool.submit(stack.enter_context, kind.start(tmp_path / name)) for name in ("1", "2")]
        first, second = [server.result() for server in starting]
        assert first.name == second.name == kind.name
        assert first.endpoint_url != second.endpoint_url
        assert all(_runs(pid) for pid in (*first.pids, *second.pids))
        first.create_bucket(BUCKET)
        with closing(second.client()) as client:
            assert client.list_buckets()["Buckets"] == []
        with closing(replace(second, endpoint_url=first.endpoint_url).client()) as client, _refused(403):
            client.list_buckets()
    for server in (first, second):
        assert not any(_runs(pid) for pid in server.pids)
        assert not _listens(server.endpoint_url)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind((servers.HOST, 0))
        yield other.getsockname()[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_avoided(kind: Kind, tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free_ports = servers.free_ports
    choices: list[list[int]] = []

    def choose(n: int) -> list[int]:
        choices.append([*free_ports(n - 1), free_ports(1)[0] if choices else taken_port])
        return choices[-1]

    monkeypatch.setattr(servers, "free_ports", choose)
    with kind.start(tmp_path) as server:
        assert _listens(server.endpoint_url)
    assert len(choices) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_start_shows_the_log_and_leaves_nothing(
    kind: Kind, tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setattr(servers, "free_ports", lambda n: [taken_port] * n)
    monkeypatch.setattr(servers, "ATTEMPTS", 2)
    with pytest.raises(servers.ServerStartError, match=r"(?s)The end of .*\.log.*[Aa]ddress already in use"):
        kind.start(tmp_path).__enter__()
    assert len(started) >= 2
    assert all(process.returncode is not None for process in started)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_server_ends_with_its_parent(kind: Kind, end: signal.Signals, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "quantlab_dagster_tests.servers", kind.name, str(tmp_path), "--bucket", BUCKET]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        exports = dict(parent.stdout.readline().removeprefix("export ").rstrip().split("=") for _ in range(5))
        assert exports["AWS_REGION"] == "us-east-1"
        pids = [int(pid) for pid in re.findall(r"\d+", parent.stderr.readline())]
        assert pids
        assert all(_runs(pid) for pid in pids)
        parent.send_signal(end)
        assert parent.wait(10) == (0 if end == signal.SIGINT else -end)
    _await(lambda: not any(_runs(pid) for pid in pids) and not _listens(exports["AWS_ENDPOINT_URL"]))


def test_free_ports_are_free_and_different() -> None:
    ports = servers.free_ports(100)
    assert len(set(ports)) == 100
    assert set(ports) <= set(servers.PORTS)


def test_what_ceph_misses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.ceph_missing() == "radosgw is not installed (apt-get install radosgw ceph-mon ceph-osd)"
    with pytest.raises(RuntimeError, match="radosgw is not installed"), servers.ceph(tmp_path):
        pass


def test_the_command_line_shows_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.main(["ceph", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "radosgw is not installed (apt-get install radosgw ceph-mon ceph-osd)\n"
