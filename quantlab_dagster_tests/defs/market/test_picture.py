"""The picture of events per minute: gaps are red by the limit of the stream, and quiet streams are not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantlab_dagster.defs.market.picture import draw_minutes, silent_minutes
from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.market.outcome import Outcome, Status
from quantlab_dagster.market.plan import Action
from quantlab_dagster_tests.lakes import DAY

RED = (230, 70, 50)
MIDNIGHT = 20_461 * 24 * 60  # of DAY, in minutes


def drawn(stream: str, minutes: Any) -> Any:
    """Whether a column of the strip is red, by pixel of the picture's width."""
    outcome = Outcome(
        SymbolDay("binance", stream, "adausdt", DAY),
        Status.SUCCESS,
        Action.BUILD,
        "",
        minute_width=60_000,
        minutes=tuple((MIDNIGHT + minute, 5) for minute in minutes),
    )
    png = draw_minutes("binance", [outcome])
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    strip = pixels[-30]  # the last line of the only strip
    return (strip == RED).all(axis=1)


def test_a_silence_is_red_by_the_limit_of_the_stream() -> None:
    every = [minute for minute in range(1_440) if minute not in (600, 700, 701)]
    red = np.flatnonzero(drawn("bbo", every))
    assert red.size == 1, "two minutes in a row, but not a single one"
    assert np.flatnonzero(drawn("trade", every)).size == 0
    outage = [minute for minute in range(1_440) if not 600 <= minute < 660]
    assert np.flatnonzero(drawn("trade", outage)).size == 30


@pytest.mark.parametrize("stream", ["funding", "liquidations"])
def test_quiet_streams_are_not_red(stream: str) -> None:
    assert not drawn(stream, (0, 480, 960)).any()


def test_a_collector_that_stopped_at_noon_is_seen() -> None:
    assert np.flatnonzero(drawn("bbo", range(720))).size == 360


def test_silent_minutes() -> None:
    counts = np.array([0, 1, 0, 0, 1, 0, 0, 0])
    assert silent_minutes(counts, 120).tolist() == [False, False, True, True, False, True, True, True]
    assert silent_minutes(counts, 121).tolist() == [False] * 5 + [True] * 3
    assert silent_minutes(counts, 60).tolist() == [not one for one in counts.tolist()]
    assert not silent_minutes(counts, None).any()
    assert not silent_minutes(np.array([1, 1]), 60).any()
