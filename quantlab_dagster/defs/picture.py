"""Events per minute as a picture that makes gaps visible: bars for the whole pair, one strip per symbol below.

Drawn with Pillow: a plotting library costs each step, a process of its own, half a second to import.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from quantlab_dagster.days.timeunit import time_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from quantlab_dagster.days.compact import Outcome

__all__ = ["draw_minutes", "events_per_minute", "markdown_image"]

_MINUTES = 24 * 60
_LEFT, _TOP, _BARS, _STRIP, _GAP, _BOTTOM = 150, 26, 120, 12, 2, 24
_MOST_STRIPS = 40
_WHITE, _INK, _GRID = (255, 255, 255), (40, 44, 52), (225, 228, 232)
_BLUE, _PALE, _RED = np.array([24, 80, 160]), np.array([205, 222, 242]), (235, 120, 105)


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

    Minutes without an event between a symbol's first and last event are red.
    """
    counted = [(outcome, events_per_minute(outcome)) for outcome in outcomes if outcome.minutes]
    counted = sorted((pair for pair in counted if pair[1].any()), key=lambda pair: -int(pair[1].sum()))
    if not counted:
        return None
    strips = counted[:_MOST_STRIPS]
    height = _TOP + _BARS + _GAP + len(strips) * (_STRIP + _GAP) + _BOTTOM
    image = Image.new("RGB", (_LEFT + _MINUTES + 10, height), _WHITE)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=11)
    total = np.sum([counts for _, counts in counted], axis=0)
    left_out = f", {len(strips)} largest of {len(counted)} symbols" if len(strips) < len(counted) else ""
    heading = f"{title}: events per minute (UTC), {int(total.sum()):,} in all, at most {int(total.max()):,}{left_out}"
    draw.text((_LEFT, 6), heading, fill=_INK, font=font)
    for hour in range(0, 25, 3):
        x = _LEFT + hour * 60
        draw.line([(x, _TOP), (x, height - _BOTTOM)], fill=_GRID)
        draw.text((x, height - _BOTTOM + 5), f"{hour:02d}:00", fill=_INK, font=font, anchor="ma")
    _draw_bars(draw, total)
    draw.text((_LEFT - 8, _TOP + _BARS // 2), "all symbols", fill=_INK, font=font, anchor="rm")
    for index, (outcome, counts) in enumerate(strips):
        y = _TOP + _BARS + _GAP + index * (_STRIP + _GAP)
        image.paste(_strip(counts), (_LEFT, y))
        draw.text((_LEFT - 8, y + _STRIP // 2), outcome.symbol_day.symbol[:22], fill=_INK, font=font, anchor="rm")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_bars(draw: ImageDraw.ImageDraw, counts: np.ndarray) -> None:
    bottom = _TOP + _BARS
    first, last = _extent(counts)
    for minute in range(_MINUTES):
        x = _LEFT + minute
        if counts[minute]:
            length = max(1, round(int(counts[minute]) / int(counts.max()) * (_BARS - 4)))
            draw.line([(x, bottom - length), (x, bottom)], fill=tuple(_BLUE.tolist()))
        elif first < minute < last:
            draw.line([(x, _TOP), (x, bottom)], fill=_RED)


def _strip(counts: np.ndarray) -> Image.Image:
    shade = np.log1p(counts) / np.log1p(counts.max())
    pixels = (_PALE + shade[:, None] * (_BLUE - _PALE)).astype(np.uint8)
    first, last = _extent(counts)
    minutes = np.arange(_MINUTES)
    inside = (minutes > first) & (minutes < last)
    pixels[(counts == 0) & inside] = _RED
    pixels[(counts == 0) & ~inside] = (245, 246, 248)
    return Image.fromarray(np.repeat(pixels[None, :, :], _STRIP, axis=0))


def _extent(counts: np.ndarray) -> tuple[int, int]:
    filled = np.flatnonzero(counts)
    return int(filled[0]), int(filled[-1])


def markdown_image(png: bytes, title: str, day: dt.date) -> str:
    """The picture as Markdown that renders without another request."""
    return f"![{title} {day:%Y-%m-%d}](data:image/png;base64,{base64.b64encode(png).decode()})"
