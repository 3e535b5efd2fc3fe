"""The asset `compact/calendar`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest

from quantlab_dagster.defs.market.calendar import calendar_asset
from quantlab_dagster.defs.names import CALENDAR_ASSET, daily_partitions
from quantlab_dagster.defs.resources import LakeResource, LimitsResource
from quantlab_dagster.settings import load_settings
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import NOON_AFTER
from quantlab_dagster_tests.reader.lakes import MIDNIGHT_MS, ReadLake, day_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lake(tmp_path: Path) -> ReadLake:
    return ReadLake.of(Rig("local", None, tmp_path))


def materialise(lake: ReadLake, *, compact_url: str | None = None) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [calendar_asset(load_settings(), daily_partitions(load_settings()))],
        partition_key="2026-01-08",
        resources={
            "raw_lake": LakeResource(lake="raw", url=lake.rig.new_url()),
            "compact_lake": LakeResource(lake="compact", url=compact_url or lake.url),
            "limits": LimitsResource(),
            "clock": lambda: NOON_AFTER,
        },
        raise_on_error=False,
    )


def test_the_materialisation_says_where_the_page_is(lake: ReadLake) -> None:
    lake.put(day_of(), [MIDNIGHT_MS])
    result = materialise(lake)
    assert result.success
    [event] = result.asset_materializations_for_node("compact__calendar")
    assert event.asset_key == CALENDAR_ASSET
    values = {name: value.value for name, value in event.metadata.items() if not name.startswith("dagster/")}
    assert values == {
        "symbol-days": 1,
        "page of the month": f"{lake.url}/calendar/month=202601.html",
        "index of the day": f"{lake.url}/calendar/date=20260108/index.parquet",
        "changed": 2,
    }


def test_a_calendar_that_cannot_be_written_fails_its_step(lake: ReadLake) -> None:
    lake.put_object(day_of(), "meta.json", b"{}")
    lake.put_object(day_of(symbol="calendar"), "x", b"")
    (lake.rig.directory / "file").write_text("no directory")
    assert not materialise(lake, compact_url=str(lake.rig.directory / "file")).success
