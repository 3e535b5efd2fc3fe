"""What the demo leaves behind, as a newcomer sees it: `quantlab dev --demo` shows it, and nothing that alarms."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.sync_api import expect

from quantlab_dagster.cli.demo import DEMO_DAYS
from quantlab_dagster_tests.e2e.dagster_dev import session
from quantlab_dagster_tests.servers import HOST, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SECONDS: Final = 600.0  # a bound for loaded machines: 20 are usual
DEMO: Final = """
from quantlab_dagster.cli import demo
from quantlab_dagster.cli.entry import main
demo._SHAPES = tuple((*shape[:3], shape[3] // 20, shape[4] // 20) for shape in demo._SHAPES)
main()
"""
"""`quantlab demo`, with a twentieth of the parts and rows."""
ALARMING: Final = re.compile(r"could not|not found|not running|unable to|error|unsynced|warning", re.IGNORECASE)

_SEEN: Final = """{
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } }
  runsOrError { ... on Runs { results { status repositoryOrigin { repositoryLocationName } } } }
  assetNodes {
    assetKey { path } isExecutable
    partitionStats { numMaterialized numFailed }
    assetChecksOrError { ... on AssetChecks { checks {
      name executionForLatestMaterialization { status evaluation { severity } }
    } } }
  }
}"""


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Of `quantlab dev --demo` in a directory where the demo was run; it ends with the module."""
    # Not below pytest's directories: the path of a socket, and Dagster makes some in TMPDIR, may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        directory = Path(name)
        env = {"PATH": os.environ["PATH"], "HOME": name, "TMPDIR": name}
        run = [sys.executable, "-c", DEMO, "demo"]
        done = subprocess.run(run, cwd=name, env=env, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        [port] = free_ports(1)
        url, log = f"http://{HOST}:{port}", directory / "dev.log"
        program = [str(Path(sys.executable).parent / "quantlab"), "dev", "--demo", "--port", str(port)]
        with session(program, log, env, cwd=directory):
            deadline = time.monotonic() + SECONDS
            while not _all_is_up(url):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            assert "superseded" not in log.read_text(), "Dagster's advice to type another command"
            yield url


def _all_is_up(base_url: str) -> bool:
    """Whether the code location is loaded, and all daemons have been heard of."""
    with suppress(urllib.error.URLError, OSError):
        seen = _seen(base_url)
        daemons = [one for one in seen["instance"]["daemonHealth"]["allDaemonStatuses"] if one["required"]]
        return bool(seen["assetNodes"]) and bool(daemons) and all(one["healthy"] for one in daemons)
    return False


def _seen(base_url: str) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  # to ourselves
        f"{base_url}/graphql", json.dumps({"query": _SEEN}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        data: dict[str, Any] = json.load(response)["data"]
    return data


def _nothing_alarms(page: Page) -> None:
    text = page.locator("body").inner_text()
    assert not ALARMING.search(text), (page.url, text)


def test_a_newcomer_sees_what_was_made_and_nothing_alarming(base_url: str, page: Page) -> None:
    page.goto(base_url)
    for job in ("compact_day", "compact_warehouse"):
        expect(page.locator(f"a[href*='/jobs/{job}']").first).to_be_visible()
    _nothing_alarms(page)

    page.goto(f"{base_url}/runs")
    expect(page.get_by_text("Success", exact=True)).to_have_count(len(DEMO_DAYS) + 2)  # yesterday, and the events
    for day in DEMO_DAYS:
        expect(page.get_by_text(f"partition: {day:%Y-%m-%d}")).to_be_visible()
    _nothing_alarms(page)

    page.goto(f"{base_url}/deployment/daemons")
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    _nothing_alarms(page)
    page.goto(f"{base_url}/deployment/locations")
    expect(page.get_by_text("Loaded", exact=True)).to_be_visible()
    _nothing_alarms(page)
    page.goto(f"{base_url}/assets")
    expect(page.locator("a[href*='/assets/compact/calendar']").first).to_be_visible()
    _nothing_alarms(page)
    page.goto(f"{base_url}/assets/compact/state")
    expect(page.get_by_text("Latest check results")).to_be_visible()
    _nothing_alarms(page)


def test_every_run_and_asset_is_green_and_only_days_without_data_are_told(base_url: str) -> None:
    seen = _seen(base_url)
    runs = seen["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"] * (len(DEMO_DAYS) + 2)
    assert {run["repositoryOrigin"]["repositoryLocationName"] for run in runs} == {"quantlab"}
    nodes = [node for node in seen["assetNodes"] if node["isExecutable"]]
    assert len(nodes) == 19, "15 pairs, the day's label, the state, the calendar, the events"
    for node in nodes:
        name = "/".join(node["assetKey"]["path"])
        stats = node["partitionStats"]
        assert stats["numFailed"] == 0, name
        assert stats["numMaterialized"] == (6 if name == "warehouse/events" else len(DEMO_DAYS) + 1), name
        for check in node["assetChecksOrError"].get("checks", []):
            execution = check["executionForLatestMaterialization"]
            if execution["status"] != "SUCCEEDED":
                told = (check["name"], execution["status"], execution["evaluation"]["severity"])
                assert told == ("has_data", "FAILED", "WARN"), name
