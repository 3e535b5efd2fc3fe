"""An installation that is a checkout: what is pulled is what runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from quantlab_dagster_tests.deploy.places import DEPLOY, ROOT

if TYPE_CHECKING:
    from pathlib import Path


def would_do(directory: Path) -> str:
    """What `make setup` would do there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--no-print-directory", "setup"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_setup_replaces_a_copy_of_the_package_and_else_does_nothing_twice(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    assert "--editable" in would_do(tmp_path)
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (tmp_path / ".venv" / ".installed").touch()
    assert "pip" not in would_do(tmp_path)
    (packages / "quantlab_dagster").mkdir()
    assert "--editable" in would_do(tmp_path)


def test_nobody_is_told_to_install_a_copy_over_a_checkout() -> None:
    told = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.env")]
    assert len(told) > 20
    commands = [command for path in told for command in re.findall(r"pip install [^`\n]*", path.read_text())]
    assert [command for command in commands if re.search(r"(?<!-e )'?\.(\[|\s|$)", command)] == []
    wrong = "pip install '.[postgres]' -c constraints.txt"
    assert re.search(r"(?<!-e )'?\.(\[|\s|$)", wrong), "and it would be noticed"
