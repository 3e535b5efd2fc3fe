"""On what, and with what, something was measured."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

__all__ = ["describe"]

_ENGINES = ("polars", "pyarrow", "duckdb", "datafusion", "dagster", "obstore", "numpy")


def describe() -> dict[str, str]:
    """Names and values for people."""
    return {
        "date": f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "CPU": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in _ENGINES},
    }


def load() -> float:
    """Processes that wanted a core in the last minute."""
    return os.getloadavg()[0]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _field(path: str, name: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not known"
