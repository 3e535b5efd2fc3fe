"""The real `dagster dev`, as `make dev` starts it: web server, daemon and code server, with a home of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from quantlab_dagster_tests.servers import GUARDED, HOST, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_SECONDS: Final = 180.0  # for a loaded CI machine; about 20 are usual
STOP_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.2
ANSWER_SECONDS: Final = 30.0
LOG_TAIL_LINES: Final = 60
ATTEMPTS: Final = 3

REPOSITORY: Final = Path(__file__).parents[2]

_PORT_TAKEN: Final = "address already in use"

_LOCATIONS: Final = """{
  workspaceOrError {
    ... on PythonError { message }
    ... on Workspace {
      locationEntries {
        name
        loadStatus
        locationOrLoadError { __typename ... on PythonError { message causes { message } } }
      }
    }
  }
}"""


class DagsterDevError(RuntimeError):
    """`dagster dev` did not come up, ended, or answered with an error. The message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class DagsterDev:
    """A running `dagster dev`.

    Attributes:
        base_url: of its pages, without a slash at the end.
        home: its DAGSTER_HOME.
        log: what it and its processes print.
    """

    base_url: str
    home: Path
    log: Path
    popen: subprocess.Popen[bytes]

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The `data` of the answer; raises if there are `errors` in it, or none comes."""
        request = urllib.request.Request(  # noqa: S310  # to ourselves
            f"{self.base_url}/graphql",
            data=json.dumps({"query": query, "variables": dict(variables or {})}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _DIRECT.open(request, timeout=ANSWER_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise DagsterDevError(f"GraphQL: {error}: {error.read().decode(errors='replace')}") from error
        if answer.get("errors"):
            raise DagsterDevError(f"GraphQL: {answer['errors']}")
        data: dict[str, Any] = answer["data"]
        return data

    def log_tail(self) -> str:
        """The end of the log, for failure reports."""
        text = self.log.read_text(errors="replace")
        return f"The end of {self.log}:\n" + ("\n".join(text.splitlines()[-LOG_TAIL_LINES:]) or "(empty)")


# A proxy of the developer's environment has no business with 127.0.0.1.
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def dagster_dev(env: Mapping[str, str]) -> Iterator[DagsterDev]:
    """Run `dagster dev` until the context, or this process, ends; nothing of it is left, no process and no file.

    Args:
        env: all of its environment but PATH and what is put into a temporary directory.

    Raises:
        DagsterDevError: it did not come up, or a process outlived its end.
    """
    with ExitStack() as stack:
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                dev = _start(env, stack)
                break
            except DagsterDevError as error:
                stack.close()
                if _PORT_TAKEN not in str(error) or not attempts_left:
                    raise
        yield dev


def _start(env: Mapping[str, str], stack: ExitStack) -> DagsterDev:
    # Not below pytest's directories: the path of a socket, and Dagster makes some in TMPDIR, may have 107 bytes.
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dagster-dev-")))
    home = directory / "home"
    home.mkdir()
    (home / "dagster.yaml").symlink_to(REPOSITORY / "dagster.yaml")
    (temporary := directory / "tmp").mkdir()
    [port] = free_ports(1)
    log = directory / "dagster-dev.log"
    scripts = Path(sys.executable).parent
    argv = [str(scripts / "dagster"), "dev", "--workspace", "workspace.yaml", "--host", HOST, "--port", str(port)]
    environment = {
        "PATH": os.pathsep.join([str(scripts), os.environ["PATH"]]),
        "HOME": str(directory),
        "TMPDIR": str(temporary),
        "DAGSTER_HOME": str(home),
        **env,
    }
    popen = stack.enter_context(session(argv, log, environment))
    dev = DagsterDev(f"http://{HOST}:{port}", home, log, popen)
    _await_location(dev)
    return dev


@contextmanager
def session(
    argv: list[str], log: Path, env: Mapping[str, str], *, cwd: Path = REPOSITORY
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program and its descendants in a session, and kill them all in the end."""
    with log.open("wb") as output:
        popen = subprocess.Popen(
            ["/bin/sh", "-c", GUARDED, "sh", *argv],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.PIPE,  # the watchdog kills the group when it ends, hence when we die in whatever way
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with popen:  # closes stdin
        try:
            yield popen
        finally:
            processes = _descendants(popen.pid)
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            _await_end(processes)


def _descendants(pid: int) -> list[psutil.Process]:
    """Processes of the session and its children, whether or not they have made a session of their own."""
    found = {process.pid: process for process in psutil.process_iter() if _session_of(process.pid) == pid}
    for process in list(found.values()):
        with suppress(psutil.NoSuchProcess):
            found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _await_end(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while alive := [process for process in processes if _alive(process)]:
        if time.monotonic() > deadline:
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            raise DagsterDevError(f"outlived `dagster dev`: {alive}")
        time.sleep(0.02)


def _alive(process: psutil.Process) -> bool:
    # Process 1 of a container may never reap the orphans it is given.
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _await_location(dev: DagsterDev) -> None:
    """Return once the web server answers and the code location is loaded."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        if (status := dev.popen.poll()) is not None:
            raise DagsterDevError(f"`dagster dev` ended with status {status}. {dev.log_tail()}")
        if _PORT_TAKEN in dev.log.read_text(errors="replace"):  # it would wait for ever
            raise DagsterDevError(f"the port was taken meanwhile. {dev.log_tail()}")
        with suppress(OSError):  # not listening yet
            workspace = dev.graphql(_LOCATIONS)["workspaceOrError"]
            entries = workspace.get("locationEntries", [])
            failed = [entry for entry in entries if _load_error(entry)]
            if "message" in workspace or failed:
                raise DagsterDevError(f"the definitions do not load: {failed or workspace}. {dev.log_tail()}")
            if entries and all(entry["loadStatus"] == "LOADED" for entry in entries):
                return
        if time.monotonic() > deadline:
            raise DagsterDevError(f"`dagster dev` was not ready within {START_SECONDS:.0f} s. {dev.log_tail()}")
        time.sleep(POLL_SECONDS)


def _load_error(entry: dict[str, Any]) -> bool:
    found = entry["locationOrLoadError"]
    return found is not None and found["__typename"] == "PythonError"
