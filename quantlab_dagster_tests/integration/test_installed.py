"""A machine of an operator: a wheel in an environment of its own, no checkout, an empty directory, the shipped units.

The environment has the wheel, and finds the dependencies where this one has them: their versions are pinned, and that
the wheel names them all is proved elsewhere (test_imports.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from configparser import ConfigParser
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster_tests.e2e.dagster_dev import REPOSITORY, session
from quantlab_dagster_tests.servers import HOST, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

UNITS = REPOSITORY / "deploy" / "systemd"
SECONDS = 300.0  # a bound for loaded machines: the demo takes 20


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's directories, below one of ours.

    Attributes:
        root: stands for /.
    """

    root: Path

    @property
    def installation(self) -> Path:
        """Stands for /opt/quantlab-dagster."""
        return self.root / "opt" / "quantlab-dagster"

    @property
    def env(self) -> dict[str, str]:
        """What a service manager gives: next to nothing."""
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.root), "TMPDIR": str(self.root / "tmp")}

    def __call__(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run `quantlab` there."""
        program = str(self.installation / ".venv" / "bin" / "quantlab")
        return subprocess.run(
            [program, *arguments], cwd=cwd, env=self.env, capture_output=True, text=True, check=False, timeout=SECONDS
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", wheels, REPOSITORY], check=True, timeout=SECONDS)
    [wheel] = wheels.iterdir()
    with tempfile.TemporaryDirectory(prefix="machine-") as root:  # a short path: sockets are made below it
        machine = Machine(Path(root))
        (machine.root / "tmp").mkdir()
        venv = machine.installation / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=SECONDS)
        python = str(venv / "bin" / "python")
        install = [*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
        subprocess.run(install, check=True, timeout=SECONDS)
        [packages] = venv.glob("lib/python*/site-packages")
        # Added as a plain path: the link to this checkout that lies there is not followed.
        (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        yield machine


def test_the_wheel_is_what_runs(machine: Machine) -> None:
    code = "import quantlab_dagster; print(quantlab_dagster.__file__)"
    python = machine.installation / ".venv" / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=machine.root)
    assert done.stdout.startswith(str(machine.installation))


def test_the_demo_and_what_it_leaves(machine: Machine) -> None:
    """From an empty directory: the demo, its history, its status; and the repository's dagster.yaml is in force."""
    (empty := machine.root / "empty").mkdir()
    done = machine("demo", "--json", cwd=empty)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in empty.iterdir()} == {"demo-lake"}
    home = empty / "demo-lake" / "dagster-home"
    assert (home / "dagster.yaml").resolve().is_relative_to(machine.installation)
    assert (home / "dagster.yaml").read_bytes() == (REPOSITORY / "dagster.yaml").read_bytes()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = instance.get_runs()
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        assert {run.job_name for run in runs} == {"compact_day", "compact_warehouse"}
        assert {run.remote_job_origin.location_name for run in runs if run.remote_job_origin} == {"quantlab"}
        assert not instance.telemetry_enabled
        assert instance.run_retries_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure
    status = machine("status", cwd=empty)
    assert (status.returncode, "FAIL" in status.stdout) == (0, False), status.stdout
    assert "demo-lake/raw → demo-lake/compact" in status.stdout
    assert "event lake           demo-lake/warehouse/events" in status.stdout
    assert "Traceback" not in status.stderr
    shutil.rmtree(empty)


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def started(machine: Machine, name: str) -> tuple[list[str], dict[str, str], Path]:
    """What a unit starts, with which environment, and where; its absolute paths are below the machine's root."""
    service = unit(name)["Service"]

    def below(text: str) -> str:
        return text.replace("/opt/", f"{machine.root}/opt/").replace("/var/lib/", f"{machine.root}/var/lib/")

    variable, _, value = service["Environment"].partition("=")
    (machine.root / "var" / "lib" / service["StateDirectory"]).mkdir(parents=True, exist_ok=True)  # as systemd does
    env = {**machine.env, variable: below(value)}
    return below(service["ExecStart"]).split(), env, Path(below(service["WorkingDirectory"]))


