"""What becomes of parts on the public path: each between two good neighbours, in a process that is watched.

The long run compacts many such symbol-days together, as production does; what does not end well there, or ends with
its process, is compacted once more by itself, and that is told.

python -m quantlab_dagster_tests.kernel.corpus_run [--count 3000] [--seed 1] [--processes 2] [--fastparquet PYTHON]
    [--spark PYTHON] [--results FILE] [--only ID …]

writes corpus_outcomes.json, from which docs/reliability.md has its table. The process compacts one symbol-day after
the other and says which; when it ends, hangs or grows beyond bounds, that one did it, and the next process goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.market.compact import compact_pair
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.work.limits import Limits
from quantlab_dagster_tests.kernel.corpus import (
    NEIGHBOURS,
    Case,
    Known,
    bomb,
    bombs,
    mutated,
    mutations,
    odd_name,
    odd_names,
    parquet,
)
from quantlab_dagster_tests.lakes import DAY, NOON_AFTER, PAIR, Recorder, symbol_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from quantlab_dagster.market.outcome import Outcome

__all__ = ["FAILURES", "Bounds", "End", "Result", "judge", "run", "table_of"]

OUTCOMES = Path(__file__).with_name("corpus_outcomes.json")
PARTS = tuple(f"part-1767830400-{number:06d}.parquet" for number in (1, 2, 3))
_CASES_PER_PROCESS = 250
_TOGETHER = 60
LIMITS = Limits(64 << 20)


class End(StrEnum):
    """How a part ended."""

    RIGHT = "right"
    REFUSED = "refused"
    ALTERED = "altered, no checksum"
    CHECKED_ALTERED = "altered, though checksummed or valid"
    GOOD_REFUSED = "good part refused"
    GOOD_ALTERED = "good part altered"
    OTHER_BLAMED = "another part blamed"
    RUN_FAILED = "run failed"
    PROCESS_ENDED = "process ended"
    HUNG = "hung"
    GREW = "memory beyond bounds"


FAILURES = frozenset(End) - {End.RIGHT, End.REFUSED, End.ALTERED}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one symbol-day of three small parts may take.

    Attributes:
        seconds: wall-clock time, a cold start of the process apart.
        memory: bytes that the process and its children may grow by: what a decoder may take, and a little.
    """

    seconds: float = 60.0
    memory: int = LIMITS.decoder_memory + (128 << 20)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one part.

    Attributes:
        id: of the case.
        region: of the case.
        end: how it ended.
        why: for people: the reason of a refusal, the last words of a process.
    """

    id: str
    region: str
    end: End
    why: str = ""


# ---- the judgement ---------------------------------------------------------------------------------------------------


def expected(table: pa.Table) -> pa.Table:
    """The rows of the part and its neighbours as a plain stable sort has them, without numbers."""
    before, after = NEIGHBOURS
    rows = pa.concat_tables([before, table, after], promote_options="default")
    return rows.take(np.argsort(rows["ts_event"].to_numpy(), kind="stable"))


def judge(case: Case, status: str, part: str | None, published: pa.Table | None, why: str) -> Result:
    """How a part ended whose symbol-day was dealt with.

    Args:
        case: the part.
        status: of the symbol-day.
        part: that its quarantine names, if it has one.
        published: its rows, if it has any.
        why: the reason that was given.
    """

    def said(end: End) -> Result:
        return Result(case.id, case.region, end, why)

    if status == "quarantine" and published is None:
        if part != PARTS[1]:
            return said(End.OTHER_BLAMED)
        return said(End.GOOD_REFUSED if case.known is Known.ROWS else End.REFUSED)
    if status != "success" or published is None:
        return said(End.RUN_FAILED)
    right = expected(case.table)
    numbers = published["seq"].to_pylist() == list(range(len(published))) if "seq" in published.column_names else False
    rows = published.drop_columns("seq") if numbers else published
    if rows.column_names == right.column_names and rows.to_pydict() == right.to_pydict():
        return said(End.RIGHT)
    altered = {
        Known.ROWS: End.GOOD_ALTERED,
        Known.CHECKED: End.CHECKED_ALTERED,
        Known.FREE: End.ALTERED,
    }
    return said(altered[case.known])


# ---- the child -------------------------------------------------------------------------------------------------------


def symbol_of(number: int) -> str:
    return f"c{number:05d}"


def place_in(directory: Path) -> MarketPlace:
    return MarketPlace(
        open_store(str(directory / "raw")),
        open_store(str(directory / "compact")),
        replace(LIMITS, scratch_base=directory / "scratch"),
        clock=lambda: NOON_AFTER,
    )


async def compact_symbols(directory: Path, numbers: Iterable[int]) -> None:
    """Compact one symbol-day after the other through the market's own function, and say so."""
    place = place_in(directory)
    for number in numbers:
        say(directory, "begin", number)
        done = await compact_pair(place, PAIR, DAY, listener=Recorder(), symbols=[symbol_of(number)])
        [outcome] = done.outcomes
        say(directory, "end", number, _document(outcome))


