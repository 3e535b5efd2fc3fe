"""Running the event lake's job in this process: what `warehouse compact` and `recover` do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.cli.runs.in_process import InProcess, step_errors, step_failures
from quantlab_dagster.defs.names import WAREHOUSE_JOB
from quantlab_dagster.defs.progress import HourListeners, extra_hour_listener
from quantlab_dagster.defs.warehouse.hooking import extra_hook_listener
from quantlab_dagster.defs.warehouse.job import SWEEP_OP, check_schedule
from quantlab_dagster.defs.warehouse.recording import ERROR
from quantlab_dagster.errors import ServerUnsafe, SettingsError, TableFormat
from quantlab_dagster.lake.warehouse import hour_text
from quantlab_dagster.warehouse.outcome import HourOutcome, HourStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantlab_dagster.lake.warehouse import AppHour, Scope
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.warehouse.outcome import HourListener
    from quantlab_dagster.warehouse.place import Requested
    from quantlab_dagster.work.hook import HookEnded

__all__ = ["SweepReport", "compact_warehouse", "refuse_wrong_schedule"]

_ALL = 10_000_000  # a person is waiting, and watching
_REFUSALS = {error.__name__ for error in (ServerUnsafe, SettingsError, TableFormat)}


@dataclass(slots=True)
class SweepReport:
    """What a run did.

    Attributes:
        run_id: of the run, for the UI.
        outcomes: partitions that needed work, in the order they ended.
        failures: why the run failed, where that is not the failure of a partition; empty if it did not.
        refused: whether nothing was done, since the server is not safe, or the settings name no lake to work on.
        hook: how the command ended that followed the run; None if there was none.
        failed_checks: what is wrong with the lake, by the name of the check; nothing is known of it after `recover`.
    """

    run_id: str = ""
    outcomes: list[HourOutcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    refused: bool = False
    hook: HookEnded | None = None
    failed_checks: dict[str, str] = field(default_factory=dict)

    def found(self, partitions: Sequence[AppHour]) -> None:
        """Nothing to remember."""

    def finished(self, outcome: HourOutcome) -> None:
        """Remember an outcome."""
        self.outcomes.append(outcome)

    def hooked(self, ended: HookEnded) -> None:
        """Remember how the hook ended."""
        self.hook = ended


def refuse_wrong_schedule(settings: Settings) -> None:
    """Refuse to follow a schedule that is none, or to work with other wrong settings of the event lake.

    Raises:
        SettingsError: saying what is wrong.
    """
    check_schedule(settings)


def compact_warehouse(
    settings: Settings,
    scope: Scope,
    requested: Requested,
    *,
    listener: HourListener,
    tell: Callable[[str], None],
    full: bool = False,
) -> SweepReport:
    """Compact the cold hours of the scope that need it.

    Args:
        settings: of the project.
        scope: which partitions.
        requested: what is asked for, beyond the usual.
        listener: told of progress from this thread.
        tell: shows people which runs were found dead, and were ended.
        full: look at all of the history.

    Raises:
        SettingsError: the event lake's settings are wrong.
    """
    check_schedule(settings)
    report = SweepReport()
    config = {
        "apps": list(scope.apps),
        "first_hour": hour_text(scope.first) if scope.first else None,
        "last_hour": hour_text(scope.last) if scope.last else None,
        "full": full,
        "recover_only": requested.recover_only,
        "give_up": requested.give_up,
        "retry_corrupt": requested.retry_corrupt,
        "most_hours": _ALL,
    }
    with InProcess(settings, WAREHOUSE_JOB, tell) as runner:
        runner.listen(extra_hour_listener, HourListeners(report, listener))
        runner.listen(extra_hook_listener, report.hooked)
        result = runner.execute({SWEEP_OP: {name: value for name, value in config.items() if value is not None}})
        report.failed_checks = _failed_checks(runner.instance, result.run_id)
    report.run_id = result.run_id
    known = {item.reason for item in report.outcomes if item.status is HourStatus.FAILED}
    report.failures = [text.removeprefix(f"{SWEEP_OP}: ") for text in step_failures(result, {SWEEP_OP: known})]
    report.refused = bool(_REFUSALS & step_errors(result, ERROR))
    return report


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """From the history: of a run that fails, the result has not what was logged before."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    checked = (entry.get_dagster_event().asset_check_evaluation_data for entry in entries)
    return {one.check_name: one.description or "" for one in checked if not one.passed}
