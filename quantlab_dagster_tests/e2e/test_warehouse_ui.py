"""The event lake in Dagster's pages, in a real browser.

The picture of the README is taken by:

    QUANTLAB_WAREHOUSE_SCREENSHOT=docs/images/warehouse.png .venv/bin/python -m pytest quantlab_dagster_tests/e2e
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from PIL import Image
from playwright.sync_api import expect

from quantlab_dagster.lake.warehouse import AppHour
from quantlab_dagster.synthetic.warehouse import corrupt_event_file
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.e2e.browser import VIEWPORT, beside_playwright
from quantlab_dagster_tests.e2e.dagster_dev import DagsterDev, dagster_dev
from quantlab_dagster_tests.e2e.test_ui import _ended_run, _fits, _launch, _metadata, _table
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, EventLake, rows_of, spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from quantlab_dagster_tests.warehouse.event_lakes import Rows

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PARTITION: Final = "2026-01-15-10:00"
HOURS: Final = [HOUR - number * LATER for number in range(3)]
SHAPES: Final = {"demo": (40, 4_000), "kiosk": (8, 300), "shop": (120, 6_000)}
"""Files and rows of an hour by app."""
ROWS: Final = sum(rows for _, rows in SHAPES.values())
BAD: Final = corrupt_event_file(spec(app="kiosk"))
RUN_SECONDS: Final = 240.0  # a run takes some seconds

# Read here: no such variable reaches a test (conftest.py).
SCREENSHOT_MARGIN: Final = 24
SCREENSHOT: Final = os.environ.get("QUANTLAB_WAREHOUSE_SCREENSHOT")

_RUNS_OF_JOB: Final = """query {
  runsOrError(filter: {pipelineName: "compact_warehouse"}) { ... on Runs { results { runId status } } }
}"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> EventLake:
    """Three hours of three apps, and a file that cannot be read in one of them."""
    lake = EventLake.of(Rig("local", None, tmp_path_factory.mktemp("lake")))
    lake.put(AppHour("kiosk", HOUR), [BAD])
    return lake


@pytest.fixture(scope="module")
def original(lake: EventLake) -> Rows:
    """Every row, as the sink wrote them."""
    return rows_of(
        data
        for hour in HOURS
        for app, (files, rows) in SHAPES.items()
        for data in lake.put_spec(spec(app=app, hour=hour, files=files, rows=rows))
    )


