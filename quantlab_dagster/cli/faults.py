"""What goes wrong beside this project's own errors, and what it means: Dagster's home."""

import os
import sys

from quantlab_dagster.errors import QuantlabError

__all__ = ["fault_of_home"]


def fault_of_home(error: Exception) -> QuantlabError | None:
    """What it means that a database of Dagster cannot be used: a full disk, another owner, a damaged file.

    Args:
        error: of any kind.

    Returns:
        None if it is of another kind.
    """
    known = sys.modules.get("sqlalchemy.exc")  # whoever has not imported it has not met its errors
    if known is None or not isinstance(error, known.DBAPIError):
        return None
    cause = f"Dagster's databases there cannot be used ({str(error.orig).splitlines()[0]})"
    remedy = "Check its space, its permissions and whose it is; or set DAGSTER_HOME to another directory"
    return QuantlabError(os.environ.get("DAGSTER_HOME", "DAGSTER_HOME"), cause, remedy)
