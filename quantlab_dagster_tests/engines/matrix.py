"""Which engines read a published day and a merged hour exactly: the figures of docs/engines.md.

python quantlab_dagster_tests/engines/matrix.py [--python PATH] [--node-modules DIRECTORY] [ENGINE…] > page

Engines are run by another Python, which has them; each in a process of its own. An engine that is not there is said to
be missing. What counts as exact: the columns in order, and every value of every row.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.market.compact import compact_pair
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.synthetic.market import DaySpec, generate_parts
from quantlab_dagster.work.limits import Limits
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.engines.read_with import ENGINES, WAYS
from quantlab_dagster_tests.lakes import NOON_AFTER, Lakes, Recorder, oracle
from quantlab_dagster_tests.warehouse.event_lakes import EventLake, spec

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
DAY = dt.date(2026, 1, 8)
DAYS_PATTERN = "exchange=*/stream=*/symbol=*/date=*/data.parquet"
HOURS_PATTERN = "app_id=*/year=*/month=*/day=*/hour=*/compacted_*.parquet"
PAIR = Pair("binance", "trade")
_JSON = ("chdb", "hyparquet")
"""Engines whose numbers come as JSON or JavaScript has them: there 1 and 1.0 are the same."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as an engine gave them, or should give them."""

    columns: list[str]
    rows: list[list[Any]]

    @classmethod
    def of(cls, table: pa.Table) -> Table:
        columns = [table[name].to_pylist() for name in table.column_names]
        return cls(list(table.column_names), [list(row) for row in zip(*columns, strict=True)])


@dataclass(frozen=True, slots=True)
class Lake:
    """Files below a root, and what is right."""

    root: str
    pattern: str
    expected: Table


@dataclass(frozen=True, slots=True)
class Reading:
    """How an engine read a lake.

    Attributes:
        version: of the engine; empty if it is not there.
        verdict: `exact`; or what differs.
    """

    version: str
    verdict: str

    @property
    def exact(self) -> bool:
        return self.verdict == "exact"


def days_lake(directory: Path) -> Lake:
    """Two symbols' days of trades, compacted by this project: strings, small integers, ties, a neighbour's rows."""
    lakes = Lakes.of(Rig("local", None, directory))
    tables = []
    for seed, symbol in enumerate(("adausdt", "btcusdt")):
        day_spec = DaySpec(PAIR.exchange, PAIR.stream, symbol, DAY, parts=6, rows=700, seed=seed)
        parts = list(generate_parts(day_spec))
        lakes.put_raw(SymbolDay(PAIR.exchange, PAIR.stream, symbol, DAY), parts)
        tables.append(oracle(parts))
    place = MarketPlace(lakes.raw, lakes.compact, Limits(64 << 20), clock=lambda: NOON_AFTER)
    outcome = asyncio.run(compact_pair(place, PAIR, DAY, listener=Recorder()))
    assert [item.status for item in outcome.outcomes] == ["success", "success"]
    return Lake(lakes.compact_url, DAYS_PATTERN, Table.of(pa.concat_tables(tables)))


def hours_lake(directory: Path) -> Lake:
    """An hour of events, merged in place: null columns, booleans, and partition columns that the path has too."""
    lake = EventLake.of(Rig("local", None, directory))
    contents = lake.put_spec(spec(files=5, rows=600))
    assert lake.sweep().outcomes
    tables = [_decoded(pq.read_table(pa.BufferReader(content))) for content in contents]
    return Lake(lake.url, HOURS_PATTERN, Table.of(pa.concat_tables(tables, promote_options="default")))


