"""What goes wrong beside this project's own errors, and what it means: Dagster's home."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from quantlab_dagster.errors import QuantlabError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["fault_of_home", "fault_of_opening"]

_LONGEST = 300

_DATABASE = ("sqlalchemy.exc.DBAPIError", "psycopg2.Error", "sqlite3.Error")
_GIVEN_UP = "dagster_postgres.utils.DagsterPostgresException"
_ADDRESS = "sqlalchemy.exc.ArgumentError"
_REFUSED = "dagster._core.errors.DagsterInvalidConfigError"

_DRIVERS = ("dagster_postgres", "dagster_mysql", "psycopg", "psycopg2", "asyncpg", "pg8000", "MySQLdb", "pymysql")
_URL = "Write it as postgresql+psycopg2://user:password@host:5432/dagster"

_UNSET = re.compile(r"environment variable \"([^\"]+)\" which is not set")
_VALUE = re.compile(r"Value \"[^\"]*\" of type|original value .*? failed", re.DOTALL)
_USER_INFO = re.compile(r"[^\s\"']*@")
"""A password with an @ makes its end a part of the host."""


def fault_of_home(error: Exception, home: Path | None = None) -> QuantlabError | None:
    """What it means that a database of Dagster cannot be used: a full disk, a damaged file, a server that is down.

    Args:
        error: of any kind.
        home: Dagster's; None for that of the environment.

    Returns:
        None if it is of another kind.
    """
    home = home or Path(os.environ.get("DAGSTER_HOME", "DAGSTER_HOME"))
    configuration = str(home / "dagster.yaml")
    chain = list(_with_causes(error))
    for one in chain:  # the innermost says most, and is told in the words of the driver
        if _is(one, *_DATABASE):
            return _out_of_order(getattr(one, "orig", None) or one, home)
    for one in chain:
        if _is(one, _GIVEN_UP):
            return _out_of_order(one, home)
        if _is(one, _ADDRESS):
            return SettingsError(configuration, "the URL of Dagster's database there cannot be understood", _URL)
        if isinstance(one, ModuleNotFoundError) and (one.name or "").partition(".")[0] in _DRIVERS:
            cause = f"Dagster's database there needs the Python module {one.name}, which is not installed"
            return SettingsError(configuration, cause, f"{_URL}, or install that module")
    return None


def fault_of_opening(error: Exception, home: Path) -> QuantlabError:
    """What it means that Dagster cannot open a home, whatever it says: values may be secret, and are left out.

    Args:
        error: of any kind.
        home: Dagster's.
    """
    if (fault := fault_of_home(error, home)) is not None:
        return fault
    remedy = "Mend it, or remove it: then the shipped one is used"
    cause = f"Dagster cannot open what it configures ({type(error).__name__})"
    if unset := _UNSET.search(str(error)):
        cause, remedy = f"takes {unset[1]} from the environment, where it is not set", f"Set {unset[1]}"
    elif _is(error, _REFUSED):
        said = [str(one.message) for one in getattr(error, "errors", ())] or [""]
        cause = f"Dagster refuses it ({_line(_VALUE.sub('value of type', said[0]).partition(' Expected:')[0])})"
    return SettingsError(str(home / "dagster.yaml"), cause, remedy)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _is(error: BaseException, *names: str) -> bool:
    """By name: whoever has not imported a library has not met its errors, and need not import it for that."""
    return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in type(error).__mro__)


def _out_of_order(error: BaseException, home: Path) -> QuantlabError:
    local = _is(error, "sqlite3.Error")
    cause = f"Dagster's databases there cannot be used ({_line(_USER_INFO.sub('***@', str(error)))})"
    remedy = (
        "Check its space, its permissions and whose it is; or set DAGSTER_HOME to another directory"
        if local
        else "Check that the server runs and is reached, and what dagster.yaml says of it"
    )
    return QuantlabError(str(home), cause, remedy)


def _line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    return lines[0][:_LONGEST].rstrip(".")
