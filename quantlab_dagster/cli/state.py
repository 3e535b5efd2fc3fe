"""Commands for running unattended: `quantlab status`, `catch-up` and `state …`. Only `catch-up` needs Dagster."""

import datetime as dt
import json
from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.loading import modules_loaded
from quantlab_dagster.cli.options import EXIT_USAGE, DayOption, Json, leave, typed_day
from quantlab_dagster.cli.runs.faults import fault_of_home
from quantlab_dagster.errors import ObjectNotFound, QuantlabError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.catchup import CatchUp
    from quantlab_dagster.market.judgement import Judgement
    from quantlab_dagster.market.state import State
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.work.finding import Finding

__all__ = ["catch_up", "judge_market", "state_app", "status"]

state_app = typer.Typer(
    help="Look at, and mend, compacted/_state.json.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_MOST_LISTED = 20


def status(
    as_json: Json = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Write the judgement to the metrics, too.")] = False,
) -> None:
    """How both lakes are, in one screen. Exit code 1 if anything needs attention."""
    from quantlab_dagster.cli.documents import status_document, warehouse_status_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.cli.warehouse import look_at_event_lake, say_event_lake
    from quantlab_dagster.settings import load_settings

    settings = load_settings()
    screen = Screen(as_json=as_json)
    wrong: list[QuantlabError] = []
    judgement, problem = None, "no market lake is configured, so none is looked at"
    screen.say("MARKET DATA")
    if settings.has_market_lake:
        screen.say(f"lakes                {settings.raw_url} → {settings.compact_url}")
        try:
            judgement = judge_market(settings)
            _say(screen, judgement)
        except QuantlabError as error:
            wrong.append(error)
            problem = str(error)
            screen.say(f"FAIL {problem}")
    else:
        screen.say(problem)
    screen.say("\nEVENT LAKE")
    events: dict[str, object] = {"problem": "WAREHOUSE_URL is not set, so it is not looked at"}
    events_fine = True
    found: Sequence[Finding] | None = None
    if settings.has_event_lake:
        try:
            judged = look_at_event_lake(settings)
            found = judged.findings
            say_event_lake(screen, settings, judged)
            events = warehouse_status_document(judged)
            events_fine = judged.fine
        except QuantlabError as error:
            wrong.append(error)
            events = {"problem": str(error)}
            screen.say(f"FAIL {error}")
    else:
        screen.say(str(events["problem"]))
    fine = (judgement is None or judgement.fine) and events_fine and not wrong
    if metrics:
        _write_metrics(settings, judgement, found)
    screen.document(status_document(judgement, problem, events, fine=fine))
    if wrong and all(isinstance(error, SettingsError) for error in wrong) and (judgement is None or judgement.fine):
        raise typer.Exit(EXIT_USAGE)
    leave(found=not fine)


def judge_market(settings: "Settings") -> "Judgement":
    """Look at the market-data lakes as `status` does, and judge them.

    Raises:
        QuantlabError: they cannot be opened or looked at.
    """
    from quantlab_dagster.access import catch_up_rules, open_market
    from quantlab_dagster.market.catchup import Tries
    from quantlab_dagster.market.judging import decide_all, judge_now
    from quantlab_dagster.work.stopping import run_interruptible

    place = open_market(settings, only_looks=True)

    def decide(state: "State") -> "CatchUp":
        plain = catch_up_rules(settings, settings.pairs, place.clock(), busy=(), tries=lambda _: Tries())
        decided = decide_all(state, plain)
        if not decided.requests or not _has_home(settings):
            return decided  # nothing is due, or nothing was ever tried from here: Dagster need not be asked
        from quantlab_dagster.cli.runs.history import decide_by_history

        try:
            return decide_by_history(settings, state, place.clock())
        except QuantlabError:
            raise
        except Exception as error:
            if (fault := fault_of_home(error)) is not None:
                raise fault from error
            raise

    return run_interruptible(judge_now(place, settings.pairs, decide, usual_days=settings.usual_days))


def _has_home(settings: "Settings") -> bool:
    home = settings.home.expanduser().absolute()
    try:
        return (home / "dagster.yaml").exists()
    except OSError as error:
        cause = f"{home} cannot be used ({error.strerror})"
        raise SettingsError("DAGSTER_HOME", cause, "Set it to a directory of your own") from error


def _write_metrics(settings: "Settings", judgement: "Judgement | None", found: "Sequence[Finding] | None") -> None:
    """Write what was judged of each lake, and that one could not be judged."""
    from quantlab_dagster.cli.runs.metrics import EVENTS, MARKET_DATA, write_judgement
    from quantlab_dagster.warehouse.checks import gauges
    from quantlab_dagster.work.clock import utc_now

    now = utc_now()
    if settings.has_market_lake:
        write_judgement(settings, MARKET_DATA, judgement.gauges if judgement is not None else None, now)
    if settings.has_event_lake:
        write_judgement(settings, EVENTS, gauges(found) if found is not None else None, now)


def _say_behind(screen: "Screen", judgement: "Judgement") -> None:
    """The pairs that are behind, those that are so alike in one line."""
    from quantlab_dagster.work.wording import name_some

    alike: dict[str, list[str]] = {}
    for item in judgement.behind:
        days = f"{item.days} days, {item.first} … {item.last}" if item.days > 1 else f"{item.first}"
        alike.setdefault(days, []).append(str(item.pair))
    for days, pairs in alike.items():
        who = f"all {len(pairs)} pairs" if len(pairs) == len(judgement.pairs) > 1 else name_some(pairs)
        screen.say(f"  behind: {who}: {days}")


def _say(screen: "Screen", judgement: "Judgement") -> None:
    watermark = judgement.watermark
    behind = "1 day" if judgement.lag_days == 1 else f"{judgement.lag_days} days"
    lag = f", {behind} behind {judgement.expected:%Y%m%d}" if judgement.lag_days else ""
    screen.say(f"last compacted day   {f'{watermark:%Y%m%d}' if watermark else 'none yet'}{lag}")
    screen.say(f"last eligible day    {judgement.last_eligible:%Y%m%d}")
    screen.say(f"updated              {judgement.updated_at or 'never'}")
    screen.say(f"open days            {len(judgement.open_days)}")
    _say_behind(screen, judgement)
    for title, days in (
        ("needs attention", [day for day in judgement.days if not day.fine]),
        ("accepted", [day for day in judgement.days if day.fine and day.accepted]),
    ):
        screen.say(f"{title:<21}{len(days)} day{'s' if len(days) != 1 else ''}")
        for day in days[:_MOST_LISTED]:
            tries = f", failed {day.attempts} times" if day.attempts else ""
            screen.say(f"  {day.day} {day.standing.value}{tries}{f': {day.reason}' if day.reason else ''}")
            for word, found in (
                ("quarantined", day.quarantined),
                ("accepted", day.accepted),
                ("late parts or another label", dict.fromkeys(day.stale, "")),
                ("failed", day.failed),
                ("cannot be looked at", day.unreadable),
                ("quality window cannot be understood:", day.windows),
            ):
                for key, why in list(found.items())[:_MOST_LISTED]:
                    screen.say(f"    {word} {key}{f': {why}' if why else ''}")
        if len(days) > _MOST_LISTED:
            screen.say(f"  and {len(days) - _MOST_LISTED} more")
    for name, why in judgement.delisted.items():
        screen.say(f"delisted {name}: {why}")
    for finding in judgement.findings:
        screen.say(f"{'ok  ' if finding.passed else 'FAIL'} {finding.name}: {finding.text}")


def catch_up(as_json: Json = False) -> None:
    """Run now what the sensor would request: open days, oldest first, and late parts. For cron and systemd."""
    with modules_loaded():
        from quantlab_dagster.cli.runs.market import catch_up as run_catch_up
        from quantlab_dagster.cli.runs.market import judge_after
    from quantlab_dagster.access import open_market
    from quantlab_dagster.cli.documents import runs_document
    from quantlab_dagster.cli.screen import ProgressListener, Screen, say_accepted, saying_what_stands
    from quantlab_dagster.market.accepting import accepted_now
    from quantlab_dagster.market.late import ROUND_EVERY
    from quantlab_dagster.market.outcome import Status
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    screen = Screen(as_json=as_json)
    if not as_json:
        screen.note(f"raw lake {settings.raw_url}, compact lake {settings.compact_url}")
    before = _next_search(settings)
    with saying_what_stands(screen), ProgressListener(screen) as listener:
        report, left = run_catch_up(settings, listener=listener, tell=screen.note)
    bad = [item for item in report.outcomes if item.status in (Status.QUARANTINE, Status.FAILED)]
    quarantined = [item.symbol_day for item in bad if item.status is Status.QUARANTINE]
    accepted = run_interruptible(accepted_now(open_market(settings), quarantined))
    say_accepted(screen, accepted)
    screen.say(
        f"{len(report.run_ids)} days run, {len(report.outcomes)} symbol-days, "
        f"{len(bad) - len(accepted)} quarantined or failed{f', {len(accepted)} accepted' if accepted else ''}"
    )
    for text in left.skipped:
        screen.say(f"left: {text}")
    again = _next_search(settings)
    if again is not None and again == before:
        last = f"{again - ROUND_EVERY:%H:%M} UTC"
        screen.say(
            f"late parts were last searched for at {last}, and not now: the next search is from {again:%H:%M} UTC on"
        )
    for failure in report.failures:
        screen.error(failure)
    screen.document(runs_document(report, accepted, left.skipped))
    judgement = judge_after(settings, tell=screen.note)
    for finding in judgement.findings:
        if not finding.passed:
            screen.say(f"FAIL {finding.name}: {finding.text}")
    leave(found=not judgement.fine or report.failures)


def _next_search(settings: "Settings") -> dt.datetime | None:
    """From when on late parts are searched for again; None if that is now."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.market.late import next_round
    from quantlab_dagster.market.state_store import StateStore
    from quantlab_dagster.work.stopping import run_interruptible

    place = open_market(settings)
    try:
        state = run_interruptible(StateStore(place.compact).view())
    except QuantlabError:
        return None  # the work itself says what is wrong
    return next_round(state, settings.pairs, place.clock()) if state is not None else None


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
        str,
        typer.Argument(
            metavar="DAY|SYMBOL-DAY", help="As 2026-01-08 or yesterday; or as binance/bbo/adausdt/20260108."
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why it may stay as it is; kept in the state.")],
) -> None:
    """Settle a day as it is; or let a quarantined or stale symbol-day be, until its raw parts change."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.lake.market import SymbolDay
    from quantlab_dagster.market.accepting import accept
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    accepted = SymbolDay.of_state_key(what) if "/" in what else typed_day(what)
    after = run_interruptible(accept(open_market(settings), accepted, reason, settings.pairs))
    typer.echo(f"{accepted} is accepted; last_compacted_date is {after.last_compacted_date or 'none yet'}")


@state_app.command("delisted")
def delisted_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME…", help="As binance/bbo/adausdt; or as binance/bbo, which is all of the pair."),
    ],
    reason: Annotated[str, typer.Option(help="Why no more data are to come; kept in the state.")],
) -> None:
    """Say that no more data are to come of a symbol or a pair, so that its silence is no finding.

    It ends by itself when data of a later day come.
    """
    from quantlab_dagster.access import open_market
    from quantlab_dagster.market.accepting import acknowledge_delisted
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    after = run_interruptible(acknowledge_delisted(open_market(load_settings()), names, reason))
    for name in names:
        day = (after.delisted or {})[name].day
        typer.echo(f"{name} counts as delisted until data of a day after {day} come")


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
