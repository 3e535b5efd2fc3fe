"""Real S3 servers on loopback for tests and benchmarks: SeaweedFS everywhere, Ceph where it is installed.

Each context manager starts one server on free ports with credentials of its own, yields an `S3Server` once a bucket can
be created and an object put, and ends it with SIGKILL. For developers, in the foreground until Ctrl-C:

    python -m quantlab_dagster_tests.servers seaweedfs DIR --bucket quantlab-raw
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import boto3.session
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.store import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from mypy_boto3_s3 import S3Client

HOST: Final = "127.0.0.1"
REGION: Final = "us-east-1"
# Below the ephemeral range of Linux (32768) and macOS (49152): an outgoing connection, and a server makes many to
# itself, then cannot take a port between our choosing it and the server's binding it.
PORTS: Final = range(15_000, 32_000)
PUT_THREADS: Final = 32
START_SECONDS: Final = 60.0  # for a loaded CI machine; one to four are usual
POLL_SECONDS: Final = 0.05
ATTEMPTS: Final = 5
LOG_TAIL_LINES: Final = 40

CEPH_PROGRAMS: Final = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool")
CEPH_INSTALL: Final = "apt-get install radosgw ceph-mon ceph-osd"

# Runs "$@" in the shell's place, beside a watchdog that kills the process group when stdin ends, hence when the parent
# dies in whatever way. PR_SET_PDEATHSIG would be Linux only, and fires when the *thread* which started the server ends.
GUARDED: Final = """exec 3<&0
{ read -r _; rm -f $SOCKETS; kill -9 0; } <&3 >/dev/null 2>&1 &
exec 3<&- </dev/null
exec "$@" """


class ServerStartError(RuntimeError):
    """A server did not come up. The message ends with the tail of its log."""

    def __init__(self, what: str, log: Path, *, status: int | None = None) -> None:
        text = log.read_text(errors="replace") if log.exists() else ""
        tail = "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
        super().__init__(f"{what}. The end of {log}:\n{tail or '(empty)'}")
        # By the exit status too: radosgw may crash on its way out before the reason is in the log.
        self.port_taken = status == errno.EADDRINUSE or "address already in use" in text.lower()


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server. Its credentials may do everything; `pids` are its processes, the one serving S3 last."""

    name: Literal["seaweedfs", "ceph"]
    endpoint_url: str
    access_key: str
    secret_key: str
    region: str
    pids: tuple[int, ...]

    def env(self) -> dict[str, str]:
        """The environment variables by which boto3 and obstore find this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self) -> S3Client:
        """A new boto3 client: path style, short timeouts, no retries."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                connect_timeout=2,
                read_timeout=20,
                retries={"total_max_attempts": 1},
                max_pool_connections=PUT_THREADS,
                s3={"addressing_style": "path"},
            ),
        )

    def create_bucket(self, name: str) -> None:
        with closing(self.client()) as client:
            client.create_bucket(Bucket=name)

    def put_objects(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Put every object (key: content), many at a time. Raises the first failure."""
        # obstore, because boto3 takes two to four times as long.
        store = S3Store(
            bucket,
            endpoint=self.endpoint_url,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=self.region,
            client_options={"allow_http": True},
        )

        def put(item: tuple[str, bytes]) -> None:
            obstore.put(store, item[0], item[1], use_multipart=False)

        with ThreadPoolExecutor(PUT_THREADS) as pool:
            for _ in pool.map(put, objects.items()):
                pass


@contextmanager
def seaweedfs(directory: Path, *, limited: Mapping[str, Sequence[str]] | None = None) -> Iterator[S3Server]:
    """Run SeaweedFS with its data, configuration and log (`weed.log`) in `directory`.

    A later server on the same directory finds the objects of the earlier one again. Each bucket takes
    a volume of a hundred. `limited` are further users, each with what it may do, as in "Read:bucket"; its name is its
    access key and its secret.
    """
    with _started(lambda stack: _start_seaweedfs(directory.absolute(), stack, limited or {})) as server:
        yield server


@contextmanager
def ceph(directory: Path) -> Iterator[S3Server]:
    """Run a Ceph cluster (monitor, one OSD in memory, RADOS gateway) with its files and logs in a new folder below."""
    if reason := ceph_missing():
        raise RuntimeError(reason)
    directory.mkdir(parents=True, exist_ok=True)
    with _started(lambda stack: _start_ceph(_new_directory(directory), stack)) as server:
        yield server


def ceph_missing() -> str | None:
    """The reason why `ceph` cannot run on this machine, if it cannot."""
    missing = [program for program in CEPH_PROGRAMS if shutil.which(program) is None]
    return f"{missing[0]} is not installed ({CEPH_INSTALL})" if missing else None


def free_ports(n: int) -> list[int]:
    """`n` different loopback ports that were free a moment ago."""
    # Not the seedable generator: two test processes with one seed would choose the same ports.
    candidates = iter(random.SystemRandom().sample(PORTS, len(PORTS)))
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < n:
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind((HOST, port := next(candidates)))
                ports.append(port)
    return ports


@contextmanager
def _started(start: Callable[[ExitStack], S3Server]) -> Iterator[S3Server]:
    """Start a server, again with other ports where one was taken meanwhile; end its processes on leaving."""
    with ExitStack() as stack:
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                server = start(stack)
                break
            except ServerStartError as error:
                stack.close()
                if not (error.port_taken and attempts_left):
                    raise
        yield server


@dataclass(frozen=True, slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise if the process has ended."""
        if (status := self.popen.poll()) is not None:
            raise ServerStartError(
                f"{self.log.stem} ended with status {status} while starting", self.log, status=status
            )


@contextmanager
def started_process(
    argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str], sockets: Sequence[Path] = ()
) -> Iterator[_Process]:
    """Run a program in `log`'s directory until the context, or this process, ends.

    `env` is all of its environment but PATH; `sockets` are files which it leaves elsewhere, to be removed.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "SOCKETS": shlex.join(map(str, sockets)), **env}
    with log.open("wb") as output:
        popen = subprocess.Popen(
            ["/bin/sh", "-c", GUARDED, "sh", *argv],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with popen:  # closes stdin
        try:
            yield _Process(popen, log)
        finally:
            # The group outlives a server that has ended by itself: the watchdog is in it.
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            for path in sockets:
                path.unlink(missing_ok=True)


def _await_s3(server: S3Server, processes: Sequence[_Process]) -> None:
    """Return once a bucket can be created and an object put; both are removed again."""
    bucket, key = f"ready-{secrets.token_hex(4)}", "ready"
    deadline = time.monotonic() + START_SECONDS
    with closing(server.client()) as client:
        while True:
            for process in processes:
                process.check()
            try:
                with suppress(client.exceptions.BucketAlreadyOwnedByYou):  # created, but the put failed
                    client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key=key, Body=b"ready")
                client.delete_object(Bucket=bucket, Key=key)
                client.delete_bucket(Bucket=bucket)
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    what = f"{server.name} took no object within {START_SECONDS:.0f} s ({error})"
                    raise ServerStartError(what, processes[-1].log) from error
                time.sleep(POLL_SECONDS)
            else:
                return


def _start_seaweedfs(directory: Path, stack: ExitStack, limited: Mapping[str, Sequence[str]]) -> S3Server:
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    # New keys each time: a server of somebody else, on a port taken meanwhile, cannot pass for ours.
    access_key, secret_key = _new_credentials()
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities: list[dict[str, object]] = [{"name": "ci", "credentials": credentials, "actions": actions}]
    for name, allowed in limited.items():
        keys = [{"accessKey": name, "secretKey": name}]
        identities.append({"name": name, "credentials": keys, "actions": list(allowed)})
    (directory / "s3.json").write_text(json.dumps({"identities": identities}))
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = free_ports(8)
    argv: list[str | Path] = [
        # Its wheel has no module, only the program, installed as a script.
        Path(sysconfig.get_path("scripts"), "weed"),
        f"-logdir={directory}",  # beside stderr, which is weed.log
        "server",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        "-master.volumeSizeLimitMB=256",
        "-master.telemetry=false",
        "-master.peers=none",  # no leader election for the volume server's first heartbeat to lose a race with
        "-volume.max=100",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-filer",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        "-filer.localSocket=filer.sock",  # relative: the path of a socket may have 107 bytes
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.config=s3.json",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.localSocket=s3.sock",
    ]
    # These it always makes, and SIGKILL leaves them.
    grpc_ports = {"master": master_grpc, "volume": volume_grpc, "filer": filer_grpc, "s3": s3_grpc}
    sockets = [Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock") for part, port in grpc_ports.items()]  # noqa: S108
    # One volume a bucket instead of seven of the hundred: a dozen buckets would use them all up.
    env = {
        "WEED_LEVELDB2_DIR": str(directory / "filerldb"),
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
        "WEED_S3_SSE_KEK": "07" * 32,  # so that it can encrypt
    }
    process = stack.enter_context(started_process(argv, log=directory / "weed.log", env=env, sockets=sockets))
    server = S3Server("seaweedfs", f"http://{HOST}:{s3}", access_key, secret_key, REGION, (process.popen.pid,))
    _await_s3(server, [process])
    return server


def _start_ceph(directory: Path, stack: ExitStack) -> S3Server:
    for name in ("mon", "osd", "rgw"):
        (directory / name).mkdir()
    access_key, secret_key = _new_credentials()
    fsid = str(uuid.uuid4())
    mon_port, rgw_port = free_ports(2)
    (directory / "ceph.conf").write_text(_ceph_config(directory, fsid=fsid, mon_port=mon_port, rgw_port=rgw_port))
    cluster = _Ceph(directory, stack)
    cluster.run("monmap", "monmaptool", "--create", "--addv", "a", f"[v1:{HOST}:{mon_port}]", "--fsid", fsid, "monmap")
    cluster.run("mon-mkfs", "ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
    mon = cluster.start("mon", "ceph-mon", "-i", "a", "-f")
    osd = cluster.start_osd(mon)
    keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
    user = ("user", "create", "--uid=ci", "--display-name=ci", *keys)
    cluster.run("user", "radosgw-admin", *user, needs=(mon, osd))
    processes = [mon, osd, cluster.start("rgw", "radosgw", "-n", "client.rgw", "-f")]
    pids = tuple(process.popen.pid for process in processes)
    server = S3Server("ceph", f"http://{HOST}:{rgw_port}", access_key, secret_key, REGION, pids)
    _await_s3(server, processes)
    return server


@dataclass(frozen=True, slots=True)
class _Ceph:
    """Runs Ceph's programs, which share `directory` and its ceph.conf; what is started ends with `stack`."""

    directory: Path
    stack: ExitStack

    def start(self, name: str, *argv: str) -> _Process:
        return self.stack.enter_context(self._process(name, argv))

    def run(self, name: str, *argv: str, needs: Sequence[_Process] = ()) -> str:
        """What a program printed, once it has succeeded. Raises early if a process it needs ends."""
        with self._process(name, argv) as process:
            deadline = time.monotonic() + START_SECONDS
            while (status := process.popen.poll()) is None:
                for needed in needs:
                    needed.check()
                if time.monotonic() > deadline:
                    raise ServerStartError(f"{name} took over {START_SECONDS:.0f} s", process.log)
                time.sleep(0.01)
            if status:
                raise ServerStartError(f"{name} failed with status {status}", process.log, status=status)
            return process.log.read_text(errors="replace")

    def ask(self, mon: _Process, name: str, *argv: str) -> str:
        """As `run`, until it succeeds: a monitor which has just started may answer EPERM."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.run(name, *argv, needs=(mon,))
            except ServerStartError:
                mon.check()
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def start_osd(self, mon: _Process) -> _Process:
        osd_uuid = str(uuid.uuid4())
        self.ask(mon, "osd-new", "ceph", "osd", "new", osd_uuid)
        self.run("osd-mkfs", "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid, needs=(mon,))
        deadline = time.monotonic() + START_SECONDS
        osd = self.start("osd", "ceph-osd", "-i", "0", "-f")
        while "1 up" not in self.ask(mon, "osd-stat", "ceph", "osd", "stat"):
            if time.monotonic() > deadline:
                raise ServerStartError(f"the OSD was not up within {START_SECONDS:.0f} s", osd.log)
            if osd.popen.poll() is not None:  # "wrong fsid", one start in four
                osd = self.start("osd", "ceph-osd", "-i", "0", "-f")
        return osd

    def _process(self, name: str, argv: Sequence[str]) -> AbstractContextManager[_Process]:
        env = {"CEPH_CONF": str(self.directory / "ceph.conf")}
        return started_process(argv, log=self.directory / f"{name}.log", env=env)


def _ceph_config(directory: Path, *, fsid: str, mon_port: int, rgw_port: int) -> str:
    quiet = "\n".join(f"debug {part} = 0/0" for part in ("mon", "osd", "rgw", "paxos", "rocksdb", "auth", "client"))
    return f"""[global]
