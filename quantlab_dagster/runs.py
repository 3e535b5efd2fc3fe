"""Running Dagster's own assets in this process: what the command line does, recorded in the same instance as the UI's.

Imported only by commands that run something, because Dagster takes a second to import.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.days.compact import Status
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.names import configured_pairs
from quantlab_dagster.defs.progress import extra_listener
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.home import ensure_dagster_home

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from quantlab_dagster.days.compact import Listener, Outcome
    from quantlab_dagster.days.plan import Plan
    from quantlab_dagster.lake.layout import Pair, SymbolDay
    from quantlab_dagster.settings import Settings

__all__ = ["RunReport", "compact_days"]


@dataclass(slots=True)
class RunReport:
    """What one or more runs did.

    Attributes:
        outcomes: symbol-days that have raw parts or a published file, in the order they ended.
        failures: why steps failed, where that is not the failure of a symbol-day; empty if none.
        run_ids: of the runs, for the UI.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)


class _Collector:
    """Collects outcomes, and passes everything on."""

    def __init__(self, report: RunReport, then: Listener) -> None:
        self._report = report
        self._then = then

    def planned(self, pair: Pair, day: dt.date, symbols: int) -> None:
        self._then.planned(pair, day, symbols)

    def building(self, plan: Plan) -> None:
        self._then.building(plan)

    def fetched(self, symbol_day: SymbolDay, parts: int, of_parts: int) -> None:
        self._then.fetched(symbol_day, parts, of_parts)

    def finished(self, outcome: Outcome) -> None:
        if outcome.status is not Status.NO_FILES:
            self._report.outcomes.append(outcome)
        self._then.finished(outcome)


def compact_days(
    settings: Settings,
    days: Iterable[dt.date],
    pairs: Sequence[Pair],
    *,
    listener: Listener,
    symbols: Sequence[str] = (),
    overwrite: bool = False,
    allow_shrink: bool = False,
) -> RunReport:
    """Materialise the compact assets of these pairs, one run a day, in this process.

    Args:
        settings: of the project.
        days: eligible or not: an ineligible day fails its run.
        pairs: must be configured.
        listener: told of progress from this thread.
        symbols: restricts the runs; they are then recorded as observations.
        overwrite: build again what is up to date.
        allow_shrink: build even if raw parts are gone.
    """
    ensure_dagster_home(settings)
    definitions = build_definitions(settings)
    job = definitions.resolve_job_def("compact_day")
    keys = [key for key, pair in configured_pairs(settings).items() if pair in pairs]
    options = {"symbols": list(symbols), "overwrite": overwrite, "allow_shrink": allow_shrink}
    report = RunReport()
    token = extra_listener.set(_Collector(report, listener))
    try:
        with dg.DagsterInstance.get() as instance:
            for day in days:
                result = job.execute_in_process(
                    instance=instance,
                    partition_key=f"{day:%Y-%m-%d}",
                    asset_selection=keys,
                    run_config={
                        "ops": {"__".join(key.path): {"config": options} for key in keys},
                        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    },
                    raise_on_error=False,
                    tags={"quantlab/started_by": "command line"},
                )
                report.run_ids.append(result.run_id)
                report.failures += _failures(result, report.outcomes)
    except dg.DagsterError as error:
        raise QuantlabError("Dagster", str(error).splitlines()[0], "See the message above") from error
    finally:
        extra_listener.reset(token)
    return report


def _failures(result: dg.ExecuteInProcessResult, outcomes: list[Outcome]) -> list[str]:
    """Failures of steps that no symbol-day explains."""
    known = {outcome.reason for outcome in outcomes}
    failures = []
    for event in result.all_events:
        if event.is_step_failure:
            details = event.step_failure_data.user_failure_data
            text = details.description if details else None
            text = text or (event.step_failure_data.error_display_string.strip().splitlines() or ["failed"])[0]
            if not any(reason in text for reason in known if reason):
                failures.append(f"{event.step_key}: {text}")
    return failures
