"""What a run over a pair's day leaves in Dagster: counts, checks, failures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dagster as dg

from quantlab_dagster.defs.checks import AUDITED, NOTHING_QUARANTINED, check_evaluation, last_said
from quantlab_dagster.defs.meter import MARKET_DATA, Meter, day_counts
from quantlab_dagster.defs.names import compact_key
from quantlab_dagster.errors import AuditFailed, QuantlabError
from quantlab_dagster.market.outcome import Outcome, PairOutcome, Status
from quantlab_dagster.metrics import RunCounts
from quantlab_dagster.work.stopping import run_interruptible
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from quantlab_dagster.lake.market import Pair
    from quantlab_dagster.work.clock import Clock

__all__ = ["check_results", "counted", "failures_text", "still_red"]

_MOST_REASONS = 5


def counted(
    work: Callable[[], Coroutine[Any, Any, PairOutcome]], pair: Pair, meter: Meter, clock: Clock
) -> PairOutcome:
    """Do the work on a pair's day; count it, also where it fails as a whole.

    Raises:
        QuantlabError: it does.
    """
    started = time.monotonic()
    try:
        outcome = run_interruptible(work())
    except QuantlabError:
        seconds = time.monotonic() - started
        meter.count(RunCounts(MARKET_DATA, str(pair), succeeded=False, seconds=seconds), clock())
        raise
    meter.count(day_counts(outcome), clock())
    return outcome


def check_results(outcome: PairOutcome) -> Iterator[dg.AssetCheckResult]:
    """What this day adds: what a run could not prove, and what it quarantined."""
    unproved = [item for item in outcome.outcomes if item.error == AuditFailed.__name__]
    for name, bad in ((AUDITED, unproved), (NOTHING_QUARANTINED, outcome.having(Status.QUARANTINE))):
        yield dg.AssetCheckResult(
            asset_key=compact_key(outcome.pair),
            check_name=name,
            passed=not bad,
            severity=dg.AssetCheckSeverity.ERROR if name == AUDITED else dg.AssetCheckSeverity.WARN,
            description=_reasons(bad) or "nothing of this day",
            metadata={"partition": f"{outcome.day:%Y-%m-%d}", "symbol-days": len(bad)},
        )


def still_red(instance: dg.DagsterInstance, results: Iterable[dg.AssetCheckResult]) -> Iterator[dg.AssetCheckResult]:
    """The results, with the last one repeated where that is red and this one would turn it green.

    A step sees no other day: it may turn a check red, but only a judgement turns it green.
    """
    for result in results:
        last = last_said(instance, check_evaluation(result)) if result.passed else None
        if last is None or last.passed:
            yield result
        else:
            yield result._replace(passed=False, description=last.description)


def failures_text(outcome: PairOutcome) -> str:
    """How many symbol-days failed, and why the first of them."""
    failed = outcome.having(Status.FAILED)
    return f"{len(failed)} of {len(outcome.outcomes)} symbol-days failed: {_reasons(failed)}"


def _reasons(outcomes: Sequence[Outcome]) -> str:
    return name_some([f"{item.symbol_day}: {item.reason}" for item in outcomes], _MOST_REASONS, separator="; ")
