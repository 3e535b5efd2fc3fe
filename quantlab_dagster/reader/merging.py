"""Many sorted runs of rows as one, in bounded memory; pure, but for what the runs do to bring their frames.

The order is (`ts_event`, run, row within the run), runs in the order in which they are given. A step has what lies
before the first `ts_event` of which more may come: the last one of a frame that is not its run's last, or the first of
a run that is not yet begun. Steps do not depend on each other, so that several can be put in order side by side. What
one run alone brings passes unsorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from quantlab_dagster.reader.files import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

__all__ = ["Brought", "Run", "merged", "steps", "united"]

_STEP_ROWS = 1 << 18


class Brought(NamedTuple):
    """A frame of a run.

    Attributes:
        frame: not empty, in the order of `ts_event`, with the same columns as the others.
        is_last: whether none comes after it, as far as is known.
    """

    frame: pl.DataFrame
    is_last: bool


@dataclass(frozen=True, slots=True)
class Run:
    """A source of rows that is begun when its time has come.

    Attributes:
        low: no row of it has a smaller `ts_event`.
        begin: brings its frames, in the order of `ts_event`.
    """

    low: int
    begin: Callable[[], Generator[Brought]]


class _Begun:
    """A run that is begun: the rows of it that are here.

    Attributes:
        place: of the run among all.
        ended: whether no frame comes after the rows that are here; False as long as that is not known.
        left: how many rows are here.
        first: `ts_event` of the first of them, if there is one.
        last: of the last.
    """

    def __init__(self, place: int, run: Run) -> None:
        self.place = place
        self._frames = run.begin()
        self._frame = pl.DataFrame()
        self._at = self.left = 0
        self.ended = False
        try:
            self.advance()
        except BaseException:
            self.close()
            raise

    def advance(self) -> None:
        """Bring the next frame, behind what is left of this one; or end, if there is none."""
        brought = None if self.ended else next(self._frames, None)
        if brought is None:
            self.ended = True
            self.close()
            return
        self.ended = brought.is_last
        self._frame = pl.concat([self._frame[self._at :], brought.frame]) if self.left else brought.frame
        self._at, self.left = 0, self._frame.height
        self.first, self.last = self._key(0), self._key(-1)

    def close(self) -> None:
        """Let go what brings the frames."""
        self._frames.close()

    def _key(self, row: int) -> int:
        return int(self._frame[KEY][row])

    def ahead(self, rows: int) -> int:
        """`ts_event` of the row that lies so many behind the first one that is here, or of the last."""
        return self._key(min(self._at + rows, self._frame.height - 1))

    def take(self, bound: int) -> pl.DataFrame | None:
        """The rows before a bound, which are gone from here; None if there are none."""
        if not self.left or self.first >= bound:
            return None
        whole = self._frame.height
        cut = whole if self.last < bound else int(self._frame[KEY].search_sorted(bound))
        taken = self._frame[self._at : cut]
        self._at, self.left = cut, whole - cut
        if self.left:
            self.first = self._key(cut)
        return taken


def merged(runs: Iterable[Run]) -> Generator[pl.DataFrame]:
    """The rows of all runs in one order, as frames that are not empty."""
    return (united(frames) for frames in steps(runs))


def united(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """The rows of a step in order."""
    return frames[0] if len(frames) == 1 else pl.concat(frames).sort(KEY, maintain_order=True)


def steps(runs: Iterable[Run]) -> Generator[list[pl.DataFrame]]:
    """What the runs have before each bound, none of it empty: united, one step after the other, it is in order."""
    waiting = sorted(enumerate(runs), key=lambda item: item[1].low, reverse=True)
    begun: list[_Begun] = []
    try:
        while waiting or begun:
            bound = _bound(begun, waiting[-1][1].low if waiting else None)
            near = _nearer(begun, bound)
            taken = [frame for item in begun if (frame := item.take(near)) is not None]
            if taken:
                yield taken
            else:
                _bring_more(begun, waiting, bound)
            for item in begun:
                if not item.left:
                    item.advance()
            begun = [item for item in begun if item.left]
    finally:
        for item in begun:  # what they hold is let go at once, also where an error keeps this frame alive
            item.close()


def _nearer(begun: list[_Begun], bound: int) -> int:
    """A bound before which lie about as many rows as a step should have; the given one where they are fewer.

    The run with most rows tells: as if the others' rows were spread as its are.
    """
    every = sum(item.left for item in begun)
    if len(begun) <= 1 or every <= _STEP_ROWS:
        return bound
    most = max(begun, key=lambda item: item.left)
    near = min(bound, most.ahead(_STEP_ROWS * most.left // every))
    # Where so many rows have the same time, there is none between.
    return near if any(item.first < near for item in begun) else bound


def _bound(begun: list[_Begun], next_low: int | None) -> int:
    """Before which nothing more can come.

    A run that has ended bounds, too, just behind its last row: so the others pass unsorted from there on.
    """
    lasts = [item.last + item.ended for item in begun]
    return min(lasts if next_low is None else [*lasts, next_low])


def _bring_more(begun: list[_Begun], waiting: list[tuple[int, Run]], bound: int) -> None:
    """Begin the runs that may have rows at the bound, and go on with those whose rows here end at it."""
    for item in begun:
        if not item.ended and item.last == bound:
            item.advance()
    while waiting and waiting[-1][1].low <= bound:
        begun.append(_Begun(*waiting.pop()))
    begun.sort(key=lambda item: item.place)
