"""Publishing: what is refused before anything is put, who wins when writers meet, what a death in the middle leaves."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from quantlab_dagster.errors import AuditFailed, Conflict, ShrinkRefused, StoreUnavailable
from quantlab_dagster.kernel.digest import digest_file
from quantlab_dagster.kernel.merge import Merged
from quantlab_dagster.kernel.sums import file_sha256
from quantlab_dagster.lake.market import META, SOURCES
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.transfers import Growing
from quantlab_dagster.lake.store.uploading import uploading
from quantlab_dagster.market import compact
from quantlab_dagster.market.compact import compact_pair
from quantlab_dagster.market.outcome import Status, refused
from quantlab_dagster.market.plan import Action, Plan, Requested, plan_symbol_day
from quantlab_dagster.market.publish import publish_day
from quantlab_dagster.synthetic.market import generate_parts
from quantlab_dagster.work.merging import Built, Merging
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import NO_WINDOWS, Lakes, Recorder, oracle, parquet_bytes, same_rows, spec, symbol_day

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pyarrow as pa

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.market.records import DayMeta

DAY = symbol_day()


@pytest.fixture
def lakes(tmp_path: Path) -> Lakes:
    """One published day of 600 rows."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    lakes.put_spec(spec())
    lakes.run()
    return lakes


def planned(lakes: Lakes, *, allow_shrink: bool = False) -> Plan:
    requested = Requested(overwrite=True, allow_shrink=allow_shrink)
    return asyncio.run(plan_symbol_day(lakes.raw, lakes.compact, DAY, requested, NO_WINDOWS))


def publish(lakes: Lakes, plan: Plan, table: pa.Table) -> DayMeta:
    """Publish a table as if it had been built by this plan."""
    file = lakes.scratch / "built.parquet"
    file.write_bytes(parquet_bytes(table))
    digest = digest_file(file, "ts_event")
    low, high, size = digest.key_min, digest.key_max, file.stat().st_size
    sha256 = file_sha256(file)
    merged = Merged(digest.rows, low, high, {}, size, 1, distributed=False, histogram=(), digest=digest, sha256=sha256)
    built = Built(merged, sha256, 0.0)

    async def published() -> DayMeta:
        async with uploading(lakes.compact, DAY.key("data.parquet"), file, early=False) as upload:
            return await publish_day(lakes.compact, plan, upload, built)

    return asyncio.run(published())


@pytest.mark.guards("shrink-unknown-sources", "mutant-shrink")
def test_publishing_fewer_rows_than_the_meta_is_refused(lakes: Lakes) -> None:
    """Whatever the plan says; and before anything is put."""
    before, fewer = lakes.compact_keys(), lakes.published(DAY).slice(0, 599)
    plan = planned(lakes)
    assert plan.action is Action.BUILD
    with pytest.raises(ShrinkRefused, match=r"meta\.json: says 600 rows, and the raw parts now have 599.*allow-shrink"):
        publish(lakes, plan, fewer)
    assert lakes.compact_keys() == before
    assert publish(lakes, planned(lakes, allow_shrink=True), fewer).rows == 599


def test_publishing_as_many_rows_as_the_meta_says_is_not_refused(lakes: Lakes) -> None:
    assert publish(lakes, planned(lakes), lakes.published(DAY)).rows == 600


def test_a_refused_day_is_kept_if_it_is_committed_and_has_failed_otherwise(lakes: Lakes) -> None:
    plan, error = planned(lakes), ShrinkRefused("meta.json", 1, 600)
    kept = refused(plan, error)
    assert (kept.status, kept.action, kept.rows) == (Status.QUARANTINE, Action.KEEP, 600)
    half = replace(plan, published=replace(plan.published, committed=False))
    failed = refused(half, error)
    assert (failed.status, failed.error) == (Status.FAILED, "ShrinkRefused")
    assert "says 600 rows" in kept.reason
    assert "says 600 rows" in failed.reason
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301  # our own bytes


def test_a_refusal_changes_nothing_and_fails_where_the_day_is_not_committed(lakes: Lakes) -> None:
    lakes.put_beside(DAY, META, lakes.meta(DAY) | {"rows": 700})
    before = lakes.compact_keys()
    [kept] = lakes.run(overwrite=True).outcomes
    assert (kept.status, kept.action, kept.rows) == (Status.QUARANTINE, Action.KEEP, 700)
    assert lakes.compact_keys() == before
    lakes.put_beside(DAY, "data.parquet", b"something else")
    before = lakes.compact_keys()
    [failed] = lakes.run().outcomes
    assert (failed.status, failed.error) == (Status.FAILED, "ShrinkRefused")
    assert lakes.compact_keys() == before
    [built] = lakes.run(allow_shrink=True).outcomes
    assert (built.action, built.rows) == (Action.BUILD, 600)


