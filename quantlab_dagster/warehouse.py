"""Commands for the event lake: `quantlab warehouse compact · plan · status · recover`."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantlab_dagster.console import HourProgress, Screen, hour_document
from quantlab_dagster.errors import DayRefused, PathError, SettingsError
from quantlab_dagster.hours.compact import HourStatus, last_cold_hour
from quantlab_dagster.hours.scan import findings, look_at_slots, look_over
from quantlab_dagster.hours.slot import SILENT_AFTER
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.lake.events import ONE_HOUR, Scope, hour_text, parse_hour
from quantlab_dagster.settings import load_settings
from quantlab_dagster.text import format_bytes
from quantlab_dagster.work.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.hours.compact import EventPlace, HourOutcome
    from quantlab_dagster.hours.scan import HourLook, LakeLook
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.warehouse_runs import SweepReport
    from quantlab_dagster.work.finding import Finding

__all__ = ["warehouse_app"]

warehouse_app = typer.Typer(
    help="Compact the event lake: cold hours, in place.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _hour(text: str) -> dt.datetime:
    try:
        return parse_hour(text)
    except PathError as error:
        raise typer.BadParameter(str(error)) from None


Apps = Annotated[list[str] | None, typer.Option("--app", help="Only this app, as in the path; repeatable.")]
Hour = Annotated[
    dt.datetime | None,
    typer.Option("--hour", parser=_hour, metavar="HOUR", help="Only this hour (UTC): 2026-01-15T10 or 2026011510."),
]
To = Annotated[
    dt.datetime | None,
    typer.Option("--to", parser=_hour, metavar="HOUR", help="Last hour of a range that starts at --hour."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


@warehouse_app.command()
def compact(app: Apps = None, hour: Hour = None, to: To = None, as_json: Json = False) -> None:
    """Merge the small files of every cold hour that has some, and delete them: what the schedule does."""
    _run(_scope(app, hour, to), as_json=as_json)


@warehouse_app.command()
def recover(
    app: Apps = None,
    hour: Hour = None,
    to: To = None,
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
    _run(_scope(app, hour, to), as_json=as_json, recover_only=True, give_up=give_up, retry_corrupt=retry_corrupt)


@warehouse_app.command()
def plan(app: Apps = None, hour: Hour = None, to: To = None, as_json: Json = False) -> None:
    """Show what compacting would merge, without doing it."""
    settings, screen = load_settings(), Screen(as_json=as_json)
    place = _open(settings)
    lake = run_interruptible(look_over(place, _scope(app, hour, to)))
    looks = [look for look in lake.looks if look.needs_work]
    rows = [
        (
            str(look.partition),
            f"{look.files:,}",
            f"{sum(look.merges):,}",
            f"{len(look.merges):,}",
            format_bytes(look.merge_bytes),
            look.reason,
        )
        for look in looks
    ]
    screen.table("Plan", ("hour", "#files", "#to merge", "#outputs", "#bytes to read", "why"), rows)
    files, size = sum(sum(look.merges) for look in looks), sum(look.merge_bytes for look in looks)
    screen.say(f"{len(looks)} hours need work: {files:,} files to merge, {format_bytes(size)}")
    screen.document([_look_document(look) for look in looks])


@warehouse_app.command()
def status(app: Apps = None, as_json: Json = False) -> None:
    """What is late, unfinished or corrupt, in one screen. Exit code 1 if anything needs attention."""
    settings, screen = load_settings(), Screen(as_json=as_json)
    lake, found = run_interruptible(_look(_open(settings), _scope(app, None, None)))
    totals, backlog = lake.totals, [look for look in lake.looks if look.merges]
    slots = Counter(look.slot.state for look in lake.looks if look.slot)
    late = f", the oldest {hour_text(min(look.partition.hour for look in backlog))}" if backlog else ""
    screen.say(f"event lake           {settings.warehouse_url}")
    screen.say(f"last cold hour       {hour_text(last_cold_hour(utc_now()))}")
    screen.say(f"cold hours           {totals.hours:,} of {len(totals.apps):,} apps")
    screen.say(
        f"files                {totals.files:,}, {totals.small:,} of them small, {format_bytes(totals.size_bytes)}"
    )
    screen.say(f"hours with backlog   {len(backlog):,}{late}")
    screen.say(f"being worked on      {slots['claimed']:,} (a silent claim is taken over after {SILENT_AFTER})")
    screen.say(f"unfinished plans     {slots['planned']:,}")
    screen.say(f"corrupt files        {sum(len(look.corrupt) for look in lake.looks):,}")
    for finding in found:
        screen.say(f"{'ok  ' if finding.passed else 'FAIL'} {finding.name}: {finding.text}")
    screen.document(
        {
            "cold_hours": totals.hours,
            "files": totals.files,
            "small_files": totals.small,
            "bytes": totals.size_bytes,
            "backlog": [_look_document(look) for look in backlog],
            "unfinished": [str(look.partition) for look in lake.looks if look.unfinished or look.unreadable],
            "corrupt": {look.partition.key(item.name): item.reason for look in lake.looks for item in look.corrupt},
            "checks": {finding.name: {"passed": finding.passed, "text": finding.text} for finding in found},
        }
    )
    raise typer.Exit(0 if all(finding.passed for finding in found) else 1)


async def _look(place: EventPlace, scope: Scope) -> tuple[LakeLook, list[Finding]]:
    lake = await look_over(place, scope)
    return lake, findings(await look_at_slots(place, scope), lake.looks, place.clock())


def _run(
    scope: Scope,
    *,
    as_json: bool,
    recover_only: bool = False,
    give_up: bool = False,
    retry_corrupt: bool = False,
) -> None:
    from quantlab_dagster.warehouse_runs import compact_warehouse  # noqa: PLC0415  # Dagster takes a second to import

    settings, screen = load_settings(), Screen(as_json=as_json)
    with HourProgress(screen) as listener:
        report = compact_warehouse(
            settings, scope, listener=listener, recover_only=recover_only, give_up=give_up, retry_corrupt=retry_corrupt
        )
    failed = [item for item in report.outcomes if item.status is HourStatus.FAILED]
    corrupt = sum(len(item.corrupt) for item in report.outcomes)
    if not report.failures or report.outcomes:
        screen.say(_summary(report))
    for outcome in report.outcomes:
        for item in outcome.corrupt:
            screen.say(f"corrupt, left in place: {outcome.partition.key(item.name)}: {item.reason}")
    for failure in report.failures:
        screen.error(failure)
    screen.document(
        {
            "run": report.run_id,
            "hours": [hour_document(item) for item in report.outcomes],
            "failures": report.failures,
        }
    )
    raise typer.Exit(1 if failed or corrupt or report.failures else 0)


def _summary(report: SweepReport) -> str:
    outcomes: Sequence[HourOutcome] = report.outcomes
    if not outcomes:
        return "no hour needed work"
    ended = Counter(item.status for item in outcomes)
    said = []
    if ended[HourStatus.COMPACTED]:
        files, outputs = sum(item.total("files") for item in outcomes), sum(len(item.replacements) for item in outcomes)
        sizes = [format_bytes(sum(item.total(name) for item in outcomes)) for name in ("bytes_in", "bytes_out")]
        said.append(f"compacted {ended[HourStatus.COMPACTED]}: {files:,} files → {outputs:,}, {' → '.join(sizes)}")
    said += [f"{status.value} {number}" for status, number in ended.items() if status is not HourStatus.COMPACTED]
    corrupt = sum(len(item.corrupt) for item in outcomes)
    return f"hours {', '.join(said)}" + (f"; corrupt files left in place: {corrupt}" if corrupt else "")


def _scope(apps: Sequence[str] | None, first: dt.datetime | None, last: dt.datetime | None) -> Scope:
    """The partitions that the options select.

    Raises:
        SettingsError: the range makes no sense.
        DayRefused: an hour that is not over yet.
    """
    if last and not first:
        raise SettingsError("--to", "is given without --hour", "Say where the range begins")
    last = last or first
    if first and last and last < first:
        raise SettingsError("--to", f"{hour_text(last)} is before --hour {hour_text(first)}", "Swap them")
    if last and last > last_cold_hour(utc_now()):
        try:
            remedy = f"It can be compacted from {last + ONE_HOUR:%Y-%m-%d %H:%M} UTC on"
        except OverflowError:
            remedy = "It is the last hour of the calendar"
        raise DayRefused(hour_text(last), "is not over: files may still be written to it", remedy)
    return Scope(tuple(apps or ()), first, last)


def _open(settings: Settings) -> EventPlace:
    from quantlab_dagster.warehouse_runs import open_event_place  # noqa: PLC0415  # Dagster takes a second to import

    return open_event_place(settings)


def _look_document(look: HourLook) -> dict[str, Any]:
    return {
        "app": look.partition.app,
        "hour": hour_text(look.partition.hour),
        "files": look.files,
        "small_files": look.small,
        "to_merge": look.merges,
        "bytes_to_merge": look.merge_bytes,
        "reason": look.reason,
    }
