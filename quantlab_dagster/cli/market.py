"""Commands for days: `quantlab compact · plan · verify`.

Each command imports what it needs: `--help` next to nothing, `plan` no Polars, and neither it nor `verify` Dagster.
"""

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.options import (
    Date,
    Exchanges,
    Json,
    Streams,
    Symbols,
    To,
    check_known,
    leave,
    select_days,
    select_pairs,
    span,
)

if TYPE_CHECKING:
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.market.outcome import VerifiedDay
    from quantlab_dagster.market.place import MarketPlace
    from quantlab_dagster.settings import Settings

__all__ = ["compact", "plan", "verify"]


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
    from quantlab_dagster.cli.documents import runs_document
    from quantlab_dagster.cli.runs.market import compact_days, repair_days
    from quantlab_dagster.cli.screen import ProgressListener, Screen
    from quantlab_dagster.market.eligibility import check_eligible
    from quantlab_dagster.market.outcome import Status
    from quantlab_dagster.market.plan import Action, Requested
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.clock import utc_now

    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = select_pairs(settings, exchange, stream)
    days = select_days(settings, date, to)
    for day in days:
        check_eligible(day, utc_now())
    _place(settings, pairs, symbol, screen)
    with ProgressListener(screen) as listener:
        if repair:
            report, found = repair_days(
                settings,
                days,
                pairs,
                listener=listener,
                tell=screen.note,
                symbols=symbol or (),
                allow_shrink=allow_shrink,
            )
            screen.say(f"{len(found)} symbol-days were wrong or missing")
        else:
            report = compact_days(
                settings,
                days,
                pairs,
                listener=listener,
                tell=screen.note,
                roll_up=not (exchange or stream or symbol),
                symbols=symbol or (),
                requested=Requested(overwrite=overwrite, allow_shrink=allow_shrink),
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
    screen.document(runs_document(report))
    leave(found=bad or report.failures)


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
    from quantlab_dagster.cli.documents import plan_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.plan import Action, Requested, plan_days
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible
    from quantlab_dagster.work.wording import format_bytes

    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = select_pairs(settings, exchange, stream)
    days = select_days(settings, date, to)
    requested = Requested(overwrite=overwrite)
    place = _place(settings, pairs, symbol, screen)
    plans = run_interruptible(plan_days(place, pairs, days, symbols=symbol or (), requested=requested))
    rows = [
        (
            str(item.symbol_day),
            item.action.value,
            f"{len(item.parts):,}",
            format_bytes(item.bytes_in),
            f"{item.published.meta.rows:,}" if item.published.meta else "",
            item.reason,
        )
        for item in plans
    ]
    columns = ("symbol-day", "action", "#parts", "#bytes to read", "#rows published", "why")
    screen.table(f"Plan for {span(days)}", columns, rows)
    builds = [item for item in plans if item.action is Action.BUILD]
    screen.say(
        f"{len(builds)} of {len(plans)} symbol-days would be built, reading "
        f"{sum(len(item.parts) for item in builds):,} parts, {format_bytes(sum(item.bytes_in for item in builds))}"
    )
    screen.document([plan_document(item) for item in plans])
    leave(found=[item for item in plans if item.action is Action.BROKEN])


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
    from quantlab_dagster.cli.documents import verified_document
    from quantlab_dagster.cli.screen import Screen, show_verified
    from quantlab_dagster.market.outcome import Verdict
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = select_pairs(settings, exchange, stream)
    days = select_days(settings, date, to)
    place = _place(settings, pairs, symbol, screen)
    verified = run_interruptible(_verified(place, pairs, days, symbol or (), against_raw=raw))
    show_verified(screen, f"Verification of {span(days)}", verified)
    screen.document([verified_document(item) for item in verified])
    leave(found=[item for item in verified if item.verdict is not Verdict.RIGHT])


def _place(
    settings: "Settings", pairs: "Sequence[Pair]", symbols: Sequence[str] | None, screen: "Screen"
) -> "MarketPlace":
    """Open the lakes, say which they are, and refuse symbols that neither has."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.work.stopping import run_interruptible

    async def known() -> set[str]:
        return {symbol for pair in pairs for symbol in await place.symbols(pair)}

    place = open_market(settings)
    if not screen.as_json:
        screen.note(f"raw lake {place.raw.url}, compact lake {place.compact.url}")
    if symbols:
        cause = f"is neither in {place.raw.url} nor in {place.compact.url}"
        check_known("--symbol", symbols, run_interruptible(known()), cause)
    return place


async def _verified(
    place: "MarketPlace", pairs: "Sequence[Pair]", days: Sequence[dt.date], symbols: Sequence[str], *, against_raw: bool
) -> "list[VerifiedDay]":
    from quantlab_dagster.market.verify import verify_pair

    return [
        item
        for pair in pairs
        for day in days
        for item in await verify_pair(place, pair, day, symbols=symbols, against_raw=against_raw)
    ]
