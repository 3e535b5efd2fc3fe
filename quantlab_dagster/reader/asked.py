"""What Polars asks for frames, from threads of its own, which may go on asking while the process ends."""

from __future__ import annotations

import atexit
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Generator

    import polars as pl

__all__ = ["Asked"]

_MOST_SECONDS_OF_A_FRAME = 30.0
_SECONDS_TO_BE_LET_GO = 0.5
_SECONDS_TO_SETTLE = 0.05
_PAUSE_SECONDS = 0.005
_ENDED = "the process ends while rows are asked for; collect() waits for them"


class Asked:
    """Frames that are asked for one by one; those that are still asked for when the process ends come to an error.

    A query that nobody waits for any more (`collect_batches` that is left early, `collect(background=True)`) runs on
    in Polars. If its thread comes for the next frame while the interpreter is being finalised, CPython ends that thread
    in the middle of Polars, which aborts the process: one exit in ten here. So the exit waits for it, a bounded time.

    Args:
        frames: where they come from.
    """

    def __init__(self, frames: Generator[pl.DataFrame]) -> None:
        self._frames = frames
        self.is_at_work = False
        self.is_over = False
        _wait_at_exit()
        with _turn:
            _live.add(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pl.DataFrame:
        if self.is_over:  # not an end: rows must not be left out of what somebody may yet look at
            self._forget()
            raise RuntimeError(_ENDED)
        self.is_at_work = True
        try:
            return next(self._frames)
        except BaseException:
            self._forget()
            raise
        finally:
            self.is_at_work = False

    def _forget(self) -> None:
        with _turn:
            _live.discard(self)


_live: WeakSet[Asked] = WeakSet()
_turn = threading.Lock()


@cache
def _wait_at_exit() -> None:
    atexit.register(_end)


def _end() -> None:
    """Nothing more is begun; wait for what is at work, and a moment for what Polars then does without us."""
    began = time.monotonic()
    while (at_work := _called_off()) is not None:
        if time.monotonic() - began > (_MOST_SECONDS_OF_A_FRAME if at_work else _SECONDS_TO_BE_LET_GO):
            break
        time.sleep(_PAUSE_SECONDS)
    time.sleep(_SECONDS_TO_SETTLE)


def _called_off() -> bool | None:
    """Give no more to those who still ask; whether a frame is being made for one of them, or None without any.

    It keeps none of them: Polars is about to let go of them.
    """
    with _turn:
        left = list(_live)
    for one in left:
        one.is_over = True
    return any(one.is_at_work for one in left) if left else None
