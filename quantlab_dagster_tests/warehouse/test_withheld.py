"""History that is denied or in cold storage is left out and told, as long as it is so; all else goes on."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.errors import AccessDenied, Archived
from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.warehouse import AppHour, Scope
from quantlab_dagster.warehouse import looking
from quantlab_dagster.warehouse.checks import EVERY_FILE_READABLE, FEW_SMALL_FILES, gauges
from quantlab_dagster.warehouse.judging import judge_now
from quantlab_dagster.warehouse.looking import LookRecord, read_look, with_withheld, withheld_of
from quantlab_dagster.warehouse.outcome import HourStatus, undone
from quantlab_dagster.warehouse.sweep import Sweep, sweep
from quantlab_dagster_tests.conftest import RIG_BUCKET, Rig, s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.warehouse.event_lakes import HOUR, LATER, EventLake, HourRecorder, rows_of, spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster.work.finding import Finding
    from quantlab_dagster_tests.servers import S3Server

NOW = HOUR + 5 * 24 * LATER + dt.timedelta(minutes=5)
"""Five days later: the hour is history."""
OLD, RECENT = AppHour("demo", HOUR), AppHour("demo", HOUR + 4 * 24 * LATER)
COLD = "is in cold storage"


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("local", None, tmp_path))


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Patterns of keys that may not be read."""
    patterns: list[str] = []
    read = LocalStore.get_together

    async def get_together(self: LocalStore, keys: Sequence[str]) -> Any:
        for key in keys:
            if any(re.search(pattern, key) for pattern in patterns):
                raise Archived(self.name(key), COLD, "Restore it")
        return await read(self, keys)

    monkeypatch.setattr(LocalStore, "get_together", get_together)
    return patterns


def readable(found: Sequence[Finding]) -> Finding:
    [finding] = [one for one in found if one.name == EVERY_FILE_READABLE]
    return finding


def judged(lake: EventLake, now: dt.datetime) -> Finding:
    """What a look says that does nothing; of the same lake it must be the same."""
    [whole, changed] = [asyncio.run(judge_now(lake.place(now=now), full=full)) for full in (True, False)]
    assert readable(whole.findings) == readable(changed.findings)
    return readable(whole.findings)


@pytest.mark.guards("withheld-stops-all")
def test_history_that_may_not_be_read_is_left_out_by_name_and_the_others_go_on(
    lake: EventLake, closed: list[str]
) -> None:
    kept = lake.put_spec(spec()) + lake.put_spec(spec(hour=RECENT.hour)) + lake.put_spec(spec(app="shop"))
    closed.append(rf"{OLD.prefix}events_")
    done = lake.sweep(now=NOW)
    ended = {str(item.partition): item for item in done.outcomes}
    left_out = ended.pop("demo/2026-01-15T10")
    assert (left_out.status, left_out.error) == (HourStatus.UNTOUCHED, "Archived")
    assert COLD in left_out.withheld
    assert f"{OLD.prefix}events_" in left_out.reason, "the file is named"
    assert undone(done.outcomes) == [left_out], "it must not read as done"
    assert {item.status for item in ended.values()} == {HourStatus.COMPACTED}
    finding = readable(done.findings)
    assert (finding.passed, finding.number) == (False, 1)
    assert OLD.prefix in finding.text
    assert COLD in finding.text
    assert (gauges(done.findings)["fine"], gauges(done.findings)["withheld_places"]) == (0, 1)
    assert [one.passed for one in done.findings if one.name == FEW_SMALL_FILES] == [True], "said once"
    assert len(lake.names(OLD)) == 4
    assert lake.rows() == rows_of(kept)
    assert lake.slot(OLD).state == "idle"
    assert judged(lake, NOW) == finding


