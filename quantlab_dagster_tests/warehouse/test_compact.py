"""A cold hour is merged in place, on every kind of store: what is merged, what is left alone, what is reported."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.warehouse import AppHour, Scope
from quantlab_dagster.synthetic.warehouse import EventFile, corrupt_event_file, generate_event_files
from quantlab_dagster.warehouse import compact as compact_module
from quantlab_dagster.warehouse import pack as pack_module
from quantlab_dagster.warehouse import slot as slot_module
from quantlab_dagster.warehouse.checks import (
    EVERY_FILE_EXPLAINED,
    EVERY_FILE_READABLE,
    FEW_SMALL_FILES,
    NO_CORRUPT_FILES,
    NO_UNFINISHED_PLANS,
)
from quantlab_dagster.warehouse.compact import INPUTS_METADATA
from quantlab_dagster.warehouse.look import look_over
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster.warehouse.place import Requested, last_cold_hour
from quantlab_dagster.warehouse.slot import SILENT_AFTER, Corrupt, Input, ReplacementPlan, Slot
from quantlab_dagster.warehouse.sweep import discard_strays, recover, sweep
from quantlab_dagster_tests import in_child
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.kernel.building import part_from
from quantlab_dagster_tests.kernel.lying import with_negative_page
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

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.warehouse.pack import Bin
    from quantlab_dagster.warehouse.sweep import Sweep


@pytest.fixture
def lake(rig: Rig) -> EventLake:
    return EventLake.of(rig)


def passed(done: Sweep) -> dict[str, bool]:
    return {finding.name: finding.passed for finding in done.findings}


ALL_WELL = dict.fromkeys(
    (NO_CORRUPT_FILES, NO_UNFINISHED_PLANS, FEW_SMALL_FILES, EVERY_FILE_EXPLAINED, EVERY_FILE_READABLE), True
)


def parquet(**columns: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


# ---- what is merged --------------------------------------------------------------------------------------------------


def test_small_files_become_one_sorted_file(lake: EventLake) -> None:
    original = lake.put_spec(spec(files=12, rows=600))
    before = {info.name: info.etag for info in lake.objects()}
    done = lake.sweep()

    [outcome] = done.outcomes
    [replacement] = outcome.replacements
    assert (outcome.status, outcome.reason, outcome.corrupt) == (HourStatus.COMPACTED, "", ())
    assert (replacement.inputs, replacement.rows, replacement.recovered) == (12, 600, False)
    assert replacement.bytes_in == sum(map(len, original))
    assert passed(done) == ALL_WELL
    [file] = lake.objects()
    assert file.key == PARTITION.key(replacement.output)
    assert file.name.startswith("compacted_")
    assert file.size_bytes == replacement.bytes_out
    assert lake.rows() == rows_of(original)
    assert lake.slot() == Slot()
    assert lake.staged() == []

    content = asyncio.run(lake.store.get(file.key))[0]
    with pq.ParquetFile(pa.BufferReader(content)) as written:
        assert json.loads(written.metadata.metadata[INPUTS_METADATA.encode()]) == before
        times = written.read()["timestamp_ms"].to_pylist()
        declared = written.metadata.row_group(0).sorting_columns
        assert [written.schema.column(column.column_index).name for column in declared] == ["timestamp_ms"]
    assert times == sorted(times, key=lambda value: (value is not None, value or 0))


@pytest.mark.guards("consolidated-twice")
def test_a_second_run_does_nothing(lake: EventLake) -> None:
    lake.put_spec(spec())
    lake.sweep()
    before = asyncio.run(lake.store.list_objects(""))
    again = lake.sweep(now=SOON + LATER)
    assert again.outcomes == ()
    assert again.looked_at == 1
    assert set(again.requests) - {kind for kind, number in again.requests.items() if not number} == {"LIST", "GET"}
    assert again.requests["GET"] == 1, "the record of looks"
    assert asyncio.run(lake.store.list_objects("")) == before


def test_the_same_inputs_make_the_same_file(lake: EventLake, rig: Rig) -> None:
    files = list(generate_event_files(spec()))
    other = EventLake.of(rig)
    for one in (lake, other):
        one.put(PARTITION, files)
        one.sweep()
    (mine,), (theirs,) = lake.objects(), other.objects()
    if lake.rig.server:  # locally the name depends on ETags, which are made of inodes and times
        assert mine.name == theirs.name
        # The names of the inputs and their ETags are in the file, so it is the same to the last byte.
        assert asyncio.run(lake.store.get(mine.key))[0] == asyncio.run(other.store.get(theirs.key))[0]


def test_the_current_hour_is_never_touched(lake: EventLake) -> None:
    lake.put_spec(spec())
    for minute in (0, 30, 59):
        assert lake.sweep(now=HOUR + dt.timedelta(minutes=minute)).looked_at == 0
    assert len(lake.names()) == 4
    assert lake.sweep(now=HOUR + LATER).outcomes[0].status is HourStatus.COMPACTED


def test_the_last_cold_hour() -> None:
    none, grace = dt.timedelta(0), dt.timedelta(minutes=10)
    assert last_cold_hour(HOUR + LATER + grace, grace) == HOUR
    assert last_cold_hour(HOUR + LATER + grace - dt.timedelta(microseconds=1), grace) == HOUR - LATER
    assert last_cold_hour(HOUR + LATER, none) == HOUR
    assert last_cold_hour(HOUR + LATER - dt.timedelta(microseconds=1), none) == HOUR - LATER
    tonga = dt.timezone(dt.timedelta(hours=13))
    assert last_cold_hour((HOUR + LATER).astimezone(tonga), none) == HOUR


def test_every_cold_hour_and_every_app(lake: EventLake) -> None:
    specs = [
        spec(app=app, hour=HOUR - days * dt.timedelta(days=1) - hours * LATER, seed=hours)
        for app in ("demo", "other.app")
        for days in (0, 40, 400)
        for hours in (0, 1)
    ]
    original = [content for one in specs for content in lake.put_spec(one)]
    done = lake.sweep()
    assert {outcome.partition for outcome in done.outcomes} == {AppHour(one.app_id, one.hour) for one in specs}
    assert all(outcome.status is HourStatus.COMPACTED for outcome in done.outcomes)
    assert len(lake.objects()) == len(specs)
    assert lake.rows() == rows_of(original)


def test_only_what_is_asked_for(lake: EventLake) -> None:
    for app in ("demo", "other"):
        for hours in (0, 1, 2):
            lake.put_spec(spec(app=app, hour=HOUR - hours * LATER))
    done = lake.sweep(Scope(("other",), HOUR - LATER, HOUR - LATER), now=SOON + LATER)
    assert [outcome.partition for outcome in done.outcomes] == [AppHour("other", HOUR - LATER)]
    assert passed(done) == {**ALL_WELL, FEW_SMALL_FILES: False}, "what others need is not hidden"
    assert len(lake.objects()) == 5 * 4 + 1


def test_an_hour_is_left_alone_in_its_grace(lake: EventLake) -> None:
    lake.put_spec(spec())
    assert lake.sweep(grace=dt.timedelta(minutes=6)).looked_at == 0
    assert lake.sweep(grace=dt.timedelta(minutes=5)).looked_at == 1


def test_large_files_stay_and_sizes_come_out_as_wanted(lake: EventLake) -> None:
    original = lake.put_spec(spec(files=20, rows=8_000))
    target = 60_000
    assert sum(len(content) for content in original) > 8 * target
    large = lake.put(PARTITION, [EventFile("events_large.parquet", next(iter(lake_file(rows=3_000))))])
    assert len(large[0]) > target
    done = lake.sweep(target_size=target)
    sizes = {info.name: info.size_bytes for info in lake.objects()}
    assert sizes.pop("events_large.parquet") == len(large[0])
    assert all(target <= size <= 2 * target for size in sizes.values()), sizes
    assert lake.rows() == rows_of([*original, *large])
    assert len(done.outcomes[0].replacements) == len(sizes)
    assert lake.sweep(target_size=target).outcomes == ()


def lake_file(rows: int) -> list[bytes]:
    return [file.data for file in generate_event_files(spec(files=1, rows=rows, seed=9))]


def test_a_run_may_be_bounded_and_the_next_one_goes_on(lake: EventLake) -> None:
    original = [content for hours in range(5) for content in lake.put_spec(spec(hour=HOUR - hours * LATER))]
    done = asyncio.run(sweep(lake.place(), Scope(), HourRecorder(), most=3))
    assert [outcome.partition.hour for outcome in done.outcomes] == [HOUR - hours * LATER for hours in (2, 1, 0)]
    assert done.left == 2
    assert lake.sweep().left == 0
    assert len(lake.objects()) == 5
    assert lake.rows() == rows_of(original)


def test_too_few_files_are_left_alone(lake: EventLake) -> None:
    lake.put_spec(spec(files=3))
    assert lake.sweep(min_files=4).outcomes == ()
    assert len(lake.names()) == 3
    assert lake.sweep(min_files=3).outcomes[0].status is HourStatus.COMPACTED


def test_late_files_are_merged_into_a_small_output_but_not_into_a_settled_one(lake: EventLake) -> None:
    original = lake.put_spec(spec(files=4, rows=2_000))
    lake.sweep()
    [first] = lake.objects()
    original += lake.put_spec(spec(files=1, rows=1_000, seed=1))
    # 80 % of the target: not worth writing anew for one late file; and a single file is not merged with nothing.
    assert lake.sweep(target_size=int(first.size_bytes / 0.8)).outcomes == ()
    assert lake.sweep().outcomes[0].replacements[0].inputs == 2
    [second] = lake.objects()
    assert second.name != first.name
    assert lake.rows() == rows_of(original)


def test_files_without_rows_and_columns_of_nulls(lake: EventLake) -> None:
    empty = parquet(timestamp_ms=pa.array([], pa.int64()), id=pa.array([], pa.string()))
    nulls = parquet(timestamp_ms=pa.array([2, None], pa.int64()), id=pa.nulls(2))
    text = parquet(timestamp_ms=pa.array([1], pa.int64()), id=["one"])
    lake.put(PARTITION, [EventFile("events_a.parquet", empty), EventFile("events_b.parquet", empty)])
    assert lake.sweep().outcomes[0].replacements[0].rows == 0
    lake.put(PARTITION, [EventFile("events_c.parquet", nulls)])
    assert lake.sweep().outcomes[0].replacements[0].rows == 2
    lake.put(PARTITION, [EventFile("events_d.parquet", text)])
    assert lake.sweep().outcomes[0].status is HourStatus.COMPACTED
    assert lake.rows() == rows_of([nulls, text])
    assert len(lake.names()) == 1


@pytest.mark.guards("drifted-retired")
def test_files_that_are_no_events_stay(lake: EventLake) -> None:
    lake.put_spec(spec())
    strange = ["_SUCCESS", ".events_x.parquet", "_events_y.parquet", "notes.txt", "deeper/events_z.parquet"]
    lake.put(PARTITION, [EventFile(name, b"whatever") for name in strange])
    lake.sweep()
    left = {info.key.removeprefix(PARTITION.prefix) for info in lake.objects()}
    assert len(left) == len(strange) + 1
    assert set(strange) <= left


# ---- what cannot be merged -------------------------------------------------------------------------------------------


@pytest.mark.guards("corrupt-then-deleted")
def test_a_corrupt_file_stays_and_is_reported_and_the_others_are_merged(lake: EventLake) -> None:
    original = lake.put_spec(spec())
    bad = corrupt_event_file(spec())
    lake.put(PARTITION, [bad])
    done = lake.sweep()
    [outcome] = done.outcomes
    assert outcome.status is HourStatus.COMPACTED
    [corrupt] = outcome.corrupt
    assert corrupt.name == bad.name
    assert corrupt.reason
    assert not passed(done)[NO_CORRUPT_FILES]
    assert sorted(lake.names()) == sorted([outcome.replacements[0].output, bad.name])
    assert asyncio.run(lake.store.get(PARTITION.key(bad.name)))[0] == bad.data

    again = lake.sweep()
    assert again.outcomes == (), "a file known to be corrupt is not read again and again"
    assert again.requests["GET"] == 1 + 3, "only the record of looks, and its slot: in both looks, and for the findings"
    assert not passed(again)[NO_CORRUPT_FILES]

    good = EventFile(bad.name, original[0])
    lake.put(PARTITION, [good])
    healed = lake.sweep()
    assert healed.outcomes[0].replacements[0].inputs == 2
    assert passed(healed) == ALL_WELL
    assert lake.rows() == rows_of([*original, good.data])
    assert lake.slot() == Slot()


def test_a_file_of_which_a_decoder_dies_is_set_aside_and_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them: each is found; the next run starts no process."""
    lake = EventLake.of(Rig("local", None, tmp_path))
    files = list(generate_event_files(spec(files=6)))
    for at in (1, 4):
        bad = with_negative_page(part_from(files[at].name, files[at].data), 1).source
        assert isinstance(bad, bytes)
        files[at] = EventFile(files[at].name, bad)
    lake.put(PARTITION, files)
    [outcome] = lake.sweep().outcomes
    assert outcome.status is HourStatus.COMPACTED
    assert {item.name for item in outcome.corrupt} == {files[1].name, files[4].name}
    assert all("the decoder was ended by SIGABRT" in item.reason for item in outcome.corrupt)
    assert len(lake.names()) == 3
    in_child.happens(monkeypatch, in_child.cannot_start, "nothing to decode")
    assert lake.sweep().outcomes == ()


