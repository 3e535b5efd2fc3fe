"""What the command line shows: lines, tables and progress for people, JSON for machines.

Results go to standard output, progress and errors to standard error. What is not a terminal is never wrapped.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from quantlab_dagster.days.compact import Status
from quantlab_dagster.lake.events import hour_text
from quantlab_dagster.text import format_bytes, hour_line, line

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from quantlab_dagster.days.compact import Outcome
    from quantlab_dagster.days.plan import Plan
    from quantlab_dagster.days.verify import VerifiedDay
    from quantlab_dagster.hours.compact import HourOutcome
    from quantlab_dagster.lake.events import AppHour
    from quantlab_dagster.lake.layout import Pair, SymbolDay

__all__ = ["ProgressListener", "Screen"]

_UNWRAPPED = 10_000


class Screen:
    """Writes for people, or collects one JSON document.

    Args:
        as_json: whether standard output gets JSON instead of text.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = Console(width=None if sys.stdout.isatty() else _UNWRAPPED, highlight=False)
        self.err = Console(stderr=True, width=None if sys.stderr.isatty() else _UNWRAPPED, highlight=False)

    def say(self, text: str = "") -> None:
        """A line for people; not in JSON mode."""
        if not self.as_json:
            self.out.print(text, markup=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """An error, in either mode."""
        self.err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)

    def document(self, value: Any) -> None:
        """The JSON document; only in JSON mode."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table for people; columns whose name starts with '#' are numbers. Not in JSON mode."""
        if self.as_json:
            return
        table = Table(title=escape(title), title_justify="left", title_style="bold")
        for name in columns:
            number = name.startswith("#")
            table.add_column(name.removeprefix("#"), justify="right" if number else "left", no_wrap=number)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)


class _Bar:
    """A progress bar on standard error, while that is a terminal."""

    def __init__(self, screen: Screen, unit: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            console=screen.err,
            transient=True,
            disable=not screen.err.is_terminal,
        )
        self._task = self._progress.add_task("looking", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


class ProgressListener(_Bar):
    """A bar over parts while there is a terminal, and a line per symbol-day either way."""

    def __init__(self, screen: Screen) -> None:
        self._parts = 0
        self._fetched: dict[SymbolDay, int] = {}
        super().__init__(screen, "parts")

    def planned(self, pair: Pair, day: dt.date, symbols: int) -> None:  # noqa: ARG002
        """Show what is being looked at."""
        self._progress.update(self._task, description=escape(f"{pair} {day:%Y-%m-%d}"))

    def building(self, plan: Plan) -> None:
        """Extend the bar by this symbol-day's parts."""
        self._parts += len(plan.parts)
        self._progress.update(self._task, total=self._parts)

    def fetched(self, symbol_day: SymbolDay, parts: int, of_parts: int) -> None:  # noqa: ARG002
        """Move the bar."""
        self._progress.update(self._task, advance=parts - self._fetched.get(symbol_day, 0))
        self._fetched[symbol_day] = parts

    def finished(self, outcome: Outcome) -> None:
        """Print the symbol-day's line."""
        if outcome.status is not Status.NO_FILES:
            self._progress.console.print(line(outcome), markup=False, soft_wrap=True)


class HourProgress(_Bar):
    """A bar over hours while there is a terminal, and a line per hour either way."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen, "hours")

    def found(self, partitions: Sequence[AppHour]) -> None:
        """Show how much there is to do."""
        self._progress.update(self._task, description="compacting", total=len(partitions))

    def finished(self, outcome: HourOutcome) -> None:
        """Print the hour's line, and move the bar."""
        self._progress.console.print(hour_line(outcome), markup=False, soft_wrap=True)
        self._progress.update(self._task, advance=1)


def hour_document(outcome: HourOutcome) -> dict[str, Any]:
    """An hour's outcome for machines."""
    partition = outcome.partition
    values = asdict(outcome)
    del values["partition"]
    values["corrupt"] = [item.model_dump() for item in outcome.corrupt]
    return {"app": partition.app, "hour": hour_text(partition.hour), **values}


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """A symbol-day's outcome for machines."""
    day = outcome.symbol_day
    values = asdict(outcome)
    for name in ("symbol_day", "minutes", "minute_width", "columns"):
        del values[name]
    return {"exchange": day.exchange, "stream": day.stream, "symbol": day.symbol, "date": str(day.day), **values}


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan for machines."""
    day = plan.symbol_day
    return {
        "exchange": day.exchange,
        "stream": day.stream,
        "symbol": day.symbol,
        "date": str(day.day),
        "action": plan.action.value,
        "reason": plan.reason,
        "parts": len(plan.parts),
        "raw_bytes": plan.raw_bytes,
        "published_rows": plan.published.meta.rows if plan.published.meta else None,
        "published_bytes": plan.published.data.size_bytes if plan.published.data else None,
    }


def verified_document(item: VerifiedDay) -> dict[str, Any]:
    """What verification found, for machines."""
    day = item.symbol_day
    values = asdict(item)
    del values["symbol_day"]
    return {"exchange": day.exchange, "stream": day.stream, "symbol": day.symbol, "date": str(day.day), **values}


def show_outcomes(screen: Screen, title: str, outcomes: Sequence[Outcome]) -> None:
    """A table of symbol-days."""
    rows = [
        (
            str(item.symbol_day),
            item.status.value if item.status is not Status.SUCCESS else item.action.value,
            f"{item.rows:,}",
            f"{item.parts:,}",
            format_bytes(item.raw_bytes),
            format_bytes(item.data_bytes),
            f"{item.rows / item.seconds:,.0f}" if item.built and item.seconds else "",
            f"revision {item.revision}" if item.built else item.reason,
        )
        for item in outcomes
    ]
    columns = ("symbol-day", "result", "#rows", "#parts", "#bytes in", "#bytes out", "#rows/s", "why")
    screen.table(title, columns, rows)
