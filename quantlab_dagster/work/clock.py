"""The present time, as something that is passed in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

__all__ = ["Clock", "utc_now"]

Clock = Callable[[], dt.datetime]
"""Tells the present time, aware. Passed in, so that tests can cross midnight without waiting for it."""


def utc_now() -> dt.datetime:
    """The clock: an aware time in UTC."""
    return dt.datetime.now(dt.UTC)
