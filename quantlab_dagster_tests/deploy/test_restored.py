"""A local lake that is restored by copying it: what docs/operations.md says of it, and what to do."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.deploy.places import ROOT
from quantlab_dagster_tests.lakes import PAIR, Lakes, spec

DAY = dt.date(2026, 1, 8)


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    found = Lakes.of(Rig("local", None, tmp_path))
    monkeypatch.setenv("QUANTLAB_RAW_URL", found.raw_url)
    monkeypatch.setenv("QUANTLAB_COMPACT_URL", found.compact_url)
    monkeypatch.setenv("QUANTLAB_EXCHANGES", PAIR.exchange)
    monkeypatch.setenv("QUANTLAB_STREAMS", PAIR.stream)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    found.put_spec(spec(day=DAY, parts=2, rows=20))
    return found


@pytest.mark.slow
def test_a_copied_local_lake_is_built_again_to_the_same_bytes(lakes: Lakes, capsys: pytest.CaptureFixture[str]) -> None:
    def quantlab(arguments: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main([*arguments.split(), "--date", str(DAY), "--json"])
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    def planned() -> list[str]:
        return [one["action"] for one in quantlab("plan")]

    def published() -> dict[str, bytes]:
        directory = Path(lakes.compact_url)
        return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("data.parquet")}

    quantlab("compact")
    before = published()
    assert planned() == ["up_to_date"]
    for url in (lakes.raw_url, lakes.compact_url):
        shutil.move(url, f"{url}.before")
        shutil.copytree(f"{url}.before", url)  # other inodes, and so other ETags
    assert planned() == ["keep"]
    assert "--allow-shrink" in (ROOT / "docs" / "operations.md").read_text()
    quantlab("compact --allow-shrink")
    assert published() == before
    assert [json.loads(file.read_text())["revision"] for file in Path(lakes.compact_url).rglob("meta.json")] == [1]
    assert planned() == ["up_to_date"]
