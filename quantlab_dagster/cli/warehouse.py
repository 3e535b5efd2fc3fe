"""Commands for the event lake: `quantlab warehouse compact · plan · status · recover`.

Dagster is imported only by what runs something.
"""

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.options import Apps, Hour, HourTo, Json, check_known, leave, select_hours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.warehouse.look import LakeLook
    from quantlab_dagster.warehouse.outcome import HourOutcome
    from quantlab_dagster.warehouse.place import Requested, WarehousePlace
    from quantlab_dagster.work.finding import Finding

__all__ = ["look_at_event_lake", "say_event_lake", "warehouse_app"]

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
    screen.table("Plan", ("hour", "#files", "#to merge", "#outputs", "#bytes to read", "why"), rows)
    files, size = sum(sum(look.merges) for look in looks), sum(look.bytes_in for look in looks)
    screen.say(f"{len(looks)} hours need work: {files:,} files to merge, {format_bytes(size)}")
    for path in sorted(lake.told.odd):
        screen.say(f"left out, no request can name it: {path}")
    for key in sorted(lake.told.unexplained.values()):
        screen.say(f"left out, WAREHOUSE_LAYOUT does not explain it: {key}")
    screen.document([look_document(look) for look in looks])


@warehouse_app.command()
def status(app: Apps = None, as_json: Json = False) -> None:
    """What is late, unfinished or corrupt, in one screen. Exit code 1 if anything needs attention."""
    from quantlab_dagster.cli.documents import warehouse_status_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings, screen = load_settings(), Screen(as_json=as_json)
    scope = Scope(tuple(app or ()))
    lake, found = run_interruptible(_look(_place(settings, scope), scope))
    say_event_lake(screen, settings, lake, found)
    screen.document(warehouse_status_document(lake, [look for look in lake.looks if look.merges], found))
    leave(found=[finding for finding in found if not finding.passed])


def look_at_event_lake(settings: "Settings") -> "tuple[LakeLook, list[Finding]]":
    """Look at the whole event lake, and judge it.

    Raises:
        QuantlabError: it cannot be opened or looked at.
    """
    from quantlab_dagster.lake.warehouse import Scope
    from quantlab_dagster.work.stopping import run_interruptible

    return run_interruptible(_look(_place(settings, Scope()), Scope()))


def say_event_lake(screen: "Screen", settings: "Settings", lake: "LakeLook", found: "Sequence[Finding]") -> None:
    """How the event lake is, for people."""
    from quantlab_dagster.lake.warehouse import hour_text
    from quantlab_dagster.warehouse.place import last_cold_hour
    from quantlab_dagster.warehouse.slot import SILENT_AFTER
    from quantlab_dagster.work.clock import utc_now
    from quantlab_dagster.work.wording import format_bytes

    totals, backlog = lake.totals, [look for look in lake.looks if look.merges]
    slots = Counter(look.slot.state for look in lake.looks if look.slot)
    late = f", the oldest {hour_text(min(look.partition.hour for look in backlog))}" if backlog else ""
    screen.say(f"event lake           {settings.warehouse_url}")
    screen.say(f"last cold hour       {hour_text(last_cold_hour(utc_now(), settings.compaction_grace))}")
    screen.say(f"cold hours           {totals.hours:,} of {len(totals.apps):,} apps")
    screen.say(
        f"files                {totals.files:,}, {totals.small:,} of them small, {format_bytes(totals.size_bytes)}"
    )
    if lake.seen_whole_at is not None:
        screen.say(f"history last seen    {lake.seen_whole_at:%Y-%m-%d %H:%M} UTC, as a whole, by a run")
    screen.say(f"hours with backlog   {len(backlog):,}{late}")
    screen.say(f"being worked on      {slots['claimed']:,} (a silent claim is taken over after {SILENT_AFTER})")
    screen.say(f"unfinished plans     {slots['planned']:,}")
    screen.say(f"corrupt files        {sum(len(look.corrupt) for look in lake.looks):,}")
    for finding in found:
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


async def _look(place: "WarehousePlace", scope: "Scope") -> "tuple[LakeLook, list[Finding]]":
    from quantlab_dagster.warehouse.checks import findings
    from quantlab_dagster.warehouse.look import look_at_slots, look_over
    from quantlab_dagster.warehouse.looking import read_look

    lake = await look_over(place, scope)
    record, _ = await read_look(place)
    lake = replace(lake, seen_whole_at=record.seen_whole_at if record else None)
    slots = await look_at_slots(place, scope, lake.told)
    return lake, findings(slots, lake.looks, place.clock(), told=lake.told)


def _run(scope: "Scope", requested: "Requested", *, full: bool = False, as_json: bool) -> None:
    from quantlab_dagster.cli.documents import sweep_document
    from quantlab_dagster.cli.runs.warehouse import compact_warehouse
    from quantlab_dagster.cli.screen import HourProgress, Screen
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.warehouse.outcome import HourStatus

    settings, screen = load_settings(), Screen(as_json=as_json)
    if scope.apps:
        _place(settings, scope)
    if not as_json:
        screen.note(f"event lake {settings.warehouse_url}")
    with HourProgress(screen) as listener:
        report = compact_warehouse(settings, scope, requested, listener=listener, tell=screen.note, full=full)
    failed = [item for item in report.outcomes if item.status is HourStatus.FAILED]
    corrupt = sum(len(item.corrupt) for item in report.outcomes)
    if not report.failures or report.outcomes:
        screen.say(_summary(report.outcomes))
    for outcome in report.outcomes:
        for item in outcome.corrupt:
            screen.say(f"corrupt, left in place: {outcome.partition.key(item.name)}: {item.reason}")
    for failure in report.failures:
        screen.error(failure)
    screen.document(sweep_document(report))
    leave(found=failed or corrupt or report.failures)


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
