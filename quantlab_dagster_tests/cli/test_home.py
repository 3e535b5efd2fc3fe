"""The home of Dagster's history: made, linked, kept, refused; and what a dagster.yaml of one's own must keep."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]
from filelock import FileLock

import quantlab_dagster
from quantlab_dagster.cli.runs import databases
from quantlab_dagster.cli.runs.configuration import LONGEST_RUN_SECONDS, concerns
from quantlab_dagster.cli.runs.databases import make_databases
from quantlab_dagster.cli.runs.home import CONFIGURATION, WORKSPACE, ensure_dagster_home
from quantlab_dagster.defs.liveness import SILENT_FOR
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(quantlab_dagster.__file__).parents[1]
NOBODY = 65_534


def settings_of(home: Path) -> Settings:
    return Settings(DAGSTER_HOME=home)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for a home that every user of the machine can look at."""
    monkeypatch.setenv("DAGSTER_HOME", "is put back after the test")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "home"


def test_the_package_ships_what_the_repository_has_at_its_top() -> None:
    assert CONFIGURATION.parent == WORKSPACE.parent == ROOT / "quantlab_dagster"
    for shipped in (CONFIGURATION, WORKSPACE):
        assert not (ROOT / shipped.name).is_symlink(), "the true file is the one that is looked for first"
        assert shipped.samefile(ROOT / shipped.name)


def test_a_home_is_made_and_what_is_shipped_is_in_force(home: Path) -> None:
    said: list[str] = []
    assert ensure_dagster_home(settings_of(home), said.append) == home
    assert (home / "dagster.yaml").samefile(CONFIGURATION)
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert {path.name for path in home.iterdir()} >= {"dagster.yaml", "history", "schedules"}
    assert ensure_dagster_home(settings_of(home), said.append) == home
    assert said == []


def test_of_processes_that_start_together_in_a_new_home_one_makes_the_databases(home: Path) -> None:
    home.mkdir()
    with ThreadPoolExecutor(1) as threads:
        with FileLock(home / ".databases.lock"):
            waiting = threads.submit(make_databases, home)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert not (home / "history").exists()
        waiting.result(timeout=60)
    with FileLock(home / ".databases.lock"):  # whoever finds them made does not wait for anybody
        make_databases(home)


def test_whoever_never_ends_making_the_databases_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    monkeypatch.setattr(databases, "_PATIENCE_SECONDS", 0.1)
    with FileLock(home / ".databases.lock"), pytest.raises(SettingsError, match=r"holds .*\.databases\.lock"):
        make_databases(home)


@pytest.mark.parametrize("database", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_databases_that_were_half_made_are_made(home: Path, database: str) -> None:
    """As by a process that was killed: the file is there, and not all of its tables are."""
    (home / database).parent.mkdir(parents=True)
    with closing(sqlite3.connect(home / database)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    ensure_dagster_home(settings_of(home))
    with closing(sqlite3.connect(home / database)) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


def test_a_home_with_a_storage_of_its_own_gets_no_databases(home: Path) -> None:
    home.mkdir()
    (home / "dagster.yaml").write_text("storage:\n  postgres:\n    postgres_url: postgresql+psycopg2://nowhere/x\n")
    ensure_dagster_home(settings_of(home))
    assert {path.name for path in home.iterdir()} == {"dagster.yaml"}


@pytest.mark.slow
def test_four_processes_at_once_open_the_instance_of_a_new_home(home: Path) -> None:
    code = (
        "import sys; from quantlab_dagster.cli.runs.home import ensure_dagster_home; import dagster as dg\n"
        "from quantlab_dagster.settings import load_settings\n"
        "print('ready', flush=True); sys.stdin.readline(); ensure_dagster_home(load_settings())\n"
        "with dg.DagsterInstance.get() as one: print(len(one.get_runs()), len(one.all_instigator_state()))"
    )
    argv = [sys.executable, "-c", code]
    env = {**os.environ, "DAGSTER_HOME": str(home)}
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(argv, env=env, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE))
            for _ in range(4)
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0, 0], ended
    assert {out for out, _ in ended} == {"0 0\n"}


def test_a_link_into_an_installation_that_is_gone_is_mended(home: Path) -> None:
    home.mkdir()
    (home / "dagster.yaml").symlink_to(home / "gone" / "dagster.yaml")
    ensure_dagster_home(settings_of(home))
    assert (home / "dagster.yaml").samefile(CONFIGURATION)


def test_a_dagster_yaml_of_ones_own_is_kept_and_said_to_differ_where_that_matters(home: Path) -> None:
    home.mkdir()
    own = home / "dagster.yaml"
    own.write_text("run_monitoring:\n  enabled: true\n  max_runtime_seconds: 86400\ntelemetry:\n  enabled: false\n")
    before, said = own.read_text(), list[str]()
    ensure_dagster_home(settings_of(home), said.append)
    assert (own.read_text(), own.is_symlink()) == (before, False)
    assert any(line.startswith(f"{own}: run_monitoring.max_runtime_seconds is 86400, not at most") for line in said)
    assert any("pools.granularity is not set" in line for line in said)
    assert not any("telemetry" in line for line in said)