@pytest.mark.guards("mutant-cas")
def test_a_meta_that_changed_since_the_plan_is_not_written_over(lakes: Lakes) -> None:
    plan = planned(lakes)
    others = lakes.meta(DAY) | {"day_quality": "GOOD"}
    lakes.put_beside(DAY, META, others)
    with pytest.raises(Conflict):
        publish(lakes, plan, lakes.published(DAY))
    assert lakes.meta(DAY) == others


@pytest.mark.guards("mutant-cas")
def test_a_meta_that_appeared_since_the_plan_is_not_written_over(lakes: Lakes) -> None:
    others = lakes.meta(DAY)
    lakes.delete_beside(DAY, META)
    plan = planned(lakes)
    lakes.put_beside(DAY, META, others)
    with pytest.raises(Conflict):
        publish(lakes, plan, lakes.published(DAY))
    assert lakes.meta(DAY) == others


@pytest.mark.guards("mutant-head")
@pytest.mark.parametrize("others", [b"of another writer", None])
def test_data_replaced_while_it_was_published_is_noticed(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch, others: bytes | None
) -> None:
    kind = type(lakes.compact)
    swap = kind.compare_and_swap

    async def replacing(self: Store, key: str, content: bytes, expected_etag: str | None) -> str:
        if others is None:
            await self.delete(DAY.key("data.parquet"))
        else:
            await self.put(DAY.key("data.parquet"), others)
        return await swap(self, key, content, expected_etag)

    monkeypatch.setattr(kind, "compare_and_swap", replacing)
    with pytest.raises(Conflict, match="was replaced while it was being published"):
        publish(lakes, planned(lakes), lakes.published(DAY))