def test_a_corrupt_file_that_goes_is_forgotten(lake: EventLake) -> None:
    lake.put_spec(spec())
    bad = corrupt_event_file(spec())
    lake.put(PARTITION, [bad])
    lake.sweep()
    asyncio.run(lake.store.delete(PARTITION.key(bad.name)))
    done = lake.sweep()
    assert done.outcomes[0].status is HourStatus.UNTOUCHED
    assert passed(done) == ALL_WELL
    assert lake.sweep().outcomes == ()


@pytest.mark.guards("drifted-retired")
def test_files_that_do_not_unite_or_lack_the_time_stay(lake: EventLake) -> None:
    original = lake.put_spec(spec())
    strange = {
        "events_zz_number.parquet": parquet(timestamp_ms=[1], os_name=[7]),
        "events_zz_text.parquet": parquet(timestamp_ms=["1"]),
        "events_zz_without.parquet": parquet(id=["1"]),
    }
    lake.put(PARTITION, [EventFile(name, data) for name, data in strange.items()])
    [outcome] = lake.sweep().outcomes
    alone = "events_zz_number.parquet"
    assert {item.name for item in outcome.corrupt} == set(strange) - {alone}
    assert {item.name for item in outcome.waiting} == {alone}
    assert {name for name in lake.names() if not name.startswith("compacted_")} == set(strange)
    reasons = {item.name: item.reason for item in (*outcome.corrupt, *outcome.waiting)}
    assert "os_name" in reasons["events_zz_number.parquet"]
    assert "timestamp_ms" in reasons["events_zz_without.parquet"]
    merged = [info.key for info in lake.objects() if info.name.startswith("compacted_")]
    assert rows_of([asyncio.run(lake.store.get(key))[0] for key in merged]) == rows_of(original)


