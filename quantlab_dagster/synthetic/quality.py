"""Deterministic quality windows of a day, as the collector writes them beside its parts: 96 small JSON files.

The same spec gives the same bytes.

Example:
    >>> len(list(generate_windows(WindowsSpec(dt.date(2026, 1, 8), bad=3))))
    96
"""

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["WindowFile", "WindowsSpec", "generate_windows", "write_local_windows"]

_A_DAY = 96
_FIRST_BAD, _FIRST_DEGRADED = 24, 48
_LENGTH = dt.timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class WindowsSpec:
    """What the windows of a generated day look like.

    Attributes:
        day: UTC day.
        bad: so many of them, from 06:00 on, lost events.
        degraded: so many of them, from 12:00 on, had to connect again and again.
        partial: the last so many are partial: the collector was stopped.
        missing: the first so many were never written.
        exchanges: that the collector listens to.
        seed: another seed gives other numbers.

    Raises:
        ValueError: the groups do not fit into a day.
    """

    day: dt.date
    bad: int = 0
    degraded: int = 0
    partial: int = 0
    missing: int = 0
    exchanges: tuple[str, ...] = ("binance", "bybit", "okx")
    seed: int = 0

    def __post_init__(self) -> None:
        groups = (self.bad, self.degraded, self.partial, self.missing)
        if min(groups) < 0 or max(groups) > _A_DAY:
            raise ValueError(f"A day has 96 windows, not {groups}. Ask for fewer.")


@dataclass(frozen=True, slots=True)
class WindowFile:
    """One window as the collector writes it.

    Attributes:
        key: in the raw bucket.
        data: JSON bytes.
    """

    key: str
    data: bytes


def generate_windows(spec: WindowsSpec) -> Iterator[WindowFile]:
    """Generate the windows of a day, by time."""
    rng = Random(f"{spec.seed} {spec.day}")  # noqa: S311 - no secret
    midnight = dt.datetime.combine(spec.day, dt.time(), dt.UTC)
    for number in range(_A_DAY):
        window = _window(spec, number, midnight + number * _LENGTH, rng)  # drawn even where it is missing
        if number >= spec.missing:
            start = midnight + number * _LENGTH
            key = f"quality/date={spec.day:%Y%m%d}/window={start:%H%M}.json"
            yield WindowFile(key, json.dumps(window, indent=1).encode())


def write_local_windows(root: Path, spec: WindowsSpec) -> int:
    """Write the windows of a day below a local raw lake; returns how many."""
    files = list(generate_windows(spec))
    for file in files:
        path = root / file.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)
    return len(files)


def _window(spec: WindowsSpec, number: int, start: dt.datetime, rng: Random) -> dict[str, Any]:
    bad = _FIRST_BAD <= number < _FIRST_BAD + spec.bad
    degraded = _FIRST_DEGRADED <= number < _FIRST_DEGRADED + spec.degraded
    rates = {exchange: rng.uniform(800, 2_500) for exchange in spec.exchanges}
    offline = {exchange: round(rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 5)]), 1) for exchange in spec.exchanges}
    if degraded:
        offline = {exchange: round(rng.uniform(20, 60), 1) for exchange in spec.exchanges}
    return {
        "window_start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "window_end": f"{start + _LENGTH:%Y-%m-%dT%H:%M:%SZ}",
        "quality": "BAD" if bad else "DEGRADED" if degraded else "GOOD",
        "is_partial": number >= _A_DAY - spec.partial,
        "signals": {
            "dropped_events": rng.randint(500, 5_000) if bad else 0,
            "queue_pct_peak": round(rng.uniform(3, 30), 1),
            "reconnects": rng.randint(5, 12) if degraded else rng.choice([0, 0, 0, 1]),
            "drain_mode_accelerated_seconds": round(rng.uniform(0, 20), 1) if bad else 0.0,
            "offline_seconds_by_exchange": offline,
            "eps_by_exchange": {
                exchange: {"avg": round(rate, 1), "min": round(rate * rng.uniform(0.3, 0.7), 1)}
                for exchange, rate in rates.items()
            },
        },
    }
