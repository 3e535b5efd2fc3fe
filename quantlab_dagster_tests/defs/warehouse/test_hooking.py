"""The hook after a run: when it runs, what becomes of its failure, and that no secret shows."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from quantlab_dagster.cli.app import main
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.settings import load_settings
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, PARTITION, SOON, EventLake, spec

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = dg.AssetKey(["warehouse", "events"])
SECRET = "hunter2-recognisable"  # noqa: S105  # nobody's

_TELL = """
import json, os, sys
told = {name: value for name, value in os.environ.items() if name.startswith(("COMPACTED_", "AWS_"))}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps([told, sys.stdin.read().split(), sys.argv[2:]]) + "\\n")
print("told", os.environ.get("HOOK_TOKEN"))
"""


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventLake:
    (tmp_path / "events").mkdir()
    (tmp_path / "scratch").mkdir()
    lake = EventLake(Rig("local", None, tmp_path), str(tmp_path / "events"), tmp_path / "scratch")
    for name, value in {
        "WAREHOUSE_URL": lake.url,
        "QUANTLAB_SCRATCH_DIR": str(lake.scratch),
        "QUANTLAB_METRICS_FILE": str(tmp_path / "quantlab.prom"),
        "DAGSTER_HOME": str(tmp_path / "home"),
        "HOOK_TOKEN": SECRET,
        "WAREHOUSE_AWS_ACCESS_KEY_ID": "key",
        "WAREHOUSE_AWS_SECRET_ACCESS_KEY": SECRET,
    }.items():
        monkeypatch.setenv(name, value)
    return lake


def hook(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    monkeypatch.setenv("COMPACTION_HOOK_COMMAND", shlex.join([sys.executable, "-c", script, *arguments]))


def told(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def hook_runs(lake: EventLake) -> dict[str, float]:
    lines = (lake.scratch.parent / "quantlab.prom").read_text().splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith("quantlab_compaction_hook_runs_total")]
    return {name.split('result="')[1].rstrip('"}'): float(value) for name, value in found}


def run_job(instance: dg.DagsterInstance, *, asset: bool = False) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(load_settings(), clock=lambda: SOON)
    if asset:
        job = definitions.resolve_implicit_global_asset_job_def()
        options: dict[str, Any] = {"partition_key": "2026-01-15-10:00", "asset_selection": [EVENTS]}
    else:
        job, options = definitions.resolve_job_def("compact_warehouse"), {}
    return job.execute_in_process(instance=instance, raise_on_error=False, **options)


def log_of(instance: dg.DagsterInstance, run_id: str) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(run_id))


def test_it_runs_after_a_run_that_changed_something_and_is_told_what(
    lake: EventLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in (0, 1):
        lake.put_spec(spec(hour=HOUR - hours * LATER))
    hook(monkeypatch, _TELL, str(tmp_path / "told"))
    monkeypatch.setenv("COMPACTION_HOOK_SQL", "CALL sync('a b')")
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job(instance)
        assert result.success
        [[variables, lines, arguments]] = told(tmp_path / "told")
        changed = sorted([PARTITION.prefix, PARTITION.prefix.replace("hour=10", "hour=09")])
        assert lines == changed
        assert arguments == ["CALL sync('a b')"]
        assert variables == {
            "COMPACTED_LAKE": lake.url,
            "COMPACTED_COUNT": "2",
            "COMPACTED_PARTITIONS": "\n".join(changed),
            "COMPACTED_RUN": result.run_id,
            "AWS_CONFIG_FILE": variables["AWS_CONFIG_FILE"],
            "AWS_SHARED_CREDENTIALS_FILE": variables["AWS_SHARED_CREDENTIALS_FILE"],
            "AWS_EC2_METADATA_DISABLED": "true",
        }, "no credentials"
        [event] = [event for event in result.all_events if event.is_successful_output]
        metadata = event.step_output_data.metadata
        assert metadata["hook output"].value == "told ***"
        assert "ended well" in str(metadata["hook"].value)
        assert "told ***" in log_of(instance, result.run_id)
        assert hook_runs(lake) == {"success": 1, "failure": 0, "timeout": 0}

        assert run_job(instance).success
        assert len(told(tmp_path / "told")) == 1, "nothing has changed"


def test_nothing_runs_by_default(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put_spec(spec())

    async def never(*_: object) -> None:
        pytest.fail("there is no hook")

    monkeypatch.setattr("quantlab_dagster.defs.warehouse.hooking.run_hook", never)
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_job(instance).success
    assert hook_runs(lake) == {}


@pytest.mark.parametrize(
    ("script", "seconds", "result", "asset"),
    [
        ("import os, sys; print('it is', os.environ['HOOK_TOKEN']); sys.exit(3)", "60", "failure", True),
        ("print('slow', flush=True); import time; time.sleep(60)", "1.5", "timeout", False),
    ],
)
def test_its_failure_is_a_warning_and_undoes_nothing(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch, script: str, seconds: str, result: str, *, asset: bool
) -> None:
    lake.put_spec(spec())
    hook(monkeypatch, script)
    monkeypatch.setenv("COMPACTION_HOOK_SECONDS", seconds)
    with dg.DagsterInstance.ephemeral() as instance:
        done = run_job(instance, asset=asset)
        assert done.success
        assert sorted(instance.get_materialized_partitions(EVENTS)) == ["2026-01-15-10:00"]
        entries = [entry for entry in instance.all_logs(done.run_id) if "hook " in entry.user_message]
        assert any(entry.level == 30 for entry in entries), "a warning"
        assert SECRET not in "".join(str(entry) for entry in instance.all_logs(done.run_id))
        if asset:
            [seen] = instance.fetch_observations(dg.AssetRecordsFilter(EVENTS), limit=2).records
            assert seen.asset_observation is not None
            assert seen.asset_observation.metadata["hook output"].value == "it is ***"
    assert len(lake.names()) == 1, "merged"
    assert hook_runs(lake)[result] == 1
    assert hook_runs(lake)["success"] == 0


def test_what_cannot_even_be_tried_fails_no_run(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put_spec(spec())
    hook(monkeypatch, "pass")

    async def bug(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("quantlab_dagster.defs.warehouse.hooking.run_hook", bug)
    with dg.DagsterInstance.ephemeral() as instance:
        done = run_job(instance)
        assert done.success
        assert SECRET not in log_of(instance, done.run_id)
    assert hook_runs(lake)["failure"] == 1


def test_the_command_line_says_how_it_ended_and_the_exit_code_is_the_merges(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake.put_spec(spec())
    monkeypatch.setenv("COMPACTION_HOOK_COMMAND", "no-such-program --password hunter3-too")
    with pytest.raises(SystemExit) as ended:
        main(["warehouse", "compact", "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0
    assert json.loads(out)["hook"]["result"] == "failure"
    assert "hook no-such-program did not start: No such file or directory; what was merged stays" in err
    assert "hunter3" not in out + err


def test_the_command_and_its_arguments_are_in_no_page_and_no_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COMPACTION_HOOK_COMMAND", f"trino --password {SECRET}")
    settings = load_settings()
    assert SECRET not in repr(settings) + settings.model_dump_json()
    assert SECRET not in serialize_value(RepositorySnap.from_def(build_definitions(settings).get_repository_def()))
    monkeypatch.setenv("COMPACTION_HOOK_COMMAND", f"trino --password '{SECRET}")
    with pytest.raises(Exception, match="COMPACTION_HOOK_COMMAND: No closing quotation") as caught:
        load_settings().check_event_lake()
    assert SECRET not in str(caught.value) + caplog.text
    monkeypatch.delenv("COMPACTION_HOOK_COMMAND")
    monkeypatch.setenv("COMPACTION_HOOK_SQL", "CALL x()")
    with pytest.raises(Exception, match="COMPACTION_HOOK_SQL: is set without the command"):
        load_settings().check_event_lake()
