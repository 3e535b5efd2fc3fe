"""A secret in the URL of a lake is refused, and shown nowhere: not by commands, not in logs, not in Dagster's pages."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from quantlab_dagster.cli.app import main
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2-recognisable"  # noqa: S105  # nobody's
URLS = [
    f"s3://user:{SECRET}@bucket/prefix",
    f"s3://AKIA:a/{SECRET}@bucket/prefix",
    f"s3://bucket/prefix?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}",
]
MARKET = ["plan --date 2026-01-08", "verify --date 2026-01-08", "compact --date 2026-01-08", "status", "catch-up"]
EVENTS = ["warehouse plan", "warehouse status", "warehouse compact"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    ("variable", "command"),
    [
        *(("QUANTLAB_RAW_URL", command) for command in MARKET),
        *(("QUANTLAB_COMPACT_URL", command) for command in ("status", "state show")),
        *(("WAREHOUSE_URL", command) for command in EVENTS),
    ],
)
def test_commands_refuse_it_and_do_not_show_it(
    variable: str,
    command: str,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert f"{variable}: must hold no credentials; set AWS_ACCESS_KEY_ID" in err
    assert SECRET not in out + err + caplog.text


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("variable", ["QUANTLAB_RAW_URL", "QUANTLAB_COMPACT_URL"])
def test_the_definitions_do_not_load_with_it(variable: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(SettingsError, match=variable) as caught:
        load_settings()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_one_of_the_event_lake_stops_that_lake_only_and_is_in_no_page(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", url)
    settings = load_settings()
    with pytest.raises(SettingsError, match="WAREHOUSE_URL"):
        settings.check_event_lake()
    definitions = build_definitions(settings).get_repository_def()
    shown = serialize_value(RepositorySnap.from_def(definitions))
    assert "warehouse" in shown
    assert SECRET not in shown + caplog.text