async def compact_together(directory: Path, numbers: Sequence[int]) -> None:
    """The same in one call."""
    number_of = {symbol_of(number): number for number in numbers}

    class Telling(Recorder):
        def finished(self, outcome: Outcome) -> None:
            say(directory, "end", number_of[outcome.symbol_day.symbol], _document(outcome))

    say(directory, "begin", numbers[0])
    await compact_pair(place_in(directory), PAIR, DAY, listener=Telling(), symbols=list(number_of))


def say(directory: Path, what: str, number: int, more: Any = None) -> None:
    with (directory / "said").open("a") as file:
        file.write(json.dumps([what, number, more]) + "\n")


def _document(outcome: Outcome) -> dict[str, str]:
    return {"status": outcome.status.value, "reason": outcome.reason, "error": outcome.error}


def child(directory: Path, first: int, after: int, *, together: bool) -> None:
    """What the watched process does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compact = compact_together if together else compact_symbols
    asyncio.run(compact(directory, range(first, after)))


# ---- the one who watches ---------------------------------------------------------------------------------------------

WORK = (sys.executable, "-m", "quantlab_dagster_tests.kernel.corpus_run", "--child")
TOGETHER = (sys.executable, "-m", "quantlab_dagster_tests.kernel.corpus_run", "--together")


def run(cases: Sequence[Case], bounds: Bounds | None = None, work: Sequence[str] = WORK) -> Iterator[Result]:
    """Put each part between its neighbours, compact it, and judge what became of it.

    Args:
        cases: in this order.
        bounds: of each.
        work: command of the process; a directory and two numbers, from and to, are added.
    """
    for start in range(0, len(cases), _CASES_PER_PROCESS):
        some = cases[start : start + _CASES_PER_PROCESS]
        with _laid_out(some) as directory:
            yield from _watched(directory, some, bounds or Bounds(), work)


def run_together(cases: Sequence[Case], bounds: Bounds, processes: int = 1) -> Iterator[Result]:
    """The same, many at a time, as they end; what does not end well is run again by itself.

    Args:
        cases: in any order.
        bounds: of each that is run by itself, and of the memory of many.
        processes: that work side by side.
    """
    starts = range(0, len(cases), _TOGETHER)
    with ThreadPoolExecutor(processes) as pool:
        work = [pool.submit(_together, bounds, cases[start : start + _TOGETHER]) for start in starts]
        for one in as_completed(work):
            yield from one.result()


def _together(bounds: Bounds, cases: Sequence[Case]) -> list[Result]:
    with _laid_out(cases) as directory:
        watch = _Watch(
            directory, replace(bounds, seconds=10 * bounds.seconds), [*TOGETHER, str(directory), "0", str(len(cases))]
        )
        watch.wait()
        ended = {number: _looked_at(directory, cases[number], number, said) for number, said in watch.ended.items()}
    well = {result.id: result for result in ended.values() if result.end not in FAILURES}
    well |= {result.id: result for result in run([case for case in cases if case.id not in well], bounds)}
    return [well[case.id] for case in cases]


@contextmanager
def _laid_out(cases: Sequence[Case]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="corpus-") as name:
        _lay_out(Path(name), cases)
        yield Path(name)


def _lay_out(directory: Path, cases: Sequence[Case]) -> None:
    before, after = (parquet(table) for table in NEIGHBOURS)
    for name in ("raw", "compact", "scratch"):
        (directory / name).mkdir()
    for number, case in enumerate(cases):
        prefix = directory / "raw" / symbol_day(symbol_of(number)).prefix
        prefix.mkdir(parents=True)
        for part, data in zip(PARTS, (before, case.data, after), strict=True):
            (prefix / part).write_bytes(data)


def _watched(directory: Path, cases: Sequence[Case], bounds: Bounds, work: Sequence[str]) -> Iterator[Result]:
    at = 0
    while at < len(cases):
        watch = _Watch(directory, bounds, [*work, str(directory), str(at), str(len(cases))])
        died = watch.wait()
        for number, said in watch.ended.items():
            yield _looked_at(directory, cases[number], number, said)
            at = number + 1
        if at < len(cases):
            end, why = died or (End.PROCESS_ENDED, "it ended well, before its work was done")
            yield Result(cases[at].id, cases[at].region, end, why)
            at += 1
            shutil.rmtree(directory / "scratch")
            (directory / "scratch").mkdir()


def _looked_at(directory: Path, case: Case, number: int, said: dict[str, str]) -> Result:
    place = directory / "compact" / symbol_day(symbol_of(number)).prefix
    quarantine, data = place / "quarantine.json", place / "data.parquet"
    part = json.loads(quarantine.read_text())["part"] if quarantine.exists() else None
    published = pq.ParquetFile(data).read() if data.exists() else None
    why = f"{said['error']}: {said['reason']}" if said["error"] else said["reason"]
    return judge(case, said["status"], part, published, why)


class _Watch:
    """One process, and what it said."""

    def __init__(self, directory: Path, bounds: Bounds, command: list[str]) -> None:
        self._said, self._words = directory / "said", directory / "words"
        self._said.write_text("")
        self._bounds = bounds
        with self._words.open("wb") as words:
            self._process = subprocess.Popen(command, stdout=words, stderr=words)
        self.ended: dict[int, dict[str, str]] = {}

    def wait(self) -> tuple[End, str] | None:
        """Until it has ended, by itself or by us: then it is said why, unless it ended well."""
        began, before, heard = time.monotonic(), None, 0
        while self._process.poll() is None:
            time.sleep(0.02)
            used = _memory(self._process.pid)
            if (lines := self._hear()) != heard:
                began, before, heard = time.monotonic(), used, lines
            if before is not None and used - before > self._bounds.memory:
                return self._kill(End.GREW, f"by {(used - before) >> 20} MiB")
            if time.monotonic() - began > self._bounds.seconds + (20 if before is None else 0):
                return self._kill(End.HUNG, f"for {self._bounds.seconds:.0f} s")
        self._hear()
        if self._process.returncode == 0:
            return None
        return End.PROCESS_ENDED, f"{self._process.returncode}: {self._last_words()}"

    def _hear(self) -> int:
        lines = self._said.read_text().split("\n")[:-1]
        for line in lines:
            what, number, more = json.loads(line)
            if what == "end":
                self.ended[number] = more
        return len(lines)

    def _last_words(self) -> str:
        """What a process says when it dies: of a panic the message, of an exception the last line."""
        lines = [line.strip() for line in self._words.read_text(errors="replace").splitlines() if line.strip()]
        for at, line in enumerate(lines):
            if line.startswith("memory allocation of "):
                return line
            if " panicked at " in line:  # without the thread and its number
                return " ".join(["panicked at", line.partition(" panicked at ")[2], *lines[at + 1 : at + 2]])[:200]
        told = [line for line in lines if not line.startswith(("note: ", "stack backtrace"))]
        return told[-1][:200] if told else ""

    def _kill(self, end: End, why: str) -> tuple[End, str]:
        for process in [*_tree(self._process.pid), self._process]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._hear()
        return end, why


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def _memory(pid: int) -> int:
    """Resident bytes of a process and its children."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        total = psutil.Process(pid).memory_info().rss
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return int(total)


