"""Between midnights: the sensor that looks for silent symbols, and the same as a check to be run by hand.

No `from __future__ import annotations` here: Dagster reads the annotations of a sensor's function as objects.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from quantlab_dagster.defs.checks import changed_evaluations, check_result, check_specs
from quantlab_dagster.defs.launched import settings_guard
from quantlab_dagster.defs.meter import Meter
from quantlab_dagster.defs.names import LIVE_SENSOR, raw_key
from quantlab_dagster.defs.resources import LakeResource, LimitsResource, market_place
from quantlab_dagster.defs.running import sensor_status
from quantlab_dagster.lake.market import Pair
from quantlab_dagster.market.listening import listen
from quantlab_dagster.market.live import PARTS_ARRIVING, Hearing, LiveJudgement
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.settings import Settings
from quantlab_dagster.work.clock import Clock
from quantlab_dagster.work.stopping import run_interruptible

__all__ = ["LIVE_EVERY_SECONDS", "live_check", "live_sensor"]

LIVE_EVERY_SECONDS = 240
"""With the limit of a stream (five minutes of bbo) this is how long a dead collector goes unnoticed."""

_TEXT = "Every symbol that had data in the last days is still flushed, as often as its stream and its own pace ask."


def _listen(settings: Settings, place: MarketPlace, pairs: Sequence[Pair]) -> LiveJudgement:
    return run_interruptible(listen(place, pairs, usual_days=settings.usual_days, limits=settings.live_limits))


def live_check(settings: Settings, pairs: Sequence[Pair]) -> dg.AssetChecksDefinition:
    """The check of each pair's raw parts: what the sensor says, or whoever runs it by hand."""
    specs = [spec for pair in pairs for spec in check_specs(raw_key(pair), {PARTS_ARRIVING: _TEXT})]

    @dg.multi_asset_check(name=PARTS_ARRIVING, description=_TEXT, specs=specs, can_subset=True)
    def parts_arriving(
        context: dg.AssetCheckExecutionContext,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
    ) -> Iterator[dg.AssetCheckResult]:
        chosen = {key.asset_key for key in context.selected_asset_check_keys}
        wanted = [pair for pair in pairs if raw_key(pair) in chosen]
        judgement = _listen(settings, market_place(raw_lake, compact_lake, limits, clock), wanted)
        for pair in wanted:
            yield check_result(raw_key(pair), judgement.finding(pair))

    return parts_arriving


def live_sensor(settings: Settings, pairs: Sequence[Pair]) -> dg.SensorDefinition:
    """Looks for symbols that are silent; it requests no runs."""
    refuse_changes = settings_guard("raw", "compact")

    @dg.sensor(
        name=LIVE_SENSOR,
        default_status=sensor_status(settings, LIVE_SENSOR),
        minimum_interval_seconds=LIVE_EVERY_SECONDS,
        description="Looks whether every symbol that had data in the last days is still flushed. Starts no runs.",
    )
    def live(
        context: dg.SensorEvaluationContext,
        raw_lake: LakeResource,
        compact_lake: LakeResource,
        limits: LimitsResource,
        clock: dg.ResourceParam[Clock],
        meter: dg.ResourceParam[Meter],
    ) -> dg.SensorResult:
        refuse_changes()
        judgement = _listen(settings, market_place(raw_lake, compact_lake, limits, clock), pairs)
        meter.live(judgement)
        findings = {raw_key(pair): [judgement.finding(pair)] for pair in pairs}
        for [finding] in findings.values():
            if not finding.passed:
                context.log.warning(finding.text)
        silent, unknown = judgement.having(Hearing.SILENT), judgement.having(Hearing.UNKNOWN)
        return dg.SensorResult(
            skip_reason=f"{len(judgement.looks)} symbols: {len(silent)} silent, {len(unknown)} not looked at",
            asset_events=changed_evaluations(context.instance, findings),
        )

    return live
