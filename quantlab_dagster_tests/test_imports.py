"""Data flows lake → kernel → lake, and Dagster only decides when: who may import whom."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import quantlab_dagster
from quantlab_dagster_tests.import_graph import circle, read_graph

PACKAGE = "quantlab_dagster"
ROOT = Path(quantlab_dagster.__file__).parent

STORAGE = ("obstore", "boto3", "botocore", "filelock")

DAGSTER = ("dagster", "dagster_aws")

_ABOVE = (f"{PACKAGE}.settings", f"{PACKAGE}.access", f"{PACKAGE}.defs", f"{PACKAGE}.definitions", f"{PACKAGE}.cli")
"""The layers that no other one knows."""

FORBIDDEN = {
    "kernel": (
        *DAGSTER,
        *STORAGE,
        f"{PACKAGE}.lake",
        f"{PACKAGE}.work",
        f"{PACKAGE}.market",
        f"{PACKAGE}.warehouse",
        *_ABOVE,
    ),
    "lake": (*DAGSTER, f"{PACKAGE}.kernel", f"{PACKAGE}.market", f"{PACKAGE}.warehouse", *_ABOVE),
    "work": (*DAGSTER, f"{PACKAGE}.market", f"{PACKAGE}.warehouse", *_ABOVE),
    "market": (*DAGSTER, f"{PACKAGE}.warehouse", *_ABOVE),
    "warehouse": (*DAGSTER, f"{PACKAGE}.market", *_ABOVE),
    "reader": (
        *DAGSTER,
        *(f"{PACKAGE}.lake.store.{name}" for name in ("base", "local", "s3", "multipart", "transfers", "opening")),
        f"{PACKAGE}.kernel",
        f"{PACKAGE}.work",
        f"{PACKAGE}.warehouse",
        *(name for name in _ABOVE if not name.endswith(".settings")),
    ),
    "alerts": (
        *DAGSTER,
        *STORAGE,
        f"{PACKAGE}.lake",
        f"{PACKAGE}.work",
        f"{PACKAGE}.market",
        f"{PACKAGE}.warehouse",
        *_ABOVE,
    ),
    "synthetic": (*DAGSTER, *STORAGE, f"{PACKAGE}.lake", f"{PACKAGE}.work", f"{PACKAGE}.market", *_ABOVE),
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
    assert set(PRESENT) == set(FORBIDDEN)
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
        ("from .. import market", "quantlab_dagster.market"),
        ("from ..defs.names import x", "quantlab_dagster.defs.names"),
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


def test_there_is_no_circle_and_little_lies_flat_at_the_top() -> None:
    graph = read_graph(ROOT)
    assert circle(graph.room_arrows()) == []
    assert circle(graph.arrows) == []
    assert graph.top_level == ["access", "definitions", "errors", "metrics", "settings"]
    assert len(graph.arrows) > 100  # else nothing was read


def test_a_circle_would_be_found(tmp_path: Path) -> None:
    package = tmp_path / "package"
    for name, text in {"": "", "a": "from package.b.inner import x", "b": "", "b.inner": "import package.a"}.items():
        folder = name in ("", "b")
        path = package / Path(*name.split("."), "__init__.py") if folder else package / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    graph = read_graph(package)
    assert graph.arrows == {("a", "b.inner"), ("b.inner", "a")}
    assert set(circle(graph.arrows)) == {"a", "b.inner"}
    assert set(circle(graph.room_arrows())) == {"a", "b"}


def test_only_the_runs_of_the_command_line_import_dagster() -> None:
    for path in sorted((ROOT / "cli").rglob("*.py")):
        if path.parent.name != "runs":
            written = imported_by(path.read_text(), f"{PACKAGE}.cli.x")
            assert not any(name.partition(".")[0] == "dagster" or f"{PACKAGE}.defs" in name for name in written), path


_WITHOUT_DAGSTER = """
import sys
import tomllib
from quantlab_dagster.cli.app import main
try:
    main(sys.argv[1:])
finally:
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"dagster", "dagster_aws", "polars", "pyarrow"})
    sys.stderr.write(f"loaded: {loaded}")
