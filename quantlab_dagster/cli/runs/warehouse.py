"""Running the event lake's job in this process: what `warehouse compact` and `recover` do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.cli.runs.in_process import InProcess, step_failures
from quantlab_dagster.defs.names import WAREHOUSE_JOB
from quantlab_dagster.defs.progress import HourListeners, extra_hour_listener
from quantlab_dagster.defs.warehouse.job import SWEEP_OP, check_schedule
from quantlab_dagster.lake.warehouse import hour_text
from quantlab_dagster.warehouse.outcome import HourOutcome, HourStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantlab_dagster.lake.warehouse import AppHour, Scope
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.warehouse.outcome import HourListener
    from quantlab_dagster.warehouse.place import Requested

__all__ = ["SweepReport", "compact_warehouse"]

_ALL = 10_000_000  # a person is waiting, and watching


@dataclass(slots=True)
class SweepReport:
    """What a run did.

    Attributes:
        run_id: of the run, for the UI.
        outcomes: partitions that needed work, in the order they ended.
        failures: why the run failed, where that is not the failure of a partition; empty if it did not.
    """

    run_id: str = ""
    outcomes: list[HourOutcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def found(self, partitions: Sequence[AppHour]) -> None:
        """Nothing to remember."""

    def finished(self, outcome: HourOutcome) -> None:
        """Remember an outcome."""
        self.outcomes.append(outcome)


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
        result = runner.execute({SWEEP_OP: {name: value for name, value in config.items() if value is not None}})
    report.run_id = result.run_id
    known = {item.reason for item in report.outcomes if item.status is HourStatus.FAILED}
    report.failures = step_failures(result, {SWEEP_OP: known})
    return report
