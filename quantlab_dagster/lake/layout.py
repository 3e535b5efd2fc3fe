"""The path grammar of the market-data lakes, both ways.

Values stand in keys literally: `symbol=btc+usdt %` is the symbol `btc+usdt %`. Only what cannot be a path segment's
value is refused: an empty value, one with a slash, or one with control characters.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from quantlab_dagster.errors import PathError

__all__ = [
    "DATA",
    "META",
    "QUALITY",
    "QUARANTINE",
    "SOURCES",
    "Pair",
    "SymbolDay",
    "day_text",
    "is_part_name",
    "parse_day",
    "segment",
    "value_of",
]

DATA = "data.parquet"
META = "meta.json"
SOURCES = "sources.json"
QUALITY = "quality_day.json"
QUARANTINE = "quarantine.json"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DAY = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """An exchange's stream: what one asset compacts.

    Attributes:
        exchange: as in the path, lower case.
        stream: as in the path.
    """

    exchange: str
    stream: str

    @property
    def prefix(self) -> str:
        """Key prefix of the pair, ending in a slash."""
        return f"{segment('exchange', self.exchange)}/{segment('stream', self.stream)}/"

    def __str__(self) -> str:
        return f"{self.exchange}/{self.stream}"


@dataclass(frozen=True, slots=True, order=True)
class SymbolDay:
    """One symbol's day of one stream: what one compacted file holds.

    Attributes:
        exchange: as in the path.
        stream: as in the path.
        symbol: as in the path.
        day: the UTC day of the directory; rows may lie a little outside it.
    """

    exchange: str
    stream: str
    symbol: str
    day: dt.date

    @property
    def pair(self) -> Pair:
        """The pair it belongs to."""
        return Pair(self.exchange, self.stream)

    @property
    def prefix(self) -> str:
        """Key prefix in the raw and in the compact lake, ending in a slash."""
        return f"{self.pair.prefix}{segment('symbol', self.symbol)}/{segment('date', day_text(self.day))}/"

    def key(self, name: str) -> str:
        """Key of an object in the symbol-day's directory."""
        return f"{self.prefix}{name}"

    @property
    def state_key(self) -> str:
        """Name in the state file: exchange/stream/symbol/YYYYMMDD."""
        return f"{self.exchange}/{self.stream}/{self.symbol}/{day_text(self.day)}"

    def __str__(self) -> str:
        return self.state_key

    @classmethod
    def parse(cls, key: str) -> SymbolDay:
        """The symbol-day of a key: of its directory (ending in a slash or not) or of an object in it.

        Raises:
            PathError: the key does not follow the grammar.
        """
        segments = key.split("/")
        names = ("exchange", "stream", "symbol", "date")
        values = [value_of(name, text) for name, text in zip(names, segments, strict=False)]
        if len(values) < len(names) or len(segments) > len(names) + 1 or None in values:
            raise PathError(key, "is not exchange=…/stream=…/symbol=…/date=YYYYMMDD[/…]", "Check the lake's URL")
        exchange, stream, symbol, day = (str(value) for value in values)
        return cls(exchange, stream, symbol, parse_day(day, compact_only=True))


def segment(name: str, value: str) -> str:
    """One path segment, `name=value`.

    Raises:
        PathError: the value cannot stand in a path segment.
    """
    if not value or "/" in value or _CONTROL.search(value):
        raise PathError(f"{name}={value!r}", "cannot be a path segment", "Values must be non-empty, without slashes")
    return f"{name}={value}"


def value_of(name: str, text: str) -> str | None:
    """The value of a path segment `name=value`, or None if it is no such segment."""
    prefix = f"{name}="
    value = text.removeprefix(prefix)
    return value if text.startswith(prefix) and value and not _CONTROL.search(value) else None


def day_text(day: dt.date) -> str:
    """A day as in paths and in the state file: YYYYMMDD."""
    return f"{day:%Y%m%d}" if day.year > 999 else f"{day.year:04d}{day:%m%d}"  # noqa: PLR2004


def parse_day(text: str, *, compact_only: bool = False) -> dt.date:
    """A day from YYYYMMDD or, unless `compact_only`, YYYY-MM-DD.

    Raises:
        PathError: the text is neither, or no day of the calendar.
    """
    match = _DAY.fullmatch(text)
    if match and text.isascii() and text.count("-") in ((0,) if compact_only else (0, 2)):
        try:
            return dt.date(*map(int, match.groups()))
        except ValueError:
            pass
    wanted = "YYYYMMDD" if compact_only else "YYYY-MM-DD or YYYYMMDD"
    raise PathError(text, f"is not a day as {wanted}")


def is_part_name(name: str) -> bool:
    """Whether an object in a raw directory is a part: ends in `.parquet`, and is no hidden or temporary file."""
    return name.endswith(".parquet") and not name.startswith("._")
