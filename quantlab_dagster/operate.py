"""Commands for running unattended: `quantlab status`, `catch-up` and `state …`."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantlab_dagster.console import ProgressListener, Screen, outcome_document
from quantlab_dagster.days.compact import Status
from quantlab_dagster.days.eligibility import check_eligible, last_eligible_day
from quantlab_dagster.days.health import failed_days, findings, quarantined
from quantlab_dagster.days.rebuild import rebuild_state
from quantlab_dagster.days.rollup import unclaimed_pairs
from quantlab_dagster.days.state import State, StateStore, accept_day, seed, unsettled_days
from quantlab_dagster.errors import ObjectNotFound, PathError
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.lake.layout import Pair, parse_day
from quantlab_dagster.settings import Settings, load_settings
from quantlab_dagster.work.clock import utc_now

if TYPE_CHECKING:
    from quantlab_dagster.days.compact import Workplace
    from quantlab_dagster.work.finding import Finding

__all__ = ["catch_up", "state_app", "status"]

state_app = typer.Typer(
    help="Look at, and mend, compacted/_state.json.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_MOST_LISTED = 20


def day_argument(text: str) -> dt.date:
    """A day typed by a user.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        return parse_day(text)
    except PathError as error:
        raise typer.BadParameter(str(error)) from None


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
Day = Annotated[dt.date, typer.Argument(parser=day_argument, metavar="DAY", help="2026-01-08 or 20260108.")]


def pairs_of(settings: Settings) -> list[Pair]:
    """All configured pairs."""
    return [Pair(exchange, stream) for exchange in settings.exchanges for stream in settings.streams]


def _open(settings: Settings) -> Workplace:
    from quantlab_dagster.runs import open_workplace  # noqa: PLC0415  # Dagster takes a second to import

    return open_workplace(settings)


def status(as_json: Json = False) -> None:
    """Watermark, backlog, stale, quarantined and failed days, in one screen. Exit code 1 if any needs attention."""
    settings = load_settings()
    screen = Screen(as_json=as_json)
    state, found = run_interruptible(_look(settings))
    now = utc_now()
    last = last_eligible_day(now)
    backlog = unsettled_days(state, last) if state else []
    failed = failed_days(state) if state else {}
    bad = quarantined(state) if state else {}
    stale = sorted(state.late_scan.stale) if state else []
    screen.say(f"last compacted day   {(state.last_compacted_date if state else None) or 'none yet'}")
    screen.say(f"last eligible day    {last:%Y%m%d}")
    screen.say(f"backlog              {len(backlog)} days{_list([str(day) for day in backlog])}")
    screen.say(f"failed days          {len(failed)}{_list([f'{day} ({why})' for day, why in failed.items()])}")
    screen.say(f"stale symbol-days    {len(stale)}{_list(stale)}")
    screen.say(f"quarantined          {len(bad)}{_list([f'{key} ({why})' for key, why in bad.items()])}")
    screen.say(f"updated              {state.updated_at if state else 'never'}")
    for finding in found:
        screen.say(f"{'ok  ' if finding.passed else 'FAIL'} {finding.name}: {finding.text}")
    screen.document(
        {
            "last_compacted_date": state.last_compacted_date if state else None,
            "last_eligible_date": f"{last:%Y%m%d}",
            "backlog": [str(day) for day in backlog],
            "failed": failed,
            "stale": stale,
            "quarantined": bad,
            "updated_at": state.updated_at if state else None,
            "checks": {finding.name: {"passed": finding.passed, "text": finding.text} for finding in found},
        }
    )
    attention = failed or bad or stale or any(not finding.passed for finding in found)
    raise typer.Exit(1 if attention else 0)


async def _look(settings: Settings) -> tuple[State | None, list[Finding]]:
    place = _open(settings)
    state = await StateStore(place.compact).read()
    return state, findings(state, await unclaimed_pairs(place, pairs_of(settings)), place.clock())


def _list(items: list[str]) -> str:
    if not items:
        return ""
    more = f", and {len(items) - _MOST_LISTED} more" if len(items) > _MOST_LISTED else ""
    return f": {', '.join(items[:_MOST_LISTED])}{more}"


def catch_up(as_json: Json = False) -> None:
    """Run now what the sensor would request: open days, oldest first, and late parts. For cron and systemd."""
    from quantlab_dagster.runs import catch_up as run_catch_up  # noqa: PLC0415  # Dagster takes a second to import

    settings = load_settings()
    screen = Screen(as_json=as_json)
    with ProgressListener(screen) as listener:
        report, left = run_catch_up(settings, listener=listener)
    bad = [item for item in report.outcomes if item.status in (Status.QUARANTINE, Status.FAILED)]
    screen.say(f"{len(report.run_ids)} days run, {len(report.outcomes)} symbol-days, {len(bad)} quarantined or failed")
    for text in left.skipped:
        screen.say(f"left: {text}")
    for failure in report.failures:
        screen.error(failure)
    screen.document(
        {
            "runs": report.run_ids,
            "symbol_days": [outcome_document(item) for item in report.outcomes],
            "left": left.skipped,
            "failures": report.failures,
        }
    )
    # A day that somebody else is running is nothing wrong; one that failed too often is.
    raise typer.Exit(1 if bad or report.failures or left.exhausted else 0)


@state_app.command()
def show() -> None:
    """Print the state file as it is."""
    store = StateStore(_open(load_settings()).compact)
    state = run_interruptible(store.read())
    if state is None:
        remedy = "It is made by the first run, or by `quantlab state seed`"
        raise ObjectNotFound(store.name, "there is no state yet", remedy)
    typer.echo(state.dump().decode(), nl=False)


@state_app.command("seed")
def seed_command(
    last_compacted: Annotated[
        dt.date, typer.Option(parser=day_argument, metavar="DAY", help="Everything up to this day counts as settled.")
    ],
) -> None:
    """Begin with a watermark: catch-up starts with the day after it."""
    place = _open(load_settings())
    after = run_interruptible(
        StateStore(place.compact).update(lambda before: seed(before, last_compacted, place.clock()))
    )
    typer.echo(f"last_compacted_date is {after.last_compacted_date}")


@state_app.command("accept")
def accept_command(
    day: Day, reason: Annotated[str, typer.Option(help="Why it may stay as it is; kept in the state.")]
) -> None:
    """Settle a day as it is, so that the watermark can move on."""
    check_eligible(day, utc_now())
    place = _open(load_settings())
    store = StateStore(place.compact)

    def change(before: State | None) -> State:
        if before is None:
            raise ObjectNotFound(store.name, "there is no state yet", "There is nothing to accept")
        return accept_day(before, day, reason, place.clock())

    after = run_interruptible(store.update(change))
    typer.echo(f"{day} is accepted; last_compacted_date is {after.last_compacted_date or 'none yet'}")


@state_app.command("rebuild")
def rebuild_command(as_json: Json = False) -> None:
    """Make the state again from what is published and quarantined. A readable watermark is kept."""
    settings = load_settings()
    after: State = run_interruptible(rebuild_state(_open(settings), pairs_of(settings)))
    document: dict[str, Any] = {
        "last_compacted_date": after.last_compacted_date,
        "days": len(after.days),
        "partitions": len(after.partitions),
    }
    if as_json:
        typer.echo(json.dumps(document))
    else:
        typer.echo(
            f"rebuilt: last_compacted_date {after.last_compacted_date or 'none'}, {len(after.days)} days, "
            f"{len(after.partitions)} symbol-days"
        )
