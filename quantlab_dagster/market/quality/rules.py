"""The rules by which quality windows are judged, and days by their windows. Pure, and versioned.

A day's label decides whether it is published at all, and research tools select by it: other thresholds are another
version, and say so.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["VERSION", "WINDOWS_A_DAY", "DayVerdict", "JudgedWindow", "Label", "Rules", "Signals", "Window"]

VERSION = "1.0.0"
WINDOWS_A_DAY = 96


class Label(StrEnum):
    """What a day is worth; a window is GOOD, DEGRADED or BAD."""

    GOOD = "GOOD"
    DEGRADED = "DEGRADED"
    BAD = "BAD"
    PARTIAL = "PARTIAL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Signals:
    """What a collector measured within a window.

    Attributes:
        dropped_events: events that it had received and lost.
        queue_pct_peak: how full its queue was at most, in percent.
        reconnects: how often it had to connect again.
        drain_seconds: seconds in which it emptied its queue in a hurry.
        offline_seconds: by exchange, seconds without a connection; one that is not named was online.
        eps_min: by exchange, least number of events per second.
    """

    dropped_events: int = 0
    queue_pct_peak: float = 0.0
    reconnects: int = 0
    drain_seconds: float = 0.0
    offline_seconds: Mapping[str, float] = field(default_factory=dict)
    eps_min: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """One quality window.

    Attributes:
        name: HHMM of its beginning (UTC).
        is_partial: whether the collector did not see all of it.
        signals: what it measured.
    """

    name: str
    is_partial: bool = False
    signals: Signals = Signals()


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """A window and what it is worth.

    Attributes:
        window: which.
        label: GOOD, DEGRADED or BAD.
        reasons: why it is not GOOD; what was forgiven, where it is.
    """

    window: Window
    label: Label
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DayVerdict:
    """What a day is worth, and why.

    Attributes:
        label: the verdict.
        reasons: why it is not GOOD, for people; none if it is.
        judged: its windows that are not partial, by time.
        partial: how many are partial.
        unreadable: by name, why a window could not be understood.
    """

    label: Label
    reasons: tuple[str, ...]
    judged: tuple[JudgedWindow, ...]
    partial: int
    unreadable: Mapping[str, str]

    def count(self, label: Label) -> int:
        """How many windows are worth so much."""
        return sum(item.label is label for item in self.judged)

    @property
    def dropped_events(self) -> int:
        """Events lost in all windows that are not partial."""
        return sum(item.window.signals.dropped_events for item in self.judged)

    @property
    def offline_seconds(self) -> dict[str, float]:
        """By exchange, seconds without a connection in all windows that are not partial."""
        total: dict[str, float] = {}
        for item in self.judged:
            for exchange, seconds in item.window.signals.offline_seconds.items():
                total[exchange] = total.get(exchange, 0) + seconds
        return {exchange: round(seconds, 3) for exchange, seconds in sorted(total.items())}

    @property
    def windows(self) -> int:
        """How many windows there are, of whatever kind."""
        return len(self.judged) + self.partial + len(self.unreadable)

    @property
    def why(self) -> str:
        """The verdict in one line."""
        reasons = "; ".join(self.reasons)
        return f"the day is {self.label}{f' ({reasons})' if reasons else ''}"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules, with their thresholds. "Above" and "below" exclude the value itself, "from" includes it.

    Attributes:
        exchange: whose connection decides: a collector that lost this one has lost the day.
        bad_above_drops: a window is BAD above so many lost events;
        bad_from_queue_pct: or from this peak of the queue on, in percent;
        bad_above_offline_s: or above so many seconds without the exchange.
        degraded_above_offline_s: else it is DEGRADED above so many seconds without any one exchange;
        degraded_above_drain_s: or above so many seconds of hurry;
        degraded_from_reconnects: or from so many new connections on.
        healthy_below_queue_pct: what would be DEGRADED is GOOD if the exchange was never offline, nothing was lost, the
            queue stayed below this,
        healthy_above_eps: and the least number of its events per second was above this.
        partial_below_windows: a day with partial windows is PARTIAL below so many others.
        day_bad_from_bad_windows: a day is BAD from so many BAD windows on;
        day_bad_above_drops: or above so many lost events in all;
        day_bad_above_offline_s: or above so many seconds without the exchange in all.
        day_degraded_from_bad_windows: else it is DEGRADED from so many BAD windows on;
        day_degraded_from_degraded_windows: or from so many DEGRADED ones on;
        day_degraded_above_offline_s: or above so many seconds without the exchange in all.
    """

    exchange: str = "binance"
    bad_above_drops: float = 0
    bad_from_queue_pct: float = 90
    bad_above_offline_s: float = 600
    degraded_above_offline_s: float = 180
    degraded_above_drain_s: float = 180
    degraded_from_reconnects: float = 5
    healthy_below_queue_pct: float = 50
    healthy_above_eps: float = 100
    partial_below_windows: float = 80
    day_bad_from_bad_windows: float = 3
    day_bad_above_drops: float = 100_000
    day_bad_above_offline_s: float = 3_600
    day_degraded_from_bad_windows: float = 1
    day_degraded_from_degraded_windows: float = 10
    day_degraded_above_offline_s: float = 900

    @classmethod
    def parse(cls, text: str) -> Rules:
        """The rules with some thresholds changed, as in `exchange=okx, bad_from_queue_pct=95`.

        Raises:
            SettingsError: one of them is no threshold, or no number of 0 or more.
        """
        known = {item.name for item in fields(cls)}
        changed: dict[str, str | float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (part.strip() for part in item.partition("="))
            if name not in known or not equals or not value:
                remedy = f"Write name=value, separated by commas, with names of: {', '.join(sorted(known))}"
                raise SettingsError(item, "is no threshold of the quality rules", remedy)
            changed[name] = value if name == "exchange" else _number(name, value)
        return replace(cls(), **changed)  # type: ignore[arg-type]  # each has the type of its name

    @property
    def text(self) -> str:
        """What differs from the rules as they are shipped, as `parse` takes it; empty if nothing does."""
        usual = Rules()
        return ",".join(
            f"{item.name}={getattr(self, item.name)}"
            for item in fields(self)
            if getattr(self, item.name) != getattr(usual, item.name)
        )

    @property
    def version(self) -> str:
        """The version of the rules; with other thresholds than the shipped ones, another one."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:8]
        return f"{VERSION}+{digest}" if self.text else VERSION

    def judge_window(self, window: Window) -> JudgedWindow:
        """What a window is worth."""
        bad = self._bad(window.signals)
        if bad:
            return JudgedWindow(window, Label.BAD, bad)
        degraded = self._degraded(window.signals)
        if not degraded:
            return JudgedWindow(window, Label.GOOD)
        if self._healthy(window.signals):
            return JudgedWindow(window, Label.GOOD, tuple(f"forgiven: {text}" for text in degraded))
        return JudgedWindow(window, Label.DEGRADED, degraded)

    def judge_day(self, windows: Iterable[Window], unreadable: Mapping[str, str] | None = None) -> DayVerdict:
        """What a day is worth.

        A window that cannot be understood is neither partial nor one of the others, and a day that has one is DEGRADED
        at best: nobody knows what it would have said. Where no window can be understood the day is UNKNOWN.

        Args:
            windows: those of the day that can be understood.
            unreadable: by name, why others cannot be.
        """
        ordered = sorted(windows, key=lambda window: window.name)
        judged = tuple(self.judge_window(window) for window in ordered if not window.is_partial)
        partial = len(ordered) - len(judged)
        found = DayVerdict(Label.UNKNOWN, (), judged, partial, dict(sorted((unreadable or {}).items())))
        label, reasons = self._day(found)
        return replace(found, label=label, reasons=tuple(reasons))

    def _bad(self, signals: Signals) -> tuple[str, ...]:
        offline = signals.offline_seconds.get(self.exchange, 0)
        return _reasons(
            (signals.dropped_events > self.bad_above_drops, f"{signals.dropped_events:,} events dropped"),
            (signals.queue_pct_peak >= self.bad_from_queue_pct, f"queue at {signals.queue_pct_peak:g} %"),
            (offline > self.bad_above_offline_s, f"{self.exchange} offline for {offline:g} s"),
        )

    def _degraded(self, signals: Signals) -> tuple[str, ...]:
        longest, exchange = max(((s, name) for name, s in signals.offline_seconds.items()), default=(0.0, ""))
        return _reasons(
            (longest > self.degraded_above_offline_s, f"{exchange} offline for {longest:g} s"),
            (signals.drain_seconds > self.degraded_above_drain_s, f"{signals.drain_seconds:g} s of accelerated drain"),
            (signals.reconnects >= self.degraded_from_reconnects, f"{signals.reconnects} reconnects"),
        )

    def _healthy(self, signals: Signals) -> bool:
        eps_min = signals.eps_min.get(self.exchange)
        return (
            signals.offline_seconds.get(self.exchange, 0) == 0
            and signals.dropped_events == 0
            and signals.queue_pct_peak < self.healthy_below_queue_pct
            and eps_min is not None
            and eps_min > self.healthy_above_eps
        )

    def _day(self, found: DayVerdict) -> tuple[Label, Sequence[str]]:
        if not found.windows:
            return Label.UNKNOWN, ["no quality windows"]
        unreadable = f"{len(found.unreadable)} windows cannot be understood"
        if not found.judged and not found.partial:
            return Label.UNKNOWN, [unreadable]
        if found.partial and len(found.judged) < self.partial_below_windows:
            texts = [f"{len(found.judged)} whole windows, {found.partial} partial"]
            return Label.PARTIAL, texts + [unreadable] * bool(found.unreadable)
        bad, degraded = found.count(Label.BAD), found.count(Label.DEGRADED)
        drops, offline = found.dropped_events, found.offline_seconds.get(self.exchange, 0)
        reasons = _reasons(
            (bad >= self.day_bad_from_bad_windows, f"{bad} BAD windows"),
            (drops > self.day_bad_above_drops, f"{drops:,} events dropped"),
            (offline > self.day_bad_above_offline_s, f"{self.exchange} offline for {offline:g} s"),
        )
        if reasons:
            return Label.BAD, reasons
        reasons = _reasons(
            (bad >= self.day_degraded_from_bad_windows, f"{bad} BAD windows"),
            (degraded >= self.day_degraded_from_degraded_windows, f"{degraded} DEGRADED windows"),
            (offline > self.day_degraded_above_offline_s, f"{self.exchange} offline for {offline:g} s"),
            (bool(found.unreadable), unreadable),
        )
        return (Label.DEGRADED, reasons) if reasons else (Label.GOOD, ())


def _reasons(*found: tuple[bool, str]) -> tuple[str, ...]:
    return tuple(text for holds, text in found if holds)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise SettingsError(f"{name}={text}", "is no number of 0 or more", "Say how many, or how many seconds")
    return int(number) if number.is_integer() else number
