"""Compacting a pair's day, on every kind of store: what is published, skipped, kept, quarantined, refused."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from quantlab_dagster.defs.market.metadata import describe
from quantlab_dagster.errors import DayRefused, StoreUnavailable
from quantlab_dagster.kernel.terms import Order
from quantlab_dagster.lake.store.base import Store
from quantlab_dagster.market import compact
from quantlab_dagster.market.late import look_at
from quantlab_dagster.market.outcome import PairOutcome, Status, Verdict, line
from quantlab_dagster.market.plan import Action
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.synthetic.market import FOREIGN_FILES, RawPart, corrupt_part, empty_part, generate_parts
from quantlab_dagster.work.decoder import Child
from quantlab_dagster.work.merging import Merging, Recipe
from quantlab_dagster.work.messages import Merge
from quantlab_dagster_tests import in_child
from quantlab_dagster_tests.lakes import (
    DAY,
    PAIR,
    Lakes,
    Recorder,
    damage_downloads,
    oracle,
    parquet_bytes,
    same_rows,
    spec,
    symbol_day,
)

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster_tests.conftest import Rig


@pytest.fixture
def lakes(rig: Rig) -> Lakes:
    return Lakes.of(rig)


@pytest.fixture
def local_lakes(tmp_path: Any) -> Lakes:
    from quantlab_dagster_tests.conftest import Rig  # noqa: PLC0415  # only a type above

    return Lakes.of(Rig("local", None, tmp_path))


@pytest.mark.guards("unsorted-called-sorted")
def test_a_day_is_published_whole_sorted_and_described(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec())
    odd = [empty_part(spec()), *(RawPart(name, b"not a part") for name in FOREIGN_FILES)]
    lakes.put_raw(symbol_day(), odd)
    outcome = lakes.run()
    [item] = outcome.outcomes
    assert (item.status, item.action, item.rows, item.parts) == (Status.SUCCESS, Action.BUILD, 600, 13)
    assert same_rows(lakes.published(symbol_day()), oracle(parts))

    data = lakes.get(symbol_day().key("data.parquet"))
    meta = json.loads(lakes.get(symbol_day().key("meta.json")))
    table = oracle(parts)
    assert meta["schema_version"] == 1
    assert meta["rows"] == 600
    assert meta["ts_event_min"] == table["ts_event"][0].as_py()
    assert meta["ts_event_max"] == table["ts_event"][-1].as_py()
    assert meta["ordering_columns"] == ["ts_event", "seq"]
    assert meta["stream_type"] == "bbo"
    assert meta["sha256"] == hashlib.sha256(data).hexdigest()
    assert meta["source_files"] == 13
    assert meta["day_quality"] == "UNKNOWN"
    assert meta["post_filter_version"] == "1.0.0"
    assert meta["revision"] == 1
    assert meta["data_size_bytes"] == len(data)
    assert meta["data_etag"] == lakes.compact_keys()[symbol_day().key("data.parquet")]
    assert meta["raw_bytes"] == sum(len(part.data) for part in [*parts, odd[0]])

    sources = json.loads(lakes.get(symbol_day().key("sources.json")))
    assert sources["raw_fingerprint"] == meta["raw_fingerprint"]
    assert [source["name"] for source in sources["objects"]] == sorted(part.name for part in [*parts, odd[0]])


def test_a_part_costs_one_get_and_a_day_few_requests(lakes: Lakes) -> None:
    lakes.put_spec(spec(parts=40, rows=400))
    requests = lakes.run().requests
    assert requests["raw GET"] == 40
    assert requests["raw LIST"] == 3  # the pair's symbols, the symbol-day's parts, the day's quality windows
    assert "raw HEAD" not in requests
    assert requests["compact PUT"] == 4


@pytest.mark.guards("consolidated-twice")
def test_a_second_run_reads_no_part_and_changes_no_byte(lakes: Lakes) -> None:
    lakes.put_spec(spec())
    lakes.run()
    before = lakes.compact_keys()
    again = lakes.run()
    assert again.outcomes[0].action is Action.UP_TO_DATE
    assert again.outcomes[0].rows == 600
    assert again.requests.get("raw GET", 0) == 0
    assert again.requests.get("compact PUT", 0) == 0
    assert lakes.compact_keys() == before


@pytest.mark.guards("bytes-vary")
def test_overwrite_builds_the_identical_file_again(lakes: Lakes) -> None:
    lakes.put_spec(spec())
    lakes.run()
    data, meta = (lakes.get(symbol_day().key(name)) for name in ("data.parquet", "meta.json"))
    again = lakes.run(overwrite=True, place=lakes.place(memory_budget=16 << 20))
    assert again.outcomes[0].action is Action.BUILD
    assert lakes.get(symbol_day().key("data.parquet")) == data
    after = json.loads(lakes.get(symbol_day().key("meta.json")))
    same = {name: value for name, value in json.loads(meta).items() if name != "data_etag"}
    assert {name: value for name, value in after.items() if name != "data_etag"} == same


def test_late_parts_make_a_new_revision(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec())
    lakes.run()
    late = [replace(part, name=f"part-1767999999-{i:06d}.parquet") for i, part in enumerate(parts[:2])]
    lakes.put_raw(symbol_day(), late)
    outcome = lakes.run()
    assert outcome.outcomes[0].action is Action.BUILD
    assert outcome.outcomes[0].revision == 2
    assert same_rows(lakes.published(symbol_day()), oracle([*parts, *late]))


@pytest.mark.guards("shrink-vanished")
def test_vanished_parts_never_shrink_a_published_day(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec())
    lakes.run()
    before = lakes.compact_keys()
    asyncio.run(lakes.raw.delete(symbol_day().key(parts[0].name)))
    for overwrite in (False, True):
        [item] = lakes.run(overwrite=overwrite).outcomes
        assert (item.status, item.action, item.rows) == (Status.SUCCESS, Action.KEEP, 600)
        assert parts[0].name in item.reason
    assert lakes.compact_keys() == before
    [item] = lakes.run(allow_shrink=True).outcomes
    assert item.action is Action.BUILD
    assert item.revision == 2
    assert same_rows(lakes.published(symbol_day()), oracle(parts[1:]))


@pytest.mark.guards("shrink-vanished")
def test_changed_parts_count_as_vanished(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec())
    lakes.run()
    before = lakes.compact_keys()
    lakes.put_raw(symbol_day(), [replace(parts[0], data=parts[1].data)])
    [item] = lakes.run(overwrite=True).outcomes
    assert item.action is Action.KEEP
    assert lakes.compact_keys() == before


@pytest.mark.guards("shrink-vanished")
def test_all_parts_vanished_keeps_the_day(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec())
    lakes.run()
    for part in parts:
        asyncio.run(lakes.raw.delete(symbol_day().key(part.name)))
    [item] = lakes.run(symbols=["adausdt"], overwrite=True).outcomes
    assert (item.action, item.rows) == (Action.KEEP, 600)


@pytest.mark.guards("damage-unnamed")
def test_a_bad_symbol_day_is_quarantined_while_the_others_go_on(lakes: Lakes) -> None:
    good = lakes.put_spec(spec("btcusdt"))
    lakes.put_spec(spec("xrpusdt"))
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    outcome = lakes.run()
    by_symbol = {item.symbol_day.symbol: item for item in outcome.outcomes}
    assert by_symbol["btcusdt"].status is Status.SUCCESS
    assert by_symbol["xrpusdt"].status is Status.QUARANTINE
    assert corrupt_part(spec()).name in by_symbol["xrpusdt"].reason
    assert same_rows(lakes.published(symbol_day("btcusdt")), oracle(good))
    keys = [key for key in lakes.compact_keys() if "xrpusdt" in key]
    assert keys == [symbol_day("xrpusdt").key("quarantine.json")]
    quarantine = json.loads(lakes.get(keys[0]))
    assert quarantine["part"] == corrupt_part(spec()).name
    assert quarantine["raw_fingerprint"]

    # Not tried again while nothing changed; tried when asked to; published once the part is mended.
    recorder = Recorder()
    again = lakes.run(listener=recorder)
    assert [item.status for item in again.outcomes] == [Status.SUCCESS, Status.QUARANTINE]
    assert recorder.built == []
    assert corrupt_part(spec()).name in again.outcomes[1].reason
    lakes.run(listener=recorder, symbols=["xrpusdt"], overwrite=True)
    assert [plan.symbol_day.symbol for plan in recorder.built] == ["xrpusdt"]
    asyncio.run(lakes.raw.delete(symbol_day("xrpusdt").key(corrupt_part(spec()).name)))
    mended = lakes.run(symbols=["xrpusdt"])
    assert mended.outcomes[0].status is Status.SUCCESS
    assert not [key for key in lakes.compact_keys() if key.endswith("quarantine.json")]


@pytest.mark.guards("quarantine-over-published")
def test_a_published_day_is_not_replaced_by_a_quarantine(lakes: Lakes) -> None:
    lakes.put_spec(spec())
    lakes.run()
    published = lakes.compact_keys()
    lakes.put_raw(symbol_day(), [corrupt_part(spec())])
    [item] = lakes.run().outcomes
    assert item.status is Status.QUARANTINE
    after = lakes.compact_keys()
    assert {key: etag for key, etag in after.items() if not key.endswith("quarantine.json")} == published


def test_a_quarantine_is_lifted_when_its_part_is_gone_and_nothing_is_to_be_built(lakes: Lakes) -> None:
    lakes.put_spec(spec())
    lakes.put_raw(symbol_day("xrpusdt"), [corrupt_part(spec("xrpusdt"))])
    lakes.run()
    published = lakes.compact_keys()
    lakes.put_raw(symbol_day(), [corrupt_part(spec())])
    assert [item.status for item in lakes.run().outcomes] == [Status.QUARANTINE, Status.QUARANTINE]
    for day in (symbol_day(), symbol_day("xrpusdt")):
        asyncio.run(lakes.raw.delete(day.key(corrupt_part(spec(day.symbol)).name)))

    async def look() -> list[tuple[Action, Status | None]]:
        place = lakes.place()
        looks = [await look_at(place, day) for day in (symbol_day(), symbol_day("xrpusdt"))]
        assert all(look.stale is not None for look in looks), "a run is due"
        return [(look.action, look.outcome.status if look.outcome else None) for look in looks]

    assert asyncio.run(look()) == [(Action.LIFT, Status.QUARANTINE)] * 2
    outcome = lakes.run()
    ended = [(item.symbol_day.symbol, item.action, item.status, item.rows) for item in outcome.outcomes]
    expected = [("adausdt", Action.UP_TO_DATE, Status.SUCCESS, 600), ("xrpusdt", Action.LIFT, Status.NO_FILES, 0)]
    # On a store without directories nobody knows of a symbol without objects: it is to be named.
    assert ended == expected or (lakes.rig.name != "local" and ended == expected[:1])
    [named] = lakes.run(symbols=["xrpusdt"]).outcomes
    assert named.status is Status.NO_FILES
    assert lakes.compact_keys() == {key: etag for key, etag in published.items() if "xrpusdt" not in key}


@pytest.mark.guards("half-published")
def test_data_without_its_meta_is_rebuilt(lakes: Lakes) -> None:
    """The writer died between data and meta, at a first publication and at a second one."""
    parts = lakes.put_spec(spec())
    asyncio.run(lakes.compact.put(symbol_day().key("data.parquet"), b"half of something"))
    [item] = lakes.run().outcomes
    assert (item.action, item.reason) == (Action.BUILD, "not committed")
    assert same_rows(lakes.published(symbol_day()), oracle(parts))
    asyncio.run(lakes.compact.put(symbol_day().key("data.parquet"), b"other rows, meta not yet written"))
    [item] = lakes.run().outcomes
    assert item.action is Action.BUILD
    assert same_rows(lakes.published(symbol_day()), oracle(parts))
    assert lakes.run().outcomes[0].action is Action.UP_TO_DATE


@pytest.mark.guards("half-published")
def test_data_without_its_meta_and_vanished_parts_is_an_error(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec())
    lakes.run()
    asyncio.run(lakes.compact.put(symbol_day().key("data.parquet"), b"other rows"))
    asyncio.run(lakes.raw.delete(symbol_day().key(parts[0].name)))
    [item] = lakes.run().outcomes
    assert (item.status, item.action) == (Status.FAILED, Action.BROKEN)
    assert "--allow-shrink" in item.reason


def test_a_copied_bucket_is_recognised_by_content(lakes: Lakes) -> None:
    """Other ETags, same bytes: nothing is rebuilt."""
    lakes.put_spec(spec())
    lakes.run()
    key = symbol_day().key("meta.json")
    meta = json.loads(lakes.get(key)) | {"data_etag": "of-the-other-bucket"}
    asyncio.run(lakes.compact.put(key, json.dumps(meta).encode()))
    assert lakes.run().outcomes[0].action is Action.UP_TO_DATE


def test_parts_that_are_all_empty_give_an_empty_file(lakes: Lakes) -> None:
    lakes.put_raw(symbol_day(), [empty_part(spec())])
    [item] = lakes.run().outcomes
    assert (item.status, item.rows, item.ts_event_min) == (Status.SUCCESS, 0, None)
    table = lakes.published(symbol_day())
    assert table.num_rows == 0
    assert table.column_names[:2] == ["ts_event", "seq"]
    assert json.loads(lakes.get(symbol_day().key("meta.json")))["ts_event_min"] is None


def test_a_pair_without_raw_data_publishes_nothing(lakes: Lakes) -> None:
    assert lakes.run().outcomes == ()
    lakes.put_spec(spec(day=DAY - dt.timedelta(days=1)))
    assert lakes.run().outcomes == ()
    assert lakes.compact_keys() == {}


def test_similar_symbols_do_not_mix(lakes: Lakes) -> None:
    btc = lakes.put_spec(spec("btc", seed=1))
    lakes.put_spec(spec("btcusdt", seed=2))
    hostile = "b+c %2F é=x"
    lakes.put_spec(spec(hostile, seed=3))
    outcome = lakes.run()
    assert [item.status for item in outcome.outcomes] == [Status.SUCCESS] * 3
    assert same_rows(lakes.published(symbol_day("btc")), oracle(btc))
    assert lakes.published(symbol_day(hostile)).num_rows == 600


def test_a_local_part_that_is_written_into_while_it_is_read_is_read_again(
    local_lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a local lake are linked into scratch, not copied: what is written there reaches the merge."""
    [first, *others] = local_lakes.put_spec(spec(rows=60_000))
    day, call, merges = symbol_day(), Child.call, []
    larger = next(iter(generate_parts(spec(rows=66_000, seed=2))))

    async def spoil(child: Child, request: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(request, Merge):
            merges.append(request)
            if len(merges) == 1:
                with (Path(local_lakes.raw_url) / day.key(first.name)).open("r+b") as file:
                    file.write(larger.data)
                    file.truncate()
        return await call(child, request, *arguments, **options)

    monkeypatch.setattr(Child, "call", spoil)
    [item] = local_lakes.run(place=local_lakes.place(memory_budget=1 << 20)).outcomes
    assert (item.status, item.action, len(merges)) == (Status.SUCCESS, Action.BUILD, 2), item.reason
    assert same_rows(local_lakes.published(day), oracle([replace(larger, name=first.name), *others]))


@pytest.mark.guards("memory-grows")
def test_beyond_the_memory_budget_parts_are_spooled(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec(parts=8, rows=20_000))
    place = lakes.place(memory_budget=1 << 20)  # a quarter of it is less than the day
    assert sum(len(part.data) for part in parts) > place.limits.download_budget
    lakes.run(place=place)
    assert same_rows(lakes.published(symbol_day()), oracle(parts))
    assert [path for path in lakes.scratch.rglob("*") if path.is_file()] == []


def test_today_and_yesterday_before_half_past_two_are_refused(local_lakes: Lakes) -> None:
    lakes = local_lakes
    lakes.put_spec(spec())
    for now in (dt.datetime(2026, 1, 8, 23, tzinfo=dt.UTC), dt.datetime(2026, 1, 9, 2, 29, 59, tzinfo=dt.UTC)):
        with pytest.raises(DayRefused, match=r"2026-01-08.*from 2026-01-09 02:30 UTC"):
            lakes.run(place=lakes.place(now=now))
    assert lakes.compact_keys() == {}
    lakes.run(place=lakes.place(now=dt.datetime(2026, 1, 9, 2, 30, tzinfo=dt.UTC)))
    assert lakes.compact_keys()


@pytest.mark.guards("part-lost")
def test_a_part_that_cannot_be_fetched_fails_its_symbol_day_only(
    local_lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes = local_lakes
    lakes.put_spec(spec("btcusdt"))
    parts = lakes.put_spec(spec("xrpusdt"))
    kind = type(lakes.raw)
    get = kind.get

    async def failing(self: Store, key: str) -> tuple[bytes, ObjectInfo]:
        if key == symbol_day("xrpusdt").key(parts[3].name):
            raise StoreUnavailable(key, "no usable answer after retries", "Run again later")
        return await get(self, key)

    monkeypatch.setattr(kind, "get", failing)
    monkeypatch.setattr(kind, "get_together", Store.get_together)
    by_symbol = {item.symbol_day.symbol: item for item in lakes.run().outcomes}
    assert by_symbol["btcusdt"].status is Status.SUCCESS
    assert by_symbol["xrpusdt"].status is Status.FAILED
    assert by_symbol["xrpusdt"].error == "StoreUnavailable"
    assert not [key for key in lakes.compact_keys() if "xrpusdt" in key]


@pytest.mark.guards("part-lost")
@pytest.mark.parametrize("times", [1, 99])
def test_a_part_replaced_during_the_run_is_planned_anew(
    local_lakes: Lakes, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    lakes = local_lakes
    parts = lakes.put_spec(spec())
    kind = type(lakes.raw)
    get = kind.get
    replaced = 0

    async def replacing(self: Store, key: str) -> tuple[bytes, ObjectInfo]:
        nonlocal replaced
        if key == symbol_day().key(parts[5].name) and replaced < times:
            replaced += 1
            await self.put(key, parts[6 + replaced % 2].data)
        return await get(self, key)

    monkeypatch.setattr(kind, "get", replacing)
    monkeypatch.setattr(kind, "get_together", Store.get_together)
    [item] = lakes.run().outcomes
    if times == 1:
        assert item.status is Status.SUCCESS
        now = [*parts[:5], replace(parts[5], data=parts[7].data), *parts[6:]]
        assert same_rows(lakes.published(symbol_day()), oracle(now))
    else:
        assert (item.status, item.error) == (Status.FAILED, "ObjectChanged")


def test_small_symbol_days_are_merged_side_by_side_and_a_large_one_alone(
    local_lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever runs beside them, their files are the same."""
    lakes = local_lakes
    symbols = ["a", "b", "c", "d"]
    size_bytes = max(sum(len(part.data) for part in lakes.put_spec(spec(symbol))) for symbol in symbols)
    build, wanted, files = Merging.build, list[int | None](), list[dict[str, str]]()

    async def spy(self: Merging, store: Store, listed: Any, recipe: Recipe, *rest: Any, **options: Any) -> Any:
        wanted.append(recipe.cores)
        return await build(self, store, listed, recipe, *rest, **options)

    monkeypatch.setattr(Merging, "build", spy)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for small, cores in ((size_bytes, 1), (0, None)):
        monkeypatch.setattr(compact, "_SMALL_BYTES", small)
        lakes.run(overwrite=True)
        assert wanted == [cores] * len(symbols)
        wanted.clear()
        files.append({symbol: lakes.meta(symbol_day(symbol))["sha256"] for symbol in symbols})
    assert files[0] == files[1]


@pytest.mark.guards("damage-in-transit")
def test_damage_on_the_way_is_no_bad_part(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ETags are MD5 sums, a damaged download is a failure to be tried again, never a quarantine."""
    if rig.server is None:
        return  # local ETags are no checksums; nothing travels
    lakes = Lakes.of(rig)
    parts = lakes.put_spec(spec())
    damage_downloads(monkeypatch, type(lakes.raw), parts[3].name)
    [item] = lakes.run().outcomes
    assert (item.status, item.error) == (Status.FAILED, "StoreUnavailable")
    assert "MD5" in item.reason
    assert lakes.compact_keys() == {}


@pytest.mark.guards("damage-in-transit-alone")
@pytest.mark.parametrize("parts", [1, 12])
def test_damage_on_the_way_is_mended_by_fetching_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, parts: int
) -> None:
    """Also where there is no other part that would show what ETags are."""
    if rig.server is None:
        return
    lakes = Lakes.of(rig)
    put = lakes.put_spec(spec(parts=parts))
    damage_downloads(monkeypatch, type(lakes.raw), put[-1].name, times=1)
    outcome = lakes.run()
    assert [item.status for item in outcome.outcomes] == [Status.SUCCESS]
    assert same_rows(lakes.published(symbol_day()), oracle(put))
    assert "came damaged, and was fetched again" in caplog.text


@pytest.mark.guards("two-runs-at-once")
def test_two_runs_at_once_end_in_one_consistent_day(lakes: Lakes) -> None:
    parts = lakes.put_spec(spec(parts=20, rows=2_000))
    from quantlab_dagster.market.compact import compact_pair  # noqa: PLC0415

    async def both() -> list[Any]:
        runs = (compact_pair(lakes.place(), PAIR, DAY, listener=Recorder()) for _ in range(3))
        return await asyncio.gather(*runs)

    outcomes = asyncio.run(both())
    assert {item.status for outcome in outcomes for item in outcome.outcomes} == {Status.SUCCESS}
    assert same_rows(lakes.published(symbol_day()), oracle(parts))
    assert lakes.run().outcomes[0].action is Action.UP_TO_DATE


@pytest.mark.guards("older-listing-wins")
def test_an_older_listing_does_not_stay_over_a_newer_one(lakes: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that listed before late parts came publishes while another publishes with them: the next run repairs."""
    parts = lakes.put_spec(spec())
    late = replace(next(iter(generate_parts(spec(seed=9, parts=2)))), name="part-1767999999-000001.parquet")
    kind = type(lakes.compact)
    put = kind.put
    raced = False

    async def racing(self: Store, key: str, content: Any, **options: Any) -> str:
        nonlocal raced
        etag = await put(self, key, content, **options)
        if key.endswith("data.parquet") and not raced:
            raced = True
            await lakes.raw.put(symbol_day().key(late.name), late.data)
            from quantlab_dagster.market.compact import compact_pair  # noqa: PLC0415

            await compact_pair(lakes.place(), PAIR, DAY, listener=Recorder())
        return etag

    monkeypatch.setattr(kind, "put", racing)
    lakes.run()
    assert same_rows(lakes.published(symbol_day()), oracle([*parts, late]))
    assert lakes.run().outcomes[0].action is Action.UP_TO_DATE


@pytest.mark.guards("meta-malformed-absent")
def test_a_malformed_meta_is_an_error_and_not_an_absent_one(local_lakes: Lakes) -> None:
    lakes = local_lakes
    lakes.put_spec(spec())
    asyncio.run(lakes.compact.put(symbol_day().key("meta.json"), b'{"rows": "many"}'))
    [item] = lakes.run().outcomes
    assert (item.status, item.error) == (Status.FAILED, "MalformedObject")
    assert "meta.json" in item.reason


# ---- a raw column seq ------------------------------------------------------------------------------------------------


@pytest.mark.guards("seq-for-ever")
def test_a_raw_seq_is_refused_or_renamed_as_the_setting_says(local_lakes: Lakes) -> None:
    lakes = local_lakes
    columns = [{"ts_event": [5, 3], "seq": ["p", "q"]}, {"ts_event": [4], "seq": ["r"], "x": [1]}]
    lakes.put_raw(
        symbol_day(),
        [RawPart(f"part-1767830426-00000{at}.parquet", parquet_bytes(pa.table(c))) for at, c in enumerate(columns)],
    )
    [item] = lakes.run().outcomes
    assert item.status is Status.QUARANTINE
    assert "'seq' is reserved" in item.reason

    renaming = replace(lakes.place(), order=Order(raw_seq="exchange_seq"))
    assert lakes.run(place=renaming).outcomes[0].status is Status.QUARANTINE, "nothing was asked for, nothing changed"
    [item] = lakes.run(place=renaming, overwrite=True).outcomes
    assert (item.status, item.rows) == (Status.SUCCESS, 3)
    assert lakes.published(symbol_day()).to_pydict() == {
        "ts_event": [3, 4, 5],
        "seq": [0, 1, 2],
        "exchange_seq": ["q", "r", "p"],
        "x": [None, 1, None],
    }
    assert "quarantine.json" not in " ".join(lakes.compact_keys())
    verdicts = [asyncio.run(verify_pair(place, PAIR, DAY))[0].verdict for place in (renaming, lakes.place())]
    assert verdicts == [Verdict.RIGHT, Verdict.WRONG], "by itself, it would not be built so"


def test_a_widened_column_is_told(local_lakes: Lakes) -> None:
    columns = [{"ts_event": [1], "x": pa.array([1], pa.int8())}, {"ts_event": [2], "x": pa.array([2], pa.int16())}]
    local_lakes.put_raw(
        symbol_day(),
        [RawPart(f"part-1767830426-00000{at}.parquet", parquet_bytes(pa.table(c))) for at, c in enumerate(columns)],
    )
    [item] = local_lakes.run().outcomes
    assert item.widened == {"x": "Int8, Int16 → Int16"}
    assert line(item).endswith("published as revision 1, widened x: Int8, Int16 → Int16")
    metadata = describe(PairOutcome(PAIR, DAY, (item,), 1.0, {}))
    assert [record.data for record in metadata["widened"].records] == [
        {"symbol": "adausdt", "column": "x", "types": "Int8, Int16 → Int16"}
    ]
    same = replace(item, widened={})
    assert line(same).endswith("published as revision 1")
    assert "widened" not in describe(PairOutcome(PAIR, DAY, (same,), 1.0, {}))


def test_a_disk_that_fills_while_the_file_is_written_fails_the_symbol_day_and_quarantines_nothing(
    local_lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_lakes.put_spec(spec())
    with monkeypatch.context() as mishap:
        in_child.happens(mishap, in_child.disk_is_full)
        [failed] = local_lakes.run().outcomes
    assert (failed.status, failed.error) == (Status.FAILED, "MachineFault")
    assert "No space left on device" in failed.reason
    assert "QUANTLAB_SCRATCH_DIR" in failed.reason
    assert local_lakes.compact_keys() == {}
    [again] = local_lakes.run().outcomes
    assert again.status is Status.SUCCESS
