"""How often the event lake is compacted: a duration or a cron string becomes cron strings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Schedule", "cron_schedules"]

_TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(d|h|min|ms|m|s|us|\u00b5s|\u03bcs|ns)")
_DURATION = re.compile(f"\\+?(?:{_TERM.pattern})+")
_SECONDS = {
    "d": Fraction(86_400),
    "h": Fraction(3600),
    "min": Fraction(60),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 10**3),
    "us": Fraction(1, 10**6),
    "\u00b5s": Fraction(1, 10**6),
    "\u03bcs": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
}
"""Go's units (it knows two letters for micro), and `d` and `min`."""
_CRON_FIELDS = 5
_FIELD = re.compile(r"[0-9A-Za-z*,/#?L-]+")
_MINUTE_SECONDS = 60
_HOUR_MINUTES, _DAY_MINUTES = 60, 24 * 60


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often something runs.

    Attributes:
        text: as it was given.
        crons: cron strings (UTC); together they say when it ticks.
    """

    text: str
    crons: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """A schedule from a duration or a cron string.

        Raises:
            ValueError: it is neither.
        """
        return cls(text, cron_schedules(text))


def cron_schedules(text: str) -> tuple[str, ...]:
    """The cron strings (UTC) of a schedule; together they say when it ticks.

    Args:
        text: a cron string of five fields, or a duration that divides an hour or a day, such as `15m`, `1h`, `90m`,
            `1d`, or any of Go's (`1h0m0s`, `1.5h`, `3600000ms`); it is counted from midnight.

    Raises:
        ValueError: it is neither.
    """
    text = " ".join(text.split())
    if _DURATION.fullmatch(text):
        terms = _TERM.findall(text)
        minutes = sum((Fraction(number) * _SECONDS[unit] for number, unit in terms), Fraction()) / _MINUTE_SECONDS
        if minutes.denominator != 1:
            raise ValueError(f"{text!r} has seconds: hours become cold by the minute at best, so use 1m or more")
        return _every(minutes.numerator, text)
    fields = text.split(" ")
    if len(fields) == _CRON_FIELDS and all(_FIELD.fullmatch(field) for field in fields):
        return (text,)
    raise ValueError(f"{text!r} is neither a duration such as 1h nor a cron string of five fields")


def _every(minutes: int, text: str) -> tuple[str, ...]:
    if minutes == 0 or _DAY_MINUTES % minutes:
        raise ValueError(f"{text!r} divides neither an hour nor a day")
    if _HOUR_MINUTES % minutes == 0:
        return ("0 * * * *" if minutes == _HOUR_MINUTES else f"*/{minutes} * * * *",)
    if minutes == _DAY_MINUTES:
        return ("0 0 * * *",)
    if minutes % _HOUR_MINUTES == 0:
        return (f"0 */{minutes // _HOUR_MINUTES} * * *",)
    # One cron string cannot say "every 90 minutes": one for each minute of the hour that occurs.
    ticks = range(0, _DAY_MINUTES, minutes)
    hours = {
        minute: [tick // 60 for tick in ticks if tick % 60 == minute] for minute in sorted({t % 60 for t in ticks})
    }
    return tuple(f"{minute} {','.join(map(str, found))} * * *" for minute, found in hours.items())
