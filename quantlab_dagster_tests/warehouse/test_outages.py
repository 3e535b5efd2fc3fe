"""A store that does not answer while inputs are being deleted: tried once more at the end of the same run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.warehouse import Scope
from quantlab_dagster.warehouse.outcome import HourOutcome, HourStatus, Replacement, hour_line
from quantlab_dagster.warehouse.slot import Slot
from quantlab_dagster.warehouse.sweep import sweep
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.faults import FaultProxy
from quantlab_dagster_tests.warehouse.event_lakes import (
    HOUR,
    LATER,
    PARTITION,
    SOON,
    EventLake,
    HourRecorder,
    rows_of,
    spec,
)

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster_tests.servers import S3Server

BULK = r"\?delete$"


@pytest.fixture
def lake(seaweed: S3Server, tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("seaweedfs", seaweed, tmp_path))


def through(lake: EventLake, proxy: FaultProxy) -> Store:
    """Each request is sent twice at most; what the server honours is known."""
    assert lake.rig.server is not None
    store = open_store(lake.url, replace(s3_options(lake.rig.server, retries=1), endpoint_url=proxy.url))
    asyncio.run(store.capabilities())
    return store


@pytest.mark.guards("outage-doubles")
@pytest.mark.server
def test_deletes_that_fail_are_tried_once_more_at_the_end_of_the_run(lake: EventLake) -> None:
    original = rows_of([*lake.put_spec(spec()), *lake.put_spec(spec(hour=HOUR - LATER))])
    listener = HourRecorder()
    assert lake.rig.server is not None
    with FaultProxy(lake.rig.server.endpoint_url) as proxy:
        store = through(lake, proxy)
        rule = proxy.fail(503, "POST", BULK, times=2)
        done = asyncio.run(sweep(lake.place(store=store), Scope(), listener))
    assert rule.fired == 2
    assert [outcome.status for outcome in done.outcomes] == [HourStatus.COMPACTED] * 2
    assert all(finding.passed for finding in done.findings), done.findings
    assert sorted(listener.ended, key=lambda outcome: outcome.partition) == list(done.outcomes), "each is told once"
    for outcome in done.outcomes:
        [replacement] = outcome.replacements
        assert not replacement.recovered, "it was made by this run"
        assert "left by another run" not in hour_line(outcome)
    # The one that failed waited for its retry, and for the other hour.
    assert max(outcome.replacements[0].doubled_seconds for outcome in done.outcomes) > 0.2
    assert lake.rows() == original
    assert [lake.slot(outcome.partition) for outcome in done.outcomes] == [Slot()] * 2


@pytest.mark.server
def test_if_the_outage_goes_on_one_is_tried_and_the_others_wait_for_the_next_run(lake: EventLake) -> None:
    original = rows_of([row for hours in range(3) for row in lake.put_spec(spec(hour=HOUR - hours * LATER))])
    listener = HourRecorder()
    assert lake.rig.server is not None
    with FaultProxy(lake.rig.server.endpoint_url) as proxy:
        store = through(lake, proxy)
        rule = proxy.fail(503, "POST", BULK, times=None)
        done = asyncio.run(sweep(lake.place(store=store), Scope(), listener))
    assert rule.fired == 2 * (3 + 1)
    assert [outcome.status for outcome in done.outcomes] == [HourStatus.FAILED] * 3
    assert {outcome.error for outcome in done.outcomes} == {"StoreUnavailable"}
    assert len(listener.ended) == 3
    assert "no_unfinished_plans" in [finding.name for finding in done.findings if not finding.passed]
    lake.sweep(now=SOON + LATER)
    assert lake.rows() == original


@pytest.mark.server
def test_what_fails_before_there_is_a_plan_is_not_tried_again(lake: EventLake) -> None:
    lake.put_spec(spec())
    assert lake.rig.server is not None
    with FaultProxy(lake.rig.server.endpoint_url) as proxy:
        store = through(lake, proxy)
        rule = proxy.fail(503, "PUT", "partNumber=", times=None)
        done = asyncio.run(sweep(lake.place(store=store), Scope(), HourRecorder()))
    assert rule.fired == 2
    assert done.outcomes[0].status is HourStatus.FAILED


def outcome(status: HourStatus, *outputs: str, seconds: float = 1.0) -> HourOutcome:
    made = tuple(Replacement(name, 2, 2, 1, 1, 0.0) for name in outputs)
    return HourOutcome(PARTITION, status, f"{status}", "", made, seconds=seconds)


def test_what_was_tried_again_ended_as_the_second_time_with_what_was_done_before() -> None:
    failed = outcome(HourStatus.FAILED, "a", seconds=2.0)
    done = failed.then(outcome(HourStatus.COMPACTED, "b"))
    assert (done.status, done.reason, done.seconds) == (HourStatus.COMPACTED, "compacted", 3.0)
    assert [item.output for item in done.replacements] == ["a", "b"]
    assert failed.then(outcome(HourStatus.FAILED)).status is HourStatus.FAILED
    assert failed.then(outcome(HourStatus.BUSY)).status is HourStatus.BUSY
    assert failed.then(outcome(HourStatus.UNTOUCHED)).status is HourStatus.COMPACTED, "it had replaced something"
    assert outcome(HourStatus.FAILED).then(outcome(HourStatus.UNTOUCHED)).status is HourStatus.UNTOUCHED
