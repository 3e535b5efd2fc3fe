"""The shipped units: what systemd says of them, and what they promise."""

from __future__ import annotations

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.iterdir() if path.suffix in (".service", ".timer"))


def read(name: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def test_all_units_are_shipped() -> None:
    assert NAMES == [
        "quantlab-compact.service",
        "quantlab-compact.timer",
        "quantlab-daemon.service",
        "quantlab-metrics.service",
        "quantlab-prune.service",
        "quantlab-prune.timer",
        "quantlab-warehouse-loop.service",
        "quantlab-warehouse.service",
        "quantlab-warehouse.timer",
        "quantlab-webserver.service",
    ]


def test_the_timer_is_at_half_past_two_utc_and_makes_up_for_what_it_missed() -> None:
    timer = read("quantlab-compact.timer")["Timer"]
    assert timer["OnCalendar"] == "*-*-* 02:30:00 UTC"
    assert timer["Persistent"] == "true"
    assert timer["Unit"] == "quantlab-compact.service"
    assert read("quantlab-compact.service")["Service"]["ExecStart"].endswith("/bin/quantlab catch-up")


def test_the_event_lake_has_an_hourly_timer() -> None:
    timer = read("quantlab-warehouse.timer")["Timer"]
    assert timer["OnCalendar"] == "*-*-* *:05:00 UTC"
    assert timer["Unit"] == "quantlab-warehouse.service"
    assert read("quantlab-warehouse.service")["Service"]["ExecStart"].endswith("/bin/quantlab warehouse compact")


def test_prometheus_finds_the_metrics_where_the_unit_serves_them() -> None:
    unit = read("quantlab-metrics.service")["Service"]["ExecStart"].split()
    [job] = [
        job
        for job in yaml.safe_load((UNITS.parent / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        if job["job_name"] == "quantlab"
    ]
    assert job["static_configs"] == [{"targets": [f"metrics:{unit[unit.index('--port') + 1]}"]}]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".service")])
def test_a_decoder_that_the_kernel_ends_does_not_stop_its_service_and_temporary_files_are_its_own(name: str) -> None:
    service = read(name)["Service"]
    assert service["OOMPolicy"] == "continue"
    assert service["PrivateTmp"] == "true"


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """With the paths of an installation that is there: systemd-analyze looks for the programs and the user."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd: systemd-analyze is not installed (apt-get install systemd)")
    program = tmp_path / ".venv" / "bin"
    program.mkdir(parents=True)
    (program / "quantlab").write_text("#!/bin/sh\n")
    (program / "quantlab").chmod(0o755)
    (tmp_path / "README.md").touch()
    copies = []
    for name in NAMES:
        copy = tmp_path / name
        text = (UNITS / name).read_text().replace("/opt/quantlab-dagster", str(tmp_path))
        copy.write_text(text.replace("User=quantlab", "User=root"))
        copies.append(str(copy))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies], capture_output=True, text=True, check=False
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "quantlab" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".service")])
def test_no_unit_shares_its_temporary_directory(name: str) -> None:
    assert read(name)["Service"]["PrivateTmp"] == "true"


def test_systemd_makes_the_user_of_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("needs systemd: systemd-sysusers is not installed (apt-get install systemd)")
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", UNITS / "quantlab.sysusers"], check=True)
    [line] = [line for line in (tmp_path / "etc" / "passwd").read_text().splitlines() if line.startswith("quantlab:")]
    assert line.split(":")[5] == "/var/lib/quantlab"
    assert {read(name)["Service"]["User"] for name in NAMES if name.endswith(".service")} == {"quantlab"}
    assert {read(name)["Service"]["StateDirectory"] for name in NAMES if name.endswith(".service")} == {"quantlab"}
