"""Running a job in this process, recorded in the same instance as the UI's.

Imported only by commands that run something, because Dagster takes a second to import.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import dagster as dg
from dagster._core.execution import compute_logs
from dagster._core.utils import make_new_run_id

from quantlab_dagster.cli.runs.engines import engines_shared, replaced
from quantlab_dagster.cli.runs.home import ensure_dagster_home
from quantlab_dagster.cli.runs.instance import open_instance
from quantlab_dagster.cli.runs.location import runs_located
from quantlab_dagster.cli.runs.sqlite import files_held_open
from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.liveness import command_line_tags, end_dead_runs
from quantlab_dagster.errors import QuantlabError
from quantlab_dagster.work.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from contextvars import ContextVar

    from dagster_shared.error import SerializableErrorInfo

    from quantlab_dagster.settings import Settings

__all__ = ["InProcess", "step_errors", "step_failures"]

T = TypeVar("T")


class InProcess:
    """Runs a job in this process, against the instance that the UI shows.

    Args:
        settings: of the project.
        job: its name.
        tell: shows people a line: which runs were found dead.
    """

    def __init__(self, settings: Settings, job: str, tell: Callable[[str], None]) -> None:
        self._home = ensure_dagster_home(settings, tell)
        self._job = build_definitions(settings).resolve_job_def(job)
        self._tell = tell
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(files_held_open())
            stack.enter_context(engines_shared())
            stack.enter_context(_mirrors_apart())
            self.instance = stack.enter_context(open_instance(self._home))
            stack.enter_context(runs_located(self.instance))
            self.end_dead_runs()
            self._stack = stack.pop_all()  # what fails before leaves nothing open
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def end_dead_runs(self) -> None:
        """End runs of the command line that were killed, so that they keep nothing busy."""
        for run in end_dead_runs(self.instance, utc_now()):
            self._tell(run.text)

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
            KeyboardInterrupt: it was asked to stop; its run is then recorded as cancelled.
        """
        run_id = make_new_run_id()
        try:
            result = self._job.execute_in_process(
                run_id=run_id,
                instance=self.instance,
                run_config={
                    "ops": {name: {"config": config} for name, config in ops.items()},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                raise_on_error=False,
                tags={**command_line_tags(run_id), **(tags or {})},
                **options,
            )
        except dg.DagsterError as error:
            raise QuantlabError("Dagster", str(error).splitlines()[0], "See the message above") from error
        except dg.DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
        if _was_interrupted(result):
            # Dagster takes that for a failure, and whoever called would begin the next day.
            self.instance.report_run_canceled(result.dagster_run, "Stopped by a signal.")
            raise KeyboardInterrupt
        return result


@contextmanager
def _mirrors_apart() -> Iterator[None]:
    """Within, the processes by which Dagster shows what a run prints are no part of the terminal's group.

    Ctrl-C goes to all of that: each would end with a traceback, and the run's last lines would go unshown. They end
    with the run, or when this process is gone.
    """
    apart = SimpleNamespace(Popen=partial(subprocess.Popen, start_new_session=True))
    with replaced(compute_logs, "subprocess", apart):
        yield


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    errors += [event.job_failure_data.error for event in result.all_events if event.is_job_failure]
    return any(one is not None and one.cls_name == dg.DagsterExecutionInterruptedError.__name__ for one in errors)


def step_failures(result: dg.ExecuteInProcessResult, known: Mapping[str, Collection[str]]) -> list[str]:
    """Why steps failed, where that is not known.

    Args:
        result: of the run.
        known: by step, reasons of which one stands in its failure. Another step that repeats them failed by itself.
    """
    failures = []
    for event in result.all_events:
        if event.is_step_failure:
            details = event.step_failure_data.user_failure_data
            text = details.description if details else None
            text = text or _innermost(event.step_failure_data.error)
            of_asset = (event.step_key or "").partition(".")[0]  # whose day may be several steps
            if not any(reason in text for reason in known.get(of_asset, ()) if reason):
                failures.append(f"{event.step_key}: {text}")
    return failures


def _innermost(error: SerializableErrorInfo | None) -> str:
    """What an error that nobody expected says: Dagster wraps it, and says only where it was raised."""
    while error is not None and error.cause is not None:
        error = error.cause
    return ((error.message if error else "").strip().splitlines() or ["failed"])[0]


def step_errors(result: dg.ExecuteInProcessResult, key: str) -> set[str]:
    """Class names of the errors by which steps failed as a whole, where their failure has them under this key."""
    details = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    return {str(one.metadata[key].value) for one in details if one is not None and key in one.metadata}
