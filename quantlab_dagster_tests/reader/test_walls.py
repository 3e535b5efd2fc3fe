"""The reader loads neither Dagster nor anything that could write to a lake."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import quantlab_dagster.reader
from quantlab_dagster_tests.reader.lakes import MIDNIGHT_MS, ReadLake, day_of

if TYPE_CHECKING:
    import pytest

    from quantlab_dagster_tests.conftest import Rig

ROOT = Path(quantlab_dagster.reader.__file__).parent
READS = {"get", "list", "list_with_delimiter"}
WRITES = {
    f"quantlab_dagster.lake.store.{name}" for name in ("base", "local", "s3", "multipart", "transfers", "opening")
}

_READ_AND_TELL = """
import json, sys
from quantlab_dagster import reader
lake = reader.open_lake(sys.argv[1])
rows = lake.rows(symbol="ADAUSDT").polars().height
print(json.dumps([rows, sorted(sys.modules)]))
"""


def loaded_while_reading(lake: ReadLake, env: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _READ_AND_TELL, lake.url], check=True, capture_output=True, text=True, env=env
    )
    rows, modules = json.loads(done.stdout)
    assert rows == 1
    return set(modules)


def test_reading_in_a_fresh_process_loads_no_dagster_and_nothing_that_writes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os  # noqa: PLC0415

    lake = ReadLake.of(rig, monkeypatch)
    lake.put(day_of(), [MIDNIGHT_MS])
    loaded = loaded_while_reading(lake, dict(os.environ))
    assert "quantlab_dagster.reader.lake" in loaded
    assert loaded & WRITES == set()
    tops = {name.partition(".")[0] for name in loaded}
    assert "dagster" not in tops
    assert ("obstore" in tops) == (rig.server is not None)
    assert ("boto3" in tops) == (rig.server is not None)


def test_of_obstore_only_what_reads_is_used() -> None:
    taken: set[str] = set()
    for path in ROOT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "obstore":
                taken |= {alias.name for alias in node.names}
            if isinstance(node, ast.Import):
                assert not any(alias.name.partition(".")[0] in {"obstore", "boto3"} for alias in node.names), path
    assert taken == READS
