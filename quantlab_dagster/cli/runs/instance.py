"""Opening Dagster's instance, so that a home that is not as it should be is a line, and no traceback."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.cli.runs.faults import fault_of_opening
from quantlab_dagster.errors import QuantlabError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["faults_of_opening", "open_instance"]


def open_instance(home: Path) -> dg.DagsterInstance:
    """The instance of a home, which DAGSTER_HOME names by now.

    Raises:
        SettingsError: Dagster refuses its configuration.
        QuantlabError: its databases cannot be used.
    """
    with faults_of_opening(home):
        return dg.DagsterInstance.get()


@contextmanager
def faults_of_opening(home: Path) -> Iterator[None]:
    """Say what it means that a home cannot be opened in the body, once: Dagster would tell of every try."""
    root = logging.getLogger()
    root.addFilter(_is_no_retry)
    try:
        yield
    except QuantlabError:
        raise
    except Exception as error:
        raise fault_of_opening(error, home) from error
    finally:
        root.removeFilter(_is_no_retry)


def _is_no_retry(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Retrying failed database")
