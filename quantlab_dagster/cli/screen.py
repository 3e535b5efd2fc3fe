"""What the command line shows: lines, tables and progress for people, JSON for machines.

Results go to standard output, progress and errors to standard error. What is not a terminal is never wrapped.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from quantlab_dagster.market.outcome import Status, Verdict, line
from quantlab_dagster.warehouse.outcome import hour_line

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from quantlab_dagster.lake.market import Pair, SymbolDay
    from quantlab_dagster.lake.warehouse import AppHour
    from quantlab_dagster.market.outcome import Outcome, VerifiedDay
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.warehouse.outcome import HourOutcome

__all__ = [
    "HourProgress",
    "PairProgress",
    "ProgressListener",
    "Screen",
    "say_accepted",
    "saying_what_stands",
    "show_verified",
]

_UNWRAPPED = 10_000
_LEAST_TEXT, _LEAST_LAST = 14, 24


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
        """A table for people; columns whose name starts with '#' are numbers. Not in JSON mode.

        Where the screen is too narrow for it, every row is some lines, so that nothing is cut off.
        """
        if self.as_json:
            return
        rows = [tuple(row) for row in rows]
        if _least_width(columns, rows) > self.out.width:
            self._records(title, columns, rows)
            return
        table = Table(title=escape(title), title_justify="left", title_style="bold")
        for name in columns:
            number = name.startswith("#")
            is_whole = number or name == columns[0]
            table.add_column(name.removeprefix("#"), justify="right" if number else "left", no_wrap=is_whole)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)

    def _records(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows as blocks of lines: the first cell, and the others that are not empty below it by name."""
        self.out.print(title, style="bold", markup=False, soft_wrap=True)
        names = [name.removeprefix("#") for name in columns]
        width = max(map(len, names[1:]), default=0)
        for row in rows:
            self.say(row[0])
            for name, cell in zip(names[1:], row[1:], strict=True):
                if cell:
                    self.say(f"  {name:<{width}}  {cell}")


@contextmanager
def saying_what_stands(screen: Screen) -> Iterator[None]:
    """Work that somebody may stop: then say what that leaves."""
    try:
        yield
    except KeyboardInterrupt:
        screen.note("stopped: what is said to be done stands, all else is as it was; the same command goes on with it")
        raise


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """How wide a screen must be for a table: what names a row and numbers are not broken, other text may be."""
    width = 3 * len(columns) + 1
    for place, name in enumerate(columns):
        natural = max((cell_len(row[place]) for row in rows), default=0)
        if place and not name.startswith("#"):
            natural = min(natural, _LEAST_LAST if place + 1 == len(columns) else _LEAST_TEXT)
        width += max(natural, len(name.removeprefix("#")))
    return width


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


class PairProgress(_Bar):
    """A bar over the days of pairs, which are looked at one after the other; nothing where there is no terminal.

    Args:
        screen: where.
        total: how many days of pairs.
    """

    def __init__(self, screen: Screen, total: int) -> None:
        super().__init__(screen, "days of pairs")
        self._progress.update(self._task, total=total)

    @contextmanager
    def looking(self, pair: Pair, day: dt.date) -> Iterator[None]:
        """While a day of a pair is looked at."""
        self._progress.update(self._task, description=escape(f"{pair} {day:%Y-%m-%d}"))
        yield
        self._progress.update(self._task, advance=1)


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


def say_accepted(screen: Screen, accepted: Mapping[SymbolDay, str]) -> None:
    """What an operator lets be as it is, and why: a line for each."""
    for symbol_day, why in accepted.items():
        screen.say(f"accepted {symbol_day}: {why}")


def show_verified(
    screen: Screen, title: str, verified: Sequence[VerifiedDay], accepted: Mapping[SymbolDay, str]
) -> None:
    """A table of verification's results, and its summary.

    Args:
        screen: where.
        title: of the table.
        verified: the results.
        accepted: those that an operator lets be, with the reasons.
    """
    rows = [
        (
            str(item.symbol_day),
            f"{item.verdict.value.replace('_', ' ')}{', accepted' if item.symbol_day in accepted else ''}",
            f"{item.rows:,}",
            "yes" if item.against_raw else "no",
            "; ".join((*item.findings, *((item.note,) if item.note else ()))),
        )
        for item in verified
    ]
    screen.table(title, ("symbol-day", "verdict", "#rows", "compared with raw", "findings"), rows)
    say_accepted(screen, accepted)
    wrong = sum(item.verdict is Verdict.WRONG for item in verified)
    right = sum(item.verdict is Verdict.RIGHT for item in verified)
    rest = len(verified) - wrong - right - len(accepted)
    let_be = f", {len(accepted)} accepted" if accepted else ""
    screen.say(f"{right} right, {wrong} wrong, {rest} not published{let_be}")