def test_it_is_not_tried_in_each_run_and_said_in_each_until_it_can_be_read(
    lake: EventLake, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put_spec(spec())
    closed.append(OLD.prefix)
    lake.sweep(now=NOW)
    monkeypatch.setattr(looking, "_PAGES", 0)  # its turn does not come
    done = lake.sweep(now=NOW + LATER)
    assert done.outcomes == ()
    assert not readable(done.findings).passed
    monkeypatch.undo()
    closed.clear()
    assert judged(lake, NOW + LATER) == readable(done.findings)
    done = lake.sweep(now=NOW + 2 * LATER)
    assert [item.status for item in done.outcomes] == [HourStatus.COMPACTED]
    assert readable(done.findings).passed
    assert judged(lake, NOW + 2 * LATER).passed
    assert len(lake.names(OLD)) == 1


@pytest.mark.guards("withheld-stops-all")
def test_more_hours_that_may_not_be_read_than_a_run_works_on_keep_no_others_waiting(
    lake: EventLake, closed: list[str]
) -> None:
    hours = [AppHour("demo", HOUR - at * LATER) for at in range(9)]
    kept = [data for one in hours for data in lake.put_spec(spec(hour=one.hour, files=2, rows=20))]
    closed += [one.prefix for one in hours[:6]]

    def run(at: int) -> Sweep:
        return asyncio.run(sweep(lake.place(now=NOW + at * LATER), Scope(), HourRecorder(), most=5))

    done = run(0)
    assert ([item.partition for item in done.outcomes], done.left) == (hours[4::-1], 4)
    assert {item.error for item in done.outcomes} == {"Archived"}
    done = run(1)
    compacted = [item.partition for item in done.having(HourStatus.COMPACTED)]
    assert (compacted, done.left) == (hours[:5:-1], 0)
    assert readable(done.findings).number == 6, "those that were not tried again, too"
    record, _ = asyncio.run(read_look(lake.place(now=NOW)))
    assert record is not None
    assert (record.suffices, record.stopped_at) == (True, ""), "the rest may not be read: all has been looked at"
    assert judged(lake, NOW + LATER).number == 6

    new = lake.put_spec(spec(hour=RECENT.hour)) + lake.put_spec(spec(hour=HOUR - 20 * LATER))
    done = run(2)
    assert RECENT in {item.partition for item in done.having(HourStatus.COMPACTED)}
    done = run(3)
    assert (len(lake.names(AppHour("demo", HOUR - 20 * LATER))), done.left) == (1, 0)
    closed.clear()
    for at in (4, 5):
        done = run(at)
    assert readable(done.findings).passed
    assert len(lake.objects()) == 11
    assert lake.rows() == rows_of(kept + new)


def test_what_is_gone_is_forgotten_within_two_rounds(lake: EventLake, closed: list[str]) -> None:
    lake.put_spec(spec())
    lake.put_spec(spec(app="shop", hour=RECENT.hour))
    closed.append(OLD.prefix)
    lake.sweep(now=NOW)
    for info in lake.objects():
        if info.key.startswith(OLD.prefix):
            asyncio.run(lake.store.delete_unchanged(info.key, info.etag))
    said = [readable(lake.sweep(now=NOW + run * LATER).findings).passed for run in range(1, 4)]
    assert said[1:] == [True, True]


def test_recent_hours_that_may_not_be_read_fail_loudly(lake: EventLake, closed: list[str]) -> None:
    """What was written just now and cannot be read is no archive: the credentials are wrong."""
    lake.put_spec(spec(hour=RECENT.hour))
    closed.append(RECENT.prefix)
    [outcome] = lake.sweep(now=NOW).outcomes
    assert (outcome.status, outcome.withheld) == (HourStatus.FAILED, "")
    assert COLD in outcome.reason


def test_a_denied_deletion_is_no_withheld_hour(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put_spec(spec())

    def denied(self: LocalStore, key: str, _etag: str, _lock: Path) -> bool:
        raise AccessDenied(self.name(key), "access denied")

    monkeypatch.setattr(LocalStore, "_delete_if_free", denied)
    [outcome] = lake.sweep(now=NOW).outcomes
    assert (outcome.status, outcome.withheld) == (HourStatus.FAILED, "")
    assert lake.slot(OLD).plan is not None


@pytest.mark.parametrize("full", [True, False])
def test_an_app_that_may_not_be_listed_is_told_and_the_others_go_on(
    lake: EventLake, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    lake.put_spec(spec())
    lake.sweep(now=NOW)
    for app in ("demo", "shop"):
        lake.put_spec(spec(app=app, hour=RECENT.hour))
    if full:
        asyncio.run(lake.store.put(looking.LOOK_KEY, LookRecord().dump()))
    listed = LocalStore.list_objects

    async def list_objects(self: LocalStore, prefix: str) -> Any:
        if any(prefix.startswith(f"app_id={app}/") for app in denied):
            raise AccessDenied(self.name(prefix), "access denied")
        return await listed(self, prefix)

    monkeypatch.setattr(LocalStore, "list_objects", list_objects)
    denied = ["shop"]
    done = lake.sweep(now=NOW)
    assert [(item.partition.app, item.status) for item in done.outcomes] == [("demo", HourStatus.COMPACTED)]
    assert "app_id=shop/" in readable(done.findings).text
    assert not judged(lake, NOW).passed
    denied.append("demo")
    with pytest.raises(AccessDenied):
        lake.sweep(now=NOW)


def test_the_record_keeps_no_more_than_it_can_hold_and_forgets_what_was_read() -> None:
    record = with_withheld(LookRecord(), {f"{n:04d}/": "why" for n in range(1000)}, ())
    assert len(withheld_of(record)) == looking._MOST_WITHHELD
    assert "0001/" not in withheld_of(with_withheld(record, {}, {"0001/"}))
    assert withheld_of(LookRecord.read(record.dump(), "x")) == withheld_of(record)
    assert withheld_of(None) == {}


@pytest.mark.server
@pytest.mark.parametrize(("code", "error"), [("InvalidObjectState", "Archived"), ("AccessDenied", "AccessDenied")])
def test_a_server_that_refuses_history_is_understood(seaweed: S3Server, tmp_path: Path, code: str, error: str) -> None:
    lake = EventLake.of(Rig("seaweedfs", seaweed, tmp_path))
    kept = lake.put_spec(spec()) + lake.put_spec(spec(app="shop"))
    with FaultProxy(seaweed.endpoint_url) as proxy:
        options = s3_options(seaweed)
        rule = proxy.fail(403, "GET", rf"{re.escape(OLD.prefix)}events_", times=None, code=code)
        store = open_store(lake.url, type(options)(options.session, options.region, proxy.url, retries=3))
        done = lake.sweep(now=NOW, store=store)
    assert rule.fired >= 1
    assert f"/{RIG_BUCKET}/" in rule.struck[0]
    ended = {item.partition.app: (item.status, item.error) for item in done.outcomes}
    assert ended == {"demo": (HourStatus.UNTOUCHED, error), "shop": (HourStatus.COMPACTED, "")}
    assert (COLD in readable(done.findings).text) is (code == "InvalidObjectState")
    assert lake.rows() == rows_of(kept)
    assert lake.staged() == []
    again = lake.sweep(Scope((), HOUR, HOUR), now=NOW)
    assert [item.status for item in again.outcomes] == [HourStatus.COMPACTED], "once it can be read"
    assert readable(again.findings).passed
