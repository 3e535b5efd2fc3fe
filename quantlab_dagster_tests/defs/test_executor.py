"""What executes steps is a setting; its file is checked when the definitions are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs import executor as module
from quantlab_dagster.defs.executor import executor_of
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

BROKER = "redis://:the-password@broker:6379/0"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "executor.yaml"


def settings(executor: str, file: Path | None = None) -> Settings:
    return Settings(QUANTLAB_EXECUTOR=executor, QUANTLAB_EXECUTOR_CONFIG=file)


def config_of(executor: dg.ExecutorDefinition) -> dict[str, Any]:
    found = executor.apply_config_mapping({"config": {}}).value
    assert found is not None
    config: dict[str, Any] = found["config"]
    return config


@pytest.mark.parametrize("name", ["in_process", "multiprocess", "celery", "k8s"])
def test_each_executor_is_that_of_the_day_and_of_no_other_job(name: str) -> None:
    definitions = build_definitions(settings(name))
    names = {job.name: job.executor_def.name for job in definitions.resolve_all_job_defs()}
    assert names["compact_day"] == name
    assert names["compact_symbols"] == names["compact_warehouse"] == "in_process"


def test_in_one_process_is_the_default() -> None:
    assert executor_of(Settings()) is dg.in_process_executor


def test_several_processes_are_two_unless_the_file_says_otherwise(file: Path) -> None:
    assert config_of(executor_of(settings("multiprocess")))["max_concurrent"] == 2
    file.write_text("execution:\n  config:\n    max_concurrent: 5\n")
    assert config_of(executor_of(settings("multiprocess", file)))["max_concurrent"] == 5


def test_the_file_configures_the_executor(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", BROKER)
    file.write_text("execution:\n  config:\n    broker: {env: CELERY_BROKER_URL}\n    backend: redis://backend\n")
    executor = executor_of(settings("celery", file))
    config = config_of(executor)
    assert (config["broker"], config["backend"]) == (BROKER, "redis://backend")
    default = executor.config_schema.as_field()
    shown = default.default_value_as_json_str if default.default_provided else ""
    assert "the-password" not in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("execution:\n  config:\n    brokers: redis://:the-password@host\n", "FIELD_NOT_DEFINED"),
        ("execution:\n  config:\n    broker: [1]\n", "broker"),
        ("broker: redis://:the-password@host\n", "no mapping below execution: config:"),
        ("- 1\n", "no mapping below execution: config:"),
        ("execution: {config: redis://:the-password@host}", "no mapping below execution: config:"),
        ("a: b: redis://:the-password@host", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name_without_what_it_says(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        executor_of(settings("celery", file))
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "the-password" not in str(caught.value)


def test_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(SettingsError, match="QUANTLAB_EXECUTOR_CONFIG"):
        executor_of(settings("celery", file))


def test_an_executor_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(SettingsError, match=r"pip install '\.\[celery\]'"):
        executor_of(settings("celery"))
