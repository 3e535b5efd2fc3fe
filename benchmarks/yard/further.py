"""What the contest does not show: one core, full scans, an up-to-date day, S3, the event lake.

Each measurement gives lines: plain dicts with a label and what was measured.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.yard.contest import COMPETITORS, OURS, environment, lake_settings, run_one
from benchmarks.yard.measure import Failed, Measured, run, warm
from quantlab_dagster_tests import event_load
from quantlab_dagster_tests.servers import ServerStartError, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmarks.yard.data import Dataset

__all__ = ["events", "full_scans", "one_core", "over_s3", "up_to_date"]

_BY_NAME = {one.name: one for one in (*COMPETITORS, *OURS)}
Line = dict[str, Any]


def one_core(data: Dataset, rounds: int, work: Path) -> list[Line]:
    """Ours and Polars, on all cores and on one."""
    ways: dict[str, Callable[[], Measured]] = {
        f"{name}, {cores}": _pinned(data, name, work, core)
        for name in ("lake", "polars")
        for cores, core in (("all cores", None), ("one core", 0))
    }
    return _in_turn(ways, rounds, data)


def _pinned(data: Dataset, name: str, work: Path, core: int | None) -> Callable[[], Measured]:
    return lambda: run_one(data, _BY_NAME[name], work / "one-core", work, core=core)


def full_scans(data: Dataset, rounds: int, work: Path) -> list[Line]:
    """Our file and Polars' file, read whole by Polars and DuckDB: seconds within the process, the engine loaded."""
    day = data.days[0]
    files = {"our file": work / "kernel", "Polars' file": work / "polars"}
    paths = {label: directory / f"{day.symbol}.parquet" for label, directory in files.items()}
    if not all(path.exists() for path in paths.values()):
        return []
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for reader in ("polars", "duckdb"):
            for label, path in paths.items():
                warm([path])
                command = [sys.executable, "-m", "benchmarks.yard.scans", reader, str(path)]
                seconds, cpu_seconds = json.loads(run(command, environment(), work).output)
                found.setdefault(f"{label}, read by {reader}", []).append((seconds, cpu_seconds))
    return [
        _line(data, label, *(statistics.median(column) for column in zip(*times, strict=True)))
        for label, times in found.items()
    ]


def up_to_date(data: Dataset, rounds: int, work: Path) -> list[Line]:
    """`quantlab compact` of a day that is published already."""
    output = work / "up-to-date"
    run_one(data, _BY_NAME["quantlab"], output, work)
    command = _BY_NAME["quantlab"].command(data, output)
    env = _BY_NAME["quantlab"].environment(data, output, work / "dagster-home")

    def again() -> Measured:
        measured = run(command, env, work)
        built = [item for item in json.loads(measured.output)["symbol_days"] if item["action"] != "up_to_date"]
        if built:
            raise Failed(f"not up to date: {built[0]}")
        return measured

    return _in_turn({"quantlab compact, nothing to do": again}, rounds, data)


def over_s3(data: Dataset, rounds: int, work: Path) -> list[Line]:
    """The parts on SeaweedFS: fetched and thrown away, and compacted by us into another bucket."""
    raw, compact = "yard-raw", "yard-compact"
    with ExitStack() as held:
        try:
            server = held.enter_context(seaweedfs(work / "server"))
        except ServerStartError as error:
            raise Failed(f"SeaweedFS, which is in the dependencies for development: {error}") from error
        server.create_bucket(raw)
        server.create_bucket(compact)
        for day in data.days:
            server.put_objects(raw, {day.key(part.name): part.read_bytes() for part in data.parts(day)})
        env = environment() | server.env() | {"YARDSTICK_SCRATCH": str(work)}
        number = 0

        def bare() -> Measured:
            measured = run([sys.executable, "-m", "benchmarks.yard.gets", raw], env, work)
            if int(measured.output) != len(data.all_parts()):
                raise Failed(f"{measured.output} parts were fetched")
            return measured

        def ours() -> Measured:
            nonlocal number
            number += 1
            words = ["lake", f"s3://{raw}", f"s3://{compact}/{number}"]
            return run([sys.executable, "-m", "benchmarks.yard.ours", *words], env, work)

        def whole() -> Measured:
            nonlocal number
            number += 1
            settings = lake_settings(f"s3://{raw}", f"s3://{compact}/{number}", work / "dagster-home")
            return run(_BY_NAME["quantlab"].command(data, work), env | settings, work)

        ways = {"bare GETs, 64 at a time": bare, "ours, with I/O and publishing": ours, "quantlab compact": whole}
        lines = _in_turn(ways, rounds, data)
    return [line | {"parts_per_second": len(data.all_parts()) / line["seconds"]} for line in lines]


