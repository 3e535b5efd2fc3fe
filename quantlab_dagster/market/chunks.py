"""A pair's day in chunks: which symbols a step of its own takes, and what such steps hand to the last one. Pure.

The last step of a day does everything that no chunk has done, by the same code as a day that is one step. So chunks
only take work away from it: one that is lost, or whose word is lost, costs time and nothing else.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.market.outcome import Outcome, PairOutcome, Status
from quantlab_dagster.market.plan import Action

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Chunk", "chunks_of", "dump_outcome", "joined", "left_to_do", "read_outcome"]

_NAMES: dict[str, Any] = {
    "dt": dt,
    "Any": Any,
    "Pair": Pair,
    "SymbolDay": SymbolDay,
    "Outcome": Outcome,
    "Status": Status,
    "Action": Action,
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some symbols of a pair's day that one step compacts.

    Attributes:
        symbols: at least one, sorted.
        size_bytes: of their raw parts.
    """

    symbols: tuple[str, ...]
    size_bytes: int


def chunks_of(sizes: Mapping[str, int], limit: int) -> list[Chunk]:
    """Pack symbols into chunks, the largest first, each into the first that has room; pure.

    Args:
        sizes: bytes of raw parts by symbol, of those that there is something to build of.
        limit: bytes of a chunk. A symbol with more has a chunk of its own: a symbol-day is never cut.

    Returns:
        The chunks, as they are to be started: the largest symbols first. None if all fits into one: then the last step
        does it as it is.
    """
    if sum(sizes.values()) <= limit or len(sizes) < 2:  # noqa: PLR2004 - one cannot be shared
        return []
    chunks: list[tuple[int, list[str]]] = []
    for symbol in sorted(sizes, key=lambda symbol: (-sizes[symbol], symbol)):
        size = sizes[symbol]
        number = next((number for number, (taken, _) in enumerate(chunks) if taken + size <= limit), None)
        if number is None:
            chunks.append((size, [symbol]))
        else:
            taken, symbols = chunks[number]
            chunks[number] = (taken + size, [*symbols, symbol])
    return [Chunk(tuple(sorted(symbols)), size) for size, symbols in chunks]


def left_to_do(symbols: Sequence[str], done: Sequence[PairOutcome]) -> list[str]:
    """The symbols that the last step works on: those that no chunk has done, and those that failed in one; pure."""
    settled = {outcome.symbol_day.symbol for outcome in _settled(done)}
    return [symbol for symbol in symbols if symbol not in settled]


def joined(done: Sequence[PairOutcome], last: PairOutcome) -> PairOutcome:
    """A pair's day, of what its chunks did and what the last step did; pure.

    Its seconds are those of all steps together: they are not on one clock, and count the work.
    """
    requests: dict[str, int] = {}
    for one in (*done, last):
        for name, number in one.requests.items():
            requests[name] = requests.get(name, 0) + number
    outcomes = {outcome.symbol_day: outcome for outcome in (*_settled(done), *last.outcomes)}
    return replace(
        last,
        outcomes=tuple(outcomes[symbol_day] for symbol_day in sorted(outcomes)),
        seconds=sum(one.seconds for one in (*done, last)),
        requests=requests,
    )


def _settled(done: Sequence[PairOutcome]) -> list[Outcome]:
    """What need not be looked at again. What failed on one machine is tried again, on the last step's."""
    again = (Status.FAILED, Status.NO_FILES)
    return [outcome for one in done for outcome in one.outcomes if outcome.status not in again]


def dump_outcome(outcome: PairOutcome) -> str:
    """What a chunk hands to the last step, as JSON."""
    return _adapter().dump_json(outcome).decode()


def read_outcome(text: str, where: str) -> PairOutcome:
    """What `dump_outcome` wrote.

    Args:
        text: JSON.
        where: it comes from, for the message.

    Raises:
        MalformedObject: it is none.
    """
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"]))
        cause = f"is not what a chunk hands over ({at}: {first['msg']})"
        raise MalformedObject(where, cause, "Run the day again; do all machines run the same version?") from None


@cache
def _adapter() -> TypeAdapter[PairOutcome]:
    adapter: TypeAdapter[PairOutcome] = TypeAdapter(PairOutcome)
    adapter.rebuild(force=True, _types_namespace=_NAMES)
    return adapter