"""

HEAVY_FREE = [
    ["--help"],
    ["-h"],
    ["--version"],
    ["plan", "--date", "2026-01-08"],
    ["cost", "--date", "2026-01-08"],
    ["status"],
    ["live"],
    ["state", "show"],
    ["state", "seed", "--last-compacted", "2026-01-07"],
    ["state", "accept", "2026-01-08", "--reason", "x"],
    ["state", "rebuild"],
    ["state", "delisted", "binance/bbo/adausdt", "--reason", "x"],
    ["warehouse", "plan"],
    ["warehouse", "status"],
    ["verify", "--date", "2026-01-08"],
]


@pytest.mark.parametrize("arguments", HEAVY_FREE, ids=" ".join)
def test_what_only_looks_loads_neither_dagster_nor_polars(arguments: list[str], tmp_path: Path) -> None:
    for lake in ("raw", "compact", "warehouse/events"):
        (tmp_path / "demo-lake" / lake).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_DAGSTER, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.rpartition("loaded: ")[2] == "[]"


def loaded_by(*names: str) -> set[str]:
    """The packages that are loaded with modules of ours."""
    modules = [f"{PACKAGE}.{name}" for name in names]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_AND_TELL, *modules], check=True, capture_output=True, text=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_who_only_waits_for_a_merge_loads_no_engine() -> None:
    """What is not ours is decoded by another process, and a process that never decodes cannot die of it."""
    assert loaded_by("market.compact", "market.verify", "warehouse.compact") & {"polars", "pyarrow", "dagster"} == set()


def test_the_process_that_decodes_loads_neither_dagster_nor_storage() -> None:
    loaded = loaded_by("work.child", "work.jobs")
    assert loaded & {"polars", "pyarrow"} == {"polars", "pyarrow"}
    assert loaded & {*DAGSTER, *STORAGE, "pydantic", "typer"} == set()


def test_pure_types_load_no_engine() -> None:
    names = [
        "market.state",
        "market.outcome",
        "market.catchup",
        "warehouse.outcome",
        "warehouse.slot",
        "lake.store.objects",
    ]
    assert loaded_by(*names) & {"polars", "pyarrow", "obstore", "boto3", "numpy", "dagster"} == set()


def test_the_dependencies_declared_are_those_imported() -> None:
    """What the package imports comes with it, and what only tests need does not."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=\[]", text)[0].replace("-", "_") for text in project["dependencies"]}
    modules = {"pillow": "PIL", "python_dotenv": "dotenv", "pyyaml": "yaml"}
    own = {modules.get(name, name) for name in declared}
    used: set[str] = set()
    for path in ROOT.rglob("*.py"):
        # What is imported for types only need not be there.
        used |= {name.partition(".")[0] for name in imported_by(_run_time(path.read_text()), f"{PACKAGE}.x")}
    foreign = used - set(sys.stdlib_module_names) - {PACKAGE}
    assert foreign - own == {"alembic", "botocore", "sqlalchemy"}  # boto3's own, and Dagster's
    assert own - foreign == {"dagster_graphql", "dagster_webserver"}  # the UI


def _run_time(source: str) -> str:
    """A source text without what is imported for types only."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return ast.unparse(tree)


_IMPORT_WITH_DEFAULTS = """
import importlib, importlib.metadata as metadata, sys
from packaging.requirements import Requirement

def closure(name, found):
    if name not in found:
        found.add(name)
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}):
                try:
                    metadata.distribution(requirement.name)
                except metadata.PackageNotFoundError:
                    continue
                closure(requirement.name.lower().replace("_", "-"), found)
    return found

ours = closure("quantlab-dagster", set())
owners = metadata.packages_distributions()
refused = {
    module for module, names in owners.items()
    if not {name.lower().replace("_", "-") for name in names} & ours and module not in sys.modules
}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is no default dependency", name=name)

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted(refused))
"""


def test_the_package_imports_with_its_default_dependencies_only() -> None:
    every = [found.name for found in pkgutil.walk_packages([str(ROOT)], f"{PACKAGE}.")]
    modules = [name for name in every if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_WITH_DEFAULTS, *modules], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {"duckdb", "hypothesis", "psutil", "pytest"} <= set(done.stdout.split())