# ---- the table -------------------------------------------------------------------------------------------------------


def table_of(results: Sequence[Result], said: Sequence[str]) -> dict[str, Any]:
    """The document of outcomes: by region how many ended how, and every failure by its id."""
    regions: dict[str, Counter[str]] = {}
    for result in results:
        regions.setdefault(result.region, Counter())[result.end.value] += 1
    seen = {result.end for result in results} | (set(End) - FAILURES)
    kinds = [end.value for end in End if end in seen]
    return {
        "said": list(said),
        "outcomes": kinds,
        "regions": {
            region: {kind: counts[kind] for kind in kinds if counts[kind]} for region, counts in regions.items()
        },
        "failures": {result.id: f"{result.end}: {result.why}" for result in results if result.end in FAILURES},
    }


def _say(seed: int, results: Sequence[Result]) -> list[str]:
    changed = sum(result.id.startswith("mutated:") for result in results)
    failed = sum(result.end in FAILURES for result in results)
    versions = ", ".join(f"{name} {version(name)}" for name in ("polars", "pyarrow", "duckdb"))
    missing = [name for name in ("fastparquet", "Spark") if f"written by {name}" not in {one.region for one in results}]
    without = "".join(f" {name} was not at hand, and is left out." for name in missing)
    about = f"{len(results):,} parts, {changed:,} of them mutated (seed {seed})"
    path = "each between two good neighbours, compacted by the function that production uses, in a watched process"
    return [
        f"{about}: {path} ({versions}).{without}",
        f"{failed:,} ended as they must not: no process may end, hang or grow, no run may fail of a part, no part of",
        "another writer be refused, nothing that carries a checksum come out as something else. Where nothing does,",
        "altered bytes may decode to other values, which no reader can know; what a footer or a page header declares",
        "has no checksum, either.",
        "",
        "A case is made again from its id: `python -m quantlab_dagster_tests.kernel.corpus_run --only ID`.",
    ]


