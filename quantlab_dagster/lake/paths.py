"""Path segments `name=value`, the same in all lakes.

Values stand in keys literally: `symbol=btc+usdt %` is the symbol `btc+usdt %`. Only what cannot be a path segment's
value is refused: an empty value, one with a slash, or one with control characters.
"""

from __future__ import annotations

import re

from quantlab_dagster.errors import PathError

__all__ = ["check_value", "segment", "value_of"]


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def segment(name: str, value: str) -> str:
    """One path segment, `name=value`.

    Raises:
        PathError: the value cannot stand in a path segment.
    """
    return f"{name}={check_value(name, value)}"


def check_value(name: str, value: str) -> str:
    """A value that can stand in a path segment, as it is.

    Raises:
        PathError: it cannot.
    """
    if not value or "/" in value or _CONTROL.search(value):
        raise PathError(f"{name}={value!r}", "cannot be a path segment", "Values must be non-empty, without slashes")
    return value


def value_of(name: str, text: str) -> str | None:
    """The value of a path segment `name=value`, or None if it is no such segment."""
    prefix = f"{name}="
    value = text.removeprefix(prefix)
    return value if text.startswith(prefix) and value and not _CONTROL.search(value) else None
