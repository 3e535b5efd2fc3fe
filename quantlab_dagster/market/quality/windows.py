"""The collectors' window files: their names, and what they say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from quantlab_dagster.lake.market import day_text
from quantlab_dagster.lake.paths import segment
from quantlab_dagster.market.quality.rules import Signals, Window

if TYPE_CHECKING:
    import datetime as dt

__all__ = ["read_window", "window_name", "windows_prefix"]

_NAME = re.compile(r"window=(\d{4})\.json")
_MINUTES = 15
_MOST_BYTES = 1 << 20

_Count = Annotated[StrictInt, Field(ge=0)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


def windows_prefix(day: dt.date) -> str:
    """Where the windows of a day lie in the raw lake."""
    return f"quality/{segment('date', day_text(day))}/"


def window_name(file_name: str) -> str | None:
    """HHMM of a window file; None for what is none, as temporary files."""
    match = _NAME.fullmatch(file_name)
    return match[1] if match else None


class _Eps(BaseModel):
    model_config = ConfigDict(extra="ignore")

    min: _Amount | None = None


class _Signals(BaseModel):
    model_config = ConfigDict(extra="ignore")

    dropped_events: _Count
    queue_pct_peak: _Amount
    reconnects: _Count
    drain_mode_accelerated_seconds: _Amount
    offline_seconds_by_exchange: dict[str, _Amount]
    eps_by_exchange: dict[str, _Eps] = Field(default_factory=dict)


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    is_partial: StrictBool
    signals: _Signals


def read_window(name: str, content: bytes) -> Window | str:
    """What a window file says; or, as a text, why it cannot be understood. Never an error.

    A window without a measurement that the rules need is not understood: what is missing is not taken for 0. Only the
    exchange that is not named was not offline.

    Args:
        name: HHMM.
        content: of the file.
    """
    hour, minute = int(name[:2]), int(name[2:])
    if hour > 23 or minute > 59 or minute % _MINUTES:  # noqa: PLR2004
        return f"{name} is no quarter of an hour"
    if len(content) > _MOST_BYTES:
        return f"{len(content):,} bytes are no window"
    try:
        found = _File.model_validate_json(content)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(item) for item in first["loc"])
        return f"{f'{at}: ' if at else ''}{first['msg']}"
    signals = found.signals
    return Window(
        name,
        found.is_partial,
        Signals(
            signals.dropped_events,
            signals.queue_pct_peak,
            signals.reconnects,
            signals.drain_mode_accelerated_seconds,
            dict(signals.offline_seconds_by_exchange),
            {exchange: eps.min for exchange, eps in signals.eps_by_exchange.items() if eps.min is not None},
        ),
    )
