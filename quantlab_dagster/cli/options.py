"""What is typed: the options of the commands, what they select, and the exit codes.

No `from __future__ import annotations` in the modules with commands: Typer reads the annotations as objects.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from quantlab_dagster.errors import DayRefused, PathError, SettingsError

if TYPE_CHECKING:
    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.settings import Settings

__all__ = [
    "EXIT_FINE",
    "EXIT_FOUND",
    "EXIT_USAGE",
    "Apps",
    "Date",
    "Day",
    "DayOption",
    "Exchanges",
    "Hour",
    "HourTo",
    "Json",
    "OptionalDate",
    "Streams",
    "Symbols",
    "SymbolsFile",
    "To",
    "check_known",
    "check_symbols",
    "leave",
    "select_days",
    "select_hours",
    "select_pairs",
    "span",
    "symbols_of",
    "typed_day",
]

T = TypeVar("T")

EXIT_FINE, EXIT_FOUND, EXIT_USAGE = 0, 1, 2

_DAYS_AGO = {"today": 0, "yesterday": 1}


def typed_day(text: str) -> dt.date:
    """A day as typed, in UTC; what is none is a usage error."""
    from quantlab_dagster.lake.market import parse_day
    from quantlab_dagster.work.clock import utc_now

    ago = _DAYS_AGO.get(text.lower())
    return utc_now().date() - dt.timedelta(days=ago) if ago is not None else _typed(parse_day, text)


def _hour(text: str) -> dt.datetime:
    """An hour as typed; what is none is a usage error."""
    from quantlab_dagster.lake.warehouse import parse_hour

    return _typed(parse_hour, text)


def _typed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except PathError as error:
        raise typer.BadParameter(str(error)) from None


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]

Date = Annotated[
    dt.date,
    typer.Option("--date", "-d", parser=typed_day, metavar="DAY", help="In UTC: 2026-01-08, 20260108 or yesterday."),
]
OptionalDate = Annotated[
    dt.date | None,
    typer.Option(
        "--date", "-d", parser=typed_day, metavar="DAY", help="Not the last days but this one, or a range with --to."
    ),
]
To = Annotated[
    dt.date | None,
    typer.Option("--to", parser=typed_day, metavar="DAY", help="Last day of a range that starts at --date."),
]
Day = Annotated[dt.date, typer.Argument(parser=typed_day, metavar="DAY", help="2026-01-08, 20260108 or yesterday.")]
DayOption = Annotated[
    dt.date, typer.Option(parser=typed_day, metavar="DAY", help="Everything up to this day counts as settled.")
]
Exchanges = Annotated[
    list[str] | None, typer.Option("--exchange", metavar="NAME", help="Only this exchange; repeatable.")
]
Streams = Annotated[list[str] | None, typer.Option("--stream", metavar="NAME", help="Only this stream; repeatable.")]
Symbols = Annotated[
    list[str] | None, typer.Option("--symbol", metavar="NAME", help="Only this symbol, as in the path; repeatable.")
]

SymbolsFile = Annotated[
    Path | None, typer.Option(help="Only the symbols in this file, one in a line, in any case; # begins a comment.")
]

Apps = Annotated[
    list[str] | None, typer.Option("--app", metavar="NAME", help="Only this app, as in the path; repeatable.")
]
Hour = Annotated[
    dt.datetime | None,
    typer.Option("--hour", parser=_hour, metavar="HOUR", help="Only this hour (UTC): 2026-01-15T10 or 2026011510."),
]
HourTo = Annotated[
    dt.datetime | None,
    typer.Option("--to", parser=_hour, metavar="HOUR", help="Last hour of a range that starts at --hour."),
]


def select_pairs(settings: "Settings", exchanges: Sequence[str] | None, streams: Sequence[str] | None) -> "list[Pair]":
    """The configured pairs that the options select.

    Raises:
        SettingsError: one of them is not configured.
    """
    for option, given, known in (
        ("--exchange", exchanges, settings.exchanges),
        ("--stream", streams, settings.streams),
    ):
        for name in given or ():
            if name not in known:
                raise SettingsError(f"{option} {name}", "is not configured", f"Configured are: {', '.join(known)}")
    return [
        pair
        for pair in settings.pairs
        if (not exchanges or pair.exchange in exchanges) and (not streams or pair.stream in streams)
    ]


def select_days(settings: "Settings", first: dt.date, last: dt.date | None) -> list[dt.date]:
    """The days that the options select.

    Raises:
        SettingsError: the range makes no sense.
        DayRefused: it begins before the first partition, or ends after today.
    """
    from quantlab_dagster.work.clock import utc_now

    last, today = last or first, utc_now().date()
    if last < first:
        raise SettingsError("--to", f"{last} is before --date {first}", "Swap them")
    if first < settings.start_date:
        raise DayRefused(str(first), "is before the first partition", f"Set QUANTLAB_START_DATE to {first} or earlier")
    if last > today:
        raise DayRefused(str(last), "is still to come", f"The last day there can be is today, {today} (UTC)")
    return [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]


def symbols_of(given: Sequence[str] | None, file: Path | None) -> list[str]:
    """The symbols that are typed, and those of a file. None at all are all there are: so a file must have some.

    Those of a file may be in upper case, as exchanges list them; the path has them in lower case.

    Raises:
        SettingsError: the file cannot be read, or names no symbol.
    """
    if file is None:
        return list(given or ())
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise SettingsError(f"--symbols-file {file}", f"cannot be read ({cause})", "Check the path") from None
    found = [symbol for line in lines if (symbol := line.partition("#")[0].strip().lower())]
    if not found:
        raise SettingsError(f"--symbols-file {file}", "names no symbol", "Leave the option out for all symbols")
    return [*(given or ()), *found]


def check_symbols(place: "MarketPlace", pairs: "Sequence[Pair]", symbols: Sequence[str] | None) -> None:
    """Refuse symbols that the pairs have in neither lake. Without symbols nothing is asked.

    Raises:
        SettingsError: naming the nearest ones.
        StoreError: the symbols of a pair cannot be listed.
    """
    from quantlab_dagster.work.stopping import run_interruptible

    async def known() -> set[str]:
        return {symbol for pair in pairs for symbol in await place.symbols(pair)}

    if symbols:
        cause = f"is neither in {place.raw.url} nor in {place.compact.url}"
        check_known("--symbol", symbols, run_interruptible(known()), cause)


def check_known(option: str, given: Sequence[str] | None, known: Iterable[str], cause: str) -> None:
    """Refuse names that match nothing, since a slip of the finger must not look like "all is well".

    Args:
        option: as typed, for the message.
        given: names.
        known: all there are.
        cause: where they are not.

    Raises:
        SettingsError: naming the nearest ones.
    """
    known = sorted(known)
    for name in given or ():
        if name not in known:
            nearest = get_close_matches(name.lower(), known, 3) or known[:3]
            remedy = f"Nearest are: {', '.join(nearest)}" if nearest else "There are none at all: check the URL"
            raise SettingsError(f"{option} {name}", cause, remedy)


def span(days: Sequence[dt.date]) -> str:
    """Days as a title names them."""
    return str(days[0]) if len(days) == 1 else f"{days[0]} … {days[-1]}"


def select_hours(
    apps: Sequence[str] | None, first: dt.datetime | None, last: dt.datetime | None, last_cold: dt.datetime
) -> "Scope":
    """The partitions of the event lake that the options select.

    Raises:
        SettingsError: the range makes no sense.
        DayRefused: an hour that is not over yet.
    """
    from quantlab_dagster.lake.warehouse import ONE_HOUR, Scope, hour_text

    if last and not first:
        raise SettingsError("--to", "is given without --hour", "Say where the range begins")
    last = last or first
    if first and last and last < first:
        raise SettingsError("--to", f"{hour_text(last)} is before --hour {hour_text(first)}", "Swap them")
    if last and last > last_cold:
        try:
            remedy = f"It can be compacted from {last + ONE_HOUR:%Y-%m-%d %H:%M} UTC on"
        except OverflowError:
            remedy = "It is the last hour of the calendar"
        raise DayRefused(hour_text(last), "is not over: files may still be written to it", remedy)
    return Scope(tuple(apps or ()), first, last)


def leave(*, found: object) -> NoReturn:
    """End the command: with 1 if it found anything that needs attention."""
    raise typer.Exit(EXIT_FOUND if found else EXIT_FINE)
