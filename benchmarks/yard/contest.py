"""Who competes, and the rounds: every competitor in turn, a whole process each, its output checked before it counts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.yard.data import DAY
from benchmarks.yard.measure import Failed, Measured, run, warm
from benchmarks.yard.oracle import check, prepare
from quantlab_dagster.lake.market import DATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.yard.data import Dataset
    from benchmarks.yard.oracle import Verdict
    from quantlab_dagster.lake.market import SymbolDay

__all__ = ["COMPETITORS", "OURS", "Competitor", "Standing", "compete", "environment", "run_one"]

ROOT = Path(__file__).resolve().parent.parent.parent
BUDGET_MB = 512


@dataclass(frozen=True, slots=True)
class Competitor:
    """One way from parts to a file.

    Attributes:
        name: as on the command line.
        label: as in the table.
        module: that does it, and what it is told to do.
        ordered: whether it promises the order.
        exact: whether it promises the order of ties.
        needs: library that must be installed.
        budget: whether its memory is bounded.
        not_at: sizes that it cannot do, and why.
    """

    name: str
    label: str
    module: tuple[str, ...]
    ordered: bool = True
    exact: bool = True
    needs: str = ""
    budget: bool = False
    not_at: dict[str, str] = field(default_factory=dict)

    def command(self, data: Dataset, output: Path) -> list[str]:
        """What to run."""
        module, *words = self.module
        if module == "quantlab_dagster.cli":
            return [sys.executable, "-m", module, "compact", "--date", str(DAY), "--json"]
        kind = [data.kind] if module == "benchmarks.yard.engines" else []
        return [sys.executable, "-m", module, *words, *kind, str(data.raw), str(output)]

    def environment(self, data: Dataset, output: Path, home: Path) -> dict[str, str]:
        """Variables for it."""
        env = environment()
        if self.budget:
            env |= {
                "POLARS_OOC_MEMORY_BUDGET_MB": str(BUDGET_MB),
                "POLARS_OOC_SPILL_DIR": str(output / "spill"),
                "YARDSTICK_MEMORY_MB": str(BUDGET_MB),
            }
        if self.module[0] == "quantlab_dagster.cli":
            env |= lake_settings(data.raw, output, home)
        return env

    def produced(self, day: SymbolDay, output: Path) -> Path:
        """Where its file of a symbol-day is."""
        in_lake = self.name in ("lake", "quantlab")
        return output / day.key(DATA) if in_lake else output / f"{day.symbol}.parquet"

    @property
    def missing(self) -> str:
        """What to say if its library is not installed; else empty."""
        if not self.needs or importlib.util.find_spec(self.needs):
            return ""
        return f"not measured: {self.needs} is not installed (pip install '.[bench]')"


_TOO_LARGE = {"large": "not measured: holds the day several times over"}

COMPETITORS = (
    Competitor("copy", "copy of the bytes", ("benchmarks.yard.engines", "copy"), ordered=False, exact=False),
    Competitor("limit", "limit: Polars scan → write", ("benchmarks.yard.engines", "limit"), ordered=False, exact=False),
    Competitor(
        "limit-our-writer",
        "limit with our writer's options",
        ("benchmarks.yard.engines", "limit-our-writer"),
        ordered=False,
        exact=False,
        not_at=_TOO_LARGE,
    ),
    Competitor("polars", "Polars scan → sort → seq → sink", ("benchmarks.yard.engines", "polars")),
    Competitor("polars-512", "the same, budget of 512 MB", ("benchmarks.yard.engines", "polars"), budget=True),
    Competitor("duckdb", "DuckDB COPY … ORDER BY", ("benchmarks.yard.engines", "duckdb"), needs="duckdb"),
    Competitor(
        "duckdb-512",
        "the same, memory_limit 512 MB",
        ("benchmarks.yard.engines", "duckdb"),
        needs="duckdb",
        budget=True,
    ),
    Competitor(
        "datafusion",
        "DataFusion COPY … ORDER BY",
        ("benchmarks.yard.engines", "datafusion"),
        exact=False,
        needs="datafusion",
    ),
    Competitor("pyarrow", "PyArrow read → sort → write", ("benchmarks.yard.engines", "pyarrow"), not_at=_TOO_LARGE),
)

OURS = (
    Competitor("kernel", "**kernel**", ("benchmarks.yard.ours", "kernel")),
    Competitor("merging", "**kernel as a run uses it**", ("benchmarks.yard.ours", "merging")),
    Competitor("lake", "**with I/O and publishing**", ("benchmarks.yard.ours", "lake")),
    Competitor("quantlab", "**`quantlab compact`, whole**", ("quantlab_dagster.cli",)),
)


@dataclass(slots=True)
class Standing:
    """What is known of a competitor.

    Attributes:
        competitor: who.
        runs: that ended well.
        verdict: on its first output; None where there is nothing to judge.
        size_bytes: of its output.
        error: why it was not measured, or what it died of.
    """

    competitor: Competitor
    runs: list[Measured] = field(default_factory=list)
    verdict: Verdict | None = None
    size_bytes: int = 0
    error: str = ""

    @property
    def seconds(self) -> float:
        """Median of the wall-clock times."""
        return statistics.median(one.seconds for one in self.runs)

    @property
    def cpu_seconds(self) -> float:
        """Median."""
        return statistics.median(one.cpu_seconds for one in self.runs)

    @property
    def peak_mib(self) -> float:
        """Greatest of all runs."""
        return max(one.peak_mib for one in self.runs)

    @property
    def wrong(self) -> str:
        """What it promised and did not keep; empty if it kept everything."""
        if self.verdict is None:
            return ""
        said = [self.verdict.text] if not self.verdict.same_rows else []
        if self.competitor.ordered:
            said += ["not in order"] if not self.verdict.ordered else []
            said += ["seq is wrong"] if not self.verdict.numbered else []
        if self.competitor.exact:
            said += ["ties not in order"] if self.verdict.ordered and not self.verdict.exact else []
        return ", ".join(said)


def environment() -> dict[str, str]:
    """Where a child finds this checkout."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def lake_settings(raw: object, compact: object, home: Path) -> dict[str, str]:
    """The project's settings for two lakes."""
    return {
        "QUANTLAB_RAW_URL": str(raw),
        "QUANTLAB_COMPACT_URL": str(compact),
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "DAGSTER_HOME": str(home),
    }


