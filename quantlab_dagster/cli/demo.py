"""The demo: realistic raw days and hours of events in local lakes, compacted through Dagster, verified, shown."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from quantlab_dagster.access import open_market
from quantlab_dagster.cli.documents import hour_document, outcome_document, verified_document
from quantlab_dagster.cli.runs.market import compact_days
from quantlab_dagster.cli.runs.warehouse import compact_warehouse
from quantlab_dagster.cli.screen import HourProgress, ProgressListener
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.lake.market import SymbolDay
from quantlab_dagster.lake.warehouse import Scope
from quantlab_dagster.market.accepting import accept
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.outcome import Status, Verdict, VerifiedDay
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.settings import DEMO_HOME, DEMO_LAKE, Settings, load_settings
from quantlab_dagster.synthetic.market import FOREIGN_FILES, DaySpec, corrupt_part, empty_part, write_local_day
from quantlab_dagster.synthetic.quality import WindowsSpec, write_local_windows
from quantlab_dagster.synthetic.warehouse import HourSpec, write_local_hour
from quantlab_dagster.warehouse.place import Requested
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster.work.stopping import run_interruptible
from quantlab_dagster.work.wording import format_bytes

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence
    from pathlib import Path

    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.outcome import Outcome

__all__ = ["DEMO_DAYS", "demo_environment", "demo_specs", "forget_what_is_configured", "make_demo_lake", "run_demo"]

DEMO_DAYS = (dt.date(2026, 1, 8), dt.date(2026, 1, 9))
_MARK = "made-by-quantlab-demo"
_SHAPES = (
    ("binance", "bbo", "adausdt", 300, 300_000),
    ("binance", "bbo", "btcusdt", 400, 400_000),
    ("binance", "trade", "btcusdt", 300, 150_000),
    ("bybit", "bbo", "btcusdt", 300, 200_000),
    ("bybit", "trade", "ethusdt", 250, 100_000),
    ("okx", "mark_price", "btcusdt", 200, 86_400),
    ("okx", "funding", "btcusdt", 100, 2_000),
)
_CONFIGURED = ("QUANTLAB_", "WAREHOUSE_", "COMPACTION_")
_OF_THE_MACHINE = ("QUANTLAB_MEMORY_BUDGET", "QUANTLAB_SCRATCH_DIR", "QUANTLAB_REQUEST_CONCURRENCY")
_APPS, _HOURS = ("demo", "shop"), range(8, 14)
_PLANTED = DaySpec("binance", "bbo", "xrpusdt", DEMO_DAYS[0], parts=250, rows=150_000)

_PLANTED_DAY = SymbolDay(_PLANTED.exchange, _PLANTED.stream, _PLANTED.symbol, _PLANTED.day)
_ACCEPTED = "the demo damaged a part of it on purpose"


def demo_specs() -> list[DaySpec]:
    """What the demo's lake holds: a few hundred parts per symbol-day, seven symbol-days a day and the planted one."""
    return [DaySpec(*shape[:3], day, *shape[3:]) for day in DEMO_DAYS for shape in _SHAPES] + [_PLANTED]


def demo_hours() -> list[HourSpec]:
    """What the demo's event lake holds: hours of two apps, forty small files each."""
    midnight = dt.datetime.combine(DEMO_DAYS[0], dt.time(0), dt.UTC)
    return [
        HourSpec(app, midnight + dt.timedelta(hours=hour), files=40, rows=4_000, seed=hour)
        for app in _APPS
        for hour in _HOURS
    ]


def make_demo_events(lake: Path) -> int:
    """Make the event lake; returns the bytes written."""
    return sum(write_local_hour(lake / "warehouse" / "events", spec) for spec in demo_hours())


