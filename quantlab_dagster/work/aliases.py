"""The names that the first system gave its metrics, made of ours: for dashboards and alerts that know those.

All of the event lake alone, and without labels. The counters follow from ours; the histogram has counts of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.samples import Sample

__all__ = ["Durations", "aliases"]

_EVENTS = "events"
_HISTOGRAM = "compaction_duration_seconds"
_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, math.inf)

_COUNTERS = {
    "compaction_runs_total": ("runs_total", "", "Compaction runs that ended."),
    "compaction_files_compacted_total": ("input_files_total", "", "Small files that were merged."),
    "compaction_files_written_total": ("output_files_total", "", "Files that were written."),
    "compaction_bytes_written_total": ("output_bytes_total", "", "Size of the files that were written."),
    "compaction_partitions_skipped_total": ("partitions_total", "skipped", "Hours of an app with nothing to do."),
}
"""Name to that of ours, the result of it that counts (all if none is said), and help text."""


@dataclass(slots=True)
class Durations:
    """How long runs took, as a histogram.

    Attributes:
        counts: by the upper bound of a bucket in seconds: runs that took no longer, so that they are cumulative.
        sum_seconds: of them all.
    """

    counts: dict[float, float] = field(default_factory=lambda: dict.fromkeys(_BUCKETS, 0.0))
    sum_seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add a run."""
        self.sum_seconds += seconds
        for bound in self.counts:
            self.counts[bound] += seconds <= bound

    def take(self, sample: Sample) -> None:
        """Take over what a file says of it, if the sample is one of ours.

        Raises:
            ValueError: it makes no sense.
        """
        if not sample.name.startswith(_HISTOGRAM):
            return
        if not (math.isfinite(sample.value) and sample.value >= 0):
            raise ValueError(f"{sample.name} is {sample.value}")
        if sample.name == f"{_HISTOGRAM}_sum":
            self.sum_seconds = sample.value
        elif sample.name == f"{_HISTOGRAM}_bucket" and float(sample.labels["le"]) in self.counts:
            self.counts[float(sample.labels["le"])] = sample.value

    def family(self) -> HistogramMetricFamily:
        """As the library's writers want it."""
        buckets = [("+Inf" if bound == math.inf else str(bound), count) for bound, count in self.counts.items()]
        text = "Time that compaction runs over the event lake took, failed ones included."
        return HistogramMetricFamily(_HISTOGRAM, text, buckets=buckets, sum_value=self.sum_seconds)


def aliases(
    counters: Mapping[str, Mapping[tuple[str, ...], float]], durations: Durations
) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
    """The first system's metrics.

    Args:
        counters: ours by name, and by the values of their labels: lake, target, and the result where there is one.
        durations: of the runs over the event lake.
    """
    for name, (ours, result, text) in _COUNTERS.items():
        found = (
            value
            for labels, value in counters[ours].items()
            if labels[0] == _EVENTS and (not result or labels[-1] == result)
        )
        yield CounterMetricFamily(name, text, value=sum(found))
    yield durations.family()
