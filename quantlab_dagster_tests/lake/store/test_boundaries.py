"""Who imports whom within the package, and what is loaded with it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import quantlab_dagster

ROOT = Path(quantlab_dagster.__file__).parent / "lake" / "store"
PACKAGE = "quantlab_dagster.lake.store"
ENGINES = {"obstore", "boto3", "botocore", "filelock"}


def imported_by(module: str) -> set[str]:
    """Modules of the package that one imports at run time or for types."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            rest = node.module.removeprefix(PACKAGE).lstrip(".")
            found |= {rest} if rest else {alias.name for alias in node.names}
    return found


def test_each_module_imports_only_what_lies_below_it() -> None:
    order = ["session", "objects", "capabilities", "limits", "faults", "engine", "requesting", "transfers", "deleting"]
    order += ["base", "uploading", "multipart", "local", "probing", "s3", "opening"]
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", *order}
    for number, module in enumerate(order):
        assert imported_by(module) <= set(order[:number]), module


def test_no_kind_of_store_knows_another() -> None:
    for module in ("objects", "capabilities", "limits", "faults", "requesting", "transfers", "deleting", "base"):
        assert not imported_by(module) & {"s3", "local", "multipart", "probing", "opening"}, module
    assert not imported_by("local") & {"s3", "multipart", "probing"}
    assert not imported_by("s3") & {"local"}


def test_plain_values_load_no_engine() -> None:
    code = f"import sys, {PACKAGE}.objects; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not ENGINES & set(done.stdout.split())


def test_a_store_knows_no_settings_of_this_project() -> None:
    for path in ROOT.glob("*.py"):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        named = [text for text in texts if isinstance(text, str) and re.search("QUANTLAB_|WAREHOUSE_|AWS_[A-Z]", text)]
        assert [text for text in named if not text.startswith("Said explicitly")] == [], path
