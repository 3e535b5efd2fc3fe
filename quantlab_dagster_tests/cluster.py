"""Redis and Celery workers on loopback, as a company has them on machines; all end with their context."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis
import yaml  # type: ignore[import-untyped]

from quantlab_dagster_tests import postgres
from quantlab_dagster_tests.daemon import CONFIGURATION
from quantlab_dagster_tests.servers import HOST, START_SECONDS, free_ports, started_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
REDIS_INSTALL: Final = "apt-get install redis-server"
_POLL_SECONDS: Final = 0.1


def missing() -> str | None:
    """The program that this machine lacks, if it lacks one, and how to install it."""
    if shutil.which("redis-server") is None:
        return f"Redis: it is not installed ({REDIS_INSTALL})"
    return postgres.missing()


@contextmanager
def redis_server(log: Path) -> Iterator[str]:
    """A Redis server of its own, in memory; yields its URL."""
    [port] = free_ports(1)
    argv = ["redis-server", "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no"]
    with started_process(argv, log=log, env={}) as process:
        url = f"redis://{HOST}:{port}/0"
        deadline = time.monotonic() + START_SECONDS
        while True:
            process.check()
            with suppress(redis.exceptions.ConnectionError), redis.Redis.from_url(url) as client:
                client.ping()
                break
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(_POLL_SECONDS)
        yield url


@dataclass(frozen=True, slots=True)
class Worker:
    """A Celery worker, with all of its processes in a group of their own."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """As a machine that loses its power."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


@contextmanager
def worker(name: str, config: Path, directory: Path, env: Mapping[str, str]) -> Iterator[Worker]:
    """A worker that does one step at a time; it is ready when Celery says so."""
    log = directory / f"{name}.log"
    program = Path(sys.executable).parent / "dagster-celery"
    argv: Sequence[str | Path] = [
        *(program, "worker", "start", "-A", "dagster_celery.app", "-y", config, "-n", name),
        *("--", "--concurrency=1", "--without-gossip", "--without-mingle"),
    ]
    environment = {**env, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as output:
        popen = subprocess.Popen(
            argv, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    one = Worker(name, popen, log)
    try:
        yield one
    finally:
        with suppress(ProcessLookupError):
            one.kill()


def await_workers(workers: Sequence[Worker]) -> None:
    """Return once all of them take steps."""
    deadline = time.monotonic() + 2 * START_SECONDS
    for one in workers:
        while "ready." not in one.log.read_text():
            assert one.popen.poll() is None, one.log.read_text()
            assert time.monotonic() < deadline, one.log.read_text()
            time.sleep(_POLL_SECONDS)


def shipped_with(fragment: Path) -> str:
    """The instance's file: the one that is shipped, with what a deployment adds to it."""
    shipped, added = CONFIGURATION.read_text(), fragment.read_text()
    both = set(yaml.safe_load(shipped)) & set(yaml.safe_load(added))
    assert not both, f"{fragment} says {both} again"
    return f"{shipped}\n{added}"


def celery_file(path: Path, *, visibility_timeout: int) -> Path:
    """The shipped celery.yaml, in which a lost step is missed sooner."""
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "celery" / "celery.yaml").read_text())
    options = document["execution"]["config"]["config_source"]["broker_transport_options"]
    assert options["visibility_timeout"] > visibility_timeout
    options["visibility_timeout"] = visibility_timeout
    path.write_text(yaml.safe_dump(document))
    return path