def answer(url: str, *, body: dict[str, Any] | None = None) -> str:
    """What a server answers, once it does."""
    deadline = time.monotonic() + SECONDS
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with direct.open(request, timeout=30) as response:
                return str(response.read().decode())
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


HEALTH = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
LOADED = """{ workspaceOrError { ... on Workspace {
  locationEntries { name loadStatus locationOrLoadError { __typename } }
} } }"""


def test_what_the_units_start_works_on_a_fresh_machine(machine: Machine) -> None:
    """The web server, the daemon, the loop and the metrics stay and answer, beside what the timers start."""
    lakes = machine.root / "srv"
    for name in ("raw", "compact", "events"):
        (lakes / name).mkdir(parents=True)
    (machine.installation / "quantlab.env").write_text(
        f"QUANTLAB_RAW_URL={lakes}/raw\nQUANTLAB_COMPACT_URL={lakes}/compact\nWAREHOUSE_URL={lakes}/events\n"
        f"QUANTLAB_AUTOMATION=warehouse\nQUANTLAB_METRICS_FILE={machine.root}/var/lib/quantlab/quantlab.prom\n"
    )
    web, loop, metrics = free_ports(3)
    with ExitStack() as stack:
        services = []
        for name, options in (
            ("quantlab-webserver.service", ["--port", str(web)]),
            ("quantlab-daemon.service", []),
            ("quantlab-warehouse-loop.service", ["--metrics-port", str(loop)]),
            ("quantlab-metrics.service", ["--port", str(metrics)]),
        ):
            argv, env, directory = started(machine, name)
            log = machine.root / f"{name}.log"
            services.append((stack.enter_context(session([*argv, *options], log, env, cwd=directory)), log))
        deadline = time.monotonic() + SECONDS
        # Until the loop's first run is counted, and both lakes are judged; both serve what all have in one file.
        counted = ("quantlab_compaction_runs_total{", 'judged_timestamp_seconds{lake="market_data"}')
        for port in (loop, metrics):
            while not all(name in answer(f"http://{HOST}:{port}/metrics") for name in counted):
                assert time.monotonic() < deadline, [log.read_text() for _, log in services]
                time.sleep(0.5)
        assert '"dagster_webserver_version"' in answer(f"http://{HOST}:{web}/server_info")
        deadline = time.monotonic() + SECONDS
        while True:
            [entry] = json.loads(answer(f"http://{HOST}:{web}/graphql", body={"query": LOADED}))["data"][
                "workspaceOrError"
            ]["locationEntries"]
            health = json.loads(answer(f"http://{HOST}:{web}/graphql", body={"query": HEALTH}))["data"]
            daemons = [one for one in health["instance"]["daemonHealth"]["allDaemonStatuses"] if one["required"]]
            if entry["loadStatus"] == "LOADED" and daemons and all(one["healthy"] for one in daemons):
                break
            assert time.monotonic() < deadline, (entry, daemons)
            time.sleep(0.5)
        assert (entry["name"], entry["locationOrLoadError"]["__typename"]) == ("quantlab", "RepositoryLocation")
        assert {"SCHEDULER", "SENSOR", "QUEUED_RUN_COORDINATOR", "MONITORING"} <= {one["daemonType"] for one in daemons}

        for name, code in (
            ("quantlab-prune.service", 0),
            # Nothing has been written yet, to either lake: that is not "all is well".
            ("quantlab-warehouse.service", 1),
            ("quantlab-compact.service", 1),
        ):
            argv, env, directory = started(machine, name)
            done = subprocess.run(
                argv, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=SECONDS
            )
            assert done.returncode == code, (name, done.stdout, done.stderr)
            assert "Traceback" not in done.stderr
        for popen, log in services:
            assert popen.poll() is None, log.read_text()
        home = Path(started(machine, "quantlab-daemon.service")[1]["DAGSTER_HOME"])
        assert (home / "dagster.yaml").read_bytes() == (REPOSITORY / "dagster.yaml").read_bytes()
    assert {path.name for path in machine.installation.iterdir()} == {".venv", "quantlab.env"}, (
        "nothing is written there"
    )
    assert os.access(home / "history", os.W_OK)