@pytest.mark.guards("one-odd-condemns")
def test_one_odd_file_does_not_condemn_the_many(lake: EventLake) -> None:
    odd = EventFile("events_00.parquet", parquet(timestamp_ms=[1], v=[7]))
    many = [EventFile(f"events_{n:02d}.parquet", parquet(timestamp_ms=[n], v=[f"x{n}"])) for n in range(1, 31)]
    lake.put(PARTITION, [odd, *many])
    [outcome] = lake.sweep().outcomes
    assert outcome.status is HourStatus.COMPACTED
    assert ([item.name for item in outcome.waiting], outcome.corrupt) == ([odd.name], ())
    assert outcome.replacements[0].inputs == 30
    assert lake.rows() == rows_of([odd.data, *(file.data for file in many)])


def test_what_is_known_to_be_corrupt_can_be_tried_again(lake: EventLake) -> None:
    original = lake.put_spec(spec())
    names = lake.names()
    etags = {info.name: info.etag for info in lake.objects()}
    wrong = tuple(Corrupt(name=name, etag=etags[name], reason="an older version said so") for name in names)
    write_slot(lake, Slot(corrupt=wrong).dump())
    assert lake.sweep().outcomes == ()
    asyncio.run(recover(lake.place(), Scope(), HourRecorder(), Requested(retry_corrupt=True)))
    assert lake.slot() == Slot()
    assert lake.sweep().outcomes[0].status is HourStatus.COMPACTED
    assert lake.rows() == rows_of(original)


