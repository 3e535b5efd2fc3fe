"""`quantlab cost`: what days of market data ask of S3, and what that costs. It starts without Dagster."""

from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.options import Date, Exchanges, Json, Streams, To, select_days, select_pairs, span

if TYPE_CHECKING:
    import datetime as dt

    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.cost import Asked
    from quantlab_dagster.work.prices import Prices

__all__ = ["cost"]


def cost(
    date: Date,
    to: To = None,
    exchange: Exchanges = None,
    stream: Streams = None,
    prices: Annotated[
        str, typer.Option(help="Dollars that differ from the list: writes_per_thousand=0.0054,…; else QUANTLAB_PRICES.")
    ] = "",
    as_json: Json = False,
) -> None:
    """What days cost in requests, bytes and money, and a month of them: from a listing, no part is read."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.cli.documents import cost_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.cost import Size, asked_of, mean, watched
    from quantlab_dagster.market.plan import plan_days
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.prices import Prices
    from quantlab_dagster.work.stopping import run_interruptible

    settings, screen = load_settings(), Screen(as_json=as_json)
    listed = Prices.parse(prices or settings.prices)
    pairs, days = select_pairs(settings, exchange, stream), select_days(settings, date, to)
    place = open_market(settings)
    if not as_json:
        screen.note(f"raw lake {place.raw.url}, compact lake {place.compact.url}")
    by_day: dict[dt.date, list[Size]] = {}
    for plan in run_interruptible(plan_days(place, pairs, days)):
        if plan.parts:
            by_day.setdefault(plan.symbol_day.day, []).append(Size.of(plan))
    building = mean(asked_of(sizes) for sizes in by_day.values())
    watching = mean(watched(sizes, look_back_days=settings.late_look_back_days) for sizes in by_day.values())
    if not by_day:
        screen.say(f"no raw parts on {span(days)}: nothing is asked for, and nothing costs anything")
    else:
        number = "1 day" if len(by_day) == 1 else f"{len(by_day)} days"
        _say(screen, f"{span(days)}, {number} with data", building, watching, listed)
    screen.document(cost_document(list(by_day), building, watching, listed))


def _say(screen: "Screen", title: str, building: "Asked", watching: "Asked", prices: "Prices") -> None:
    from quantlab_dagster.market.cost import DAYS_A_MONTH
    from quantlab_dagster.work.prices import Cost
    from quantlab_dagster.work.wording import format_bytes

    rows = []
    for name, usage in (
        ("build a day: raw lake", building.raw),
        ("build a day: compact lake", building.compact),
        ("watch for a day: raw lake", watching.raw),
        ("watch for a day: compact lake", watching.compact),
    ):
        of = Cost.of(usage, prices)
        counts = (f"{usage.requests.get(kind, 0):,}" for kind in ("LIST", "GET", "PUT"))
        size = format_bytes(usage.bytes_read or usage.bytes_written)
        rows.append((name, *counts, size, _dollars(of.once), _dollars(of.once * DAYS_A_MONTH)))
    screen.table(f"Cost: {title}", ("what", "#LIST", "#GET", "#PUT", "#bytes", "#a day", "#a month"), rows)
    raw, compact = (Cost.of(usage, prices).storage_month * DAYS_A_MONTH for usage in (building.raw, building.compact))
    screen.say(f"a month of them stored: raw {_dollars(raw)} a month, compact {_dollars(compact)} a month")
    screen.say(
        f"at {prices.writes_per_thousand} $ per 1,000 PUT or LIST, {prices.reads_per_thousand} $ per 1,000 GET, "
        f"{prices.storage_per_gb_month} $ per GB and month, {prices.transfer_per_gb:g} $ per GB that leaves the "
        "region; machines, collectors' uploads and readers are not in it"
    )


def _dollars(amount: float) -> str:
    return f"{amount:,.2f} $" if amount >= 1 or amount == 0 else f"{amount:.4f} $"