def test_data_of_another_size_than_was_audited_is_noticed_whatever_its_etag(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(lakes.compact)
    head, plan, rows = kind.head, planned(lakes), lakes.published(DAY)

    async def shorter(self: Store, key: str) -> Any:
        info = await head(self, key)
        return replace(info, size_bytes=info.size_bytes - 1) if info and key == DAY.key("data.parquet") else info

    monkeypatch.setattr(kind, "head", shorter)
    with pytest.raises(Conflict, match="was replaced while it was being published"):
        publish(lakes, plan, rows)


@pytest.mark.guards("writer-lost-sources")
def test_a_writer_that_lost_puts_back_the_sources_of_the_one_that_won(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would not be known what was read, and late parts would never be built in."""
    kind = type(lakes.compact)
    put = kind.put
    [late, later] = [
        replace(next(iter(generate_parts(spec(seed=seed, parts=2)))), name=f"part-1767999999-{seed:06d}.parquet")
        for seed in (1, 2)
    ]
    raced = False

    async def racing(self: Store, key: str, content: Any, **options: Any) -> str:
        nonlocal raced
        if key.endswith(SOURCES) and not raced:  # its data is put; another one publishes whole, with a late part
            raced = True
            await lakes.raw.put(DAY.key(late.name), late.data)
            await compact_pair(lakes.place(), DAY.pair, DAY.day, listener=Recorder())
        return await put(self, key, content, **options)

    lakes.delete_beside(DAY, META)
    monkeypatch.setattr(kind, "put", racing)
    [item] = lakes.run().outcomes
    assert (raced, item.action) == (True, Action.UP_TO_DATE)
    lakes.put_raw(DAY, [later])
    [item] = lakes.run().outcomes
    assert item.action is Action.BUILD, item.reason


# ---- large days ------------------------------------------------------------------------------------------------------


def sent_while_it_is_built(monkeypatch: pytest.MonkeyPatch, *, least: int = -1) -> None:
    """Days of more than so many bytes are, and files of more than a kilobyte are sent in parts."""
    monkeypatch.setattr(compact, "MULTIPART_BYTES", least)
    monkeypatch.setattr(limits, "MULTIPART_BYTES", 1 << 10)
    monkeypatch.setattr(limits, "STREAM_BYTES", 1 << 10)


@pytest.mark.parametrize(("least", "early"), [(-1, True), (1 << 30, False)])
def test_only_large_days_are_sent_while_they_are_built(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch, least: int, *, early: bool
) -> None:
    sent_while_it_is_built(monkeypatch, least=least)
    before, released = lakes.published(DAY), []
    release = Growing.release

    def noted(self: Growing, sha256: str) -> None:
        released.append(sha256)
        release(self, sha256)

    monkeypatch.setattr(Growing, "release", noted)
    [item] = lakes.run(overwrite=True).outcomes
    assert (item.action, same_rows(lakes.published(DAY), before)) == (Action.BUILD, True)
    assert released == ([lakes.meta(DAY)["sha256"]] if early else [])


@pytest.mark.parametrize("damage", ["a part", "the file"])
def test_a_large_day_that_is_not_proved_stays_as_it_was(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    before = {key: content for key, content in lakes.compact_keys().items() if not key.endswith("quarantine.json")}
    sent_while_it_is_built(monkeypatch)
    if damage == "a part":
        late = replace(next(iter(generate_parts(spec(seed=9, parts=2)))), name="part-1767999999-000001.parquet")
        lakes.put_raw(DAY, [replace(late, data=late.data[:-100])])
    else:

        async def failing(*_: Any, **__: Any) -> Any:
            await asyncio.sleep(0.2)
            raise AuditFailed("data.parquet", "rows are missing")

        monkeypatch.setattr(Merging, "build", failing)
    [item] = lakes.run(overwrite=True).outcomes
    assert item.status is (Status.QUARANTINE if damage == "a part" else Status.FAILED)
    after = {key: content for key, content in lakes.compact_keys().items() if not key.endswith("quarantine.json")}
    assert after == before


# ---- a death in the middle -------------------------------------------------------------------------------------------


def dying_before(monkeypatch: pytest.MonkeyPatch, kind: type[Store], write: int) -> Callable[[], None]:
    """The process dies before its nth write, counted from one; until the function that is returned is called."""
    writes = 0

    def counted(method: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
        async def writing(*arguments: Any, **options: Any) -> str:
            nonlocal writes
            writes += 1
            if writes >= write:
                raise StoreUnavailable("here", "died")
            return await method(*arguments, **options)

        return writing

    for name in ("put", "compare_and_swap"):
        monkeypatch.setattr(kind, name, counted(getattr(kind, name)))
    return monkeypatch.undo


@pytest.mark.guards("adopted-believed", "half-published")
@pytest.mark.parametrize("write", [1, 2, 3])
@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("source_files", [12, None])
@pytest.mark.parametrize("large", [False, True])
def test_a_publication_of_late_parts_that_died_is_finished_by_the_next_run(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch, write: int, foreign: bool, source_files: int | None, large: bool
) -> None:
    parts = list(generate_parts(spec()))
    late = replace(next(iter(generate_parts(spec(seed=9, parts=2)))), name="part-1767999999-000001.parquet")
    if foreign:
        lakes.disown(DAY, source_files=source_files)
    lakes.put_raw(DAY, [late])
    if large:
        sent_while_it_is_built(monkeypatch)
    # The upload of a large day is begun first; what it brings is there when it ends.
    revive = dying_before(monkeypatch, type(lakes.compact), write)
    unknown = foreign and source_files is None
    [item] = lakes.run(overwrite=True, allow_shrink=unknown).outcomes
    assert (item.status, item.error) == (Status.FAILED, "StoreUnavailable")
    revive()
    [item] = lakes.run().outcomes
    if unknown and write <= 1 + large:  # nothing was done, and it is not known whether anything is missing
        assert item.action is Action.UP_TO_DATE
        return
    assert item.action is Action.BUILD, item.reason
    assert same_rows(lakes.published(DAY), oracle([*parts, late]))
    assert lakes.run().outcomes[0].action is Action.UP_TO_DATE


@pytest.mark.guards("put-not-compared")
@pytest.mark.parametrize("large", [False, True])
def test_a_file_that_changed_after_its_audit_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    if large:
        sent_while_it_is_built(monkeypatch)
    lakes = Lakes.of(Rig("local", None, tmp_path))
    lakes.put_spec(spec())
    build = Merging.build

    async def built_and_damaged(self: Merging, *arguments: Any, **options: Any) -> Any:
        built = await build(self, *arguments, **options)
        output: Path = arguments[3]
        content = bytearray(output.read_bytes())
        content[-1 if large else len(content) // 2] ^= 1  # what is large was sent before, but for its last bytes
        output.write_bytes(content)
        return built

    monkeypatch.setattr(Merging, "build", built_and_damaged)
    [item] = lakes.run().outcomes
    assert item.status is Status.FAILED, "this machine's fault, and no quarantine"
    assert "QUANTLAB_SCRATCH_DIR" in item.reason
    assert lakes.compact_keys() == {}