def make_demo_lake(lake: Path, specs: Sequence[DaySpec], *, scale: float = 1.0) -> int:
    """Make the raw lake anew: the days and their quality windows, an empty part, no parts, and one corrupt part.

    Args:
        lake: its directory; replaced only if the demo made it.
        specs: the symbol-days.
        scale: factor on parts and rows, for tests.

    Returns:
        Bytes written.

    Raises:
        SettingsError: the directory holds something that the demo did not make, or cannot be made.
    """
    if lake.exists():
        # The history of earlier runs stays: Dagster may be showing it right now.
        found = [path for path in lake.iterdir() if path.name != DEMO_HOME.name]
        if found and not (lake / _MARK).exists():
            raise SettingsError(str(lake), "was not made by the demo", "Move it away, or run the demo elsewhere")
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    raw = lake / "raw"
    try:
        raw.mkdir(parents=True)
    except OSError as error:
        cause = f"cannot be made ({error.strerror})"
        raise SettingsError(str(lake.absolute()), cause, "Run the demo in a directory of your own") from error
    (lake / _MARK).touch()
    written = 0
    console = Console(stderr=True)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("making raw parts", total=len(specs))
        for spec in specs:
            small = replace(spec, parts=max(2, int(spec.parts * scale)), rows=max(4, int(spec.rows * scale)))
            written += write_local_day(raw, small)
            progress.advance(task)
    for day in sorted({spec.day for spec in specs}):
        write_local_windows(raw, WindowsSpec(day))
    usual = raw / specs[0].prefix
    empty = empty_part(specs[0])
    (usual / empty.name).write_bytes(empty.data)
    for name in FOREIGN_FILES:
        (usual / name).write_bytes(b"not a part")
    corrupt = corrupt_part(_PLANTED)
    (raw / _PLANTED.prefix / corrupt.name).write_bytes(corrupt.data)
    return written


def run_demo(screen: Screen) -> bool:
    """Run the demo in the working directory; whether everything came out as it should."""
    started = time.monotonic()
    shown_anyway = load_settings().home == DEMO_HOME  # asked before the home is made known to all that starts
    settings = _demo_settings()
    specs = demo_specs()
    written = make_demo_lake(DEMO_LAKE, specs)
    parts = sum(spec.parts for spec in specs)
    screen.say(f"made {parts:,} raw parts, {format_bytes(written)}, in {settings.raw_url}")
    hours = demo_hours()
    files, written = sum(spec.files for spec in hours), make_demo_events(DEMO_LAKE)
    screen.say(f"made {files:,} event files, {format_bytes(written)}, in {settings.warehouse_url}")
    pairs = settings.pairs
    with ProgressListener(screen) as listener:
        report = compact_days(settings, DEMO_DAYS, pairs, listener=listener, tell=screen.note, roll_up=True)
        # What is left behind is a lake in order, as an operator would leave it: the damaged part is looked at and
        # accepted, and the lake is settled up to now.
        run_interruptible(accept(open_market(settings), _PLANTED_DAY, _ACCEPTED, pairs))
        settled = compact_days(
            settings, [last_eligible_day(utc_now())], pairs, listener=listener, tell=screen.note, roll_up=True
        )
    with HourProgress(screen) as hour_listener:
        swept = compact_warehouse(settings, Scope(), Requested(), listener=hour_listener, tell=screen.note)
    screen.note("merging the raw parts again, and comparing what is published with that")
    verified = run_interruptible(_verify(settings))
    right = [item for item in verified if item.verdict is Verdict.RIGHT]
    merged = [item for outcome in swept.outcomes for item in outcome.replacements]
    screen.say(
        f"{sum(item.inputs for item in merged):,} event files became {len(merged)}, in place: "
        f"{sum(item.rows for item in merged):,} rows, {format_bytes(sum(item.bytes_in for item in merged))} → "
        f"{format_bytes(sum(item.bytes_out for item in merged))}; each was proved before its originals were deleted."
    )
    accepted = {_PLANTED_DAY: _ACCEPTED}
    _summary(screen, report.outcomes, right, time.monotonic() - started, shown_anyway=shown_anyway)
    screen.document(
        {
            "symbol_days": [outcome_document(item, accepted.get(item.symbol_day)) for item in report.outcomes],
            "verified": [verified_document(item, accepted.get(item.symbol_day)) for item in verified],
            "hours": [hour_document(item) for item in swept.outcomes],
            "failures": [*report.failures, *settled.failures, *swept.failures],
        }
    )
    for failure in (*report.failures, *settled.failures, *swept.failures):
        screen.error(failure)
    quarantined = [item for item in report.outcomes if item.status is Status.QUARANTINE]
    planted = corrupt_part(_PLANTED).name
    only_the_planted = len(quarantined) == 1 and planted in quarantined[0].reason
    days_right = only_the_planted and not report.failures and len(right) == len(specs) - 1
    all_hours = sum(item.rows for item in merged) == sum(spec.rows for spec in hours) and len(merged) == len(hours)
    return days_right and all_hours and not settled.failures and not swept.failures


