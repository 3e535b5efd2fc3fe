"""A name in the event lake that no request can hold stops itself only, and is said wherever somebody looks."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.lake.warehouse import SLOTS, AppHour, Scope, find_apps
from quantlab_dagster.warehouse.checks import NO_CORRUPT_FILES, NO_UNFINISHED_PLANS
from quantlab_dagster.warehouse.look import look_over
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster.warehouse.sweep import recover
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, PARTITION, EventLake, HourRecorder, spec

if TYPE_CHECKING:
    from quantlab_dagster.warehouse.sweep import Sweep

pytestmark = pytest.mark.guards("odd-name-stops-all")

BEFORE = AppHour("demo", HOUR - dt.timedelta(hours=1))


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    """On a local directory, with two hours to compact."""
    made = EventLake.of(Rig("local", None, tmp_path))
    made.put_spec(spec())
    made.put_spec(spec(hour=BEFORE.hour))
    return made


def failing(done: Sweep) -> dict[str, str]:
    return {finding.name: finding.text for finding in done.findings if not finding.passed}


def touch(lake: EventLake, key: str) -> str:
    path = Path(lake.url) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return repr(Path(key).name)


@pytest.mark.parametrize("where", ["", "app_id=demo/", "app_id=demo/year=2026/", "app_id=demo/year=2026/month=01/"])
def test_an_odd_directory_of_any_level_hides_no_hour_and_is_told(lake: EventLake, where: str) -> None:
    level = {0: "app_id", 1: "year", 2: "month", 3: "day"}[where.count("/")]
    odd = f"{where}{level}=a\x01b"
    touch(lake, f"{odd}/x.parquet")
    assert asyncio.run(find_apps(lake.store)).items == ("demo",)
    done = lake.sweep()
    assert [(item.partition, item.status) for item in done.outcomes] == [
        (BEFORE, HourStatus.COMPACTED),
        (PARTITION, HourStatus.COMPACTED),
    ]
    assert f"{where}{f'{level}=a{chr(1)}b'!r}" in failing(done)[NO_CORRUPT_FILES]


@pytest.mark.parametrize("what", ["hour=a\x01b/x.parquet", "hour=\x7f/x.parquet"])
def test_an_odd_hour_hides_no_other_hour_of_its_day_and_is_told(lake: EventLake, what: str) -> None:
    day = PARTITION.prefix.removesuffix("hour=10/")
    touch(lake, day + what)
    done = lake.sweep()
    assert [item.status for item in done.outcomes] == [HourStatus.COMPACTED] * 2
    assert day + repr(what.partition("/")[0]) in failing(done)[NO_CORRUPT_FILES]


def test_an_odd_file_makes_its_own_hour_fail_and_no_other(lake: EventLake) -> None:
    touch(lake, PARTITION.key("events_\x01.parquet"))
    before = lake_files(lake)
    look = asyncio.run(look_over(lake.place(), Scope()))
    [odd] = [item for item in look.looks if item.unlisted]
    assert (odd.partition, odd.needs_work) == (PARTITION, True)
    done = lake.sweep()
    ended = {item.partition: (item.status, item.error) for item in done.outcomes}
    assert ended == {BEFORE: (HourStatus.COMPACTED, ""), PARTITION: (HourStatus.FAILED, "UnaddressableKey")}
    assert PARTITION.prefix in failing(done)[NO_CORRUPT_FILES]
    assert lake_files(lake) >= before, "nothing of it is lost"
    assert lake.sweep(Scope(("demo",), BEFORE.hour, BEFORE.hour)).outcomes == ()


def lake_files(lake: EventLake) -> set[str]:
    return {path.name for path in (Path(lake.url) / PARTITION.prefix).iterdir()}


def test_an_odd_app_among_the_slots_and_an_odd_slot_stop_no_hour(lake: EventLake) -> None:
    lake.put_spec(spec(app="other"))
    touch(lake, f"{SLOTS}de\x01mo/x.json")
    touch(lake, f"{SLOTS}other/2026\x01.json")
    done = lake.sweep()
    assert [item.status for item in done.outcomes] == [HourStatus.COMPACTED] * 3
    text = failing(done)[NO_UNFINISHED_PLANS]
    assert f"{SLOTS}other/" in text
    assert f"{SLOTS}{'de' + chr(1) + 'mo'!r}" in text
    assert list(failing(done)) == [NO_UNFINISHED_PLANS]
    recovered = asyncio.run(recover(lake.place(), Scope(), HourRecorder()))
    assert f"{SLOTS}other/" in failing(recovered)[NO_UNFINISHED_PLANS]
