"""Running days in this process: what `compact`, `catch-up` and the demo do. The only callers of Dagster for days."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from quantlab_dagster.access import catch_up_rules, open_market
from quantlab_dagster.cli.runs.in_process import InProcess, step_failures
from quantlab_dagster.defs.checks import changed_evaluations
from quantlab_dagster.defs.history import CATCH_UP_TAG, busy_days, tries_of
from quantlab_dagster.defs.market.checks import findings_by_asset
from quantlab_dagster.defs.meter import MARKET_DATA, Meter
from quantlab_dagster.defs.names import (
    CALENDAR_ASSET,
    JOB,
    QUALITY_ASSET,
    STATE_ASSET,
    SYMBOLS_JOB,
    SYMBOLS_OP,
    compact_key,
    configured_pairs,
)
from quantlab_dagster.defs.progress import extra_listener
from quantlab_dagster.market.catchup import (
    CatchUp,
    decide_catch_up,
    decide_open_days,
    look_around,
    read_or_begin,
)
from quantlab_dagster.market.judging import decide_all, judge_now
from quantlab_dagster.market.outcome import Status, Verdict, VerifiedDay
from quantlab_dagster.market.plan import Requested
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster.work.stopping import run_interruptible

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Sequence

    import dagster as dg

    from quantlab_dagster.lake.market import Pair, SymbolDay
    from quantlab_dagster.market.judgement import Judgement
    from quantlab_dagster.market.outcome import Listener, Outcome
    from quantlab_dagster.market.plan import Plan
    from quantlab_dagster.settings import Settings
    from quantlab_dagster.work.clock import Clock

__all__ = ["RunReport", "catch_up", "compact_days", "judge_after", "repair_days"]


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
    tell: Callable[[str], None],
    roll_up: bool = False,
    symbols: Sequence[str] = (),
    requested: Requested | None = None,
) -> RunReport:
    """Materialise the compact assets of these pairs, one run a day, in this process; or compact some symbols of them.

    Args:
        settings: of the project.
        days: eligible or not: an ineligible day fails its run.
        pairs: must be configured.
        listener: told of progress from this thread.
        tell: shows people which runs were found dead, and were ended.
        roll_up: whether `compact/state` follows them.
        symbols: restricts the runs; they are then of the job `compact_symbols`, which records observations.
        requested: what is allowed, beyond the usual.
    """
    requested = requested or Requested()
    options: dict[str, Any] = asdict(requested)
    with _Runner(settings, listener, tell, SYMBOLS_JOB if symbols else JOB) as runner:
        for day in days:
            if symbols:
                runner.run_symbols(day, pairs, options | {"symbols": list(symbols)})
            else:
                runner.run(day, pairs, options, roll_up=roll_up)
        if not roll_up:  # which would have folded what the steps did
            configured = list(configured_pairs(settings).values())
            run_interruptible(read_or_begin(open_market(settings), configured, busy=busy_days(runner.instance)))
    return runner.report


def catch_up(
    settings: Settings, *, listener: Listener, tell: Callable[[str], None], clock: Clock = utc_now
) -> tuple[RunReport, CatchUp]:
    """Run what the sensor would request now, one day after the other, until nothing is left; then say what was not.

    Open days first; then all late parts are looked for, however long it takes, and their days run.

    Args:
        settings: of the project.
        listener: told of progress from this thread.
        tell: shows people which runs were found dead, and were ended.
        clock: the present time.

    Returns:
        What the runs did; and what was left, with the reasons.
    """
    pairs = list(configured_pairs(settings).values())
    place = open_market(settings, clock)
    tried: set[dt.date] = set()
    looked = False
    with _Runner(settings, listener, tell) as runner:
        while True:
            runner.end_dead_runs()
            busy = busy_days(runner.instance)
            state = run_interruptible(read_or_begin(place, pairs, busy=busy))
            rules = replace(
                catch_up_rules(
                    settings, pairs, clock(), busy=busy | tried, tries=lambda task: tries_of(runner.instance, task)
                ),
                most_runs=1,
            )
            decided = decide_catch_up(state, rules) if looked else decide_open_days(state, rules)
            if decided.requests:
                [request] = decided.requests
                tried.add(request.day)
                runner.run(request.day, request.pairs, {}, roll_up=True, tags={CATCH_UP_TAG: request.task})
            elif not looked:
                looked = True
                seen = run_interruptible(look_around(place, pairs, state, settings.late_look_back_days, seconds=None))
                if seen.error is not None:
                    runner.report.failures.append(f"late parts could not be looked for: {seen.error}")
            else:
                return runner.report, _left(decided, tried - busy)


def judge_after(settings: Settings, *, clock: Clock = utc_now, tell: Callable[[str], None]) -> Judgement:
    """Judge the lake after work was done here; Dagster's checks and the metrics are told, too.

    Args:
        settings: of the project.
        clock: the present time.
        tell: shows people which runs were found dead, and were ended.
    """
    pairs = list(configured_pairs(settings).values())
    place = open_market(settings, clock)
    with InProcess(settings, JOB, tell) as process:
        instance = process.instance
        rules = catch_up_rules(
            settings, pairs, clock(), busy=busy_days(instance), tries=lambda task: tries_of(instance, task)
        )
        judgement = run_interruptible(
            judge_now(place, pairs, lambda state: decide_all(state, rules), usual_days=settings.usual_days)
        )
        for event in changed_evaluations(instance, findings_by_asset(judgement)):
            instance.report_runless_asset_event(event)
    Meter.of(settings).judge(MARKET_DATA, judgement.gauges, clock())
    return judgement


def _left(decided: CatchUp, ours: set[dt.date]) -> CatchUp:
    """What was left: not the days that we have just run ourselves."""
    starts = tuple(f"{day}:" for day in ours)
    return replace(decided, skipped=tuple(text for text in decided.skipped if not text.startswith(starts)))


_REPAIRED = {Verdict.WRONG: True, Verdict.NOT_PUBLISHED: False, Verdict.QUARANTINED: False}
"""What is compacted again, and whether what stands there is built over."""


def repair_days(
    settings: Settings,
    days: Sequence[dt.date],
    pairs: Sequence[Pair],
    *,
    listener: Listener,
    tell: Callable[[str], None],
    symbols: Sequence[str] = (),
    allow_shrink: bool = False,
) -> tuple[RunReport, list[VerifiedDay]]:
    """Verify each pair's day as `quantlab verify` does, and compact again the symbols that are wrong or missing.

    A wrong day whose raw parts are gone, wholly or in part, or are not known, stays as it is and is reported by its
    outcome; so does one that would lose rows.

    Returns:
        What the runs did; and what verification found wrong or missing.
    """
    report = RunReport()
    found: list[VerifiedDay] = []
    for pair in pairs:
        for day in days:
            verified = run_interruptible(verify_pair(open_market(settings), pair, day, symbols=symbols))
            for verdict, overwrite in _REPAIRED.items():
                bad = [item for item in verified if item.verdict is verdict]
                found += bad
                if bad:
                    done = compact_days(
                        settings,
                        [day],
                        [pair],
                        listener=listener,
                        tell=tell,
                        symbols=[item.symbol_day.symbol for item in bad],
                        requested=Requested(overwrite=overwrite, allow_shrink=allow_shrink),
                    )
                    report.outcomes += done.outcomes
                    report.failures += done.failures
                    report.run_ids += done.run_ids
    return report, found


class _Runner(InProcess):
    """Runs days."""

    def __init__(self, settings: Settings, listener: Listener, tell: Callable[[str], None], job: str = JOB) -> None:
        super().__init__(settings, job, tell)
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
        self._run(
            day,
            {_step(key): options for key in keys},
            _step,
            asset_selection=[QUALITY_ASSET, *keys, *([STATE_ASSET, CALENDAR_ASSET] if roll_up else [])],
            tags=tags,
        )

    def run_symbols(self, day: dt.date, pairs: Sequence[Pair], options: dict[str, Any]) -> None:
        names = [str(pair) for pair in pairs]
        self._run(day, {SYMBOLS_OP: {**options, "pairs": names}}, lambda _: SYMBOLS_OP)

    def _run(self, day: dt.date, ops: dict[str, Any], step_of: Callable[[dg.AssetKey], str], **options: Any) -> None:
        before = len(self.report.outcomes)
        result = self.execute(ops, partition_key=f"{day:%Y-%m-%d}", **options)
        # What failed in a chunk of the day was tried again.
        last = {outcome.symbol_day: outcome for outcome in self.report.outcomes[before:]}
        self.report.outcomes[before:] = last.values()
        known: dict[str, list[str]] = {}  # by step, what its failure says of symbol-days
        for outcome in self.report.outcomes[before:]:
            if outcome.status is Status.FAILED:
                step = step_of(compact_key(outcome.symbol_day.pair))
                known.setdefault(step, []).append(f"{outcome.symbol_day}: {outcome.reason}")
        self.report.run_ids.append(result.run_id)
        self.report.failures += step_failures(result, known)


def _step(key: dg.AssetKey) -> str:
    return "__".join(key.path)
