"""Running the event lake's job in this process, recorded in the same instance as the UI's.

Imported only by commands that run something, because Dagster takes a second to import.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.defs.names import WAREHOUSE_JOB
from quantlab_dagster.defs.progress import HourListeners, extra_hour_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource
from quantlab_dagster.defs.warehouse import SWEEP_OP, event_place
from quantlab_dagster.hours.compact import HourOutcome, HourStatus
from quantlab_dagster.lake.events import hour_text
from quantlab_dagster.runs import InProcess, step_failures
from quantlab_dagster.work.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.hours.compact import EventPlace, HourListener
    from quantlab_dagster.lake.events import AppHour, Scope
    from quantlab_dagster.settings import Settings

__all__ = ["SweepReport", "compact_warehouse", "open_event_place"]


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
    *,
    listener: HourListener,
    recover_only: bool = False,
    give_up: bool = False,
    retry_corrupt: bool = False,
) -> SweepReport:
    """Compact the cold hours of the scope that need it.

    Args:
        settings: of the project.
        scope: which partitions.
        listener: told of progress from this thread.
        recover_only: complete what was left unfinished, and merge nothing.
        retry_corrupt: forget which files are known not to be mergeable.
        give_up: give up plans that can neither be completed nor given up safely.
    """
    report = SweepReport()
    config = {
        "apps": list(scope.apps),
        "first_hour": hour_text(scope.first) if scope.first else None,
        "last_hour": hour_text(scope.last) if scope.last else None,
        "recover_only": recover_only,
        "give_up": give_up,
        "retry_corrupt": retry_corrupt,
        "most_hours": _ALL,
    }
    with InProcess(settings, WAREHOUSE_JOB) as runner:
        runner.listen(extra_hour_listener, HourListeners(report, listener))
        result = runner.execute({SWEEP_OP: {name: value for name, value in config.items() if value is not None}})
    report.run_id = result.run_id
    known = {item.reason for item in report.outcomes if item.status is HourStatus.FAILED}
    report.failures = step_failures(result, known)
    return report


def open_event_place(settings: Settings) -> EventPlace:
    """The event lake of the settings, for work outside a run."""
    warehouse = LakeResource(lake="warehouse", url=settings.warehouse_url)
    return event_place(settings, warehouse, LimitsResource.of(settings), utc_now)