def compete(data: Dataset, competitors: Sequence[Competitor], rounds: int, work: Path) -> list[Standing]:
    """All rounds over a data set. The last outputs stay in `work`, by the competitor's name."""
    prepare(data)
    standings = [Standing(one) for one in competitors]
    for number in range(rounds):
        for standing in standings:
            competitor, output = standing.competitor, work / standing.competitor.name
            standing.error = standing.error or competitor.missing or competitor.not_at.get(data.size, "")
            if standing.error:
                continue
            try:
                measured = run_one(data, competitor, output, work)
            except Failed as failed:
                standing.error = f"failed: {failed}"
                continue
            if number == 0:
                _judge(standing, data, output)
            standing.runs.append(measured)
            print(
                f"  {data.kind} {data.size} {number + 1}/{rounds} {competitor.name:17} {measured.seconds:7.2f} s "
                f"{measured.cpu_seconds:7.2f} CPU s {measured.peak_mib:6.0f} MiB  {standing.wrong}",
                flush=True,
            )
            if data.size == "large" and competitor.name not in ("kernel", "polars"):
                shutil.rmtree(output)
    return standings


def run_one(data: Dataset, competitor: Competitor, output: Path, work: Path, *, core: int | None = None) -> Measured:
    """One run from a clean start: an empty output, all parts in the page cache.

    Raises:
        Failed: it did not end well.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    home = work / "dagster-home"
    home.mkdir(exist_ok=True)
    warm(data.all_parts())
    return run(competitor.command(data, output), competitor.environment(data, output, home), work, core=core)


def _judge(standing: Standing, data: Dataset, output: Path) -> None:
    competitor = standing.competitor
    files = [competitor.produced(day, output) for day in data.days]
    standing.size_bytes = sum(path.stat().st_size for path in files if path.exists())
    if competitor.name == "copy":
        return
    verdict: Verdict | None = None
    for day, path in zip(data.days, files, strict=True):
        one = check(data, day, path)
        verdict = one if verdict is None else verdict & one
    standing.verdict = verdict
