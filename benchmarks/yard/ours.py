"""Ours: the same symbol-days by the code of production, with more and more of it around the kernel.

    python -m benchmarks.yard.ours kernel|merging|lake|events RAW OUTPUT

kernel: survey and merge in this process. merging: as a run does it, fetched, and decoded in a process of its own. lake:
planned, merged, published on a compact lake with all its records. What RAW and OUTPUT are, a local directory or an
`s3://` URL, makes no difference to the last two. events: a sweep over the event
lake RAW, in place.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantlab_dagster.lake.market import Pair, SymbolDay, find_parts, find_symbols
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.market.timeunit import minute_width
from quantlab_dagster.work.limits import Limits

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.store.objects import S3Options

PAIR = Pair("binance", "bbo")
DAY = dt.date(2026, 1, 8)


def _width(key_range: tuple[int, int] | None) -> int | None:
    return minute_width(*key_range, DAY) if key_range else None


def kernel(raw: str, output: str) -> None:
    """Survey and merge each symbol-day, in this process and with the budget of a run."""
    from quantlab_dagster.kernel.merge import merge
    from quantlab_dagster.kernel.survey import Surveyor
    from quantlab_dagster.kernel.terms import Order, Part

    limits = Limits()
    for directory in sorted(Path(raw).glob("exchange=*/stream=*/symbol=*/date=*")):
        paths = sorted(directory.glob("part-*.parquet"))
        sizes = [path.stat().st_size for path in paths]
        in_memory = sum(sizes) <= limits.download_budget  # beyond that a run has them on its disk, too
        surveyor = Surveyor(Order(), budget_bytes=limits.merge_budget, total_bytes=sum(sizes))
        surveyor.add(
            Part(path.name, path.read_bytes() if in_memory else path, size)
            for path, size in zip(paths, sizes, strict=True)
        )
        survey = surveyor.finish()
        path = Path(output) / f"{directory.parent.name.removeprefix('symbol=')}.parquet"
        with tempfile.TemporaryDirectory(dir=output) as scratch:
            width = _width(survey.key_range)
            merge(survey, path, scratch=Path(scratch), budget_bytes=limits.merge_budget, bucket_width=width)


async def merging(raw: str, output: str) -> None:
    """Fetch and merge each symbol-day as a run does, one after the other."""
    from quantlab_dagster.kernel.terms import Order
    from quantlab_dagster.work.merging import Merging, Recipe
    from quantlab_dagster.work.scratch import scratch_directory

    store, limits = _store(raw), Limits(scratch_base=Path(output))
    with scratch_directory(limits.scratch_base) as scratch:
        async with Merging(limits) as merges:
            for symbol in await find_symbols(store, PAIR):
                listed = await find_parts(store, SymbolDay(PAIR.exchange, PAIR.stream, symbol, DAY))
                directory = scratch / symbol
                directory.mkdir()
                await merges.build(store, listed, Recipe(Order(), _width), directory / "data.parquet")
                (directory / "data.parquet").rename(Path(output) / f"{symbol}.parquet")


async def lake(raw: str, output: str) -> None:
    """Compact the pair's day from one lake into the other, with all but Dagster."""
    from quantlab_dagster.market.compact import compact_pair
    from quantlab_dagster.market.outcome import Status
    from quantlab_dagster.market.place import MarketPlace

    scratch = os.environ.get("YARDSTICK_SCRATCH")
    place = MarketPlace(_store(raw), _store(output), Limits(scratch_base=Path(scratch) if scratch else None))
    done = await compact_pair(place, PAIR, DAY, listener=_Silent())
    wrong = [outcome for outcome in done.outcomes if outcome.status is not Status.SUCCESS]
    if wrong or not done.outcomes:
        sys.exit(f"{len(wrong)} of {len(done.outcomes)} symbol-days are not published: {wrong[:1]}")


async def events(root: str, _: str) -> None:
    """Sweep over an event lake, with all but Dagster."""
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.warehouse.outcome import HourStatus
    from quantlab_dagster.warehouse.pack import Rules
    from quantlab_dagster.warehouse.place import WarehousePlace
    from quantlab_dagster.warehouse.sweep import sweep

    done = await sweep(WarehousePlace(_store(root), Rules()), Scope(), _Silent())
    wrong = [one for one in done.outcomes if one.status is not HourStatus.COMPACTED]
    if wrong or not done.outcomes:
        sys.exit(f"{len(wrong)} of {len(done.outcomes)} hours are not compacted: {wrong[:1]}")


class _Silent:
    """A listener that has nothing to say."""

    def found(self, *_: object) -> None: ...

    def planned(self, *_: object) -> None: ...
    def building(self, *_: object) -> None: ...
    def fetched(self, *_: object) -> None: ...
    def finished(self, *_: object) -> None: ...


def _store(url: str) -> Store:
    return open_store(url, _s3() if url.startswith("s3://") else None)


def _s3() -> S3Options:
    import boto3

    from quantlab_dagster.lake.store.objects import S3Options as Options

    return Options(boto3.Session(), os.environ["AWS_REGION"], os.environ["AWS_ENDPOINT_URL"])


if __name__ == "__main__":
    name, from_where, to_where = sys.argv[1:]
    if name == "kernel":
        kernel(from_where, to_where)
    else:
        way: Any = {"merging": merging, "lake": lake, "events": events}[name]
        asyncio.run(way(from_where, to_where))