def demo_environment() -> dict[str, str]:
    """What makes any command look at the demo's lakes and history, whatever is configured."""
    return {
        "QUANTLAB_RAW_URL": str(DEMO_LAKE / "raw"),
        "QUANTLAB_COMPACT_URL": str(DEMO_LAKE / "compact"),
        "WAREHOUSE_URL": str(DEMO_LAKE / "warehouse" / "events"),
        "QUANTLAB_EXCHANGES": "binance,bybit,okx",
        "QUANTLAB_STREAMS": "bbo,trade,mark_price,funding,open_interest",
        "QUANTLAB_START_DATE": "2026-01-01",
        "DAGSTER_HOME": str(DEMO_HOME.absolute()),
    }


def forget_what_is_configured(environment: MutableMapping[str, str]) -> None:
    """Let an environment be the demo's: what is configured of real lakes, and of what is around them, goes."""
    for name in [name for name in environment if name.startswith(_CONFIGURED) and name not in _OF_THE_MACHINE]:
        del environment[name]
    environment.update(demo_environment(), QUANTLAB_ENV_FILE=os.devnull)


def _demo_settings() -> Settings:
    """The demo's own lakes and history, whatever is configured: it must never write into real ones.

    Nor claim their slots, run their hooks, count for them, or alert anybody: of what is configured only the machine's
    limits count.
    """
    configured = load_settings()
    before = dict(os.environ)
    forget_what_is_configured(os.environ)
    try:
        own = load_settings()
    finally:
        os.environ.clear()
        os.environ.update(before)
    limits = {name: getattr(configured, name) for name in ("memory_budget", "scratch_dir", "request_concurrency")}
    return own.model_copy(update=limits)


async def _verify(settings: Settings) -> list[VerifiedDay]:
    place = open_market(settings)
    return [item for pair in settings.pairs for day in DEMO_DAYS for item in await verify_pair(place, pair, day)]


def _summary(
    screen: Screen, outcomes: Sequence[Outcome], right: Sequence[VerifiedDay], seconds: float, *, shown_anyway: bool
) -> None:
    built = [item for item in outcomes if item.built]
    rows = sum(item.rows for item in built)
    work = sum(item.seconds for item in built)
    bytes_in, bytes_out = sum(item.bytes_in for item in built), sum(item.bytes_out for item in built)
    screen.say(
        f"{sum(item.parts for item in built):,} parts became {len(built)} files: {rows:,} rows, "
        f"{format_bytes(bytes_in)} → {format_bytes(bytes_out)}, {rows / max(work, 1e-9):,.0f} rows/s; "
        f"{len(right)} of them verified against their raw parts. {seconds:.0f} s in all."
    )
    for item in outcomes:
        if item.status is Status.QUARANTINE:
            screen.say(f"Quarantined, as planted, and accepted: {item.symbol_day}: {_ACCEPTED}")
    screen.say()
    command = "`quantlab dev` (`make dev`)" if shown_anyway else "`quantlab dev --demo`"
    screen.say(f"Look at it in Dagster's UI: run {command} and open http://127.0.0.1:3000/assets")
