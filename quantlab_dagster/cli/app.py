"""The command line: `quantlab`. It runs the same Dagster assets as the schedule, in this process.

Exit codes: 0 all is well; 1 something is quarantined, failed or wrong; 2 usage, configuration, or a day or server
that is refused.
"""

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from quantlab_dagster import __version__
from quantlab_dagster.cli.alerts import alerts_app
from quantlab_dagster.cli.calendar import calendar
from quantlab_dagster.cli.cost import cost
from quantlab_dagster.cli.faults import fault_of_home
from quantlab_dagster.cli.live import live
from quantlab_dagster.cli.market import compact, plan, verify
from quantlab_dagster.cli.metering import metrics_app
from quantlab_dagster.cli.options import EXIT_FINE, EXIT_FOUND, EXIT_USAGE, Json, leave
from quantlab_dagster.cli.pruning import prune
from quantlab_dagster.cli.quality import quality
from quantlab_dagster.cli.serving import daemon, dev, webserver
from quantlab_dagster.cli.state import catch_up, state_app, status
from quantlab_dagster.cli.warehouse import warehouse_app
from quantlab_dagster.errors import DayRefused, NothingToAccept, PathError, QuantlabError, SettingsError, TableFormat

__all__ = ["app", "main"]

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
_REFUSED = (SettingsError, DayRefused, NothingToAccept, PathError, TableFormat)

app = typer.Typer(
    name="quantlab",
    help="Compact raw market-data parts into one sorted, audited file per symbol and day.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain usage errors: what is not a terminal is never wrapped
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"quantlab {__version__}")
        raise typer.Exit


@app.callback()
def _quantlab(
    version: Annotated[  # noqa: ARG001  # it acts when it is read
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    env_file: Annotated[
        Path | None, typer.Option("--env-file", metavar="FILE", help="Settings that the environment does not set.")
    ] = None,
) -> None:
    """Compact raw market-data parts into one sorted, audited file per symbol and day."""
    if env_file is not None:
        os.environ["QUANTLAB_ENV_FILE"] = str(env_file.absolute())  # what is started from here reads the same


@app.command()
def demo(as_json: Json = False) -> None:
    """Make a small raw lake in demo-lake/, compact it through Dagster, verify it, and show the result."""
    from quantlab_dagster.cli.demo import run_demo
    from quantlab_dagster.cli.screen import Screen

    leave(found=not run_demo(Screen(as_json=as_json)))


for _command in (compact, plan, cost, verify, status, quality, live, calendar, prune, dev, webserver, daemon):
    app.command()(_command)
app.command("catch-up")(catch_up)
app.add_typer(state_app, name="state")
app.add_typer(alerts_app, name="alerts")
app.add_typer(metrics_app, name="metrics")
app.add_typer(warehouse_app, name="warehouse")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: expected errors are one line on standard error, never a traceback."""
    if arguments is None:
        _spare_collections()
    try:
        app(arguments)
    except QuantlabError as error:
        _leave_with(error)
    except Exception as error:
        fault = fault_of_home(error)
        if fault is None:
            raise
        _leave_with(fault)
    sys.exit(EXIT_FINE)


def _leave_with(error: QuantlabError) -> NoReturn:
    from quantlab_dagster.cli.screen import Screen

    Screen().error(str(error))
    sys.exit(EXIT_USAGE if isinstance(error, _REFUSED) else EXIT_FOUND)


def _spare_collections() -> None:
    """Look for garbage seldom, and not when this process ends.

    Dagster's modules are half a million objects that stay. To look through them after every 700 new ones, and once more
    at the end, took a third of a command that finds everything up to date (benchmarks/README.md).
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    atexit.register(gc.freeze)
