"""Event lakes for tests: small hours put into stores, and every row that a naive reader finds there."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.lake.warehouse import DEFAULT_LAYOUT, SLOTS, AppHour, Scope
from quantlab_dagster.synthetic.warehouse import EventFile, HourSpec, generate_event_files
from quantlab_dagster.warehouse.pack import Rules
from quantlab_dagster.warehouse.place import WarehousePlace
from quantlab_dagster.warehouse.slot import Slot, read_slot
from quantlab_dagster.warehouse.sweep import Sweep, sweep
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import ObjectInfo
    from quantlab_dagster.lake.template import Layout
    from quantlab_dagster.warehouse.outcome import HourOutcome
    from quantlab_dagster_tests.conftest import Rig

HOUR = dt.datetime(2026, 1, 15, 10, tzinfo=dt.UTC)
PARTITION = AppHour("demo", HOUR)
SOON = HOUR + dt.timedelta(hours=1, minutes=5)
LATER = dt.timedelta(hours=1)

Rows = Counter[tuple[Any, ...]]
"""A multiset of rows, whatever the schemas of the files they are in."""


def spec(*, files: int = 4, rows: int = 200, seed: int = 0, app: str = "demo", hour: dt.datetime = HOUR) -> HourSpec:
    """A small hour."""
    return HourSpec(app, hour, files=files, rows=rows, seed=seed)


@dataclass(slots=True)
class HourRecorder:
    """A listener that remembers."""

    partitions: Sequence[AppHour] = ()
    ended: list[HourOutcome] = field(default_factory=list)

    def found(self, partitions: Sequence[AppHour]) -> None:
        self.partitions = partitions

    def finished(self, outcome: HourOutcome) -> None:
        self.ended.append(outcome)


def rows_of(contents: Iterable[bytes]) -> Rows:
    """All rows of some files, as values by column name; a column that a file lacks is null."""
    found: Rows = Counter()
    for content in contents:
        table = pq.read_table(pa.BufferReader(content))
        columns = {name: table[name].to_pylist() for name in table.column_names}
        found.update(
            tuple(sorted((name, value) for name, value in zip(columns, values, strict=True) if value is not None))
            for values in zip(*columns.values(), strict=True)
        )
    return found


@dataclass(frozen=True, slots=True)
class EventLake:
    """An event lake of one rig."""

    rig: Rig
    url: str
    scratch: Path

    @classmethod
    def of(cls, rig: Rig) -> EventLake:
        scratch = rig.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        return cls(rig, rig.new_url(), scratch)

    @property
    def store(self) -> Store:
        return self.rig.store(self.url)

    def place(
        self,
        *,
        now: dt.datetime = SOON,
        store: Store | None = None,
        target_size: int = 128 << 20,
        min_files: int = 2,
        memory_budget: int = 64 << 20,
        layout: Layout = DEFAULT_LAYOUT,
        slots: Store | None = None,
        grace: dt.timedelta = dt.timedelta(0),
    ) -> WarehousePlace:
        return WarehousePlace(
            store or self.store,
            Rules(target_size, min_files),
            Limits(memory_budget, scratch_base=self.scratch),
            clock=lambda: now,
            layout=layout,
            slots_elsewhere=slots,
            grace=grace,
        )

    def put(self, partition: AppHour, files: Iterable[EventFile]) -> list[bytes]:
        """Put files into a partition; returns their contents."""
        files = list(files)

        async def put_all() -> None:
            store = self.store
            await asyncio.gather(*(store.put(partition.key(file.name), file.data) for file in files))

        asyncio.run(put_all())
        return [file.data for file in files]

    def put_spec(self, hour_spec: HourSpec) -> list[bytes]:
        """Put a made-up hour."""
        return self.put(AppHour(hour_spec.app_id, hour_spec.hour), generate_event_files(hour_spec))

    def sweep(self, scope: Scope | None = None, *, full: bool = False, **options: Any) -> Sweep:
        """Compact what needs it; other options are those of `place`."""
        return asyncio.run(sweep(self.place(**options), scope or Scope(), HourRecorder(), full=full))

    def objects(self) -> list[ObjectInfo]:
        """Every object but the slots."""
        listed = asyncio.run(self.store.list_objects(""))
        return [info for info in listed if not info.key.startswith(SLOTS)]

    def names(self, partition: AppHour = PARTITION) -> list[str]:
        """Names of a partition's objects."""
        return [info.name for info in self.objects() if info.key.startswith(partition.prefix)]

    def rows(self) -> Rows:
        """Every row that a reader finds who globs for Parquet files."""

        async def contents() -> list[bytes]:
            store = self.store
            keys = [info.key for info in await store.list_objects("") if info.key.endswith(".parquet")]
            return [(await store.get(key))[0] for key in keys]

        return rows_of(asyncio.run(contents()))

    def slot(self, partition: AppHour = PARTITION) -> Slot:
        return asyncio.run(read_slot(self.store, partition))[0]

    def staged(self) -> list[str]:
        """Keys of uploads that are under way."""
        return [upload.key for upload in asyncio.run(self.store.staged_below(""))]
