"""The quality gate's JSON objects: what was seen of a day's windows, and `quality_day.json` beside a published day.

No wall-clock value is in any of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from quantlab_dagster.lake.market import day_text
from quantlab_dagster.lake.record import Record
from quantlab_dagster.market.quality.rules import WINDOWS_A_DAY, DayVerdict, Label, Rules, Signals, Window

if TYPE_CHECKING:
    import datetime as dt

__all__ = ["SEEN_PREFIX", "DayQuality", "QualityDay", "SeenWindow", "SeenWindows", "seen_key"]

SEEN_PREFIX = "compacted/quality/"
"""Where it is kept in the compact lake what was seen of the windows, a file a day."""

_MOST_WINDOWS = 12


def seen_key(day: dt.date) -> str:
    """Where it is kept in the compact lake what was seen of a day's windows."""
    return f"{SEEN_PREFIX}{day_text(day)}.json"


class SeenWindow(BaseModel):
    """A window file as it was read.

    Attributes:
        etag: of the file.
        problem: why it cannot be understood; None if it can.
        is_partial: and the rest: what it says.
    """

    model_config = ConfigDict(frozen=True)

    etag: str
    problem: str | None = None
    is_partial: bool = False
    dropped_events: int = 0
    queue_pct_peak: float = 0.0
    reconnects: int = 0
    drain_seconds: float = 0.0
    offline_seconds: dict[str, float] = Field(default_factory=dict)
    eps_min: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def of(cls, etag: str, found: Window | str) -> Self:
        """A window that was read, or why it could not be."""
        if isinstance(found, str):
            return cls(etag=etag, problem=found)
        signals = found.signals
        return cls(
            etag=etag,
            is_partial=found.is_partial,
            dropped_events=signals.dropped_events,
            queue_pct_peak=signals.queue_pct_peak,
            reconnects=signals.reconnects,
            drain_seconds=signals.drain_seconds,
            offline_seconds=dict(signals.offline_seconds),
            eps_min=dict(signals.eps_min),
        )

    def window(self, name: str) -> Window:
        """As the rules take it."""
        return Window(
            name,
            self.is_partial,
            Signals(
                self.dropped_events,
                self.queue_pct_peak,
                self.reconnects,
                self.drain_seconds,
                self.offline_seconds,
                self.eps_min,
            ),
        )


class SeenWindows(Record):
    """compacted/quality/YYYYMMDD.json: every window of a day as it was last read.

    So each is read once, by whoever comes first, and one that the raw lake has lost meanwhile still counts: a day does
    not become better, or unknown, because its windows were cleaned up.

    Attributes:
        date: YYYYMMDD.
        day_quality: the verdict when this was written, for people and other programs.
        post_filter_version: of the rules by which it was found.
        windows: by HHMM.
    """

    schema_version: Literal[1] = 1
    date: str
    day_quality: str
    post_filter_version: str
    windows: dict[str, SeenWindow]

    remedy = "Restore the object, or remove it: it is made again from the windows in the raw lake"


@dataclass(frozen=True, slots=True)
class DayQuality:
    """A day's verdict as everybody repeats it.

    Attributes:
        verdict: what the rules say.
        version: of the rules.
        fingerprint: of the windows that it was found from and of the rules; empty without windows.
        waits: whether the day is PARTIAL and within the look-back, so that it is looked at again.
    """

    verdict: DayVerdict
    version: str
    fingerprint: str
    waits: bool = False

    @classmethod
    def judged(cls, windows: dict[str, SeenWindow], rules: Rules, *, looked_at_again: bool) -> Self:
        """What a day is worth, from what was seen of its windows; pure.

        Args:
            windows: by HHMM.
            rules: by which they are judged.
            looked_at_again: whether the day is within the look-back.
        """
        verdict = rules.judge_day(
            (seen.window(name) for name, seen in windows.items() if seen.problem is None),
            {name: seen.problem for name, seen in windows.items() if seen.problem is not None},
        )
        digest = hashlib.sha256(rules.version.encode())
        for name, seen in sorted(windows.items()):
            digest.update(f"\n{name}\t{seen.etag}".encode())
        return cls(
            verdict=verdict,
            version=rules.version,
            fingerprint=digest.hexdigest() if windows else "",
            waits=looked_at_again and verdict.label is Label.PARTIAL,
        )

    @property
    def label(self) -> Label:
        """The verdict in one word."""
        return self.verdict.label


class QualityDay(Record):
    """quality_day.json: what a published day is worth, and the evidence.

    Attributes:
        date: YYYYMMDD.
        day_quality: the label, as in meta.json.
        post_filter_version: of the rules.
        reasons: why it is not GOOD.
        windows: how many there are of each kind; `missing` of the 96.
        dropped_events: in all windows that are not partial.
        offline_seconds_by_exchange: in the same ones.
        worst_windows: the worst that are not GOOD, with the reasons.
        unreadable_windows: by HHMM, why one could not be understood.
        checks: what was counted in the rows of this symbol-day (`stream_checks.checks_of`); None of no rows of ours.
        accepted_because: why an operator had it published although it is BAD; None of any other.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"accepted_because"})

    schema_version: Literal[1] = 1
    date: str
    day_quality: str
    post_filter_version: str
    reasons: tuple[str, ...] = ()
    windows: dict[str, int]
    dropped_events: int = 0
    offline_seconds_by_exchange: dict[str, float] = Field(default_factory=dict)
    worst_windows: tuple[dict[str, Any], ...] = ()
    unreadable_windows: dict[str, str] = Field(default_factory=dict)
    checks: dict[str, Any] | None = None
    accepted_because: str | None = None

    @property
    def findings(self) -> dict[str, str]:
        """What is not as it should be in the rows, by check."""
        found = (self.checks or {}).get("findings")
        return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}

    @classmethod
    def of(cls, day: dt.date, quality: DayQuality, checks: dict[str, Any] | None = None, accepted: str = "") -> Self:
        """The evidence of a verdict, what was counted in the rows, and why the day was published although it is BAD."""
        verdict = quality.verdict
        ranks = {Label.BAD: 0, Label.DEGRADED: 1}
        worst = sorted(
            (item for item in verdict.judged if item.label in ranks),
            key=lambda item: (ranks[item.label], -item.window.signals.dropped_events, item.window.name),
        )
        return cls(
            date=day_text(day),
            day_quality=verdict.label.value,
            post_filter_version=quality.version,
            reasons=verdict.reasons,
            windows={
                "good": verdict.count(Label.GOOD),
                "degraded": verdict.count(Label.DEGRADED),
                "bad": verdict.count(Label.BAD),
                "partial": verdict.partial,
                "unreadable": len(verdict.unreadable),
                "missing": max(0, WINDOWS_A_DAY - verdict.windows),
            },
            dropped_events=verdict.dropped_events,
            offline_seconds_by_exchange=verdict.offline_seconds,
            worst_windows=tuple(
                {"window": item.window.name, "quality": item.label.value, "reasons": list(item.reasons)}
                for item in worst[:_MOST_WINDOWS]
            ),
            unreadable_windows=dict(verdict.unreadable),
            checks=checks,
            accepted_because=accepted if accepted and verdict.label is Label.BAD else None,
        )
