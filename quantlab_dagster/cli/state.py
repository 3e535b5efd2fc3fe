"""Commands for running unattended: `quantlab status`, `catch-up` and `state …`. Only `catch-up` needs Dagster."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.options import DayOption, Json, leave
from quantlab_dagster.errors import ObjectNotFound, SettingsError

if TYPE_CHECKING:
    from quantlab_dagster.market.state import State
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.work.finding import Finding

__all__ = ["catch_up", "state_app", "status"]

state_app = typer.Typer(
    help="Look at, and mend, compacted/_state.json.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_MOST_LISTED = 20


def status(as_json: Json = False) -> None:
    """Watermark, backlog, stale, quarantined and failed days, in one screen. Exit code 1 if any needs attention."""
    from quantlab_dagster.cli.documents import status_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.checks import failed_days, quarantined
    from quantlab_dagster.market.eligibility import last_eligible_day
    from quantlab_dagster.market.settling import unsettled_days
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.clock import utc_now
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    screen = Screen(as_json=as_json)
    state, found = run_interruptible(_look(settings))
    now = utc_now()
    last = last_eligible_day(now)
    backlog = unsettled_days(state, last, settings.pairs) if state else []
    failed = failed_days(state) if state else {}
    bad = quarantined(state) if state else {}
    stale = sorted(state.late_scan.stale) if state else []
    screen.say(f"lakes                {settings.raw_url} → {settings.compact_url}")
    screen.say(f"last compacted day   {(state.last_compacted_date if state else None) or 'none yet'}")
    screen.say(f"last eligible day    {last:%Y%m%d}")
    screen.say(f"backlog              {len(backlog)} days{_list([str(day) for day in backlog])}")
    screen.say(f"failed days          {len(failed)}{_list([f'{day} ({why})' for day, why in failed.items()])}")
    screen.say(f"stale symbol-days    {len(stale)}{_list(stale)}")
    screen.say(f"quarantined          {len(bad)}{_list([f'{key} ({why})' for key, why in bad.items()])}")
    screen.say(f"updated              {state.updated_at if state else 'never'}")
    for finding in found:
        screen.say(f"{'ok  ' if finding.passed else 'FAIL'} {finding.name}: {finding.text}")
    screen.document(status_document(state, last, backlog, failed, bad, found))
    leave(found=failed or bad or stale or any(not finding.passed for finding in found))


async def _look(settings: "Settings") -> "tuple[State | None, list[Finding]]":
    from quantlab_dagster.access import open_market
    from quantlab_dagster.market.checks import findings
    from quantlab_dagster.market.rollup import unclaimed_prefixes
    from quantlab_dagster.market.state_store import StateStore

    place = open_market(settings)
    state = await StateStore(place.compact).view()
    unclaimed = await unclaimed_prefixes(place, settings.pairs)
    return state, findings(state, unclaimed, settings.pairs, place.clock())


def _list(items: list[str]) -> str:
    if not items:
        return ""
    more = f", and {len(items) - _MOST_LISTED} more" if len(items) > _MOST_LISTED else ""
    return f": {', '.join(items[:_MOST_LISTED])}{more}"


def catch_up(as_json: Json = False) -> None:
    """Run now what the sensor would request: open days, oldest first, and late parts. For cron and systemd."""
    from quantlab_dagster.cli.documents import runs_document
    from quantlab_dagster.cli.runs.market import catch_up as run_catch_up
    from quantlab_dagster.cli.screen import ProgressListener, Screen
    from quantlab_dagster.market.outcome import Status
    from quantlab_dagster.settings import load_settings

    settings = load_settings()
    screen = Screen(as_json=as_json)
    if not as_json:
        screen.note(f"raw lake {settings.raw_url}, compact lake {settings.compact_url}")
    with ProgressListener(screen) as listener:
        report, left = run_catch_up(settings, listener=listener, tell=screen.note)
    bad = [item for item in report.outcomes if item.status in (Status.QUARANTINE, Status.FAILED)]
    screen.say(f"{len(report.run_ids)} days run, {len(report.outcomes)} symbol-days, {len(bad)} quarantined or failed")
    for text in left.skipped:
        screen.say(f"left: {text}")
    for failure in report.failures:
        screen.error(failure)
    screen.document(runs_document(report, left.skipped))
    # A day that somebody else is running is nothing wrong; one that failed is, whether or not it is tried again.
    leave(found=bad or report.failures or left.exhausted or left.waiting)


@state_app.command()
def show() -> None:
    """Print the state file as it is."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.market.state_store import StateStore
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    store = StateStore(open_market(load_settings()).compact)
    state = run_interruptible(store.read())
    if state is None:
        remedy = "It is made by the first run, or by `quantlab state seed`"
        raise ObjectNotFound(store.name, "there is no state yet", remedy)
    typer.echo(state.dump().decode(), nl=False)


@state_app.command("seed")
def seed_command(
    last_compacted: DayOption,
    move_back: Annotated[
        bool, typer.Option("--move-back", help="Undo a mistaken seed: let the watermark go back to that day.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why it moves back; kept in the state.")] = "",
) -> None:
    """Begin with a watermark: catch-up starts with the day after it."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.market.settling import seed
    from quantlab_dagster.market.state_store import StateStore
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    if move_back != bool(reason):
        raise SettingsError("--move-back, --reason", "belong together", "Say why the watermark moves back")
    settings = load_settings()
    place = open_market(settings)
    after = run_interruptible(
        StateStore(place.compact).update(
            lambda before: seed(before, last_compacted, place.clock(), settings.pairs, move_back=reason or None)
        )
    )
    typer.echo(f"last_compacted_date is {after.last_compacted_date}")


@state_app.command("accept")
def accept_command(
    what: Annotated[
        str, typer.Argument(metavar="DAY|SYMBOL-DAY", help="As 2026-01-08, or as binance/bbo/adausdt/20260108.")
    ],
    reason: Annotated[str, typer.Option(help="Why it may stay as it is; kept in the state.")],
) -> None:
    """Settle a day as it is; or let a quarantined or stale symbol-day be, until its raw parts change."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.lake.market import SymbolDay, parse_day
    from quantlab_dagster.market.accepting import accept
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    accepted = SymbolDay.of_state_key(what) if "/" in what else parse_day(what)
    after = run_interruptible(accept(open_market(settings), accepted, reason, settings.pairs))
    typer.echo(f"{accepted} is accepted; last_compacted_date is {after.last_compacted_date or 'none yet'}")


@state_app.command("rebuild")
def rebuild_command(as_json: Json = False) -> None:
    """Make the state again from what is published and quarantined. A readable watermark is kept."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.cli.documents import rebuilt_document
    from quantlab_dagster.market.rebuild import rebuild_state
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    after = run_interruptible(rebuild_state(open_market(settings), settings.pairs))
    if as_json:
        typer.echo(json.dumps(rebuilt_document(after)))
    else:
        typer.echo(
            f"rebuilt: last_compacted_date {after.last_compacted_date or 'none'}, {len(after.days)} days, "
            f"{len(after.partitions)} symbol-days"
        )
