"""It runs itself: a real web server and daemon on SeaweedFS; the sensor and a backfill are started in the browser."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.sync_api import expect

from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.settling import seed
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.synthetic.market import DaySpec, generate_parts
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.e2e.browser import beside_playwright
from quantlab_dagster_tests.e2e.dagster_dev import DagsterDev, dagster_dev
from quantlab_dagster_tests.lakes import PAIR, Lakes, oracle, same_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from quantlab_dagster.market.state import State
    from quantlab_dagster.synthetic.market import RawPart
    from quantlab_dagster_tests.servers import S3Server

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow, pytest.mark.present]

ONE_DAY: Final = dt.timedelta(days=1)
LAST: Final = last_eligible_day(utc_now())
MISSED: Final = [LAST - number * ONE_DAY for number in reversed(range(5))]
UNHEALTHY: Final = MISSED[2]
HISTORY: Final = [MISSED[0] - number * ONE_DAY for number in range(30, 0, -1)]
# Ticks come every 30 seconds; a run takes some seconds, on a loaded machine many.
BACKLOG_SECONDS: Final = 500.0
BACKFILL_SECONDS: Final = 800.0

_RUNS: Final = """query ($day: String!) {
  runsOrError(filter: {tags: [{key: "dagster/partition", value: $day}]}) {
    ... on Runs { results { runId status tags { key value } } }
  }
}"""
_BACKFILLS: Final = """query { partitionBackfillsOrError { ... on PartitionBackfills {
  results { id status numPartitions partitionNames } } } }"""


@pytest.fixture(scope="module")
def lakes(seaweed: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Lakes:
    return Lakes.of(Rig("seaweedfs", seaweed, tmp_path_factory.mktemp("lakes")))


@pytest.fixture(scope="module")
def running(lakes: Lakes) -> Iterator[DagsterDev]:
    env = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_START_DATE": f"{HISTORY[0] - 5 * ONE_DAY}",
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo,trade",
        "QUANTLAB_CATCH_UP_WAITS": "0",  # a failed day comes back at the next tick
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        **lakes.rig.env(),
    }
    with dagster_dev(env) as dev:
        yield dev


@pytest.fixture
def dev(running: DagsterDev) -> Iterator[DagsterDev]:
    yield running
    sys.stderr.write(running.log_tail())  # shown by pytest only if the test failed


def symbol_day(day: dt.date, stream: str = "bbo") -> SymbolDay:
    return SymbolDay("binance", stream, "adausdt", day)


def put(lakes: Lakes, day: dt.date, stream: str = "bbo") -> list[RawPart]:
    parts = list(generate_parts(DaySpec("binance", stream, "adausdt", day, parts=3, rows=90)))
    lakes.put_raw(symbol_day(day, stream), parts)
    return parts


def state_of(lakes: Lakes) -> State:
    state = asyncio.run(StateStore(lakes.compact).read())
    assert state is not None
    return state


def runs_of(dev: DagsterDev, day: dt.date) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = dev.graphql(_RUNS, {"day": f"{day}"})["runsOrError"]["results"]
    return runs


def ended_statuses(dev: DagsterDev, day: dt.date) -> list[str]:
    """Of a day's runs, sorted, once all have ended: the watermark moves before the last step of a run."""
    deadline = time.monotonic() + BACKLOG_SECONDS
    while unfinished := [run for run in runs_of(dev, day) if run["status"] not in ("SUCCESS", "FAILURE")]:
        assert time.monotonic() < deadline, unfinished
        time.sleep(0.5)
    return sorted(run["status"] for run in runs_of(dev, day))


