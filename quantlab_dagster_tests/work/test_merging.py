"""Parts become one file within a run's limits, and what is damaged on its way never does."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantlab_dagster.errors import BadPart, ObjectChanged, ScratchUnusable, StoreUnavailable
from quantlab_dagster.kernel.terms import Order
from quantlab_dagster.lake.store.objects import ObjectInfo
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.synthetic.market import DaySpec, generate_parts
from quantlab_dagster.work.decoder import Child
from quantlab_dagster.work.limits import Limits
from quantlab_dagster.work.merging import Built, Merging, Recipe
from quantlab_dagster.work.messages import Merge
from quantlab_dagster_tests.lakes import DAY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster.kernel.grouping import Grouping

ORDER = Order(column="ts_event", numbered=True)
ROWS, PARTS = 400, 8


class Fixture:
    """Parts in a local directory, listed with their MD5 sums as S3 lists them."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "lake").mkdir()
        (tmp_path / "scratch").mkdir()
        self.scratch = tmp_path / "scratch"
        self.store = open_store(str(tmp_path / "lake"))
        self.contents = {
            part.name: part.data for part in generate_parts(DaySpec("x", "bbo", "y", DAY, parts=PARTS, rows=ROWS))
        }
        self.sent = dict(self.contents)
        self.store.get_together = self.get_together  # type: ignore[method-assign]
        self.store.download = self.download  # type: ignore[method-assign]

    @property
    def listed(self) -> list[ObjectInfo]:
        return [self.info(name) for name in sorted(self.contents)]

    def info(self, name: str) -> ObjectInfo:
        data = self.contents[name]
        return ObjectInfo(name, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())

    async def get_together(self, keys: Sequence[str]) -> list[tuple[bytes, ObjectInfo]]:
        return [(self.sent[key], self.received(key)) for key in keys]

    async def download(self, key: str, path: Path) -> ObjectInfo:
        path.write_bytes(self.sent[key])
        return self.received(key)

    def received(self, key: str) -> ObjectInfo:
        md5 = hashlib.md5(self.sent[key], usedforsecurity=False).hexdigest()
        return replace(self.info(key), received=md5, checksum=zlib.crc32(self.sent[key]))

    def build(self, limits: Limits | None = None, **recipe: Any) -> Built:
        async def build() -> Built:
            async with Merging(limits or Limits(64 << 20), cores=2) as merging:
                output = self.scratch / "out.parquet"
                return await merging.build(self.store, self.listed, Recipe(ORDER, **recipe), output)

        return asyncio.run(build())