@pytest.mark.parametrize(("text", "cause"), [("a: [", "is not valid YAML"), ("- a", "is no mapping")])
def test_a_dagster_yaml_that_is_none_is_an_error_that_names_it(home: Path, text: str, cause: str) -> None:
    home.mkdir()
    (home / "dagster.yaml").write_text(text)
    with pytest.raises(SettingsError, match=rf"home/dagster\.yaml.* {cause}"):
        ensure_dagster_home(settings_of(home))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a home to somebody else")
def test_root_does_not_write_into_somebody_elses_home(home: Path) -> None:
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(SettingsError, match="would lock nobody out") as caught:
        ensure_dagster_home(settings_of(home))
    assert "sudo -u nobody" in str(caught.value)
    assert list(home.iterdir()) != [home / "history"]


@pytest.fixture
def somebody_else() -> Iterator[None]:
    """This process writes as another user, who owns nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("foreign", ["", "history", "history/runs/index.db", "schedules/schedules.db-wal"])
def test_a_home_that_somebody_else_wrote_is_refused_with_the_path(home: Path, foreign: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    for directory in ("history/runs", "schedules"):
        (home / directory).mkdir(parents=True)
    for file in ("history/runs/index.db", "schedules/schedules.db-wal", "dagster.yaml"):
        (home / file).write_bytes(b"")
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.chown(home / foreign, 0, 0)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(SettingsError) as caught:
            ensure_dagster_home(settings_of(home))
    finally:
        os.seteuid(0)
    assert f"{home / foreign} belongs to root, and this user (nobody) cannot write to it" in str(caught.value)


@pytest.mark.usefixtures("somebody_else")
def test_a_home_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"/proc/home cannot be used"):
        ensure_dagster_home(settings_of(Path("/proc/home")))


def test_while_no_lake_is_configured_the_demos_home_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().home == Path("demo-lake/dagster-home")
    for name in ("QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL"):
        monkeypatch.setenv(name, "s3://somewhere")
    assert load_settings().home == Path(".dagster")
    monkeypatch.setenv("DAGSTER_HOME", "/elsewhere")
    assert load_settings().home == Path("/elsewhere")
    for name in ("QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL"):
        monkeypatch.delenv(name)
    assert load_settings().home == Path("/elsewhere")


def test_there_is_an_event_lake_where_one_is_set_and_in_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().has_event_lake, "the demo makes one"
    for name in ("QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL"):
        monkeypatch.setenv(name, "s3://somewhere")
    assert not load_settings().has_event_lake, "its default is the demo's, and lakes are configured"
    monkeypatch.setenv("WAREHOUSE_URL", "s3://elsewhere")
    assert load_settings().has_event_lake


def test_there_are_market_lakes_where_they_are_set_and_in_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().has_market_lake, "the demo makes them"
    monkeypatch.setenv("WAREHOUSE_URL", "s3://elsewhere")
    assert not load_settings().has_market_lake, "their defaults are the demo's, and a lake is configured"
    for name in ("QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL"):
        monkeypatch.setenv(name, "s3://somewhere")
    assert load_settings().has_market_lake


SHIPPED = yaml.safe_load(CONFIGURATION.read_text())


def changed(path: str, value: Any) -> dict[str, Any]:
    """The shipped configuration with another value; None takes it away."""
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    *above, last = path.split(".")
    place = configuration
    for name in above:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return dict(configuration)


def test_what_is_shipped_is_of_no_concern() -> None:
    assert concerns(SHIPPED) == []
    assert SHIPPED["run_monitoring"]["max_runtime_seconds"] <= LONGEST_RUN_SECONDS == SILENT_FOR.total_seconds()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("run_coordinator.class", "DefaultRunCoordinator", "without a queue"),
        ("concurrency.pools.granularity", "op", "granularity is op"),
        ("concurrency.pools.granularity", None, "granularity is not set"),
        ("concurrency.pools.default_limit", None, "default_limit is not set"),
        ("concurrency.pools.default_limit", 3, "keeps the other's runs waiting"),
        ("run_monitoring.enabled", False, "run_monitoring is not enabled"),
        ("run_monitoring.max_runtime_seconds", 21_601, "21601"),
        ("run_monitoring.max_runtime_seconds", 0, "max_runtime_seconds is 0"),
        ("run_monitoring.max_runtime_seconds", None, "max_runtime_seconds is not set"),
        ("run_retries.retry_on_asset_or_op_failure", None, "use up the attempts"),
        ("telemetry.enabled", True, "telemetry"),
    ],
)
def test_what_makes_it_unsafe_is_said(path: str, value: object, said: str) -> None:
    [line] = concerns(changed(path, value))
    assert said in line


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("concurrency.runs.max_concurrent_runs", 40),
        ("concurrency.pools.default_limit", {"env": "RUNS"}),
        ("run_monitoring.max_runtime_seconds", 3_600),
        ("run_monitoring.max_runtime_seconds", {"env": "LONGEST"}),
        ("run_coordinator", None),  # Dagster's default is the queue
        ("run_retries", True),  # Dagster refuses it
        ("run_launcher", {"module": "dagster_k8s", "class": "K8sRunLauncher"}),
        ("storage", {"postgres": {"postgres_url": {"env": "POSTGRES_URL"}}}),
    ],
)
def test_what_is_theirs_to_choose_is_not(path: str, value: object) -> None:
    assert concerns(changed(path, value)) == []
