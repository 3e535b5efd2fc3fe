"""A query that nobody waits for must not end the process in the middle of Polars."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import polars as pl
import pytest

from quantlab_dagster.reader import asked
from quantlab_dagster.reader.asked import Asked

if TYPE_CHECKING:
    from collections.abc import Generator

FRAME = pl.DataFrame({"seq": [0]})


def frames(count: int, before: threading.Event | None = None) -> Generator[pl.DataFrame]:
    for _ in range(count):
        if before is not None:
            before.wait(20)
        yield FRAME


@pytest.fixture(autouse=True)
def _alone() -> None:
    asked._live.clear()


def test_gives_what_it_is_given_and_is_forgotten_at_the_end() -> None:
    source = Asked(frames(3))
    assert len(asked._live) == 1
    assert len(list(source)) == 3
    assert not asked._live


def test_is_forgotten_when_it_fails_or_is_let_go() -> None:
    def failing() -> Generator[pl.DataFrame]:
        yield FRAME
        raise OSError

    source = Asked(failing())
    next(source)
    with pytest.raises(OSError, match=r"^$"):
        next(source)
    assert not asked._live
    let_go = Asked(frames(2))
    assert len(asked._live) == 1
    del let_go
    assert not asked._live


@pytest.mark.guards("lazy-never-ends")
def test_the_end_waits_for_a_frame_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_SECONDS_TO_BE_LET_GO", 0.0)
    release = threading.Event()
    source = Asked(frames(5, release))
    failed: list[str] = []

    def ask() -> None:
        try:
            for _ in source:
                pass
        except RuntimeError as error:
            failed.append(str(error))

    thread, ending = threading.Thread(target=ask), threading.Thread(target=asked._end)
    thread.start()
    while not source.is_at_work:
        time.sleep(0.001)
    ending.start()
    ending.join(0.3)
    assert ending.is_alive(), "did not wait"
    release.set()
    ending.join(10)
    thread.join(10)
    assert not ending.is_alive()
    assert failed == [asked._ENDED], "rows were left out without a word"


def test_the_end_does_not_wait_long_for_what_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_SECONDS_TO_BE_LET_GO", 0.05)
    held = Asked(frames(5))
    began = time.monotonic()
    asked._end()
    assert 0.05 <= time.monotonic() - began < 10
    assert held.is_over


def test_the_end_goes_on_when_the_last_one_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_SECONDS_TO_BE_LET_GO", 60.0)
    sources = [Asked(frames(5)), Asked(frames(5))]
    ending = threading.Thread(target=asked._end, daemon=True)
    ending.start()
    while not all(source.is_over for source in sources):  # no name of one of them is left behind
        time.sleep(0.001)
    sources.clear()
    ending.join(20)
    assert not ending.is_alive(), "keeps what was let go of"


def test_what_is_begun_behind_the_end_is_whole() -> None:
    """Somebody else's exit handler may read, too."""
    asked._end()
    assert len(list(Asked(frames(3)))) == 3
