"""The policies: whole runs get by with them, on a server that enforces rights, and none allows what is not used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.lake.warehouse import AppHour
from quantlab_dagster.synthetic.market import generate_parts
from quantlab_dagster.synthetic.warehouse import generate_event_files
from quantlab_dagster_tests.deploy.places import DEPLOY
from quantlab_dagster_tests.deploy.recorded import Action, Recorder, Recorders, actions_of, recording
from quantlab_dagster_tests.faults import Request
from quantlab_dagster_tests.lakes import spec
from quantlab_dagster_tests.servers import S3Server, seaweedfs
from quantlab_dagster_tests.warehouse.event_lakes import spec as hour_spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAW, COMPACT, EVENTS = "quantlab-raw", "quantlab-compact", "warehouse"
POLICIES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((DEPLOY / "iam").iterdir())
}

LIMITED = {
    "raw-reader": [f"Read:{RAW}", f"List:{RAW}"],
    "compact-writer": [f"Read:{COMPACT}", f"List:{COMPACT}", f"Write:{COMPACT}"],
    "compact-reader": [f"Read:{COMPACT}", f"List:{COMPACT}"],
    "warehouse": [f"Read:{EVENTS}", f"List:{EVENTS}", f"Write:{EVENTS}"],
}
"""The policies, as SeaweedFS has words for them: no finer."""

_ONLY_WHEN_SOMETHING_GOES_WRONG = {("compact-writer", "s3:AbortMultipartUpload")}
"""An upload that is broken off."""

_READ = """
from quantlab_dagster import reader
rows = reader.open_lake("s3://quantlab-compact").rows(
    exchange="binance", stream="bbo", symbol="ADAUSDT", start="2026-01-07", end="2026-01-10"
)
print(rows.polars().height)
"""


def allows(policy: dict[str, Any], action: Action) -> bool:
    """Whether a policy allows what a request does; deny statements and conditions are none of ours."""
    statements = policy["Statement"]
    assert all(set(item) == {"Sid", "Effect", "Action", "Resource"} for item in statements)
    assert {item["Effect"] for item in statements} == {"Allow"}
    return any(action.name in item["Action"] and fnmatchcase(action.resource, item["Resource"]) for item in statements)


def test_the_evaluator_is_no_rubber_stamp() -> None:
    def one(method: str, target: str, body: bytes = b"") -> Action:
        [action] = actions_of(Request(method, target, (), body))
        return action

    reader, writer = POLICIES["raw-reader"], POLICIES["compact-writer"]
    assert allows(reader, one("GET", f"/{RAW}/a%20b/c"))
    assert allows(reader, one("GET", f"/{RAW}?list-type=2&prefix=a/"))
    for method, target in (
        ("PUT", f"/{RAW}/a"),
        ("DELETE", f"/{RAW}/a"),
        ("GET", f"/{COMPACT}/a"),
        ("GET", f"/{RAW}?uploads"),
        ("POST", f"/{RAW}/a?uploads"),
        ("DELETE", f"/{RAW}/a?uploadId=x"),
    ):
        assert not allows(reader, one(method, target)), target
    deleted = actions_of(Request("POST", f"/{COMPACT}?delete", (), b"<Key>a</Key><Key>b</Key>"))
    assert [action.resource for action in deleted] == [f"arn:aws:s3:::{COMPACT}/{name}" for name in "ab"]
    assert all(allows(writer, action) and not allows(reader, action) for action in deleted)
    with pytest.raises(ValueError, match="PATCH"):
        actions_of(Request("PATCH", "/x/y", (), b""))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Recorders]]:
    """Everything that is done unattended, by the users of the policies."""
    directory = tmp_path_factory.mktemp("iam")
    with seaweedfs(directory / "server", limited=LIMITED) as server, recording(server.endpoint_url) as recorders:
        for bucket in (RAW, COMPACT, EVENTS):
            server.create_bucket(bucket)
        day, hour = spec(), hour_spec()
        of_day = SymbolDay("binance", "bbo", "adausdt", day.day)
        server.put_objects(RAW, {of_day.key(part.name): part.data for part in generate_parts(day)})
        files = generate_event_files(hour)
        server.put_objects(
            EVENTS, {f"events/{AppHour(hour.app_id, hour.hour).key(file.name)}": file.data for file in files}
        )
        run(directory, recorders)
        yield server, recorders


def run(directory: Path, recorders: Recorders) -> None:
    env = {
        **os.environ,
        "QUANTLAB_RAW_URL": f"s3://{RAW}",
        "QUANTLAB_COMPACT_URL": f"s3://{COMPACT}",
        "WAREHOUSE_URL": f"s3://{EVENTS}/events",
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_START_DATE": "2026-01-08",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DAGSTER_HOME": str(directory / "home"),
        **user_of("QUANTLAB_RAW_", "raw-reader", recorders.raw),
        **user_of("QUANTLAB_COMPACT_", "compact-writer", recorders.compact),
        **user_of("WAREHOUSE_", "warehouse", recorders.warehouse),
    }

    def started(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=env,
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    for code, command in (
        (0, ["state", "seed", "--last-compacted", "2026-01-07"]),
        (0, ["compact", "--date", "2026-01-08"]),
        (0, ["compact", "--date", "2026-01-08", "--overwrite"]),
        (0, ["verify", "--date", "2026-01-08"]),
        (0, ["calendar", "2026-01-08"]),
        (0, ["warehouse", "compact"]),
        (0, ["warehouse", "status"]),
        (1, ["status"]),  # days after that one were never compacted
    ):
        done = started("-m", "quantlab_dagster.cli", *command, env=env)
        assert done.returncode == code, (command, done.stdout, done.stderr)
        assert "access denied" not in done.stdout + done.stderr, command
    read = started("-c", _READ, env={**env, **user_of("QUANTLAB_COMPACT_", "compact-reader", recorders.reader)})
    assert read.stdout.split() == ["600"], read.stderr


def user_of(prefix: str, user: str, recorder: Recorder) -> dict[str, str]:
    """How a lake is reached by a user, and through a proxy."""
    return {
        f"{prefix}AWS_ACCESS_KEY_ID": user,
        f"{prefix}AWS_SECRET_ACCESS_KEY": user,
        f"{prefix}AWS_ENDPOINT_URL": recorder.url,
    }


@pytest.mark.slow
@pytest.mark.server
def test_every_request_is_allowed_and_everything_that_is_allowed_is_used(ran: tuple[S3Server, Recorders]) -> None:
    _, recorders = ran
    of_lakes: tuple[tuple[str, Recorder], ...] = (
        ("raw-reader", recorders.raw),
        ("compact-writer", recorders.compact),
        ("warehouse", recorders.warehouse),
        ("compact-reader", recorders.reader),
    )
    for name, recorder in of_lakes:
        done = recorder.actions()
        assert [action for action in done if not allows(POLICIES[name], action)] == []
        used = {(name, action.name) for action in done}
        granted = {(name, item) for statement in POLICIES[name]["Statement"] for item in statement["Action"]}
        assert granted - used <= _ONLY_WHEN_SOMETHING_GOES_WRONG, name
    assert {action.name for action in recorders.raw.actions()} == {"s3:ListBucket", "s3:GetObject"}


@pytest.mark.slow
@pytest.mark.server
def test_the_server_keeps_each_user_to_its_lake(ran: tuple[S3Server, Recorders]) -> None:
    server, _ = ran

    def may(user: str, bucket: str, what: str) -> bool:
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint_url,
            aws_access_key_id=user,
            aws_secret_access_key=user,
            region_name=server.region,
        )
        try:
            if what == "put":
                client.put_object(Bucket=bucket, Key="trial", Body=b"")
            else:
                client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDenied":
                raise
            return False
        with suppress(ClientError):
            client.delete_object(Bucket=bucket, Key="trial")
        return True

    rights = {
        user: {
            (bucket, what) for bucket in (RAW, COMPACT, EVENTS) for what in ("put", "list") if may(user, bucket, what)
        }
        for user in LIMITED
    }
    assert rights == {
        "raw-reader": {(RAW, "list")},
        "compact-writer": {(COMPACT, "list"), (COMPACT, "put")},
        "compact-reader": {(COMPACT, "list")},
        "warehouse": {(EVENTS, "list"), (EVENTS, "put")},
    }
