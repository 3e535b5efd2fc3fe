"""The calendar's page in a real browser, from a file: no server, no network.

The picture of the README is taken by:

    QUANTLAB_CALENDAR_SCREENSHOT=docs/images/calendar.png pytest -k calendar quantlab_dagster_tests/e2e
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Final

import pytest
from playwright.sync_api import expect

from quantlab_dagster.market.calendar_page import Cell, month_page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Read here: no such variable reaches a test (conftest.py).
SCREENSHOT: Final = os.environ.get("QUANTLAB_CALENDAR_SCREENSHOT")
SYMBOLS: Final = ("adausdt", "bnbusdt", "btcusdt", "dogeusdt", "ethusdt", "solusdt", "xrpusdt")
QUARANTINE: Final = "in quarantine: part-1767830426-000001.parquet: not a readable Parquet file"


def cells_of(pairs: list[tuple[str, str]], symbols: tuple[str, ...]) -> list[Cell]:
    """Days as they are: most are good, some are not."""
    drawn = random.Random(7)
    cells = []
    for exchange, stream in pairs:
        for symbol in symbols:
            for day in range(1, 32):
                if symbol == "solusdt" and day < 9:
                    continue
                status, quality, why = "success", drawn.choices(["GOOD", "DEGRADED", "UNKNOWN"], [30, 2, 1])[0], ""
                if (symbol, day) == ("xrpusdt", 12):
                    status, quality, why = "quarantine", "", QUARANTINE
                if day == 21 and exchange == "binance":
                    quality, why = "BAD", "its label is BAD"
                if (symbol, day) == ("dogeusdt", 27):
                    status, quality, why = "failed", "", "StoreUnavailable: no usable answer after retries"
                rows = drawn.randrange(100_000, 3_000_000) if status == "success" else None
                cells.append(
                    Cell(
                        exchange,
                        stream,
                        symbol,
                        day,
                        status,
                        quality,
                        rows,
                        None if rows is None else rows * 9,
                        None if rows is None else 0,
                        None if rows is None else 86_399,
                        None if rows is None else 2 if day == 5 else 1,
                        f"{drawn.getrandbits(256):064x}" if rows else "",
                        None,
                        why,
                    )
                )
    return cells


def opened(page: Page, tmp_path: Path, content: str) -> list[str]:
    """Open a page from a file; returns the list to which its errors and requests are added."""
    file = tmp_path / "month=202601.html"
    file.write_text(content, encoding="utf-8")
    odd: list[str] = []
    page.on("console", lambda message: odd.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: odd.append(str(error)))
    page.on("dialog", lambda dialog: odd.append(dialog.message))
    page.on("request", lambda request: odd.append(request.url) if not request.url.endswith("202601.html") else None)
    page.goto(file.as_uri())
    return odd


def test_the_numbers_of_a_day_are_one_click_or_key_away(page: Page, tmp_path: Path) -> None:
    cells = cells_of([("binance", "bbo"), ("binance", "trade"), ("okx", "bbo")], SYMBOLS)
    page.set_viewport_size({"width": 1180, "height": 900})
    odd = opened(page, tmp_path, month_page("202601", 31, cells))
    expect(page.get_by_role("heading", name="Calendar 2026-01")).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("627 symbol-days of 21 symbols")
    expect(page.get_by_role("grid", name="binance · trade")).to_be_visible()
    legend = page.locator("#legend")
    expect(legend).to_contain_text("BAD (14)")
    expect(legend).to_contain_text("in quarantine (3)")

    first = page.get_by_role("grid", name="binance · bbo")
    row = first.get_by_role("row").filter(has_text="xrpusdt")
    cell = row.get_by_role("gridcell", name="2026-01-12: in quarantine")
    cell.click()
    numbers = page.locator("#numbers")
    expect(numbers).to_contain_text("binance · bbo · xrpusdt · 2026-01-12")
    expect(numbers).to_contain_text(QUARANTINE)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(numbers).to_contain_text("xrpusdt · 2026-01-11")
    wanted = next(item for item in cells if (item.stream, item.symbol, item.day) == ("bbo", "xrpusdt", 11))
    expect(numbers).to_contain_text(f"{wanted.rows:,}")
    expect(numbers).to_contain_text(wanted.sha256[:12])
    expect(numbers).to_contain_text("00:00:00 … 23:59:59")
    page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    expect(numbers).to_contain_text("solusdt · 2026-01-11")

    page.get_by_label("Symbols").fill("BTC")
    expect(first.get_by_role("row")).to_have_count(2)
    page.get_by_label("Symbols").fill("")
    page.get_by_label("only with something to look at").check()
    expect(page.get_by_role("grid", name="okx · bbo").get_by_role("row")).to_have_count(3)
    page.get_by_label("only with something to look at").uncheck()
    if SCREENSHOT:
        row.get_by_role("gridcell", name="2026-01-12: in quarantine").click()
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=SCREENSHOT, animations="disabled")
    assert odd == []


def test_hostile_names_are_shown_as_they_are(page: Page, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    [cell, *_] = cells_of([("binance", "bbo")], (hostile,))
    odd = opened(page, tmp_path, month_page("202601", 31, [cell]))
    expect(page.get_by_role("rowheader", name=hostile)).to_be_visible()
    page.get_by_role("gridcell").first.click()
    expect(page.locator("#which")).to_contain_text(hostile)
    assert page.locator("img").count() == 0
    assert odd == []


def test_five_hundred_symbols_are_drawn_at_once(page: Page, tmp_path: Path) -> None:
    symbols = tuple(f"sym{number:03d}usdt" for number in range(500))
    content = month_page("202601", 31, cells_of([("binance", "bbo")], symbols))
    assert len(content.encode()) < 900_000
    began = time.monotonic()
    odd = opened(page, tmp_path, content)
    expect(page.locator("#summary")).to_contain_text("15,500 symbol-days of 500 symbols")
    assert time.monotonic() - began < 30
    assert odd == []
