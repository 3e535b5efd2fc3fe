"""`quantlab dev`, `webserver` and `daemon`: what they make ready, refuse, and become."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.cli.demo import _demo_settings
from quantlab_dagster.cli.runs.home import CONFIGURATION, WORKSPACE
from quantlab_dagster.settings import load_settings
from quantlab_dagster_tests.servers import free_ports

if TYPE_CHECKING:
    from pathlib import Path


class Became(Exception):
    """Instead of another program."""


@pytest.fixture(autouse=True)
def _becomes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def become(program: str, arguments: list[str]) -> None:
        raise Became(program, arguments)

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def became(*arguments: str) -> list[str]:
    with pytest.raises(Became) as caught:
        main(list(arguments))
    program, command = caught.value.args
    assert program == command[0] == sys.executable
    return list(command[1:])


@pytest.mark.parametrize(
    ("name", "module"),
    [("dev", ["-m", "quantlab_dagster.cli.runs.unsaid", "dev"]), ("webserver", ["-m", "dagster_webserver"])],
    ids=["dev", "webserver"],
)
def test_what_listens_becomes_dagsters_on_a_home_that_is_ready(name: str, module: list[str], tmp_path: Path) -> None:
    [port] = free_ports(1)
    listening = ["--host", "127.0.0.1", "--port", str(port)]
    assert became(name, "--port", str(port)) == [*module, *listening, "--workspace", str(WORKSPACE)]
    assert (tmp_path / "home" / "dagster.yaml").samefile(CONFIGURATION)
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "home")


def test_the_daemon_becomes_dagsters_with_another_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "elsewhere.yaml"
    workspace.write_text("load_from: []\n")
    assert became("daemon") == ["-m", "dagster._daemon", "run", "--workspace", str(WORKSPACE)]
    assert became("daemon", "--workspace", str(workspace))[-1] == str(workspace)


@pytest.mark.parametrize("content", [b"", b"root:x:0:0:s3cret\n", b"- s3cret", b"a: [s3cret", b"s3cret: \xff"])
def test_what_is_no_workspace_is_refused_and_not_shown(
    content: bytes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "secrets").write_bytes(content)
    with pytest.raises(SystemExit) as left:
        main(["daemon", "--workspace", str(tmp_path / "secrets")])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith(f"error: --workspace {tmp_path / 'secrets'}: is no")
    assert "s3cret" not in said


@pytest.mark.parametrize("name", ["dev", "webserver"])
def test_a_taken_port_is_said_and_nothing_starts(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as left:
            main([name, "--port", str(port)])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert f"--port {port}: is taken at 127.0.0.1" in said
    assert "make dev PORT=3001" in said
    assert not (tmp_path / "home").exists()


def test_a_host_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["dev", "--host", "192.0.2.1"])  # documentation's own network: nobody has it
    assert left.value.code == 2
    assert "cannot be listened at, at 192.0.2.1" in capsys.readouterr().err


def test_a_home_that_is_not_safe_is_said_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("{}")
    became("daemon")
    assert "run_monitoring is not enabled" in capsys.readouterr().err


def test_the_demo_can_be_shown_whatever_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL", "WAREHOUSE_URL"):
        monkeypatch.setenv(name, "s3://production")
    for name in ("QUANTLAB_EXCHANGES", "QUANTLAB_STREAMS", "QUANTLAB_START_DATE"):
        monkeypatch.setenv(name, "")  # so that they are put back, too
    around = ("WAREHOUSE_SLOTS_URL", "QUANTLAB_AUTOMATION", "QUANTLAB_METRICS_FILE", "COMPACTION_HOOK_COMMAND")
    for name in around:
        monkeypatch.setenv(name, "all")
    (tmp_path / "quantlab.env").write_text("QUANTLAB_ALERT_COMMAND=tell everybody\nQUANTLAB_AUTOMATION=all\n")
    monkeypatch.setenv("QUANTLAB_ENV_FILE", "quantlab.env")
    monkeypatch.setenv("QUANTLAB_MEMORY_BUDGET", "300MiB")
    before, demo = dict(os.environ), _demo_settings()
    assert os.environ == before
    assert (demo.slots_url, demo.automation, demo.metrics_file, demo.compaction_hook_command) == ("", (), None, None)
    assert (demo.alert_command, demo.raw_url, demo.memory_budget) == ("", "demo-lake/raw", 300 << 20)
    [port] = free_ports(1)
    became("dev", "--demo", "--port", str(port))
    assert not set(around) & set(os.environ)
    assert (load_settings().automation, load_settings().alert_command) == ((), "")
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "demo-lake" / "dagster-home")
    assert os.environ["QUANTLAB_RAW_URL"] == "demo-lake/raw"
    assert "production" not in os.environ["QUANTLAB_COMPACT_URL"] + os.environ["WAREHOUSE_URL"]


@pytest.mark.slow
def test_what_dagster_says_of_the_configuration_is_shown_where_it_is_true(tmp_path: Path) -> None:
    """Dagster itself, in a directory with a dagster.yaml as a checkout has one, until it looks at its workspace."""

    def said() -> str:
        command = [sys.executable, "-m", "quantlab_dagster.cli.runs.unsaid", "dev", "--workspace", "wrong.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode != 0
        assert "Launching Dagster services" in done.stdout + done.stderr, "until then it went"
        assert "superseded" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    became("daemon")  # makes the home ready
    (tmp_path / "wrong.yaml").write_text("load_from: nowhere")
    (tmp_path / "dagster.yaml").symlink_to(CONFIGURATION)
    assert "will not be used" not in said()
    (tmp_path / "home" / "dagster.yaml").unlink()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}")
    assert "The dagster.yaml file will not be used" in said()