@pytest.mark.guards("corrupt-then-deleted")
def test_a_corrupt_file_is_found_in_whatever_bin_it_is(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first output is smaller than wanted, so other files join it: among them the bad one, of another bin."""
    files = sorted(generate_event_files(spec(files=12, rows=6_000)), key=lambda file: file.name)
    lake.put(PARTITION, files)
    bad = corrupt_event_file(spec(files=12, rows=6_000))
    lake.put(PARTITION, [bad])
    target = int(sum(len(file.data) for file in files) * 0.4)
    packed = pack_module.pack

    def bad_one_last(*arguments: Any) -> list[Bin]:
        return sorted(packed(*arguments), key=lambda found: bad.name in {file.name for file in found})

    monkeypatch.setattr(compact_module, "pack", bad_one_last)
    [outcome] = lake.sweep(target_size=target).outcomes
    assert outcome.status is HourStatus.COMPACTED, outcome.reason
    assert [item.name for item in outcome.corrupt] == [bad.name]
    assert not [name for name in lake.names() if name.startswith("events_") and name != bad.name]


@pytest.mark.guards("drifted-retired")
def test_what_arrives_while_a_run_is_at_work_waits_for_the_next_one(lake: EventLake) -> None:
    """Else a replay of old events, a file each time the hour is listed, would keep the run there."""
    original = lake.put_spec(spec())
    store = lake.store
    listing = store.list_objects

    async def listing_and_more(prefix: str) -> list[ObjectInfo]:
        if prefix == PARTITION.prefix:
            [late] = generate_event_files(spec(files=1, rows=5, seed=100 + len(original)))
            original.append(late.data)
            await store.put(PARTITION.key(late.name), late.data)
        return await listing(prefix)

    store.list_objects = listing_and_more  # type: ignore[method-assign]
    [outcome] = lake.sweep(store=store).outcomes
    assert len(outcome.replacements) == 1
    assert lake.rows() == rows_of(original)


def test_a_directory_that_cannot_be_an_app_hour_is_left_alone(lake: EventLake) -> None:
    files = list(generate_event_files(spec()))
    asyncio.run(lake.store.put("app_id=demo/year=2026/month=001/day=15/hour=10/events_a.parquet", files[0].data))
    asyncio.run(lake.store.put("app_id=demo/year=2026/month=01/day=15/events_b.parquet", files[1].data))
    assert lake.sweep().looked_at == 0


# ---- slots -----------------------------------------------------------------------------------------------------------


def write_slot(lake: EventLake, content: bytes) -> None:
    asyncio.run(lake.store.put(PARTITION.slot_key, content))


@pytest.mark.guards("unreadable-record-stops-all")
def test_a_slot_that_cannot_be_read_stops_only_its_partition_and_stays(lake: EventLake) -> None:
    lake.put_spec(spec())
    lake.put_spec(spec(hour=HOUR - LATER))
    write_slot(lake, b'{"state": "planned"}')
    done = lake.sweep()
    by_hour = {outcome.partition.hour: outcome for outcome in done.outcomes}
    assert (by_hour[HOUR].status, by_hour[HOUR].error) == (HourStatus.FAILED, MalformedObject.__name__)
    assert PARTITION.slot_key in by_hour[HOUR].reason
    assert by_hour[HOUR - LATER].status is HourStatus.COMPACTED
    assert not passed(done)[NO_UNFINISHED_PLANS]
    assert asyncio.run(lake.store.get(PARTITION.slot_key))[0] == b'{"state": "planned"}'
    assert len(lake.names()) == 4


@pytest.mark.guards("claim-for-ever")
def test_another_ones_claim_is_respected_until_it_is_silent(lake: EventLake) -> None:
    original = lake.put_spec(spec())
    write_slot(lake, Slot(state="claimed", holder="somebody", since=SOON).dump())
    [outcome] = lake.sweep(now=SOON + SILENT_AFTER).outcomes
    assert outcome.status is HourStatus.BUSY
    assert "somebody" in outcome.reason
    assert len(lake.names()) == 4
    late = SOON + SILENT_AFTER + dt.timedelta(seconds=1)
    [outcome] = lake.sweep(now=late).outcomes
    assert outcome.status is HourStatus.COMPACTED
    assert lake.rows() == rows_of(original)


@pytest.mark.guards("claim-for-ever")
@pytest.mark.parametrize("since", [SOON - LATER, SOON + LATER])
def test_a_claim_of_another_time_holds_its_hour_not_for_long(lake: EventLake, since: dt.datetime) -> None:
    """One from the future was written by a machine whose clock is wrong."""
    lake.put_spec(spec())
    write_slot(lake, Slot(state="claimed", holder="somebody", since=since).dump())
    assert lake.sweep().outcomes[0].status is HourStatus.COMPACTED


def test_an_upload_of_a_silent_holder_is_not_taken_from_it(lake: EventLake) -> None:
    """It may wake and write its plan: only when the slot is idle again nobody can."""
    file = lake.scratch / "file"
    file.write_bytes(b"content")
    asyncio.run(lake.store.stage(PARTITION.key("compacted_x.parquet"), file))
    write_slot(lake, Slot(state="claimed", holder="somebody", since=SOON).dump())
    place = lake.place(now=SOON + 5 * LATER)
    assert asyncio.run(discard_strays(place, Scope())) == 0
    write_slot(lake, Slot().dump())
    assert asyncio.run(discard_strays(place, Scope())) == 1
    assert lake.staged() == []


def test_uploads_of_the_dead_are_discarded_and_those_of_the_living_are_not(lake: EventLake) -> None:
    lake.put_spec(spec())
    file = lake.scratch / "file"
    file.write_bytes(b"content")
    ours, foreign = PARTITION.key("compacted_x.parquet"), PARTITION.key("events_of_the_sink.parquet")
    asyncio.run(lake.store.stage(ours, file))
    asyncio.run(lake.store.stage(foreign, file))
    write_slot(lake, Slot(state="claimed", holder="somebody", since=SOON).dump())
    asyncio.run(recover(lake.place(now=SOON), Scope(), HourRecorder()))
    assert sorted(lake.staged()) == [ours, foreign]
    asyncio.run(recover(lake.place(now=SOON + LATER), Scope(), HourRecorder()))
    assert lake.staged() == [foreign]
    assert lake.slot() == Slot()


def stuck_plan(lake: EventLake) -> ReplacementPlan:
    """A plan whose output somebody removed after inputs had gone."""
    return ReplacementPlan(
        inputs=(Input(name="events_gone.parquet", etag="x", size_bytes=1),),
        output="compacted_gone.parquet",
        upload_id=lake_upload(lake),
        upload_etags=(),
        size_bytes=1,
        rows=1,
        sha256="0" * 64,
    )


def lake_upload(lake: EventLake) -> str:
    """The id of an upload that is no more."""
    file = lake.scratch / "file"
    file.write_bytes(b"content")
    staged = asyncio.run(lake.store.stage(PARTITION.key("compacted_gone.parquet"), file))
    asyncio.run(lake.store.discard(staged))
    return staged.upload_id


def test_a_plan_whose_output_and_inputs_are_gone_stops_until_an_operator_looked(lake: EventLake) -> None:
    original = lake.put_spec(spec())
    write_slot(lake, Slot(state="planned", holder="x", since=SOON, plan=stuck_plan(lake)).dump())
    [outcome] = lake.sweep().outcomes
    assert (outcome.status, outcome.error) == (HourStatus.FAILED, "PlanStuck")
    assert "events_gone.parquet" in outcome.reason
    assert lake.slot().state == "planned"
    done = asyncio.run(recover(lake.place(), Scope(), HourRecorder(), Requested(give_up=True)))
    assert done.outcomes[0].status is HourStatus.UNTOUCHED
    assert lake.slot() == Slot()
    assert lake.sweep().outcomes[0].status is HourStatus.COMPACTED
    assert lake.rows() == rows_of(original)


def test_looking_shows_what_would_be_done(lake: EventLake) -> None:
    lake.put_spec(spec())
    lake.put_spec(spec(files=1, hour=HOUR - LATER))
    found = asyncio.run(look_over(lake.place(), Scope()))
    [look] = found.looks
    assert (look.partition, look.needs_work) == (PARTITION, True)
    assert look.merges == (4,)
    assert (found.totals.hours, found.totals.apps, found.totals.files, found.totals.small) == (2, {"demo"}, 5, 5)
    assert len(lake.objects()) == 5, "nothing was done"


def test_only_an_idle_slot_without_corrupt_files_is_as_short_as_that() -> None:
    idle = Slot()
    others = [
        Slot(corrupt=(Corrupt(name="", etag="", reason=""),)),
        Slot(state="claimed", holder="", since=HOUR),
        replace_since(),
    ]
    assert all(len(other.dump()) > len(idle.dump()) for other in others)


def replace_since() -> Slot:
    plan = ReplacementPlan(inputs=(), output="", upload_id="", upload_etags=(), size_bytes=0, rows=0, sha256="")
    return Slot(state="planned", plan=plan)


def test_a_claim_is_renewed_while_the_work_goes_on(lake: EventLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_module, "_RENEW_SECONDS", 0.05)
    original = lake.put_spec(spec())
    seen: set[dt.datetime | None] = set()
    ticks = iter(range(10_000))

    async def work() -> None:
        store = lake.store
        stage = store.stage

        async def slow(*arguments: Any, **options: Any) -> object:
            for _ in range(20):
                await asyncio.sleep(0.05)
                slot, _ = await slot_module.read_slot(store, PARTITION)
                seen.add(slot.since)
            return await stage(*arguments, **options)

        store.stage = slow  # type: ignore[method-assign,assignment]
        place = replace(lake.place(store=store), clock=lambda: SOON + dt.timedelta(seconds=next(ticks)))
        done = await sweep(place, Scope(), HourRecorder())
        assert done.outcomes[0].status is HourStatus.COMPACTED

    asyncio.run(work())
    assert len(seen) > 2
    assert lake.rows() == rows_of(original)
    assert lake.slot() == Slot()