fsid = {fsid}
mon host = v1:{HOST}:{mon_port}/0
mon initial members = a
public addr = {HOST}
ms bind msgr2 = false
ms bind retry delay = 0
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 8589934592
mon allow pool size one = true
mon max pg per osd = 2000
paxos propose interval = 0.01
paxos min wait = 0.01
mon data = {directory}/mon
osd data = {directory}/osd
rgw data = {directory}/rgw
run dir = {directory}
crash dir = {directory}
admin socket =
log file =
log to stderr = true
err to stderr = true
mon cluster log file = {directory}/cluster.log
{quiet}
# Without nodelay small objects are ten times slower.
rgw frontends = beast endpoint={HOST}:{rgw_port} tcp_nodelay=1
"""


def _new_directory(parent: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="ceph-", dir=parent)).absolute()


def _new_credentials() -> tuple[str, str]:
    return secrets.token_hex(10).upper(), secrets.token_hex(20)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a server in the foreground."""
    parser = argparse.ArgumentParser(prog="python -m quantlab_dagster_tests.servers", description=main.__doc__)
    parser.add_argument("server", choices=["seaweedfs", "ceph"])
    parser.add_argument("directory", type=Path, metavar="DIR", help="where its files go")
    parser.add_argument("--bucket", action="append", default=[], metavar="NAME", help="create this bucket (repeatable)")
    args = parser.parse_args(argv)
    try:
        with (seaweedfs if args.server == "seaweedfs" else ceph)(args.directory) as server:
            with closing(server.client()) as client:
                existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in args.bucket:
                if bucket not in existing:
                    server.create_bucket(bucket)
            for name, value in server.env().items():
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
            sys.stdout.flush()
            pids = ", ".join(map(str, server.pids))
            sys.stderr.write(f"{server.name} (pid {pids}) is running until Ctrl-C.\n")
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