def events(base: Path, hours: int, rounds: int, work: Path) -> list[Line]:
    """Hours of 40 tiny files: a Polars loop, our sweep, the whole command, and the command again with nothing to do."""
    made = base / f"events-{hours}"
    if not (made / "complete").exists():
        shutil.rmtree(made, ignore_errors=True)
        event_load.write_lake(made / "lake", event_load.hours(hours, files=40, rows=2_000))
        (made / "complete").touch()
    right = event_load.query(made / "lake", rounds=1).fingerprint
    root = work / "events"
    settings = environment() | {"WAREHOUSE_URL": str(root), "DAGSTER_HOME": str(work / "dagster-home")}
    (work / "dagster-home").mkdir(parents=True, exist_ok=True)

    def fresh() -> None:
        shutil.rmtree(root, ignore_errors=True)
        # Links suffice: nobody writes into a file, files are replaced.
        shutil.copytree(made / "lake", root, copy_function=os.link)
        warm(root.glob("**/*.parquet"))

    def checked(measured: Measured, where: Path) -> Measured:
        if event_load.query(where, rounds=1).fingerprint != right:
            raise Failed("the rows are not those that there were")
        return measured

    def loop() -> Measured:
        output = work / "events-polars"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        fresh()
        return checked(run([*_module("engines"), "events", "", str(root), str(output)], environment(), work), output)

    def sweep() -> Measured:
        fresh()
        return checked(run([*_module("ours"), "events", str(root), ""], environment(), work), root)

    def whole() -> Measured:
        fresh()
        return checked(run([*_COMMAND, "warehouse", "compact", "--json"], settings, work), root)

    def again() -> Measured:
        return run([*_COMMAND, "warehouse", "compact", "--json"], settings, work)

    ways = {
        "Polars loop: read → sort → write": loop,
        "our sweep": sweep,
        "quantlab warehouse compact": whole,
        "the same, nothing to do": again,
    }
    lines = _in_turn(ways, rounds)
    return [line | {"hours": hours, "cpu_ms_per_hour": 1000 * line["cpu_seconds"] / hours} for line in lines]


_COMMAND = [sys.executable, "-m", "quantlab_dagster.cli"]


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.yard.{name}"]


def _in_turn(ways: Mapping[str, Callable[[], Measured]], rounds: int, data: Dataset | None = None) -> list[Line]:
    found: dict[str, list[Measured]] = {label: [] for label in ways}
    for number in range(rounds):
        for label, way in ways.items():
            measured = way()
            found[label].append(measured)
            print(
                f"  {number + 1}/{rounds} {label:40} {measured.seconds:7.2f} s {measured.cpu_seconds:7.2f} CPU s",
                flush=True,
            )
    return [
        _line(
            data,
            label,
            statistics.median(one.seconds for one in runs),
            statistics.median(one.cpu_seconds for one in runs),
            max(one.peak_mib for one in runs),
        )
        for label, runs in found.items()
    ]


def _line(data: Dataset | None, label: str, seconds: float, cpu_seconds: float, peak_mib: float | None = None) -> Line:
    line: Line = {"label": label, "seconds": seconds, "cpu_seconds": cpu_seconds}
    line |= {"peak_mib": peak_mib} if peak_mib is not None else {}
    return line | ({"kind": data.kind, "size": data.size} if data else {})
