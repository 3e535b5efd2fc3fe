"""The page of a month: exchanges, streams and symbols by days, coloured by worth, the numbers one click away.

One file without any other: the numbers as compact JSON, and a script that draws them. Names come from paths, so
whatever they hold is text: the JSON cannot end its element, and the script only ever sets text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from quantlab_dagster.market.outcome import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Cell", "code_of", "month_page"]

_LABELS = {"GOOD": "G", "DEGRADED": "D", "BAD": "B", "UNKNOWN": "U"}
_STATUSES = {Status.QUARANTINE.value: "Q", Status.FAILED.value: "F", Status.SKIPPED.value: "S"}
NOTHING, OTHER = ".", "O"
_SHA_DIGITS = 12
_REVISION = 5  # the place of it among the numbers: the first one goes without saying


@dataclass(frozen=True, slots=True)
class Cell:
    """A symbol-day on the page.

    Attributes:
        exchange: as in the path.
        stream: as in the path.
        symbol: as in the path.
        day: of the month, from 1.
        status: as in `_state.json`.
        quality: its label; empty if nothing is published.
        rows: of the published file; None if there is none.
        size_bytes: of it.
        first_second: of its first row, from midnight; None where that is not known. May lie outside the day.
        last_second: of its last row.
        revision: of it.
        sha256: of it; empty where that is not known.
        gaps: how many it has; None where that is not known.
        why: why it is not as it should be.
    """

    exchange: str
    stream: str
    symbol: str
    day: int
    status: str
    quality: str
    rows: int | None
    size_bytes: int | None
    first_second: int | None
    last_second: int | None
    revision: int | None
    sha256: str
    gaps: int | None
    why: str


def code_of(cell: Cell) -> str:
    """One letter for what a symbol-day is worth; also its colour."""
    if cell.status == Status.SUCCESS:
        return _LABELS.get(cell.quality.upper(), OTHER)
    return _STATUSES.get(cell.status, OTHER)


def month_page(month: str, days: int, cells: Iterable[Cell]) -> str:
    """The page, as HTML.

    Args:
        month: YYYYMM.
        days: how many it has.
        cells: of its days, in any order.
    """
    by_pair: dict[tuple[str, str], dict[str, list[Cell]]] = {}
    for cell in cells:
        by_pair.setdefault((cell.exchange, cell.stream), {}).setdefault(cell.symbol, []).append(cell)
    document = {
        "month": f"{month[:4]}-{month[4:]}",
        "days": days,
        "pairs": [_pair(*pair, by_pair[pair], days) for pair in sorted(by_pair)],
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    # Of what may end the element, or stand for a line's end in a script.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = resources.files("quantlab_dagster.market").joinpath("calendar_page.html").read_text("utf-8")
    return page.replace("{{month}}", document["month"]).replace("{{data}}", text)  # type: ignore[arg-type]


def _pair(exchange: str, stream: str, symbols: dict[str, list[Cell]], days: int) -> dict[str, Any]:
    """A pair's symbols. Of each: a letter for every day; and the numbers of the days that have any, in order."""
    return {
        "exchange": exchange,
        "stream": stream,
        "symbols": [_symbol(name, sorted(symbols[name], key=lambda cell: cell.day), days) for name in sorted(symbols)],
    }


def _symbol(name: str, cells: Sequence[Cell], days: int) -> list[Any]:
    letters = [NOTHING] * days
    for cell in cells:
        letters[cell.day - 1] = code_of(cell)
    numbers = [_numbers(cell) for cell in cells]
    return [name, "".join(letters), numbers]


def _numbers(cell: Cell) -> list[Any]:
    """Rows, bytes, seconds of the first and last row, SHA-256 (its beginning), revision, gaps, why, label; cut."""
    values: list[Any] = [
        cell.rows,
        cell.size_bytes,
        cell.first_second,
        cell.last_second,
        cell.sha256[:_SHA_DIGITS] or None,
        cell.revision,
        cell.gaps,
        cell.why or None,
        cell.quality if code_of(cell) == OTHER or cell.status != Status.SUCCESS else None,
    ]
    while values and (values[-1] is None or (len(values) == _REVISION + 1 and values[-1] == 1)):
        values.pop()
    return values
