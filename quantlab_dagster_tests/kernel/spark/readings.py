"""How Spark reads parts, and what was merged of them.

python -m quantlab_dagster_tests.kernel.spark.readings PYTHON

writes spark_readings.json, of which docs/reliability.md tells. PYTHON is that of an environment that has pyspark.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from quantlab_dagster.errors import SchemaConflict
from quantlab_dagster_tests.kernel.spark import in_spark
from quantlab_dagster_tests.kernel.type_survival import CASES, LAKES, survive

__all__ = ["READINGS", "compared", "told"]

READINGS = Path(__file__).with_name("spark_readings.json")


def _lay_out(directory: Path) -> dict[str, str]:
    """A directory of the parts and one of what was merged of them, for each type and lake. Names of all."""
    names: dict[str, str] = {}
    for number, case in enumerate(CASES):
        for lake in LAKES:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    survived = survive(case, lake, Path(scratch))
                except SchemaConflict:
                    continue
                place = directory / f"{number:03d}-{lake}-after"
                place.mkdir()
                shutil.copy(survived.after, place)
                shutil.copytree(survived.before, directory / f"{number:03d}-{lake}-before")
            names[f"{number:03d}-{lake}"] = f"{case.name}, {lake}"
    return names


def compared(names: dict[str, str], said: dict[str, Any]) -> dict[str, Any]:
    """What Spark reads alike before and after, what it cannot read, and what it reads otherwise."""
    read: dict[str, list[str]] = said["read"]
    pairs = {name: (read[f"{key}-before"], read[f"{key}-after"]) for key, name in names.items()}
    unread = sorted(name for name, (before, after) in pairs.items() if before[0] == after[0] == "cannot")
    other = {name: list(pair) for name, pair in sorted(pairs.items()) if pair[0] != pair[1] and name not in unread}
    return {
        "version": said["version"],
        "alike": sum(before == after and before[0] != "cannot" for before, after in pairs.values()),
        "unread": unread,
        "other": other,
    }


def told(found: dict[str, Any]) -> str:
    """The same in words, for docs/reliability.md."""
    types = sorted({name.rpartition(", ")[0] for name in found["unread"]})
    said = f"Spark {found['version']} reads {found['alike']} of these (a type in a lake each) alike before and after"
    other = f", {len(found['other'])} otherwise: {'; '.join(found['other'])}" if found["other"] else ", none otherwise"
    return f"{said}{other}. What it does not read it reads neither before nor after: {'; '.join(types)}."


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        names = _lay_out(Path(name))
        command = [sys.argv[1], in_spark.__file__, "read", name]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found = compared(names, json.loads(said))
    READINGS.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
