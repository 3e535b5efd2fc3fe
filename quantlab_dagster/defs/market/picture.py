"""Events per minute as a picture that makes gaps visible: bars for the whole pair, one strip per symbol below.

Drawn with Pillow: a plotting library costs each step, a process of its own, half a second to import.
"""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from quantlab_dagster.market.stream_rules import rules_of_stream
from quantlab_dagster.market.timeunit import time_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from quantlab_dagster.market.outcome import Outcome

__all__ = ["draw_minutes", "events_per_minute", "markdown_image", "silent_minutes"]

_MINUTES = 24 * 60
# Dagster opens the picture in a dialog of four fifths of the window and does not scale it: 888 pixels fit a laptop.
_MINUTES_PER_PIXEL = 2
_WIDTH = _MINUTES // _MINUTES_PER_PIXEL
_LEFT, _TOP, _BARS, _STRIP, _GAP, _BOTTOM, _RIGHT = 150, 48, 120, 14, 2, 24, 18
_MOST_STRIPS = 40
_FONT_SIZE = 12
_WHITE, _INK, _GRID = (255, 255, 255), (40, 44, 52), (225, 228, 232)
_BLUE, _PALE, _RED, _GREY = np.array([24, 80, 160]), np.array([205, 222, 242]), (230, 70, 50), (245, 246, 248)


def events_per_minute(outcome: Outcome) -> np.ndarray:
    """Rows per minute of the UTC day, int64 of shape (1440,); rows of neighbouring days are left out."""
    counts = np.zeros(_MINUTES, dtype=np.int64)
    if outcome.minute_width is None:
        return counts
    ticks = outcome.minute_width // 60
    for bucket, rows in outcome.minutes:
        time = time_of(bucket * outcome.minute_width, ticks)
        if time.date() == outcome.symbol_day.day:
            counts[time.hour * 60 + time.minute] += rows
    return counts


def draw_minutes(title: str, outcomes: Sequence[Outcome]) -> bytes | None:
    """A PNG of the day's events per minute (UTC), or None if no symbol-day was built or no unit is known.

    A pixel is as high or as dark as the busier of its two minutes. It is red if one of them lies in a silence that is
    surely above the limit of the stream (`market/stream_rules.py`): so many minutes in a row without an event. A quiet
    stream is not red.

    Args:
        title: what it shows, without "events per minute".
        outcomes: symbol-days built, of one stream.
    """
    counted = [(outcome, events_per_minute(outcome)) for outcome in outcomes if outcome.minutes]
    counted = sorted((pair for pair in counted if pair[1].any()), key=lambda pair: -int(pair[1].sum()))
    if not counted:
        return None
    strips = counted[:_MOST_STRIPS]
    height = _TOP + _BARS + _GAP + len(strips) * (_STRIP + _GAP) + _BOTTOM
    image = Image.new("RGB", (_LEFT + _WIDTH + _RIGHT, height), _WHITE)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=_FONT_SIZE)
    draw.text((_LEFT, 6), f"{title}: events per minute, UTC", fill=_INK, font=font)
    draw.text((_LEFT, 24), _caption(counted), fill=_INK, font=font)
    limit = rules_of_stream(counted[0][0].symbol_day.stream).gap_seconds
    if limit is not None:
        draw.text((_LEFT + _WIDTH, 6), f"red: silent for {_duration(limit)}", fill=_RED, font=font, anchor="ra")
    for hour in range(0, 25, 3):
        x = _LEFT + hour * 60 // _MINUTES_PER_PIXEL
        draw.line([(x, _TOP), (x, height - _BOTTOM)], fill=_GRID)
        draw.text((x, height - _BOTTOM + 5), f"{hour:02d}:00", fill=_INK, font=font, anchor="ma")
    _draw_bars(draw, np.sum([counts for _, counts in counted], axis=0), limit)
    draw.text((_LEFT - 8, _TOP + _BARS // 2), "together", fill=_INK, font=font, anchor="rm")
    for index, (outcome, counts) in enumerate(strips):
        y = _TOP + _BARS + _GAP + index * (_STRIP + _GAP)
        image.paste(_strip(counts, limit), (_LEFT, y))
        draw.text((_LEFT - 8, y + _STRIP // 2), outcome.symbol_day.symbol[:20], fill=_INK, font=font, anchor="rm")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _caption(counted: Sequence[tuple[Outcome, np.ndarray]]) -> str:
    total = np.sum([counts for _, counts in counted], axis=0)
    strays = sum(rows for outcome, _ in counted for _, rows in outcome.minutes) - int(total.sum())
    symbols = f"{len(counted)} symbol" + "s" * (len(counted) != 1)
    largest = f" (the {_MOST_STRIPS} largest below)" if len(counted) > _MOST_STRIPS else ""
    left_out = f"; {strays:,} of the neighbouring days left out" if strays else ""
    return f"{int(total.sum()):,} events of {symbols} built{largest}, at most {int(total.max()):,} a minute{left_out}"


def _draw_bars(draw: ImageDraw.ImageDraw, counts: np.ndarray, limit: float | None) -> None:
    bottom = _TOP + _BARS
    peaks, gaps = _pixels(counts, limit)
    for index, (peak, gap) in enumerate(zip(peaks.tolist(), gaps.tolist(), strict=True)):
        x = _LEFT + index
        if gap:
            draw.line([(x, _TOP), (x, bottom)], fill=_RED)
        elif peak:
            length = max(1, round(peak / int(peaks.max()) * (_BARS - 4)))
            draw.line([(x, bottom - length), (x, bottom)], fill=tuple(_BLUE.tolist()))


def _strip(counts: np.ndarray, limit: float | None) -> Image.Image:
    peaks, gaps = _pixels(counts, limit)
    shade = np.sqrt(peaks / peaks.max())  # a rush must not make all else pale
    pixels = (_PALE + shade[:, None] * (_BLUE - _PALE)).astype(np.uint8)
    pixels[peaks == 0] = _GREY
    pixels[gaps] = _RED
    return Image.fromarray(np.repeat(pixels[None, :, :], _STRIP, axis=0))


def _pixels(counts: np.ndarray, limit: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel the count of its busiest minute, and whether one of its minutes is in a gap."""
    silent = silent_minutes(counts, limit)
    return counts.reshape(_WIDTH, -1).max(axis=1), np.any(silent.reshape(_WIDTH, -1), axis=1, keepdims=False)


def silent_minutes(counts: np.ndarray, limit: float | None) -> np.ndarray:
    """Which minutes lie in a silence that is surely above a limit: bool of the shape of the counts.

    Args:
        counts: rows per minute of the day.
        limit: in seconds; None for no limit.
    """
    silent = np.zeros(counts.shape, dtype=np.bool_)
    if limit is None:
        return silent
    least = math.ceil(limit / 60)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], counts == 0, [False]])))
    for first, last in edges.reshape(-1, 2).tolist():
        silent[first:last] = last - first >= least
    return silent


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:g} minutes" if minutes < 120 else f"{minutes / 60:g} hours"  # noqa: PLR2004


def markdown_image(png: bytes, title: str, day: dt.date) -> str:
    """The picture as Markdown that renders without another request."""
    return f"![{title} {day:%Y-%m-%d}](data:image/png;base64,{base64.b64encode(png).decode()})"
