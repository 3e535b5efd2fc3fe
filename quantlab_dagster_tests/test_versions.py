"""The versions that the package asks for are those that everything is tested with (docs/adr/0025)."""

from __future__ import annotations

import importlib.metadata
import io
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def asked_for() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {found.name: found for found in map(Requirement, project["dependencies"])}


def constrained() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {
        name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines if line)
    }


def test_every_dependency_is_constrained_to_a_version_that_it_allows() -> None:
    versions = constrained()
    for name, requirement in asked_for().items():
        assert requirement.specifier.contains(versions[name.lower()]), name


def test_what_writes_the_bytes_is_pinned_and_what_is_installed() -> None:
    tested = constrained()
    assert str(asked_for()["pyarrow"].specifier) == f"=={tested['pyarrow']}"
    polars, version = asked_for()["polars"].specifier, Version(tested["polars"])
    assert not polars.contains(f"{version.major}.{version.minor + 1}.0"), "a minor version may change what is written"
    assert not polars.contains(f"{version.major + 1}.0.0")
    for name in ("pyarrow", "polars"):
        assert importlib.metadata.version(name) == tested[name]


def test_a_file_says_which_version_wrote_it() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"seq": [0]}), file)
    assert constrained()["pyarrow"] in pq.ParquetFile(file).metadata.created_by
