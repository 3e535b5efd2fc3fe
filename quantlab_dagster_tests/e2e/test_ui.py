"""What an operator sees and does in Dagster's pages, in a real browser, against a real S3 server.

The picture of the README is taken by:

    QUANTLAB_SCREENSHOT=docs/images/materialisation.png .venv/bin/python -m pytest quantlab_dagster_tests/e2e
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import io
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import expect

from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.synthetic.market import corrupt_part, generate_parts
from quantlab_dagster.synthetic.quality import WindowsSpec, generate_windows
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.e2e.browser import VIEWPORT, beside_playwright
from quantlab_dagster_tests.e2e.dagster_dev import DagsterDev, dagster_dev
from quantlab_dagster_tests.lakes import DAY, Lakes, oracle, same_rows, spec, symbol_day

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

    from quantlab_dagster.synthetic.market import RawPart
    from quantlab_dagster_tests.servers import S3Server

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow, pytest.mark.present]

PARTITION: Final = f"{DAY:%Y-%m-%d}"
NEVER_COMPLETE: Final = "2100-01-01"
RUN_SECONDS: Final = 240.0  # a run takes some seconds
POLL_SECONDS: Final = 0.5

# Read here: no such variable reaches a test (conftest.py).
SCREENSHOT: Final = os.environ.get("QUANTLAB_SCREENSHOT")
SCREENSHOT_MARGIN: Final = 24
SCREENSHOT_GROUND: Final = (226, 228, 236)

_RUNS: Final = """query ($tags: [ExecutionTag!]) {
  runsOrError(filter: {tags: $tags}) {
    ... on Runs { results { runId status } }
  }
}"""
_LAUNCH: Final = """mutation ($partition: String!) {
  launchPipelineExecution(executionParams: {
    selector: {
      repositoryName: "__repository__", repositoryLocationName: "quantlab", pipelineName: "__ASSET_JOB",
      assetSelection: [{path: ["compact", "binance", "bbo"]}]
    },
    mode: "default",
    executionMetadata: {tags: [{key: "dagster/partition", value: $partition}]}
  }) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
_LAUNCH_DAY: Final = _LAUNCH.replace(
    '[{path: ["compact", "binance", "bbo"]}]',
    '[{path: ["quality", "day"]}, {path: ["compact", "binance", "bbo"]}, {path: ["compact", "state"]}]',
)
_TERMINATE: Final = """mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"""
_LOG: Final = """query ($run: ID!) {
  logsForRun(runId: $run) { ... on EventConnection { events { ... on MessageEvent { message } } } }
}"""


@pytest.fixture(scope="module")
def lakes(seaweed: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Lakes:
    return Lakes.of(Rig("seaweedfs", seaweed, tmp_path_factory.mktemp("lakes")))


@pytest.fixture(scope="module")
def running(lakes: Lakes) -> Iterator[DagsterDev]:
    env = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_START_DATE": "2026-01-01",
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo,trade",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        **lakes.rig.env(),
    }
    with dagster_dev(env) as dev:
        yield dev


@pytest.fixture
def dev(running: DagsterDev) -> Iterator[DagsterDev]:
    yield running
    sys.stderr.write(running.log_tail())  # shown by pytest only if the test failed


@pytest.fixture
def raw_day(lakes: Lakes) -> dict[str, list[RawPart]]:
    """Three symbols, one of which was silent for a while, and one with a part that cannot be read."""
    adausdt = list(generate_parts(spec("adausdt", parts=150, rows=60_000)))
    btcusdt = list(generate_parts(spec("btcusdt", parts=200, rows=150_000)))
    ethusdt = sorted(generate_parts(spec("ethusdt", parts=120, rows=90_000)), key=lambda part: part.name)
    del ethusdt[65:70]
    xrpusdt = [*generate_parts(spec("xrpusdt", parts=20, rows=5_000)), corrupt_part(spec("xrpusdt"))]
    day = {"adausdt": adausdt, "btcusdt": btcusdt, "ethusdt": ethusdt, "xrpusdt": xrpusdt}
    for symbol, parts in day.items():
        lakes.put_raw(symbol_day(symbol), parts)
    return day


def test_an_operator_materialises_a_day_and_sees_what_came_of_it(
    dev: DagsterDev, lakes: Lakes, raw_day: dict[str, list[RawPart]], page: Page
) -> None:
    page.goto(f"{dev.base_url}/assets/compact/binance/bbo")
    _launch(page, PARTITION)
    run_id, status = _ended_run(dev, PARTITION, from_ui="true")
    assert status == "SUCCESS"
    page.goto(f"{dev.base_url}/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    page.goto(f"{dev.base_url}/assets/compact/binance/bbo?view=partitions&partition={PARTITION}")
    expect(page.get_by_text("Materialized", exact=True).first).to_be_visible()

    rows = {symbol: _row_count(parts) for symbol, parts in raw_day.items() if symbol != "xrpusdt"}
    parts = {symbol: len(parts) for symbol, parts in raw_day.items()}
    merged_parts = sum(parts.values()) - parts["xrpusdt"]
    expect(_metadata(page, "rows")).to_have_text(f"{sum(rows.values())}")
    expect(_metadata(page, "parts")).to_have_text(f"{merged_parts}")
    expect(_metadata(page, "summary")).to_contain_text(
        f"3 built, 1 quarantined: {sum(rows.values()):,} rows of {merged_parts} parts"
    )
    assert int(_metadata(page, "requests").inner_text()) > sum(parts.values())
    assert _table(_metadata(page, "symbol-day table"), "symbol", "status", "rows", "parts") == [
        ("xrpusdt", "quarantine", "0", f"{parts['xrpusdt']}"),
        *((symbol, "success", f"{rows[symbol]}", f"{parts[symbol]}") for symbol in rows),
    ]
    [(symbol, reason)] = _table(_metadata(page, "quarantine"), "symbol", "part and reason")
    assert symbol == "xrpusdt"
    assert reason.startswith(f"{corrupt_part(spec('xrpusdt')).name}: not a readable Parquet file")
    _fits(_metadata(page, "symbol-day table"))
    above = _metadata_shot(page) if SCREENSHOT else b""
    dialog = _opened_picture(page)
    if SCREENSHOT:
        _save_screenshot(Path(SCREENSHOT), above, dialog.screenshot(animations="disabled"))

    published = beside_playwright(lambda: {symbol: lakes.published(symbol_day(symbol)) for symbol in rows})
    assert {symbol: len(table) for symbol, table in published.items()} == rows
    assert same_rows(published["adausdt"], oracle(raw_day["adausdt"]))
    keys = beside_playwright(lakes.compact_keys)
    assert symbol_day("xrpusdt").key("quarantine.json") in keys
    assert symbol_day("xrpusdt").key("data.parquet") not in keys


def test_a_day_that_is_not_complete_is_not_offered_and_refused(dev: DagsterDev, lakes: Lakes, page: Page) -> None:
    page.goto(f"{dev.base_url}/assets/compact/binance/bbo")
    before = dt.datetime.now(dt.UTC).date()
    dialog, chosen = _partition_dialog(page)
    dialog.get_by_role("button", name="Latest", exact=True).click()
    expect(chosen).to_have_value(re.compile(r"^\d{4}-\d\d-\d\d$"))
    latest = dt.date.fromisoformat(chosen.input_value())
    yesterday = dt.timedelta(days=-1)
    assert before + yesterday <= latest <= dt.datetime.now(dt.UTC).date() + yesterday
    chosen.fill(NEVER_COMPLETE)
    chosen.press("Enter")
    expect(page.get_by_text(f"Could not find partition: {NEVER_COMPLETE}")).to_be_visible()

    # Dagster's API takes it all the same: the asset refuses it.
    launched = dev.graphql(_LAUNCH, {"partition": NEVER_COMPLETE})
    assert launched["launchPipelineExecution"]["__typename"] == "LaunchRunSuccess"
    run_id, status = _ended_run(dev, NEVER_COMPLETE)
    assert status == "FAILURE"
    page.goto(f"{dev.base_url}/runs/{run_id}")
    refusal = f"{NEVER_COMPLETE}: is not complete: collectors may still write to it."
    expect(page.get_by_text(f"{refusal} It can be compacted from 2100-01-02 02:30 UTC on").first).to_be_visible()
    assert not [key for key in beside_playwright(lakes.compact_keys) if "date=2100" in key]


@pytest.mark.guards("signal-lost")
def test_a_run_that_is_terminated_stops_within_seconds_and_leaves_nothing_half_done(
    dev: DagsterDev, lakes: Lakes
) -> None:
    """By the same call that the page's button makes; the next run does the whole work."""
    day = DAY + dt.timedelta(days=1)
    parts = lakes.put_spec(spec("solusdt", day=day, parts=1_500, rows=1_500_000))
    launched = dev.graphql(_LAUNCH, {"partition": f"{day}"})["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess"
    run_id = launched["run"]["runId"]
    _await_log(dev, run_id, "reading 1,500 parts")
    asked = time.monotonic()
    terminated = dev.graphql(_TERMINATE, {"run": run_id})["terminateRun"]
    assert terminated["__typename"] == "TerminateRunSuccess", terminated
    assert _ended_run(dev, f"{day}") == (run_id, "CANCELED")
    assert time.monotonic() - asked < 20
    directory = symbol_day("solusdt", day)
    assert directory.key("meta.json") not in lakes.compact_keys()
    assert not [path for path in lakes.scratch.rglob("*") if path.is_file()]

    dev.graphql(_LAUNCH, {"partition": f"{day}"})
    deadline = time.monotonic() + RUN_SECONDS
    while directory.key("meta.json") not in lakes.compact_keys():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    assert lakes.published(directory).num_rows == _row_count(parts)


def test_a_bad_and_a_partial_day_are_told(dev: DagsterDev, lakes: Lakes, page: Page) -> None:
    bad, partial = DAY + dt.timedelta(days=2), last_eligible_day(utc_now())  # an old one would be given up
    for windows in (WindowsSpec(bad, bad=3), WindowsSpec(partial, partial=17)):
        beside_playwright(functools.partial(_put, lakes, windows))
        assert dev.graphql(_LAUNCH_DAY, {"partition": f"{windows.day}"})["launchPipelineExecution"]["run"]["runId"]
        assert _ended_run(dev, f"{windows.day}")[1] == "SUCCESS", "neither is a failure of ours"

    page.goto(f"{dev.base_url}/assets/quality/day?view=partitions&partition={bad}")
    expect(_metadata(page, "quality")).to_have_text("BAD")
    expect(_metadata(page, "why")).to_have_text("the day is BAD (3 BAD windows)")
    expect(_metadata(page, "windows bad")).to_have_text("3")
    worst = _table(_metadata(page, "worst windows"), "window")
    assert sorted(worst) == [("0600",), ("0615",), ("0630",)]
    page.goto(f"{dev.base_url}/assets/compact/binance/bbo?view=partitions&partition={bad}")
    [(symbol, status)] = _table(_metadata(page, "symbol-day table"), "symbol", "status")
    assert (symbol, status) == ("adausdt", "quarantine")
    [(_, reason)] = _table(_metadata(page, "quarantine"), "symbol", "part and reason")
    assert reason == "the day is BAD (3 BAD windows)"

    page.goto(f"{dev.base_url}/assets/quality/day?view=partitions&partition={partial}")
    expect(_metadata(page, "quality")).to_have_text("PARTIAL")
    page.goto(f"{dev.base_url}/assets/compact/state?view=partitions&partition={partial}")
    expect(_metadata(page, "status")).to_have_text("open: PARTIAL, looked at again")
    page.goto(f"{dev.base_url}/assets/compact/binance/bbo?view=checks&checkDetail=has_data")
    expect(page.get_by_text("0 rows; symbol-days: 1 skipped").first).to_be_visible()  # of the last day that ran
    days = (f"{bad:%Y%m%d}", f"{partial:%Y%m%d}")
    keys = [key for key in beside_playwright(lakes.compact_keys) if any(day in key for day in days)]
    assert keys == [symbol_day("adausdt", bad).key("quarantine.json")]


def _put(lakes: Lakes, windows: WindowsSpec) -> None:
    lakes.put_spec(spec("adausdt", parts=2, rows=20, day=windows.day))

    async def put() -> None:
        store = lakes.raw
        await asyncio.gather(*(store.put(file.key, file.data) for file in generate_windows(windows)))

    asyncio.run(put())


def _await_log(dev: DagsterDev, run_id: str, text: str) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not any(text in message for message in _messages(dev, run_id)):
        assert time.monotonic() < deadline, f"no {text!r} in the log"
        time.sleep(0.1)


def _messages(dev: DagsterDev, run_id: str) -> list[str]:
    events = dev.graphql(_LOG, {"run": run_id})["logsForRun"]["events"]
    return [event["message"] for event in events if "message" in event]


def _partition_dialog(page: Page) -> tuple[Locator, Locator]:
    """The opened dialog of the button "Materialize…", and its field of chosen partitions."""
    page.get_by_role("button", name="Materialize…").click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
    # Dagster asks while nobody has materialised `quality/day` yet, which steps do not need: each looks for itself.
    sure = page.get_by_role("dialog").filter(has_text="Are you sure?")
    expect(dialog.or_(sure).first).to_be_visible()
    if sure.is_visible():
        expect(sure).to_contain_text("quality / day")
        sure.get_by_role("button", name="Confirm").click()
    return dialog, dialog.get_by_role("textbox").first


def _launch(page: Page, partition: str) -> None:
    dialog, chosen = _partition_dialog(page)
    dialog.get_by_text("Show all partitions").click()  # it offers the last 90 days at first
    chosen.fill(partition)
    chosen.press("Enter")
    dialog.get_by_role("button", name="Launch 1 run", exact=True).click()
    expect(dialog).to_be_hidden()


def _ended_run(dev: DagsterDev, partition: str, **tags: str) -> tuple[str, str]:
    """Id and status of the only run of a partition with these tags of Dagster's, once it has ended."""
    wanted = [{"key": f"dagster/{key}", "value": value} for key, value in {"partition": partition, **tags}.items()]
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        runs: list[dict[str, Any]] = dev.graphql(_RUNS, {"tags": wanted})["runsOrError"]["results"]
        if runs and all(run["status"] in ("SUCCESS", "FAILURE", "CANCELED") for run in runs):
            [run] = runs
            return run["runId"], run["status"]
        assert time.monotonic() < deadline, f"runs of {partition} after {RUN_SECONDS:.0f} s: {runs}"
        time.sleep(POLL_SECONDS)


def _row_count(parts: list[RawPart]) -> int:
    return sum(pq.read_metadata(pa.BufferReader(part.data)).num_rows for part in parts)


def _metadata(page: Page, label: str) -> Locator:
    """The value beside a label."""
    return (
        page.locator("tr")
        .filter(has=page.locator("td:first-child").get_by_text(label, exact=True))
        .locator("> td:nth-child(2)")
    )


def _table(value: Locator, *columns: str) -> list[tuple[str, ...]]:
    """Some columns of a table in the metadata, as shown."""
    table = value.locator("table")
    expect(table).to_be_visible()  # texts are not waited for
    headings = [text.strip() for text in table.locator("tr").first.locator("th, td").all_inner_texts()]
    body = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
    return [tuple(row[headings.index(column)] for column in columns) for row in body]


def _fits(value: Locator) -> None:
    """Nothing of it has to be scrolled into view from the side."""
    hidden = value.evaluate("""element => {
        let hidden = 0;
        for (; element; element = element.parentElement)
            if (getComputedStyle(element).overflowX !== "visible")
                hidden = Math.max(hidden, element.scrollWidth - element.clientWidth);
        return hidden;
    }""")
    assert hidden == 0


def _opened_picture(page: Page) -> Locator:
    """The dialog with the picture of events per minute, all of it in view."""
    _metadata(page, "events per minute").get_by_text("Show Markdown").click()
    dialog = page.get_by_role("dialog")
    image = dialog.locator("img")
    expect(image).to_have_attribute("src", re.compile("^data:image/png;base64,"))
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    outer, inner = dialog.bounding_box(), image.bounding_box()
    assert outer is not None
    assert inner is not None
    assert outer["x"] < inner["x"]
    assert inner["x"] + inner["width"] < outer["x"] + outer["width"]
    return dialog


def _metadata_shot(page: Page) -> bytes:
    """The page down to the end of the table."""
    table = _metadata(page, "symbol-day table")
    box = table.bounding_box()
    assert box is not None
    page.set_viewport_size({"width": VIEWPORT[0], "height": math.ceil(box["y"] + box["height"])})
    page.reload()  # the list of partitions scrolls to the chosen one only when it is made
    expect(table.locator("table")).to_be_visible()
    expect(page.get_by_text("Materialized (1)")).to_be_visible()
    expect(page.get_by_text("Loading")).to_have_count(0)
    return page.screenshot(animations="disabled")


def _save_screenshot(path: Path, above: bytes, below: bytes) -> None:
    """Two pictures, one above the other."""
    with Image.open(io.BytesIO(above)) as page, Image.open(io.BytesIO(below)) as dialog:
        image = Image.new("RGB", (page.width, page.height + dialog.height + 2 * SCREENSHOT_MARGIN), SCREENSHOT_GROUND)
        image.paste(page, (0, 0))
        image.paste(dialog, ((page.width - dialog.width) // 2, page.height + SCREENSHOT_MARGIN))
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, optimize=True)
