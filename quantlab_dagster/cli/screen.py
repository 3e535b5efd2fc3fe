"""What the command line shows: lines, tables and progress for people, JSON for machines.

Results go to standard output, progress and errors to standard error. What is not a terminal is never wrapped.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from quantlab_dagster.market.outcome import Status, Verdict, line
from quantlab_dagster.warehouse.outcome import hour_line
from quantlab_dagster.work.wording import format_bytes

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from quantlab_dagster.lake.market import Pair, SymbolDay
    from quantlab_dagster.lake.warehouse import AppHour
    from quantlab_dagster.market.outcome import Outcome, VerifiedDay
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.warehouse.outcome import HourOutcome

__all__ = ["HourProgress", "ProgressListener", "Screen", "show_outcomes", "show_verified"]

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

    def note(self, text: str) -> None:
        """A line for people beside the results, in either mode."""
        self.err.print(text, markup=False, soft_wrap=True)

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


def show_outcomes(screen: Screen, title: str, outcomes: Sequence[Outcome]) -> None:
    """A table of symbol-days."""
    rows = [
        (
            str(item.symbol_day),
            item.status.value if item.status is not Status.SUCCESS else item.action.value,
            f"{item.rows:,}",
            f"{item.parts:,}",
            format_bytes(item.bytes_in),
            format_bytes(item.bytes_out),
            f"{item.rows / item.seconds:,.0f}" if item.built and item.seconds else "",
            f"revision {item.revision}" if item.built else item.reason,
        )
        for item in outcomes
    ]
    columns = ("symbol-day", "result", "#rows", "#parts", "#bytes in", "#bytes out", "#rows/s", "why")
    screen.table(title, columns, rows)


def show_verified(screen: Screen, title: str, verified: Sequence[VerifiedDay]) -> None:
    """A table of verification's results, and its summary."""
    rows = [
        (
            str(item.symbol_day),
            item.verdict.value.replace("_", " "),
            f"{item.rows:,}",
            "yes" if item.against_raw else "no",
            "; ".join((*item.findings, *((item.note,) if item.note else ()))),
        )
        for item in verified
    ]
    screen.table(title, ("symbol-day", "verdict", "#rows", "compared with raw", "findings"), rows)
    wrong = sum(item.verdict is Verdict.WRONG for item in verified)
    right = sum(item.verdict is Verdict.RIGHT for item in verified)
    rest = len(verified) - wrong - right
    screen.say(f"{right} right, {wrong} wrong, {rest} not published")
