"""Commands for Prometheus: `quantlab metrics write · serve`. What they judge is what `status` and `live` say."""

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from quantlab_dagster.cli.options import leave
from quantlab_dagster.errors import QuantlabError, SettingsError

if TYPE_CHECKING:
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.live import LiveJudgement
    from quantlab_dagster.settings import Settings

__all__ = ["metrics_app"]

T = TypeVar("T")

_LISTEN_SECONDS = 60.0

metrics_app = typer.Typer(
    help="Both lakes, as they are judged, for Prometheus.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@metrics_app.command()
def write() -> None:
    """Judge both lakes and the live symbols once, and put it beside the counters. Exit code 1 if that cannot be done.

    What is wrong in a lake is no failure of this command: the metrics say it.
    """
    from quantlab_dagster.cli.runs.metrics import EVENTS, MARKET_DATA, write_judgement, write_live
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.cli.state import judge_market
    from quantlab_dagster.cli.warehouse import look_at_event_lake
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.warehouse.checks import gauges
    from quantlab_dagster.work.clock import utc_now

    settings, screen = load_settings(), Screen()
    if settings.metrics_file is None and settings.pushgateway_url is None:
        cause = "is not set, nor is QUANTLAB_PUSHGATEWAY_URL: there is nowhere to write to"
        raise SettingsError("QUANTLAB_METRICS_FILE", cause, "Set one of them, or use `quantlab metrics serve`")
    written, missed = [], False
    if settings.has_market_lake:
        market = _tried(screen, lambda: judge_market(settings))
        written.append(write_judgement(settings, MARKET_DATA, None if market is None else market.gauges, utc_now()))
        live = None if market is None else _tried(screen, lambda: _listen(settings))
        if live is not None:
            written.append(write_live(settings, live))
        missed = market is None or live is None
    else:
        screen.note("no market lake is configured: it is not judged")
    if settings.has_event_lake:
        events = _tried(screen, lambda: look_at_event_lake(settings))
        judged = None if events is None else gauges(events.findings)
        written.append(write_judgement(settings, EVENTS, judged, utc_now()))
        missed = missed or events is None
    leave(found=missed or not all(written))


@metrics_app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of /metrics; 0 for any that is free.")] = 9109,
    host: Annotated[str, typer.Option(help="Address that it is served at.")] = "127.0.0.1",
    every: Annotated[int, typer.Option(min=10, max=86400, help="Seconds between two judgements.")] = 300,
) -> None:
    """Serve the counters of runs and the judgement of both lakes at /metrics, judged at an interval, until stopped.

    Runs are counted in the file that QUANTLAB_METRICS_FILE names, which they and this command must share.
    """
    import os
    import sys

    from quantlab_dagster.cli.exporter import serving
    from quantlab_dagster.cli.following import follow, stopped_by_signals
    from quantlab_dagster.cli.runs.metrics import counters_file
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.clock import utc_now

    settings, screen = load_settings(), Screen()
    file, pause = counters_file(settings), dt.timedelta(seconds=every)
    environment = {**os.environ, "QUANTLAB_METRICS_FILE": str(file)}
    command = [sys.executable, "-m", "quantlab_dagster.cli", "metrics", "write"]
    with stopped_by_signals() as stopping, serving(file, host, port, "--host or --port") as url:
        screen.note(f"metrics at {url}, judged every {every} s")
        if settings.metrics_file is None:
            screen.note("QUANTLAB_METRICS_FILE is not set: runs are not counted, only the lakes are judged")
        follow(command, environment, lambda now: now + pause, stopping, clock=utc_now, tell=screen.note)
    screen.note("stopped")


def _listen(settings: "Settings") -> "LiveJudgement":
    from quantlab_dagster.access import open_market
    from quantlab_dagster.market.listening import listen
    from quantlab_dagster.work.stopping import run_interruptible

    place, usual, limits = open_market(settings, only_looks=True), settings.usual_days, settings.live_limits
    return run_interruptible(listen(place, settings.pairs, usual_days=usual, limits=limits, seconds=_LISTEN_SECONDS))


def _tried(screen: "Screen", look: Callable[[], T]) -> T | None:
    """What a look at a lake finds; None, and the reason for people, if it cannot be looked at."""
    try:
        return look()
    except QuantlabError as error:
        screen.error(str(error))
        return None
