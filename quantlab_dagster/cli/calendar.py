"""The command `quantlab calendar`. It needs no Dagster.

No `from __future__ import annotations`: Typer reads the annotations as objects.
"""

import datetime as dt
from typing import Annotated

import typer

from quantlab_dagster.cli.options import Json, typed_day
from quantlab_dagster.errors import PathError

__all__ = ["calendar"]

When = Annotated[
    str | None,
    typer.Argument(
        metavar="[DAY|MONTH]", help="2026-01-08, 20260108 or yesterday; 2026-01 or 202601. Default: this month."
    ),
]


def calendar(when: When = None, as_json: Json = False) -> None:
    """Write the calendar again: a day's index.parquet and its month's page; or those of a whole month."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.cli.documents import calendar_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.calendar import write_calendar
    from quantlab_dagster.market.eligibility import yesterday
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.clock import utc_now
    from quantlab_dagster.work.stopping import run_interruptible

    screen = Screen(as_json=as_json)
    place = open_market(load_settings())
    days = _days(when, yesterday(utc_now()))
    written = run_interruptible(write_calendar(place, days))
    for day, number in written.days.items():
        if number:
            screen.say(f"{day}  {number:,} symbol-days")
    for key in written.pages:
        screen.say(f"{place.compact.name(key)}{'' if key in written.changed else ', as it was'}")
    screen.document(calendar_document(written))


def _days(when: str | None, last: dt.date) -> list[dt.date]:
    """The days that are meant, none of which is still going on; a day that is meant alone is taken as it is typed."""
    from quantlab_dagster.market.calendar import days_of_month, parse_month

    try:
        month = parse_month(when) if when else f"{last:%Y%m}"
    except PathError:
        month = ""
    try:
        days = days_of_month(month) if month else [typed_day(when or "")]
    except PathError as error:
        raise typer.BadParameter(str(error)) from None
    over = [day for day in days if day <= last]
    if not over:
        raise typer.BadParameter(f"{when} is not over: there is no calendar of it yet")
    return over
