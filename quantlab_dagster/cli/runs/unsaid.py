"""Dagster's own command line, without what it says that is wrong or means nothing to whoever typed ours.

`python -m quantlab_dagster.cli.runs.unsaid dev …` is `dagster dev …` (cli/serving.py).
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from dagster._cli import main

__all__: list[str] = []

_SUPERSEDED = "Function `dev_command` is superseded"
"""Dagster would have people type `dg dev`, which works on projects of another layout."""

_NOT_USED = "Found a dagster instance configuration value (dagster.yaml) in the current folder"
"""It looks for a home in a checkout, and does not see that DAGSTER_HOME has a link to the same file."""


def is_said(record: logging.LogRecord) -> bool:
    """Whether a line of Dagster's log is to be shown."""
    return not (record.getMessage().startswith(_NOT_USED) and _in_force(Path("dagster.yaml")))


def _in_force(configuration: Path) -> bool:
    used = Path(os.environ["DAGSTER_HOME"]) / configuration.name
    return used.exists() and configuration.samefile(used)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=_SUPERSEDED)
    logging.getLogger("dagster").addFilter(is_said)
    main()  # type: ignore[no-untyped-call]