@pytest.mark.guards("watermark-past-failure")
def test_the_sensor_works_off_five_missed_days_one_of_which_fails_twice(
    dev: DagsterDev, lakes: Lakes, page: Page
) -> None:
    raw = beside_playwright(lambda: {day: put(lakes, day) for day in MISSED})
    broken = symbol_day(UNHEALTHY).key("meta.json")

    def prepare() -> None:
        asyncio.run(
            StateStore(lakes.compact).update(lambda before: seed(before, MISSED[0] - ONE_DAY, utc_now(), [PAIR]))
        )
        asyncio.run(lakes.compact.put(broken, b"no json"))

    beside_playwright(prepare)
    page.goto(f"{dev.base_url}/locations/quantlab/sensors/catch_up")
    page.locator("label:has(input[type=checkbox])").first.click()
    expect(page.locator("input[type=checkbox]").first).to_be_checked()

    watermarks: list[dt.date] = []
    healed = False
    deadline = time.monotonic() + BACKLOG_SECONDS
    while not watermarks or watermarks[-1] < LAST:
        assert time.monotonic() < deadline, f"watermarks {watermarks}, runs {[runs_of(dev, day) for day in MISSED]}"
        watermark = beside_playwright(lambda: state_of(lakes)).watermark
        assert watermark is not None
        assert not watermarks or watermark >= watermarks[-1], "it never moves back"
        assert healed or watermark < UNHEALTHY, "it never moves past a failed day"
        watermarks.append(watermark)
        failed = [run for run in runs_of(dev, UNHEALTHY) if run["status"] == "FAILURE"]
        if len(failed) >= 2 and not healed:
            assert beside_playwright(lambda: state_of(lakes)).days[f"{UNHEALTHY:%Y%m%d}"].status == "failed"
            beside_playwright(lambda: asyncio.run(lakes.compact.delete(broken)))
            healed = True
        time.sleep(0.5)

    assert healed
    for day, parts in raw.items():
        assert same_rows(beside_playwright(lambda day=day: lakes.published(symbol_day(day))), oracle(parts))  # type: ignore[misc]
        statuses = ended_statuses(dev, day)
        assert statuses == (["FAILURE", "FAILURE", "SUCCESS"] if day == UNHEALTHY else ["SUCCESS"])
    page.goto(f"{dev.base_url}/assets/compact/binance/bbo?view=partitions&partition={UNHEALTHY}")
    page.get_by_role("button", name="View all historical events").click()
    page.get_by_role("dialog").get_by_text("Observation").first.click()
    expect(page.get_by_role("dialog").get_by_text("meta.json: is not a valid DayMeta record").first).to_be_visible()
    tags = [tag for run in runs_of(dev, UNHEALTHY) for tag in run["tags"]]
    assert {tag["value"] for tag in tags if tag["key"] == "quantlab/attempt"} == {"1", "2", "3"}


def test_a_backfill_of_thirty_days_of_two_assets(dev: DagsterDev, lakes: Lakes, page: Page) -> None:
    """Launched in the page, while the sensor is on."""
    raw = beside_playwright(
        lambda: {(day, stream): put(lakes, day, stream) for day in HISTORY for stream in ("bbo", "trade")}
    )
    before = beside_playwright(lambda: state_of(lakes))
    page.goto(f"{dev.base_url}/locations/quantlab/asset-groups/binance")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
    chosen = dialog.get_by_role("textbox").first
    chosen.fill(f"[{HISTORY[0]}...{HISTORY[-1]}]")
    chosen.press("Enter")
    dialog.get_by_role("button", name="Launch backfill").click()
    expect(dialog).to_be_hidden()

    deadline = time.monotonic() + BACKFILL_SECONDS
    while True:
        found = dev.graphql(_BACKFILLS)["partitionBackfillsOrError"]["results"]
        if found and found[0]["status"] not in ("REQUESTED", "FAILING", "CANCELING"):
            break
        assert time.monotonic() < deadline, found
        time.sleep(2)
    [backfill] = found
    assert (backfill["status"], backfill["numPartitions"]) == ("COMPLETED_SUCCESS", 30)
    keys = beside_playwright(lakes.compact_keys)
    for (day, stream), parts in raw.items():
        assert symbol_day(day, stream).key("meta.json") in keys
        if day in (HISTORY[0], HISTORY[-1]):
            published = beside_playwright(lambda d=day, s=stream: lakes.published(symbol_day(d, s)))  # type: ignore[misc]
            assert same_rows(published, oracle(parts))
    for day in HISTORY:
        assert [run["status"] for run in runs_of(dev, day)] == ["SUCCESS"], "one run a day"
    after = beside_playwright(lambda: state_of(lakes))
    assert after.watermark == before.watermark or after.watermark == last_eligible_day(utc_now())
    assert after.catch_up_from == before.catch_up_from, "a backfill moves neither value back"
