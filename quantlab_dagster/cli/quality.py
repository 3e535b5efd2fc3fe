"""`quantlab quality`: what the last days are worth, and what is to be said of their symbols."""

import datetime as dt
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.options import (
    Exchanges,
    Json,
    OptionalDate,
    Streams,
    Symbols,
    To,
    check_symbols,
    leave,
    select_days,
    select_pairs,
    span,
)
from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.quality_report import DayReport
    from quantlab_dagster.settings import Settings

__all__ = ["quality"]

_MOST_LISTED = 50
_USUAL_DAYS = 14


def quality(
    last: Annotated[
        int | None,
        typer.Option(
            "--last", min=1, max=366, help=f"So many days, to the last eligible one: {_USUAL_DAYS} if not set."
        ),
    ] = None,
    date: OptionalDate = None,
    to: To = None,
    exchange: Exchanges = None,
    stream: Streams = None,
    symbol: Symbols = None,
    as_json: Json = False,
) -> None:
    """What days are worth by the collectors' windows. Exit code 1: one is BAD or PARTIAL, not accepted, or unclear."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.cli.documents import quality_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.quality_report import report_quality
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = select_pairs(settings, exchange, stream)
    days = _days(settings, last, date, to)
    place = open_market(settings)
    if not as_json:
        screen.note(f"raw lake {place.raw.url}, compact lake {place.compact.url}, rules {place.quality_rules.version}")
    check_symbols(place, pairs, symbol)
    reports = run_interruptible(report_quality(place, pairs, days, symbols=symbol or ()))
    _show(screen, f"Quality of {span(days)}", reports)
    screen.document(quality_document(place.quality_rules.version, reports))
    leave(found=[report for report in reports if not report.fine])


def _days(settings: "Settings", last: int | None, first: dt.date | None, to: dt.date | None) -> list[dt.date]:
    from quantlab_dagster.market.eligibility import check_eligible, last_eligible_day
    from quantlab_dagster.work.clock import utc_now

    if first is not None:
        if last is not None:
            raise SettingsError("--last, --date", "exclude each other", "Use one of them")
        days = select_days(settings, first, to)
        check_eligible(days[-1], utc_now())
        return days
    if to is not None:
        raise SettingsError("--to", "is the last day of a range without a first one", "Use --date, too")
    newest = last_eligible_day(utc_now())
    return [newest - dt.timedelta(days=number) for number in reversed(range(last or _USUAL_DAYS))]


def _show(screen: "Screen", title: str, reports: "list[DayReport]") -> None:
    columns = ("day", "quality", "#good", "#degraded", "#bad", "#partial", "#missing", "#dropped", "offline", "why")
    # Days of which no collector told anything are one line as long as they follow each other.
    alike = [list(found) for _, found in groupby(reports, lambda report: report.day if report.has_windows else None)]
    screen.table(title, columns, [_row(found) for found in alike])
    for report in reports:
        for name, why in report.evidence.unreadable_windows.items():
            screen.say(f"{report.day} window {name} cannot be understood: {why}")
        for item in report.symbols:
            if item.problem:
                screen.say(item.problem)

    found = [item for report in reports for item in report.symbols if item.findings]
    if found:
        rows = [(str(item.symbol_day), "; ".join(item.findings.values())) for item in found[:_MOST_LISTED]]
        screen.table("Rows that are not as they should be", ("symbol-day", "what was counted"), rows)
    looked = sum(len(report.symbols) for report in reports)
    more = f", {len(found) - _MOST_LISTED} more than listed" if len(found) > _MOST_LISTED else ""
    screen.say(f"{looked} published symbol-days looked at, {len(found)} with findings{more}")


def _row(alike: "Sequence[DayReport]") -> tuple[str, ...]:
    first = alike[0].evidence
    offline = ", ".join(f"{name} {s:g} s" for name, s in first.offline_seconds_by_exchange.items() if s)
    kinds = ("good", "degraded", "bad", "partial", "missing")
    why = "; ".join([*first.reasons, *([f"accepted: {alike[0].accepted}"] if alike[0].accepted else [])])
    return (
        span([report.day for report in alike]),
        first.day_quality,
        *(f"{sum(report.evidence.windows[kind] for report in alike):,}" for kind in kinds),
        f"{first.dropped_events:,}",
        offline,
        f"{len(alike)} days: {why}" if len(alike) > 1 else why,
    )