@pytest.fixture
def parts(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


@pytest.mark.parametrize("budget", [64 << 20, 1 << 14], ids=["in memory", "through the disk"])
def test_parts_become_one_proved_file(parts: Fixture, budget: int) -> None:
    built = parts.build(Limits(budget))
    content = (parts.scratch / "out.parquet").read_bytes()
    assert (built.merged.rows, built.merged.size_bytes) == (ROWS, len(content))
    assert built.sha256 == hashlib.sha256(content).hexdigest()
    assert [path.name for path in parts.scratch.iterdir()] == ["out.parquet"], "spooled parts do not stay"


@pytest.mark.guards("bytes-vary")
def test_the_bytes_depend_on_no_limit(parts: Fixture) -> None:
    digests = {parts.build(Limits(budget), cores=cores).sha256 for budget in (64 << 20, 1 << 14) for cores in (1, None)}
    assert len(digests) == 1


@pytest.mark.guards("damage-in-transit")
@pytest.mark.parametrize("budget", [64 << 20, 1 << 14], ids=["in memory", "through the disk"])
def test_damage_on_the_way_is_the_stores_fault(parts: Fixture, budget: int) -> None:
    name = sorted(parts.contents)[3]
    parts.sent[name] = parts.contents[name][:-20] + bytes(20)
    with pytest.raises(StoreUnavailable, match="MD5"):
        parts.build(Limits(budget))


@pytest.mark.guards("damage-unnamed")
def test_damage_in_the_store_is_a_bad_part(parts: Fixture) -> None:
    name = sorted(parts.contents)[3]
    parts.contents[name] = parts.sent[name] = parts.contents[name][:-20] + bytes(20)
    with pytest.raises(BadPart) as caught:
        parts.build()
    assert caught.value.part == name


@pytest.mark.guards("part-lost")
def test_a_part_that_is_not_what_was_listed_is_said(parts: Fixture) -> None:
    changed = replace(parts.listed[2], etag="0" * 32)
    listed = [*parts.listed[:2], changed, *parts.listed[3:]]

    async def build() -> Built:
        async with Merging(Limits(64 << 20)) as merging:
            return await merging.build(parts.store, listed, Recipe(ORDER), parts.scratch / "out.parquet")

    with pytest.raises(ObjectChanged):
        asyncio.run(build())


def test_a_share_of_the_cores_is_a_share_of_the_memory(parts: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    call = Child.call

    async def spy(self: Child, request: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(request, Merge):
            seen.append(request.budget_bytes)
        return await call(self, request, *arguments, **options)

    monkeypatch.setattr(Child, "call", spy)
    limits = Limits(64 << 20)
    for cores in (1, None):
        parts.build(limits, cores=cores)
    assert seen == [limits.merge_budget // 2, limits.merge_budget]
    assert limits.merge_budget + limits.download_budget == limits.memory_budget


@pytest.mark.parametrize("budget", [64 << 20, 1 << 14], ids=["in memory", "through the disk"])
def test_contents_without_any_of_their_sums_are_believed(parts: Fixture, budget: int) -> None:
    """Under SSE-KMS all ETags look like MD5 sums, and none is."""
    right, info, received = parts.build(Limits(budget)).sha256, parts.info, parts.received

    def encrypted(name: str) -> ObjectInfo:
        return replace(info(name), etag=hashlib.sha256(name.encode()).hexdigest()[:32])

    def received_encrypted(key: str) -> ObjectInfo:
        return replace(encrypted(key), received=received(key).received, checksum=received(key).checksum)

    parts.info, parts.received = encrypted, received_encrypted  # type: ignore[method-assign]
    assert parts.build(Limits(budget)).sha256 == right


class Spoiler:
    """Changes a bit of a spooled part between its survey and its merge."""

    def __init__(self, parts: Fixture, monkeypatch: pytest.MonkeyPatch, at: float) -> None:
        self._parts = parts
        self._at = at
        self.spoilt: list[Path] = []
        call = Child.call

        async def spoil(child: Child, request: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(request, Merge):
                self._spoil()
            return await call(child, request, *arguments, **options)

        monkeypatch.setattr(Child, "call", spoil)

    def _spoil(self) -> None:
        [directory] = [path for path in self._parts.scratch.iterdir() if path.is_dir()]
        path = sorted(directory.iterdir())[3]
        content = bytearray(path.read_bytes())
        content[int(len(content) * self._at)] ^= 1
        path.write_bytes(content)
        self.spoilt.append(path)


@pytest.mark.parametrize("at", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_bit_that_flips_in_a_spooled_part_is_no_bad_part(
    parts: Fixture, monkeypatch: pytest.MonkeyPatch, at: float
) -> None:
    """Whether or not anybody stumbles over it: in a page it may be another value, and nothing more."""
    spoiler = Spoiler(parts, monkeypatch, at)
    with pytest.raises(ScratchUnusable, match="damaged") as caught:
        parts.build(Limits(1 << 14))
    [path] = spoiler.spoilt
    assert str(path) in str(caught.value)
    assert sorted(parts.contents)[3] in caught.value.where
    assert "QUANTLAB_SCRATCH_DIR" in caught.value.remedy


def test_a_part_damaged_in_the_store_is_blamed_though_it_was_spooled(parts: Fixture) -> None:
    name = sorted(parts.contents)[3]
    parts.contents[name] = parts.sent[name] = parts.contents[name][:-20] + bytes(20)
    with pytest.raises(BadPart) as caught:
        parts.build(Limits(1 << 14))
    assert caught.value.part == name


@pytest.mark.guards("one-odd-condemns", "uint64-order")
def test_parts_are_grouped_by_what_a_merge_would_say_of_them(parts: Fixture) -> None:
    """An order column of 64 unsigned bits is none of the reasons."""
    kinds = {"a": pa.uint64(), "b": pa.float64(), "c": pa.int64()}
    parts.contents = {name: data_of({"ts_event": pa.array([1], kind)}) for name, kind in kinds.items()}
    parts.contents["d"] = b"no Parquet at all"
    parts.contents["e"] = data_of({"ts_event": pa.array([1]), "v": pa.array([1])})
    for name in "fg":
        parts.contents[name] = data_of({"ts_event": pa.array([1]), "v": pa.array(["x"])})
    parts.sent = dict(parts.contents)

    async def inspected() -> Grouping:
        async with Merging(Limits(64 << 20)) as merging:
            return await merging.inspect(parts.store, parts.listed, Order("ts_event"), parts.scratch)

    found = asyncio.run(inspected())
    assert found.groups == (("a", "c", "f", "g"), ("e",))
    assert sorted(found.bad) == ["b", "d"]
    assert "no integer that fits into 64 signed bits" in found.bad["b"]
    assert found.why.keys() == {"e"}
    assert "not widened without loss" in found.why["e"]


def data_of(columns: dict[str, pa.Array]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()