def case_of(name: str) -> Case:
    """The case of an id of a mutated part or a bomb."""
    kind, _, rest = name.partition(":")
    if kind == "mutated":
        seed, number = rest.split(":")
        return mutated(int(seed), int(number))
    if kind == "bomb":
        return bomb(rest)
    if kind == "odd name":
        return odd_name(int(rest))
    from quantlab_dagster_tests.kernel.corpus_writers import foreign  # noqa: PLC0415

    return next(case for case in foreign() if case.id == name)


def _known(path: Path) -> dict[str, Result]:
    """What a run that was broken off has found."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {one["id"]: Result(one["id"], one["region"], End(one["end"]), one["why"]) for one in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3_000, help="mutated parts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="that work side by side")
    parser.add_argument("--seconds", type=float, default=60.0, help="that a part by itself may take")
    parser.add_argument("--fastparquet", help="the Python of an environment that has fastparquet")
    parser.add_argument("--spark", help="the Python of an environment that has pyspark")
    parser.add_argument("--only", nargs="+", help="ids to run; nothing is written")
    parser.add_argument("--output", type=Path, default=OUTCOMES)
    parser.add_argument(
        "--results", type=Path, default=Path("corpus-results.jsonl"), help="kept; a run goes on from it"
    )
    options = parser.parse_args()
    if options.only:
        for result in run([case_of(name) for name in options.only]):
            print(f"{result.id}: {result.end} ({result.why})")  # noqa: T201
        return
    from quantlab_dagster_tests.kernel.corpus_writers import fastparquet_cases, foreign, spark_cases  # noqa: PLC0415

    cases = [*foreign(), *(fastparquet_cases(options.fastparquet) if options.fastparquet else [])]
    cases += spark_cases(options.spark) if options.spark else []
    cases += [*mutations(options.seed, options.count), *bombs(), *odd_names()]
    began, done = time.monotonic(), _known(options.results) if options.results else {}
    for result in run_together(
        [case for case in cases if case.id not in done], Bounds(seconds=options.seconds), options.processes
    ):
        done[result.id] = replace(result, why=result.why[:200])
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(done[result.id])) + "\n")
        if result.end in FAILURES:
            print(f"{result.id} ({result.region}): {result.end} ({result.why[:200]})", flush=True)  # noqa: T201
    results = [done[case.id] for case in cases]
    found = table_of(results, _say(options.seed, results))
    options.output.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    print(Counter(result.end.value for result in results), f"{time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1:2] in (["--child"], ["--together"]):
        child(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), together=sys.argv[1] == "--together")
    else:
        main()
