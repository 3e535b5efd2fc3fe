"""A page of the system's Chromium, driven by Playwright. Playwright's own browsers are never downloaded."""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import pytest
from playwright.sync_api import Error, expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

T = TypeVar("T")

INSTALL: Final = "apt-get install chromium"
# Bounds, not expectations: on a loaded machine a page may need long, and a failure may take its time.
WAIT_MS: Final = 120_000
VIEWPORT: Final = (1400, 1600)
TEXT_TAIL: Final = 4_000

_CHROMIUM: Final = Path("/usr/bin/chromium")
_ARGUMENTS: Final = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The pages must need nothing from elsewhere.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A new page in a browser of its own, in UTC. What it showed last is part of a failure's report."""
    chromium = shutil.which("chromium") or (str(_CHROMIUM) if _CHROMIUM.exists() else None)
    if chromium is None:
        pytest.skip(f"needs Chromium: {INSTALL}")
    home = tmp_path / "chromium-home"
    home.mkdir()
    width, height = VIEWPORT
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=chromium,
            args=_ARGUMENTS,
            env={**os.environ, "HOME": str(home)},
            timeout=WAIT_MS,
        ) as browser,
        browser.new_context(viewport={"width": width, "height": height}, locale="en-US", timezone_id="UTC") as context,
    ):
        expect.set_options(timeout=WAIT_MS)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        yield page
        # Shown by pytest only if the test failed.
        with suppress(Error):
            picture = tmp_path / "page.png"
            page.screenshot(path=picture)
            shown = page.locator("body").inner_text()
            sys.stderr.write(f"{page.url} at the end (see also {picture}):\n{shown[-TEXT_TAIL:]}\n")


def beside_playwright(function: Callable[[], T]) -> T:
    """Call a function that runs an event loop, while Playwright's runs in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
