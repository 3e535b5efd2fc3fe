"""The command line: `quantlab`. It runs the same Dagster assets as the schedule, in this process.

Exit codes: 0 all is well; 1 something is quarantined, failed or wrong; 2 usage, configuration, or a refused day.
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from quantlab_dagster import operate
from quantlab_dagster.console import (
    ProgressListener,
    Screen,
    outcome_document,
    plan_document,
    verified_document,
)
from quantlab_dagster.days.compact import Status
from quantlab_dagster.days.eligibility import check_eligible
from quantlab_dagster.days.plan import Action, Requested
from quantlab_dagster.days.rollup import plan_days
from quantlab_dagster.days.verify import Verdict, VerifiedDay, verify_pair
from quantlab_dagster.errors import DayRefused, PathError, QuantlabError, SettingsError
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.lake.layout import Pair
from quantlab_dagster.settings import Settings, load_settings
from quantlab_dagster.text import format_bytes
from quantlab_dagster.warehouse import warehouse_app
from quantlab_dagster.work.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.days.compact import Workplace

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantlab",
    help="Compact raw market-data parts into one sorted, audited file per symbol and day.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain usage errors: what is not a terminal is never wrapped
)

app.add_typer(operate.state_app, name="state")
app.add_typer(warehouse_app, name="warehouse")
app.command()(operate.status)
app.command("catch-up")(operate.catch_up)

EXIT_FINE, EXIT_FOUND, EXIT_USAGE = 0, 1, 2


_day = operate.day_argument
Date = Annotated[
    dt.date, typer.Option("--date", "-d", parser=_day, metavar="DAY", help="UTC day: 2026-01-08 or 20260108.")
]
To = Annotated[
    dt.date | None, typer.Option("--to", parser=_day, metavar="DAY", help="Last day of a range that starts at --date.")
]
Exchanges = Annotated[list[str] | None, typer.Option("--exchange", help="Only this exchange; repeatable.")]
Streams = Annotated[list[str] | None, typer.Option("--stream", help="Only this stream; repeatable.")]
Symbols = Annotated[list[str] | None, typer.Option("--symbol", help="Only this symbol, as in the path; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


@app.command()
def compact(
    date: Date,
    to: To = None,
    exchange: Exchanges = None,
    stream: Streams = None,
    symbol: Symbols = None,
    overwrite: Annotated[bool, typer.Option(help="Build again what is up to date or quarantined.")] = False,
    allow_shrink: Annotated[
        bool, typer.Option(help="Build even if raw parts that were read once are gone: days may lose rows.")
    ] = False,
    repair: Annotated[
        bool, typer.Option(help="Verify first; build again what is wrong and has its raw parts, and what is missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compact days: materialise their assets, recorded in Dagster's history; what is up to date stays as it is."""
    from quantlab_dagster.repair import repair_days  # noqa: PLC0415  # Dagster takes a second to import
    from quantlab_dagster.runs import compact_days  # noqa: PLC0415

    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = _pairs(settings, exchange, stream)
    days = _days(settings, date, to)
    for day in days:
        check_eligible(day, utc_now())
    with ProgressListener(screen) as listener:
        if repair:
            report, found = repair_days(settings, days, pairs, listener=listener, symbols=symbol or ())
            screen.say(f"{len(found)} symbol-days were wrong or missing")
        else:
            report = compact_days(
                settings,
                days,
                pairs,
                listener=listener,
                roll_up=not (exchange or stream or symbol),
                symbols=symbol or (),
                overwrite=overwrite,
                allow_shrink=allow_shrink,
            )
    bad = [item for item in report.outcomes if item.status in (Status.QUARANTINE, Status.FAILED)]
    # A wrong day that could not be rebuilt is still wrong.
    bad += [item for item in report.outcomes if repair and item.action is Action.KEEP]
    built = [item for item in report.outcomes if item.built]
    screen.say(
        f"{len(report.outcomes)} symbol-days: {len(built)} built ({sum(item.rows for item in built):,} rows), "
        f"{len(bad)} quarantined or failed"
    )
    for failure in report.failures:
        screen.error(failure)
    screen.document(
        {
            "runs": report.run_ids,
            "symbol_days": [outcome_document(item) for item in report.outcomes],
            "failures": report.failures,
        }
    )
    _exit(EXIT_FOUND if bad or report.failures else EXIT_FINE)


