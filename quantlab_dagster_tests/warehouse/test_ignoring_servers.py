"""On servers that ignore a condition nothing is lost and nothing twice: it is not relied on, or nothing is done."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from quantlab_dagster.errors import ServerUnsafe
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.warehouse import Scope
from quantlab_dagster.synthetic.warehouse import generate_event_files
from quantlab_dagster.warehouse.slot import Slot
from quantlab_dagster.warehouse.sweep import recover, sweep
from quantlab_dagster_tests.conftest import Rig, s3_options
from quantlab_dagster_tests.ignoring import IgnoringProxy
from quantlab_dagster_tests.warehouse.event_lakes import (
    LATER,
    PARTITION,
    SOON,
    EventLake,
    HourRecorder,
    rows_of,
    spec,
)
from quantlab_dagster_tests.warehouse.test_crashes import (
    FILES,
    MeddlingStore,
    check_all_well,
    check_nothing_lost,
    killed_command,
)

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.probing import Condition
    from quantlab_dagster_tests.servers import S3Server


@pytest.fixture
def lake(seaweed: S3Server, tmp_path: Path) -> EventLake:
    return EventLake.of(Rig("seaweedfs", seaweed, tmp_path))


def through(lake: EventLake, proxy: IgnoringProxy) -> Store:
    assert lake.rig.server is not None
    return open_store(lake.url, replace(s3_options(lake.rig.server), endpoint_url=proxy.url))


@pytest.mark.guards("conditional-put-assumed", "discard-overwrites")
@pytest.mark.server
@pytest.mark.parametrize("ignored", ["replace_if_match", "part_etags"])
def test_where_safety_needs_it_nothing_is_done_and_a_crash_is_left_as_it_is(
    lake: EventLake, seaweed: S3Server, ignored: Condition
) -> None:
    original = rows_of(lake.put_spec(spec(files=FILES)))
    command = killed_command(lake, 5)  # right after its output has appeared
    subprocess.run(command, env={**os.environ, **lake.rig.env()}, capture_output=True, check=False)
    before, slot = lake.objects(), lake.slot()
    assert (len(before), slot.state) == (FILES + 1, "planned")
    with IgnoringProxy(seaweed, ignored) as proxy:
        for work in (sweep, recover):
            with pytest.raises(ServerUnsafe, match="nothing is compacted"):
                asyncio.run(work(lake.place(store=through(lake, proxy)), Scope(), HourRecorder()))
    assert (lake.objects(), lake.slot()) == (before, slot)
    lake.sweep(now=SOON + LATER)
    check_all_well(lake, original)


@pytest.mark.guards("conditional-delete-assumed", "rows-doubled")
@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize(
    ("ignored", "number", "died_after"),
    [
        ("delete_if_match", 5, "publish"),
        ("delete_if_match", 6, "delete_all_unchanged"),
        ("bulk_delete", 5, "publish"),
        ("bulk_delete", 6, "delete_unchanged"),
    ],
)
def test_what_is_not_relied_on_is_not_needed_after_a_crash_either(
    lake: EventLake, seaweed: S3Server, ignored: Condition, number: int, died_after: str
) -> None:
    original = rows_of(lake.put_spec(spec(files=FILES, seed=number)))
    with IgnoringProxy(seaweed, ignored) as proxy:
        env = {**os.environ, **lake.rig.env(), "AWS_ENDPOINT_URL": proxy.url}
        done = subprocess.run(killed_command(lake, number), env=env, capture_output=True, text=True, check=False)
        assert done.stdout == f"died after change {number}: {died_after}\n", done.stderr
        check_nothing_lost(lake, original)
        asyncio.run(sweep(lake.place(store=through(lake, proxy), now=SOON + LATER), Scope(), HourRecorder()))
        assert proxy.taken_out, "it was tried, at least"
    check_all_well(lake, original)
    assert len(lake.names()) == 1


@pytest.mark.guards("conditional-delete-assumed", "drifted-retired")
@pytest.mark.server
@pytest.mark.parametrize("ignored", ["delete_if_match", "bulk_delete"])
def test_an_input_that_is_replaced_before_it_is_deleted_is_kept(
    lake: EventLake, seaweed: S3Server, ignored: Condition
) -> None:
    files = list(generate_event_files(spec(files=FILES)))
    lake.put(PARTITION, files)
    [changed] = generate_event_files(spec(files=1, rows=50, seed=77))

    async def meddle() -> None:
        await lake.store.put(PARTITION.key(files[1].name), changed.data)

    with IgnoringProxy(seaweed, ignored) as proxy:
        store = MeddlingStore(through(lake, proxy), "delete_all_unchanged", meddle)
        done = asyncio.run(sweep(lake.place(store=cast("Store", store)), Scope(), HourRecorder()))
    assert store.meddled
    assert done.outcomes[0].replacements[0].kept == (files[1].name,)
    assert lake.rows() == rows_of([*(file.data for file in files), changed.data])
    assert lake.slot() == Slot()
