"""Where Dagster keeps its history: DAGSTER_HOME if set, else `.dagster/` in the working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from quantlab_dagster.settings import Settings

__all__ = ["ensure_dagster_home"]

_CONFIGURATION = "dagster.yaml"


def ensure_dagster_home(settings: Settings) -> Path:
    """Make the home and link dagster.yaml into it; sets DAGSTER_HOME for this process and its children.

    Raises:
        SettingsError: the home cannot be made.
    """
    home = settings.dagster_home.expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        configuration = home / _CONFIGURATION
        shipped = Path(__file__).parents[3] / _CONFIGURATION
        if shipped.is_file() and not configuration.exists():
            configuration.unlink(missing_ok=True)  # a link whose target is gone
            configuration.symlink_to(shipped)
    except OSError as error:
        raise SettingsError("DAGSTER_HOME", f"{home} cannot be used ({error})", "Set it to a writable path") from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home
