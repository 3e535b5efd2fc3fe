"""Where the shipped files are, and the system's programs that read them."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def program(name: str, package: str) -> str:
    """A program of a Debian package; the test is skipped where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: it is not installed (apt-get install {package})")
    return found


def script(name: str) -> str:
    """A program of the virtual environment."""
    return str(Path(sysconfig.get_path("scripts"), name))
