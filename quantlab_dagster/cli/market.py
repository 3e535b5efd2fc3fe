"""Commands for days: `quantlab compact · plan · verify`.

Each command imports what it needs: `--help` next to nothing, `plan` no Polars, and neither it nor `verify` Dagster.
"""

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.loading import modules_loaded
from quantlab_dagster.cli.options import (
    Date,
    Exchanges,
    Json,
    Streams,
    Symbols,
    SymbolsFile,
    To,
    check_symbols,
    leave,
    select_days,
    select_pairs,
    span,
    symbols_of,
)
from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from quantlab_dagster.cli.screen import PairProgress, Screen
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
    symbols_file: SymbolsFile = None,
    newest_first: Annotated[bool, typer.Option(help="Begin with the last day of the range.")] = False,
    max_days: Annotated[
        int | None, typer.Option(min=1, help="At most so many days of the range, the first ones in this order.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Build again what is up to date or quarantined.")] = False,
    retry_quarantine: Annotated[
        bool, typer.Option(help="Try again what is quarantined for its parts, although these have not changed.")
    ] = False,
    allow_shrink: Annotated[
        bool, typer.Option(help="Build even if raw parts that were read once are gone: days may lose rows.")
    ] = False,
    accept_bad: Annotated[
        bool, typer.Option(help="Publish days although they are BAD, labelled as that; readers leave them out.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why BAD days are published; kept in quality_day.json.")] = "",
    repair: Annotated[
        bool, typer.Option(help="Verify first; build again what is wrong and has its raw parts, and what is missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compact days: materialise their assets, recorded in Dagster's history; what is up to date stays as it is."""
    with modules_loaded():
        from quantlab_dagster.cli.runs.market import compact_days, repair_days
    from quantlab_dagster.cli.documents import runs_document
    from quantlab_dagster.cli.screen import ProgressListener, Screen, say_accepted, saying_what_stands
    from quantlab_dagster.market.accepting import accepted_now
    from quantlab_dagster.market.eligibility import check_eligible
    from quantlab_dagster.market.outcome import Status
    from quantlab_dagster.market.plan import Action, Requested
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.clock import utc_now
    from quantlab_dagster.work.stopping import run_interruptible

    if accept_bad != bool(reason.strip()):
        raise SettingsError("--accept-bad, --reason", "belong together", "Say why days that are BAD are published")
    if accept_bad and repair:
        raise SettingsError("--accept-bad, --repair", "exclude each other", "Repair first; then publish BAD days")
    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = select_pairs(settings, exchange, stream)
    days = select_days(settings, date, to)
    for day in days:
        check_eligible(day, utc_now())
    days = (days[::-1] if newest_first else days)[:max_days]
    symbol = symbols_of(symbol, symbols_file)
    place = _place(settings, pairs, symbol, screen)
    with saying_what_stands(screen), ProgressListener(screen) as listener:
        if repair:
            report, found = repair_days(
                settings,
                days,
                pairs,
                listener=listener,
                tell=screen.note,
                symbols=symbol,
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
                symbols=symbol,
                requested=Requested(overwrite, allow_shrink, retry_quarantine, reason.strip()),
            )
    quarantined = [item.symbol_day for item in report.outcomes if item.status is Status.QUARANTINE]
    accepted = run_interruptible(accepted_now(place, quarantined))
    bad = [
        item
        for item in report.outcomes
        if (item.status in (Status.QUARANTINE, Status.FAILED) and item.symbol_day not in accepted)
        or (repair and item.action is Action.KEEP)  # a wrong day that could not be rebuilt is still wrong
    ]
    skipped = [item for item in report.outcomes if item.status is Status.SKIPPED]
    built = [item for item in report.outcomes if item.built]
    say_accepted(screen, accepted)
    screen.say(
        f"{len(report.outcomes)} symbol-days: {len(built)} built ({sum(item.rows for item in built):,} rows), "
        f"{len(bad)} quarantined or failed{f', {len(accepted)} accepted' if accepted else ''}"
        f"{f', {len(skipped)} skipped' if skipped else ''}"
    )
    for failure in report.failures:
        screen.error(failure)
    screen.document(runs_document(report, accepted))
    leave(found=bad or skipped or report.failures)


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
    builds = [item for item in plans if item.action is Action.BUILD]
    if plans:
        columns = ("symbol-day", "action", "#parts", "#bytes to read", "#rows published", "why")
        screen.table(f"Plan for {span(days)}", columns, rows)
        screen.say(
            f"{len(builds)} of {len(plans)} symbol-days would be built, reading "
            f"{sum(len(item.parts) for item in builds):,} parts, {format_bytes(sum(item.bytes_in for item in builds))}"
        )
    else:
        screen.say(f"nothing to do: {_nothing(days)}")
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
    from quantlab_dagster.cli.screen import PairProgress, Screen, show_verified
    from quantlab_dagster.market.accepting import accepted_now
    from quantlab_dagster.market.outcome import Verdict
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = select_pairs(settings, exchange, stream)
    days = select_days(settings, date, to)
    place = _place(settings, pairs, symbol, screen)
    with PairProgress(screen, len(pairs) * len(days)) as progress:
        verified = run_interruptible(_verified(place, pairs, days, symbol or (), progress, against_raw=raw))
    quarantined = [item.symbol_day for item in verified if item.verdict is Verdict.QUARANTINED]
    accepted = run_interruptible(accepted_now(place, quarantined))
    if verified:
        show_verified(screen, f"Verification of {span(days)}", verified, accepted)
    else:
        screen.say(f"nothing to verify: {_nothing(days)}")
    screen.document([verified_document(item, accepted.get(item.symbol_day)) for item in verified])
    leave(found=[item for item in verified if item.verdict is not Verdict.RIGHT and item.symbol_day not in accepted])


def _place(
    settings: "Settings", pairs: "Sequence[Pair]", symbols: Sequence[str] | None, screen: "Screen"
) -> "MarketPlace":
    """Open the lakes, say which they are, and refuse symbols that neither has."""
    from quantlab_dagster.access import open_market

    place = open_market(settings)
    if not screen.as_json:
        screen.note(f"raw lake {place.raw.url}, compact lake {place.compact.url}")
    check_symbols(place, pairs, symbols)
    return place


def _nothing(days: Sequence[dt.date]) -> str:
    return f"no symbol-day of {span(days)} has raw parts or a published file"


async def _verified(
    place: "MarketPlace",
    pairs: "Sequence[Pair]",
    days: Sequence[dt.date],
    symbols: Sequence[str],
    progress: "PairProgress",
    *,
    against_raw: bool,
) -> "list[VerifiedDay]":
    from quantlab_dagster.market.verify import verify_pair

    verified: list[VerifiedDay] = []
    for pair in pairs:
        for day in days:
            with progress.looking(pair, day):
                verified += await verify_pair(place, pair, day, symbols=symbols, against_raw=against_raw)
    return verified