def _decoded(table: pa.Table) -> pa.Table:
    """A table in which dictionaries are the values that they stand for."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def read(engine: str, way: str, lake: Lake, *, python: str = sys.executable, node_modules: str = "") -> Reading:
    """Let an engine read a lake in a process of its own, and compare."""
    if engine == "hyparquet":
        files = sorted(str(path) for path in Path(lake.root).glob(lake.pattern))
        command = ["node", str(HERE / "with_hyparquet.mjs"), node_modules, *files]
    else:
        command = [python, str(HERE / "read_with.py"), engine, way, lake.root, lake.pattern]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no word"]
        if "ModuleNotFoundError" in lines[-1]:
            return Reading("", "not there")
        return Reading(_version(engine, python), f"error: {_short(lines)}")
    document = json.loads(done.stdout.strip().splitlines()[-1])
    found = Table(document["columns"], document["rows"])
    return Reading(document["version"], difference(found, lake.expected, strict=engine not in _JSON))


def _short(lines: Sequence[str]) -> str:
    """The line that says what went wrong, without this machine's paths."""
    said = next((line for line in reversed(lines) if "Error" in line or "Exception" in line), lines[-1])
    return " ".join(said.split())[:160].replace("|", "/").replace(tempfile.gettempdir(), "…")


def _version(engine: str, python: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({engine!r}))"
    return subprocess.run([python, "-c", code], check=False, capture_output=True, text=True).stdout.strip()


def difference(found: Table, expected: Table, *, strict: bool = True) -> str:
    """`exact`, or the first thing that differs. Rows may come in another order: readers sort by what they need.

    Args:
        found: as an engine gave it.
        expected: as it should be.
        strict: whether 1.0 for 1 is wrong, as it is where both kinds of numbers are told apart.
    """
    if found.columns != expected.columns:
        more = [name for name in found.columns if name not in expected.columns]
        less = [name for name in expected.columns if name not in found.columns]
        if more or less:
            return "columns: " + ", ".join([*(f"+{name}" for name in more), *(f"-{name}" for name in less)])
        moved = [name for name, other in zip(found.columns, expected.columns, strict=True) if name != other]
        return f"columns in another order ({', '.join(moved)})"
    if len(found.rows) != len(expected.rows):
        return f"{len(found.rows)} rows of {len(expected.rows)}"
    ours, theirs = (sorted(table.rows, key=lambda row: _key(row, strict)) for table in (expected, found))
    for right, row in zip(ours, theirs, strict=True):
        if _key(right, strict) != _key(row, strict):
            pairs = zip(expected.columns, right, row, strict=True)
            name, value, other = next(item for item in pairs if _key(item[1:2], strict) != _key(item[2:], strict))
            return f"{name}: {other!r} for {value!r}"
    return "exact"


def _key(row: Sequence[Any], strict: bool) -> list[str]:
    """A row as text, whose numbers have their kind; or, of what comes as JSON, only their value."""
    return [repr(value if strict or type(value) is not int else float(value)) for value in row]


def page(engines: Sequence[str], lakes: dict[str, Lake], *, python: str, node_modules: str) -> str:
    """The table, as Markdown."""
    lines = [
        "| engine | way | a published day | a merged hour |",
        "|---|---|---|---|",
    ]
    for engine in engines:
        for way in (way for of, way in WAYS if of == engine):
            found = {
                name: read(engine, way, lake, python=python, node_modules=node_modules) for name, lake in lakes.items()
            }
            version = next((item.version for item in found.values() if item.version), "")
            verdicts = " | ".join(item.verdict for item in found.values())
            lines.append(f"| {engine} {version} | {WAYS[engine, way]} | {verdicts} |")
            sys.stderr.write(f"{lines[-1]}\n")
    return "\n".join(lines)


def main() -> None:
    """Make the lakes, let the engines read, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", help="default: all")
    parser.add_argument("--python", default=sys.executable, help="of the environment that has the engines")
    parser.add_argument("--node-modules", default="", help="the directory that has node_modules with hyparquet")
    arguments = parser.parse_args()
    engines = arguments.engines or [*ENGINES, *(["hyparquet"] if arguments.node_modules else [])]
    with tempfile.TemporaryDirectory() as directory:
        places = {name: Path(directory) / name for name in ("days", "hours")}
        for place in places.values():
            place.mkdir()
        lakes = {"a published day": days_lake(places["days"]), "a merged hour": hours_lake(places["hours"])}
        table = page(engines, lakes, python=arguments.python, node_modules=arguments.node_modules)
    print(table)  # noqa: T201


def is_there(engine: str) -> bool:
    """Whether this Python has an engine."""
    return importlib.util.find_spec(engine) is not None


if __name__ == "__main__":
    main()
