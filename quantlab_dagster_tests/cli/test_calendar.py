"""`quantlab calendar`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.reader.lakes import MIDNIGHT_MS, ReadLake, day_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadLake:
    lake = ReadLake.of(Rig("local", None, tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUANTLAB_RAW_URL", lake.rig.new_url())
    monkeypatch.setenv("QUANTLAB_COMPACT_URL", lake.url)
    lake.put(day_of(), [MIDNIGHT_MS])
    return lake


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calendar", *arguments])
    return int(ended.value.code or 0)


def test_a_day_and_its_month_are_written(lake: ReadLake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("2026-01-08", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "days": {"2026-01-08": 1},
        "pages": ["calendar/month=202601.html"],
        "changed": ["calendar/date=20260108/index.parquet", "calendar/month=202601.html"],
    }
    assert run("202601") == 0
    out = capsys.readouterr().out
    assert "2026-01-08  1 symbol-days" in out
    assert f"{lake.url}/calendar/month=202601.html, as it was" in out


@pytest.mark.parametrize("when", ["2026", "today", "2999-01-01", "2999-01"])
def test_what_is_no_day_that_is_over_is_a_usage_error(
    lake: ReadLake, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(when) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (lake.rig.directory / "calendar").exists()