@pytest.fixture(scope="module")
def running(lake: EventLake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    other = tmp_path_factory.mktemp("market-data")
    env = {
        "WAREHOUSE_URL": lake.url,
        "QUANTLAB_RAW_URL": str(other),
        "QUANTLAB_COMPACT_URL": str(other),
        "QUANTLAB_START_DATE": "2026-01-01",
        "QUANTLAB_SCRATCH_DIR": str(lake.scratch),
    }
    with dagster_dev(env) as dev:
        yield dev


@pytest.fixture
def dev(running: DagsterDev) -> Iterator[DagsterDev]:
    yield running
    sys.stderr.write(running.log_tail())  # shown by pytest only if the test failed


def readable_rows(lake: EventLake) -> Rows:
    """Every row of the files that can be read."""

    async def contents() -> list[bytes]:
        store = lake.store
        keys = [info.key for info in objects if info.name != BAD.name]
        return [(await store.get(key))[0] for key in keys]

    objects = lake.objects()
    return rows_of(asyncio.run(contents()))


def test_an_operator_materialises_an_hour_and_sees_what_came_of_it(
    dev: DagsterDev, lake: EventLake, original: Rows, page: Page
) -> None:
    page.goto(f"{dev.base_url}/assets/warehouse/events")
    _launch(page, PARTITION)
    run_id, status = _ended_run(dev, PARTITION, from_ui="true")
    assert status == "SUCCESS"
    page.goto(f"{dev.base_url}/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    page.goto(f"{dev.base_url}/assets/warehouse/events?view=partitions&partition={PARTITION}")
    expect(page.get_by_text("Materialized", exact=True).first).to_be_visible()

    files = sum(files for files, _ in SHAPES.values())
    expect(_metadata(page, "summary")).to_contain_text(f"{files} files → {len(SHAPES)}, ")
    expect(_metadata(page, "summary")).to_contain_text(f"{ROWS:,} rows")
    expect(_metadata(page, "rows")).to_have_text(f"{ROWS}")
    expect(_metadata(page, "files merged")).to_have_text(f"{files}")
    expect(_metadata(page, "files written")).to_have_text(f"{len(SHAPES)}")
    assert int(_metadata(page, "bytes in").inner_text()) > int(_metadata(page, "bytes out").inner_text()) > 0
    assert float(_metadata(page, "rows seen twice (s)").inner_text()) > 0
    assert _table(_metadata(page, "apps"), "app", "status", "files", "rows") == [
        (app, "compacted", f"{SHAPES[app][0]} → 1", f"{SHAPES[app][1]}") for app in ("kiosk", "demo", "shop")
    ], "what needs attention comes first"
    [(app, name, reason)] = _table(_metadata(page, "corrupt files"), "app", "file", "why it stays")
    assert (app, name) == ("kiosk", BAD.name)
    assert reason.startswith("not a readable Parquet file")
    _fits(_metadata(page, "apps"))
    if SCREENSHOT:
        _save_screenshot(page, Path(SCREENSHOT))
    page.goto(f"{dev.base_url}/assets/warehouse/events?view=checks&checkDetail=no_corrupt_files")
    expect(page.get_by_text("cannot be merged, and stay as they are: app_id=kiosk/").first).to_be_visible()
    expect(page.get_by_text(BAD.name).first).to_be_visible()

    names = beside_playwright(lambda: {app: lake.names(AppHour(app, HOUR)) for app in SHAPES})
    assert {app: len(found) for app, found in names.items()} == {"demo": 1, "kiosk": 2, "shop": 1}
    assert BAD.name in names["kiosk"]
    assert beside_playwright(lambda: readable_rows(lake)) == original


def test_the_job_is_launched_in_its_launchpad_and_materialises_every_hour(
    dev: DagsterDev, lake: EventLake, original: Rows, page: Page
) -> None:
    page.goto(f"{dev.base_url}/locations/quantlab/jobs/compact_warehouse/playground")
    page.get_by_role("button", name="Launch Run").click()
    run_id, status = _ended_job(dev)
    assert status == "SUCCESS"
    page.goto(f"{dev.base_url}/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    page.goto(f"{dev.base_url}/assets/warehouse/events?view=partitions")
    expect(page.get_by_text(f"Materialized ({len(HOURS)})")).to_be_visible()

    partitions = [AppHour(app, hour) for app in SHAPES for hour in HOURS]
    found = beside_playwright(lambda: {partition: len(lake.names(partition)) for partition in partitions})
    assert found == {**dict.fromkeys(partitions, 1), AppHour("kiosk", HOUR): 2}
    assert beside_playwright(lambda: readable_rows(lake)) == original


def test_the_schedule_is_listed_with_its_cron(dev: DagsterDev, page: Page) -> None:
    page.goto(f"{dev.base_url}/automation")
    page.get_by_text("warehouse_compaction", exact=True).click()
    expect(page.get_by_text("(0 * * * *)")).to_be_visible()
    expect(page.get_by_text("Every hour")).to_be_visible()
    expect(page.get_by_role("link", name="compact_warehouse")).to_be_visible()


def _ended_job(dev: DagsterDev) -> tuple[str, str]:
    """Id and status of the only run of the job, once it has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        runs: list[dict[str, Any]] = dev.graphql(_RUNS_OF_JOB)["runsOrError"]["results"]
        if runs and all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in runs):
            [run] = runs
            return run["runId"], run["status"]
        assert time.monotonic() < deadline, f"runs after {RUN_SECONDS:.0f} s: {runs}"
        time.sleep(0.5)


def _save_screenshot(page: Page, path: Path) -> None:
    """The page down to the end of the table of apps."""
    table = _metadata(page, "apps")
    box = table.bounding_box()
    assert box is not None
    page.set_viewport_size({"width": VIEWPORT[0], "height": math.ceil(box["y"] + box["height"]) + SCREENSHOT_MARGIN})
    page.reload()  # the list of partitions scrolls to the chosen one only when it is made
    expect(table.locator("table")).to_be_visible()
    expect(page.get_by_text("Materialized (1)")).to_be_visible()
    expect(page.get_by_text("Loading")).to_have_count(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as image:
        image.save(path, optimize=True)
    page.set_viewport_size({"width": VIEWPORT[0], "height": VIEWPORT[1]})
