"""The protocol of replacement, simulated: compactors, a sink and a server of one seed, which can be replayed.

Every request may stall, be the last of its compactor, or lose its answer; one that deletes several objects may fail for
some of them, or be cut off half-way by a death. Files hold ids of rows, one a line; a merge joins them. Nothing but the
merge is a model of the compactor: slots, plans and replacements are those of the project.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.warehouse import AppHour
from quantlab_dagster.warehouse.compact import _HourWork, _Shared
from quantlab_dagster.warehouse.outcome import HourOutcome, HourStatus
from quantlab_dagster.warehouse.pack import Rules
from quantlab_dagster.warehouse.place import Requested, WarehousePlace
from quantlab_dagster_tests.warehouse.model_s3 import Bucket, ModelStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.work.fetch import Source
    from quantlab_dagster.work.merging import Merging

__all__ = ["Simulated", "simulate"]

PARTITION = AppHour("demo", dt.datetime(2026, 1, 15, 10, tzinfo=dt.UTC))
_NOON = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
_TARGET = 100_000


class _Died(BaseException):
    """A compactor is no more: it sends no request, and cleans nothing up."""


@dataclass(slots=True)
class Simulated:
    """What came of a run.

    Attributes:
        seed: by which it can be replayed.
        lost: rows that were written, and are not there.
        doubled: rows that are there more than once.
        changes: to the store.
        deaths: of compactors.
        failed_deletes: objects that the server said it could not delete, among several of a request.
        replaced: rows of files that the sink wrote anew under their old names. They may be there or not, once.
        outcome: of the last compactor, which nothing disturbed.
    """

    seed: int
    lost: int
    doubled: int
    changes: int
    deaths: int
    failed_deletes: int
    replaced: int
    outcome: HourOutcome


@dataclass(slots=True)
class _World:
    random: random.Random
    bucket: Bucket
    steps: int = 0
    deaths: int = 0
    failed_deletes: int = 0
    written: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)

    async def wait(self, most: int) -> None:
        for _ in range(self.random.randint(0, most)):
            self.steps += 1
            await asyncio.sleep(0)


@dataclass(slots=True)
class _Trouble:
    """What happens to one compactor's requests."""

    world: _World
    dead: bool = False

    async def before(self, what: str) -> None:
        await self._happen(what)

    async def after(self, what: str) -> None:
        await self._happen(what)

    async def _happen(self, what: str) -> None:
        chance = self.world.random.random()
        await self.world.wait(400 if chance < 0.04 else 6)
        if not self.dead and chance > 0.992:
            self.dead = True
            self.world.deaths += 1
        if self.dead:
            raise _Died
        if 0.97 < chance < 0.98 and what != "PUT":
            raise StoreUnavailable(what, "timed out")

    async def between(self) -> bool:
        chance = self.world.random.random()
        await self.world.wait(60 if chance < 0.04 else 1)
        if not self.dead and chance > 0.99:
            self.dead = True
            self.world.deaths += 1
        if self.dead:
            raise _Died  # the server may have stopped half-way
        failed = 0.9 < chance < 0.95
        self.world.failed_deletes += failed
        return failed


class _Joining:
    """Stands for the merging of a run."""

    async def build(self, store: Source, listed: Sequence[ObjectInfo], _: Any, output: Path) -> Any:
        contents = []
        for info in listed:
            [(content, got)] = await store.get_together([info.key])
            if got.etag != info.etag:
                raise StoreUnavailable(info.key, "was replaced")
            contents.append(content)
        joined = b"".join(contents)
        output.write_bytes(joined)
        merged = SimpleNamespace(size_bytes=len(joined), rows=joined.count(b"\n"))
        return SimpleNamespace(merged=merged, sha256=hashlib.sha256(joined).hexdigest(), seconds=0.0)


def simulate(seed: int, scratch: Path, *, swaps: bool = True, bulk_compares: bool = True) -> Simulated:
    """One partition, two to four compactors in succession and at once, a sink that goes on writing.

    Args:
        seed: decides everything.
        scratch: an empty directory.
        swaps: whether the server compares before it swaps.
        bulk_compares: whether it compares before it deletes one of several objects.
    """
    return asyncio.run(_simulate(seed, scratch, Bucket(swaps=swaps, bulk_compares=bulk_compares)))


async def _simulate(seed: int, scratch: Path, bucket: Bucket) -> Simulated:
    world = _World(random.Random(seed), bucket)
    _write(world, world.random.randint(2, 6))
    actors = [_compactor(world, scratch) for _ in range(world.random.randint(2, 4))]
    await asyncio.gather(_sink(world), *actors)
    # Whoever comes in the end, undisturbed, finds everything in order, and leaves it so.
    outcome = await _work(world, ModelStore(world.bucket), scratch, dt.timedelta(hours=2))
    rows: Counter[str] = Counter()
    for key, (content, _) in world.bucket.objects.items():
        if key.endswith(".parquet"):
            rows.update(content.decode().split())
    return Simulated(
        seed,
        lost=(world.written - rows).total(),
        doubled=(rows - world.written - world.replaced).total(),
        changes=next(world.bucket.numbers),
        deaths=world.deaths,
        failed_deletes=world.failed_deletes,
        replaced=world.replaced.total(),
        outcome=outcome,
    )


def _write(world: _World, files: int) -> None:
    for _ in range(files):
        _write_file(world, PARTITION.key(f"events_{world.random.random()}.parquet"))


def _write_file(world: _World, key: str) -> None:
    number = next(world.bucket.numbers)
    rows = [f"{number}-{at}" for at in range(world.random.randint(1, 9))]
    world.written.update(rows)
    world.bucket.write(key, "".join(f"{row}\n" for row in rows).encode())


async def _sink(world: _World) -> None:
    """Late files; now and then one that takes the place of an earlier one, if that is still there."""
    for _ in range(world.random.randint(0, 5)):
        await world.wait(300)
        names = sorted(key for key in world.bucket.objects if "/events_" in key)
        if names and world.random.random() < 0.3:
            _rewrite(world, world.random.choice(names))
        else:
            _write(world, world.random.randint(1, 2))


def _rewrite(world: _World, key: str) -> None:
    rows = Counter(world.bucket.objects[key][0].decode().split())
    world.written -= rows
    world.replaced += rows
    _write_file(world, key)


async def _compactor(world: _World, scratch: Path) -> None:
    """Runs of one compactor after the other: a new one comes when it has died."""
    for _ in range(world.random.randint(1, 4)):
        await world.wait(200)
        skew = dt.timedelta(minutes=world.random.randint(-40, 40))
        with suppress(_Died):
            await _work(world, ModelStore(world.bucket, _Trouble(world)), scratch, skew)


async def _work(world: _World, store: ModelStore, scratch: Path, skew: dt.timedelta) -> HourOutcome:
    def clock() -> dt.datetime:
        return _NOON + skew + dt.timedelta(seconds=world.steps)

    place = WarehousePlace(store.store, Rules(_TARGET), clock=clock)
    shared = _Shared(place, scratch, cast("Merging", _Joining()))
    for _ in range(4):
        outcome = await _HourWork(shared, PARTITION, Requested()).run()
        if outcome.status is not HourStatus.FAILED:
            break
    return outcome
