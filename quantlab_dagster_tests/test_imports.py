"""Data flows lake → kernel → lake, and Dagster only decides when: who may import whom."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import quantlab_dagster

PACKAGE = "quantlab_dagster"
ROOT = Path(quantlab_dagster.__file__).parent

STORAGE = ("obstore", "boto3", "botocore", "filelock")

FORBIDDEN = {
    "kernel": (
        "dagster",
        "dagster_aws",
        *STORAGE,
        f"{PACKAGE}.lake",
        f"{PACKAGE}.work",
        f"{PACKAGE}.days",
        f"{PACKAGE}.hours",
        f"{PACKAGE}.defs",
        f"{PACKAGE}.definitions",
        f"{PACKAGE}.cli",
        f"{PACKAGE}.settings",
    ),
    "lake": (
        "dagster",
        "dagster_aws",
        f"{PACKAGE}.work",
        f"{PACKAGE}.days",
        f"{PACKAGE}.hours",
        f"{PACKAGE}.defs",
        f"{PACKAGE}.definitions",
        f"{PACKAGE}.cli",
    ),
    "work": (
        "dagster",
        "dagster_aws",
        f"{PACKAGE}.days",
        f"{PACKAGE}.hours",
        f"{PACKAGE}.defs",
        f"{PACKAGE}.definitions",
        f"{PACKAGE}.cli",
    ),
    "days": (
        "dagster",
        "dagster_aws",
        f"{PACKAGE}.hours",
        f"{PACKAGE}.defs",
        f"{PACKAGE}.definitions",
        f"{PACKAGE}.cli",
    ),
    "hours": (
        "dagster",
        "dagster_aws",
        f"{PACKAGE}.days",
        f"{PACKAGE}.defs",
        f"{PACKAGE}.definitions",
        f"{PACKAGE}.cli",
    ),
}
"""Subpackage to what it may not import, directly or through others, types included."""

PRESENT = [name for name in FORBIDDEN if (ROOT / name).is_dir()]

_IMPORT_AND_TELL = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def modules_of(subpackage: str) -> list[str]:
    name = f"{PACKAGE}.{subpackage}"
    return [name, *(found.name for found in pkgutil.walk_packages([str(ROOT / subpackage)], f"{name}."))]


def is_forbidden(module: str, subpackage: str) -> bool:
    return any(module == other or module.startswith(f"{other}.") for other in FORBIDDEN[subpackage])


def imported_by(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Every module that a source text imports anywhere, in functions and under TYPE_CHECKING too."""
    package = module if is_package else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `from package import module` imports the module.
            found |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    return found


def test_the_subpackages_are_there() -> None:
    assert {"kernel", "lake", "work", "days"} <= set(PRESENT)
    assert f"{PACKAGE}.kernel.merge" in modules_of("kernel")


@pytest.mark.parametrize("subpackage", PRESENT)
def test_nothing_forbidden_is_loaded(subpackage: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_AND_TELL, *modules_of(subpackage)], check=True, capture_output=True, text=True
    )
    loaded = json.loads(done.stdout)
    assert set(modules_of(subpackage)) <= set(loaded)
    assert [module for module in loaded if is_forbidden(module, subpackage)] == []


@pytest.mark.parametrize("subpackage", PRESENT)
def test_nothing_forbidden_is_written(subpackage: str) -> None:
    for path in sorted((ROOT / subpackage).rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        imported = imported_by(path.read_text(), module, is_package=is_package)
        assert [name for name in sorted(imported) if is_forbidden(name, subpackage)] == [], path


def test_the_kernel_is_pure() -> None:
    """Of this package the kernel needs its errors and itself."""
    for path in sorted((ROOT / "kernel").rglob("*.py")):
        own = {name for name in imported_by(path.read_text(), f"{PACKAGE}.kernel.x") if name.startswith(PACKAGE)}
        assert all(name.startswith((f"{PACKAGE}.errors", f"{PACKAGE}.kernel")) for name in own), path


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import boto3", "boto3"),
        ("import boto3.session as s", "boto3.session"),
        ("from dagster import asset", "dagster"),
        ("from quantlab_dagster import lake", "quantlab_dagster.lake"),
        ("from .. import days", "quantlab_dagster.days"),
        ("from ..defs.assets import x", "quantlab_dagster.defs.assets"),
        ("if TYPE_CHECKING:\n    from obstore.store import S3Store", "obstore.store"),
        ("def f():\n    import filelock", "filelock"),
    ],
)
def test_every_way_to_import_is_seen(line: str, module: str) -> None:
    imported = imported_by(line, f"{PACKAGE}.kernel.x")
    assert module in imported
    assert is_forbidden(module, "kernel")


def test_names_that_only_begin_alike_are_allowed() -> None:
    assert not is_forbidden("dagster_pipes_like", "kernel")
    assert not is_forbidden(f"{PACKAGE}.lakes", "kernel")
    assert is_forbidden("dagster._core", "kernel")
