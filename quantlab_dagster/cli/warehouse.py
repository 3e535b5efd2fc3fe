"""Commands for the event lake: `quantlab warehouse compact · plan · status · recover · run`.

Dagster is imported only by what runs something.
"""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.loading import modules_loaded
from quantlab_dagster.cli.options import EXIT_USAGE, Apps, Hour, HourTo, Json, check_known, leave, select_hours
from quantlab_dagster.errors import AccessDenied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.cli.runs.warehouse import SweepReport
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.warehouse.judging import Judged
    from quantlab_dagster.warehouse.outcome import HourOutcome
    from quantlab_dagster.warehouse.place import Requested, WarehousePlace

__all__ = ["look_at_event_lake", "say_event_lake", "warehouse_app"]

_NOT_EVERYTHING = "the last 48 hours, and what runs had found in trouble; --full looks at everything"

warehouse_app = typer.Typer(
    help="Compact the event lake: cold hours, in place.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@warehouse_app.command()
def compact(
    app: Apps = None,
    hour: Hour = None,
    to: HourTo = None,
    full: Annotated[
        bool, typer.Option("--full", help="Look at all of the history, not only at recent hours and its next slice.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Merge the small files of every cold hour that has some, and delete them: what the schedule does."""
    from quantlab_dagster.warehouse.place import Requested

    _run(_selected(app, hour, to), Requested(), full=full, as_json=as_json)


@warehouse_app.command()
def recover(
    app: Apps = None,
    hour: Hour = None,
    to: HourTo = None,
    give_up: Annotated[
        bool,
        typer.Option(help="Give up plans whose output and inputs are both gone. See first that no rows are missing."),
    ] = False,
    retry_corrupt: Annotated[
        bool, typer.Option(help="Forget which files cannot be merged; the next `compact` tries them again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Complete what a crashed run left unfinished, and merge nothing. `compact` does so, too, before all else."""
    from quantlab_dagster.warehouse.place import Requested

    requested = Requested(recover_only=True, retry_corrupt=retry_corrupt, give_up=give_up)
    _run(_selected(app, hour, to), requested, as_json=as_json)


@warehouse_app.command()
def plan(app: Apps = None, hour: Hour = None, to: HourTo = None, as_json: Json = False) -> None:
    """Show what compacting would merge, without doing it."""
    from quantlab_dagster.cli.documents import look_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.warehouse.look import look_over
    from quantlab_dagster.work.stopping import run_interruptible
    from quantlab_dagster.work.wording import format_bytes

    settings, screen = load_settings(), Screen(as_json=as_json)
    scope = _selected(app, hour, to)
    place = _place(settings, scope)
    if not as_json:
        screen.note(f"event lake {place.lake.url}")
    lake = run_interruptible(look_over(place, scope))
    looks = [look for look in lake.looks if look.needs_work]
    rows = [
        (
            str(look.partition),
            f"{look.files:,}",
            f"{sum(look.merges):,}",
            f"{len(look.merges):,}",
            format_bytes(look.bytes_in),
            look.reason,
        )
        for look in looks
    ]
    if looks:
        screen.table("Plan", ("hour", "#files", "#to merge", "#outputs", "#bytes to read", "why"), rows)
        files, size = sum(sum(look.merges) for look in looks), sum(look.bytes_in for look in looks)
        hours = "1 hour needs" if len(looks) == 1 else f"{len(looks)} hours need"
        screen.say(f"{hours} work: {files:,} files to merge, {format_bytes(size)}")
    else:
        screen.say("nothing to do: no hour needs work")
    for path in sorted(lake.told.odd):
        screen.say(f"left out, no request can name it: {path}")
    for key in sorted(lake.told.unexplained.values()):
        screen.say(f"left out, WAREHOUSE_LAYOUT does not explain it: {key}")
    for key in sorted(lake.told.unmatched.values()):
        screen.say(f"left out, WAREHOUSE_FILES does not match it: {key}")
    for prefix, kind in sorted(lake.told.tables.items()):
        screen.say(f"left out, it belongs to a table of {kind}: {prefix}")
    for prefix, why in sorted(lake.told.denied.items()):
        screen.say(f"left out, it may not be listed: {prefix} ({why})")
    screen.document([look_document(look) for look in looks])


@warehouse_app.command()
def status(
    app: Apps = None,
    full: Annotated[
        bool, typer.Option("--full", help="Look at all of the history, not only at recent hours and known trouble.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What is late, unfinished or corrupt, in one screen. Exit code 1 if anything needs attention."""
    from quantlab_dagster.cli.documents import warehouse_status_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.warehouse.judging import judge_now
    from quantlab_dagster.work.stopping import run_interruptible

    settings, screen = load_settings(), Screen(as_json=as_json)
    scope = Scope(tuple(app or ()))
    judged = run_interruptible(judge_now(_place(settings, scope), scope, full=full))
    say_event_lake(screen, settings, judged)
    screen.document(warehouse_status_document(judged))
    leave(found=not judged.fine)


@warehouse_app.command()
def run(
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve the metrics at this port; 0 for any that is free.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address that they are served at.")] = "127.0.0.1",
) -> None:
    """Compact now, and whenever COMPACTION_SCHEDULE says, until stopped: without Dagster's daemon."""
    import os
    import sys
    from contextlib import nullcontext

    from quantlab_dagster.cli.exporter import serving
    from quantlab_dagster.cli.following import follow, stopped_by_signals
    from quantlab_dagster.cli.runs.metrics import counters_file
    from quantlab_dagster.cli.runs.ticks import next_tick
    from quantlab_dagster.cli.runs.warehouse import refuse_wrong_schedule
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.clock import utc_now

    settings, screen = load_settings(), Screen()
    refuse_wrong_schedule(settings)
    environment = dict(os.environ)
    serve = nullcontext("")
    if metrics_port is not None:
        file = counters_file(settings)
        environment["QUANTLAB_METRICS_FILE"] = str(file)
        serve = serving(file, metrics_host, metrics_port, "--metrics-host or --metrics-port")  # type: ignore[assignment]  # either yields a text
    command = [sys.executable, "-m", "quantlab_dagster.cli", "warehouse", "compact"]
    with stopped_by_signals() as stopping, serve as url:
        screen.note(f"compacting {settings.warehouse_url} now and by the schedule {settings.compaction_schedule.text}")
        if url:
            screen.note(f"metrics at {url}")
        if settings.compaction_enabled:
            schedule = settings.compaction_schedule
            follow(
                command, environment, lambda now: next_tick(schedule, now), stopping, clock=utc_now, tell=screen.note
            )
        else:
            screen.note("COMPACTION_ENABLED is false: nothing is run")
            stopping.wait(None)
    screen.note("stopped")


def look_at_event_lake(settings: "Settings") -> "Judged":
    """Look at the event lake as runs do, and judge it.

    Raises:
        QuantlabError: it cannot be opened or looked at.
    """
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.warehouse.judging import judge_now
    from quantlab_dagster.work.stopping import run_interruptible

    return run_interruptible(judge_now(_place(settings, Scope())))


def say_event_lake(screen: "Screen", settings: "Settings", judged: "Judged") -> None:
    """How the event lake is, for people."""
    from quantlab_dagster.lake.warehouse import hour_text
    from quantlab_dagster.warehouse.place import last_cold_hour
    from quantlab_dagster.warehouse.slot import SILENT_AFTER
    from quantlab_dagster.work.clock import utc_now
    from quantlab_dagster.work.wording import format_bytes

    lake = judged.lake
    totals, backlog = lake.totals, [look for look in lake.looks if look.merges]
    slots = Counter(look.slot.state for look in lake.looks if look.slot)
    late = f", the oldest {hour_text(min(look.partition.hour for look in backlog))}" if backlog else ""
    screen.say(f"event lake           {settings.warehouse_url}")
    unknown = "not known: " if isinstance(judged.servers, AccessDenied) else ""
    screen.say(f"its store honours    {unknown}{judged.servers}")
    screen.say(f"last cold hour       {hour_text(last_cold_hour(utc_now(), settings.compaction_grace))}")
    screen.say(f"looked at            {'everything' if judged.whole else _NOT_EVERYTHING}")
    if judged.seen_whole_at is not None:
        screen.say(f"history last seen    {judged.seen_whole_at:%Y-%m-%d %H:%M} UTC, as a whole")
    screen.say(f"cold hours           {totals.hours:,} looked at, of {len(totals.apps):,} apps")
    screen.say(
        f"files                {totals.files:,}, {totals.small:,} of them small, {format_bytes(totals.size_bytes)}"
    )
    screen.say(f"hours with backlog   {len(backlog):,}{late}")
    minutes = int(SILENT_AFTER.total_seconds() // 60)
    screen.say(f"being worked on      {slots['claimed']:,} (a silent claim is taken over after {minutes} minutes)")
    screen.say(f"unfinished plans     {slots['planned']:,}")
    screen.say(f"corrupt files        {sum(len(look.corrupt) for look in lake.looks):,}")
    for finding in judged.findings:
        screen.say(f"{'ok  ' if finding.passed else 'FAIL'} {finding.name}: {finding.text}")


def _selected(app: Apps, hour: Hour, to: HourTo) -> "Scope":
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.warehouse.place import last_cold_hour
    from quantlab_dagster.work.clock import utc_now

    return select_hours(app, hour, to, last_cold_hour(utc_now(), load_settings().compaction_grace))


def _place(settings: "Settings", scope: "Scope") -> "WarehousePlace":
    """Open the event lake, and refuse apps that it has not."""
    from quantlab_dagster.access import open_warehouse
    from quantlab_dagster.lake.warehouse import find_apps
    from quantlab_dagster.work.stopping import run_interruptible

    place = open_warehouse(settings)
    if scope.apps:
        check_known(
            "--app",
            scope.apps,
            run_interruptible(find_apps(place.lake, place.layout)).items,
            f"is not in {place.lake.url}",
        )
    return place


def _run(scope: "Scope", requested: "Requested", *, full: bool = False, as_json: bool) -> None:
    with modules_loaded():
        from quantlab_dagster.cli.runs.warehouse import compact_warehouse
    from quantlab_dagster.cli.documents import sweep_document
    from quantlab_dagster.cli.screen import HourProgress, Screen, saying_what_stands
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.warehouse.checks import STANDING

    settings, screen = load_settings(), Screen(as_json=as_json)
    if scope.apps:
        _place(settings, scope)
    if not as_json:
        screen.note(f"event lake {settings.warehouse_url}")
    with saying_what_stands(screen), HourProgress(screen) as listener:
        report = compact_warehouse(settings, scope, requested, listener=listener, tell=screen.note, full=full)
    _say_report(screen, report)
    screen.document(sweep_document(report))
    if report.refused:
        raise typer.Exit(EXIT_USAGE)
    leave(found=report.failures or report.failed_checks.keys() & STANDING or any(map(_is_wrong, report.outcomes)))


def _is_wrong(outcome: "HourOutcome") -> bool:
    """Whether somebody has to look at an hour."""
    from quantlab_dagster.warehouse.outcome import HourStatus

    return outcome.status is HourStatus.FAILED or bool(outcome.corrupt or outcome.withheld)


def _say_report(screen: "Screen", report: "SweepReport") -> None:
    """What a run did and found, for people."""
    from quantlab_dagster.work.hook import HookResult, hook_line

    if not report.failures or report.outcomes:
        screen.say(_summary(report.outcomes))
    for outcome in report.outcomes:
        for item in outcome.corrupt:
            screen.say(f"corrupt, left in place: {outcome.partition.key(item.name)}: {item.reason}")
    if report.hook is not None:
        tell = screen.say if report.hook.result is HookResult.SUCCESS else screen.note
        tell(f"{hook_line(report.hook)}{'' if report.hook.result is HookResult.SUCCESS else '; what was merged stays'}")
    for outcome in report.outcomes:
        if outcome.withheld:
            screen.say(f"{outcome.partition.told}: {outcome.reason}")
    for name, text in report.failed_checks.items():
        screen.say(f"FAIL {name}: {text}")
    for failure in report.failures:
        screen.error(failure)


def _summary(outcomes: "Sequence[HourOutcome]") -> str:
    from quantlab_dagster.warehouse.outcome import HourStatus
    from quantlab_dagster.work.wording import format_bytes

    if not outcomes:
        return "no hour needed work"
    ended = Counter(item.status for item in outcomes)
    said = []
    if ended[HourStatus.COMPACTED]:
        files, outputs = (
            sum(item.total("inputs") for item in outcomes),
            sum(len(item.replacements) for item in outcomes),
        )
        sizes = [format_bytes(sum(item.total(name) for item in outcomes)) for name in ("bytes_in", "bytes_out")]
        said.append(f"compacted {ended[HourStatus.COMPACTED]}: {files:,} files → {outputs:,}, {' → '.join(sizes)}")
    said += [f"{status.value} {number}" for status, number in ended.items() if status is not HourStatus.COMPACTED]
    corrupt = sum(len(item.corrupt) for item in outcomes)
    return f"hours {', '.join(said)}" + (f"; corrupt files left in place: {corrupt}" if corrupt else "")
