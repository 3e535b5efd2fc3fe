"""Running Dagster's own assets in this process: what the command line does, recorded in the same instance as the UI's.

Imported only by commands that run something, because Dagster takes a second to import.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg

from quantlab_dagster.days.catchup import CatchUp, decide_catch_up
from quantlab_dagster.days.compact import Status
from quantlab_dagster.days.eligibility import last_eligible_day
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.automation import CATCH_UP_TAG, attempts_of, busy_days, prepare_catch_up
from quantlab_dagster.defs.names import JOB, STATE_ASSET, compact_key, configured_pairs
from quantlab_dagster.defs.progress import extra_listener
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, workplace
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.home import ensure_dagster_home
from quantlab_dagster.interrupts import run_interruptible
from quantlab_dagster.work.clock import utc_now

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence
    from contextvars import ContextVar

    from quantlab_dagster.days.compact import Listener, Outcome, Workplace
    from quantlab_dagster.days.plan import Plan
    from quantlab_dagster.lake.layout import Pair, SymbolDay
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.work.clock import Clock

__all__ = ["InProcess", "RunReport", "catch_up", "compact_days", "open_workplace", "step_failures"]

T = TypeVar("T")


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
    roll_up: bool = False,
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
        roll_up: whether `compact/state` follows them.
        symbols: restricts the runs; they are then recorded as observations.
        overwrite: build again what is up to date.
        allow_shrink: build even if raw parts are gone.
    """
    options = {"symbols": list(symbols), "overwrite": overwrite, "allow_shrink": allow_shrink}
    with _Runner(settings, listener) as runner:
        for day in days:
            runner.run(day, pairs, options, roll_up=roll_up)
    return runner.report


def catch_up(settings: Settings, *, listener: Listener, clock: Clock = utc_now) -> tuple[RunReport, CatchUp]:
    """Run what the sensor would request now, one day after the other, until nothing is left; then say what was not.

    Args:
        settings: of the project.
        listener: told of progress from this thread.
        clock: the present time.

    Returns:
        What the runs did; and what was left, with the reasons.
    """
    pairs = list(configured_pairs(settings).values())
    place = open_workplace(settings)
    tried: set[dt.date] = set()
    with _Runner(settings, listener) as runner:
        while True:
            state, _ = run_interruptible(prepare_catch_up(place, pairs, settings.late_look_back_days))
            busy = busy_days(runner.instance)
            decided = decide_catch_up(
                state,
                pairs,
                last_eligible_day(clock()),
                busy=busy | tried,
                attempts=lambda task: attempts_of(runner.instance, task),
                most_runs=1,
                most_attempts=settings.catch_up_attempts,
            )
            if not decided.requests:
                ours = tuple(f"{day}:" for day in tried - busy)
                left = tuple(text for text in decided.skipped if not text.startswith(ours))
                return runner.report, replace(decided, skipped=left)
            [request] = decided.requests
            tried.add(request.day)
            runner.run(request.day, request.pairs, {}, roll_up=True, tags={CATCH_UP_TAG: request.task})


class InProcess:
    """Runs a job in this process, against the instance that the UI shows.

    Args:
        settings: of the project.
        job: its name.
    """

    def __init__(self, settings: Settings, job: str) -> None:
        ensure_dagster_home(settings)
        self._job = build_definitions(settings).resolve_job_def(job)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.instance = self._stack.enter_context(dg.DagsterInstance.get())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def listen(self, variable: ContextVar[T | None], listener: T) -> None:
        """Tell a listener of this process of progress, until the context ends."""
        token = variable.set(listener)
        self._stack.callback(variable.reset, token)

    def execute(
        self, ops: dict[str, Any], *, tags: dict[str, str] | None = None, **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Execute the job.

        Args:
            ops: configuration of its ops by name.
            tags: of the run.
            options: further ones of `execute_in_process`.

        Raises:
            QuantlabError: Dagster refuses to run it. A run that fails raises nothing.
        """
        try:
            return self._job.execute_in_process(
                instance=self.instance,
                run_config={
                    "ops": {name: {"config": config} for name, config in ops.items()},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                raise_on_error=False,
                tags={"quantlab/started_by": "command line", **(tags or {})},
                **options,
            )
        except dg.DagsterError as error:
            raise QuantlabError("Dagster", str(error).splitlines()[0], "See the message above") from error


class _Runner(InProcess):
    """Runs days."""

    def __init__(self, settings: Settings, listener: Listener) -> None:
        super().__init__(settings, JOB)
        self.report = RunReport()
        self._listener = _Collector(self.report, listener)

    def __enter__(self) -> Self:
        super().__enter__()
        self.listen(extra_listener, self._listener)
        return self

    def run(
        self,
        day: dt.date,
        pairs: Sequence[Pair],
        options: dict[str, Any],
        *,
        roll_up: bool,
        tags: dict[str, str] | None = None,
    ) -> None:
        keys = [compact_key(pair) for pair in pairs]
        result = self.execute(
            {"__".join(key.path): options for key in keys},
            partition_key=f"{day:%Y-%m-%d}",
            asset_selection=[*keys, STATE_ASSET] if roll_up else keys,
            tags=tags,
        )
        self.report.run_ids.append(result.run_id)
        self.report.failures += _failures(result, self.report.outcomes)


def open_workplace(settings: Settings) -> Workplace:
    """The lakes of the settings, for work outside a run."""
    raw = LakeResource(lake="raw", url=settings.raw_url)
    compact = LakeResource(lake="compact", url=settings.compact_url)
    return workplace(raw, compact, LimitsResource.of(settings))


def _failures(result: dg.ExecuteInProcessResult, outcomes: list[Outcome]) -> list[str]:
    """Failures of steps that no symbol-day explains."""
    return step_failures(result, {outcome.reason for outcome in outcomes})


def step_failures(result: dg.ExecuteInProcessResult, known: set[str]) -> list[str]:
    """Why steps failed, where none of the known reasons says so."""
    failures = []
    for event in result.all_events:
        if event.is_step_failure:
            details = event.step_failure_data.user_failure_data
            text = details.description if details else None
            text = text or (event.step_failure_data.error_display_string.strip().splitlines() or ["failed"])[0]
            if not any(reason in text for reason in known if reason):
                failures.append(f"{event.step_key}: {text}")
    return failures
