"""Making parts, and taking them through the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.kernel.budget import DEFAULT_BUDGET_BYTES
from quantlab_dagster.kernel.merge import Merged, merge
from quantlab_dagster.kernel.parts import Part
from quantlab_dagster.kernel.survey import Order, Survey, Surveyor

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

EVENTS = Order(column="timestamp_ms", numbered=False, nulls_first=True)
"""The order of the event lake."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """A merged file and what the kernel says of it."""

    merged: Merged
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


def part_of(key: str, table: pa.Table, **options: Any) -> Part:
    """Write a table as a part held in memory; options are those of `pq.write_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return part_from(key, sink.getvalue().to_pybytes())


def part_from(key: str, data: bytes) -> Part:
    return Part(key, data, len(data))


def on_disk(part: Part, directory: Path) -> Part:
    """The same part, as a local file."""
    assert isinstance(part.source, bytes)
    path = directory / part.key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(part.source)
    return Part(part.key, path, part.size_bytes)


_TOO_MANY_BYTES = 1 << 60


def survey_of(parts: Iterable[Part], *, order: Order | None = None, stride: int = 512, keep: bool = False) -> Survey:
    """Survey; what was decoded is kept for the merge only if it should be, so that there may be windows."""
    surveyor = Surveyor(order or Order(), stride, total_bytes=0 if keep else _TOO_MANY_BYTES)
    surveyor.add(parts)
    return surveyor.finish()


def compact(
    parts: Iterable[Part],
    directory: Path,
    *,
    order: Order | None = None,
    stride: int = 512,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    bucket_width: int | None = None,
    keep: bool = False,
    threads: int = 2,
    name: str = "data.parquet",
) -> Compacted:
    """Survey and merge; afterwards nothing but the file is left in the directory's scratch."""
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    path = directory / name
    survey = survey_of(parts, order=order, stride=stride, keep=keep)
    merged = merge(survey, path, scratch=scratch, budget_bytes=budget_bytes, bucket_width=bucket_width, threads=threads)
    assert not list(scratch.iterdir())
    return Compacted(merged, path)


def read_back(path: Path) -> pa.Table:
    """The file's rows, each page's checksum verified."""
    # From a path: buffers of Python objects may abort the interpreter at its exit (apache/arrow#33975).
    return pq.read_table(path, page_checksum_verification=True)