@app.command()
def plan(
    date: Date,
    to: To = None,
    exchange: Exchanges = None,
    stream: Streams = None,
    symbol: Symbols = None,
    overwrite: Annotated[bool, typer.Option(help="As if asked to build again what is up to date.")] = False,
    as_json: Json = False,
) -> None:
    """Show what compacting would read and write, without doing it."""
    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = _pairs(settings, exchange, stream)
    days = _days(settings, date, to)
    place = _workplace(settings)
    requested = Requested(overwrite=overwrite)
    plans = run_interruptible(plan_days(place, pairs, days, symbols=symbol or (), requested=requested))
    rows = [
        (
            str(item.symbol_day),
            item.action.value,
            f"{len(item.parts):,}",
            format_bytes(item.raw_bytes),
            f"{item.published.meta.rows:,}" if item.published.meta else "",
            item.reason,
        )
        for item in plans
    ]
    columns = ("symbol-day", "action", "#parts", "#bytes to read", "#rows published", "why")
    screen.table(f"Plan for {_span(days)}", columns, rows)
    builds = [item for item in plans if item.action is Action.BUILD]
    screen.say(
        f"{len(builds)} of {len(plans)} symbol-days would be built, reading "
        f"{sum(len(item.parts) for item in builds):,} parts, {format_bytes(sum(item.raw_bytes for item in builds))}"
    )
    screen.document([plan_document(item) for item in plans])


@app.command()
def verify(
    date: Date,
    to: To = None,
    exchange: Exchanges = None,
    stream: Streams = None,
    symbol: Symbols = None,
    raw: Annotated[bool, typer.Option(help="Merge the raw parts again and compare, where still there.")] = True,
    as_json: Json = False,
) -> None:
    """Audit published days again, from the store: meta, order, seq, content; works on days of other software too."""
    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = _pairs(settings, exchange, stream)
    days = _days(settings, date, to)
    verified = run_interruptible(_verified(_workplace(settings), pairs, days, symbol or (), against_raw=raw))
    show_verified(screen, f"Verification of {_span(days)}", verified)
    screen.document([verified_document(item) for item in verified])
    _exit(EXIT_FINE if all(item.verdict is Verdict.RIGHT for item in verified) else EXIT_FOUND)


@app.command()
def demo(as_json: Json = False) -> None:
    """Make a small raw lake in demo-lake/, compact it through Dagster, verify it, and show the result."""
    from quantlab_dagster.demo import run_demo  # noqa: PLC0415  # Dagster takes a second to import

    _exit(EXIT_FINE if run_demo(Screen(as_json=as_json)) else EXIT_FOUND)


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


async def _verified(
    place: Workplace, pairs: Sequence[Pair], days: Sequence[dt.date], symbols: Sequence[str], *, against_raw: bool
) -> list[VerifiedDay]:
    return [
        item
        for pair in pairs
        for day in days
        for item in await verify_pair(place, pair, day, symbols=symbols, against_raw=against_raw)
    ]


def _workplace(settings: Settings) -> Workplace:
    from quantlab_dagster.runs import open_workplace  # noqa: PLC0415  # Dagster takes a second to import

    return open_workplace(settings)


def _pairs(settings: Settings, exchanges: Sequence[str] | None, streams: Sequence[str] | None) -> list[Pair]:
    """The configured pairs that the options select."""
    for option, given, known in (
        ("--exchange", exchanges, settings.exchanges),
        ("--stream", streams, settings.streams),
    ):
        for name in given or ():
            if name not in known:
                raise SettingsError(f"{option} {name}", "is not configured", f"Configured are: {', '.join(known)}")
    return [
        Pair(exchange, stream)
        for exchange in settings.exchanges
        for stream in settings.streams
        if (not exchanges or exchange in exchanges) and (not streams or stream in streams)
    ]


def _days(settings: Settings, first: dt.date, last: dt.date | None) -> list[dt.date]:
    last = last or first
    if last < first:
        raise SettingsError("--to", f"{last} is before --date {first}", "Swap them")
    if first < settings.start_date:
        raise DayRefused(str(first), "is before the first partition", f"Set QUANTLAB_START_DATE to {first} or earlier")
    return [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]


def _span(days: Sequence[dt.date]) -> str:
    return str(days[0]) if len(days) == 1 else f"{days[0]} … {days[-1]}"


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: expected errors are one line on standard error, never a traceback."""
    try:
        app(arguments)
    except (SettingsError, DayRefused, PathError) as error:
        Screen().error(str(error))
        sys.exit(EXIT_USAGE)
    except QuantlabError as error:
        Screen().error(str(error))
        sys.exit(EXIT_FOUND)
    sys.exit(EXIT_FINE)


if __name__ == "__main__":
    main()
