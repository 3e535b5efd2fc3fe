"""What is aimed at, and where a run stands: one line each, as far as the run has what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Target", "targets"]


@dataclass(frozen=True, slots=True)
class Target:
    """One aim: what, for which data, what was measured, what is wanted."""

    what: str
    kind: str
    measured: str
    target: str


def targets(results: dict[str, Any]) -> list[Target]:
    """Where a run stands."""
    return [*_contests(results), *_further(results["further"])]


def _contests(results: dict[str, Any]) -> Iterator[Target]:
    for size, who, base, what, wanted in (
        ("medium", "lake", "polars", "medium, with I/O and publishing ÷ Polars sort-sink", "≤ 1.0 (floor 1.2)"),
        ("large", "lake", "polars", "large, with I/O and publishing ÷ Polars sort-sink", "≤ 0.85"),
        ("small", "kernel", "limit", "small, kernel ÷ limit", "≤ 1.2"),
        ("small", "lake", "limit", "small, with I/O and publishing ÷ limit", "≤ 1.6"),
        ("tiny", "lake", "polars", "tiny, with I/O and publishing ÷ Polars loop", "≤ 1.3"),
        ("few", "lake", "polars", "30 tiny days, with I/O and publishing ÷ Polars loop", ""),
    ):
        for contest in _of(results, size):
            ours, theirs = _line(contest, who), _line(contest, base)
            if ours and theirs:
                yield Target(what, contest["kind"], _wall_and_cpu(ours, theirs), wanted)
    for contest in _of(results, "large"):
        if line := _line(contest, "lake"):
            yield Target("large, peak memory", contest["kind"], f"{line['peak_mib']:,.0f} MiB", "≤ 700 MiB")
    for size, wanted in (("small", "≤ 0.85"), ("medium", "≤ 0.60")):
        for contest in _of(results, size):
            ours, theirs = _line(contest, "kernel"), _line(contest, "polars")
            if ours and theirs:
                ratio = ours["size_bytes"] / theirs["size_bytes"]
                yield Target(f"file ÷ Polars' default zstd, {size}", contest["kind"], f"{ratio:.2f}", wanted)


def _further(further: dict[str, Any]) -> Iterator[Target]:
    for size, kind, lines in _by_data(further.get("scans", [])):
        for reader in ("polars", "duckdb"):
            ours, theirs = lines[f"our file, read by {reader}"], lines[f"Polars' file, read by {reader}"]
            what = f"full scan by {reader}, our file ÷ Polars' file, {size}"
            yield Target(what, kind, _wall_and_cpu(ours, theirs), "≤ 1.0")
    for size, kind, lines in _by_data(further.get("one_core", [])):
        times = [
            lines[f"{who}, {cores}"]["seconds"] for who in ("lake", "polars") for cores in ("one core", "all cores")
        ]
        ratios = [times[0] / times[1], times[2] / times[3]]
        measured = f"{ratios[0]:.2f} (Polars {ratios[1]:.2f})"
        yield Target(f"wall on one core ÷ wall on all, {size}", kind, measured, "≥ 1.8 on two, medium")
    for size, kind, lines in _by_data(further.get("s3", [])):
        bare, ours = (lines[way]["seconds"] for way in ("bare GETs, 64 at a time", "ours, with I/O and publishing"))
        yield Target(f"parts a second over S3 ÷ bare GETs, {size}", kind, f"{bare / ours:.2f}", "≥ 0.7")
    if events := {line["label"]: line for line in further.get("events", [])}:
        whole, nothing, loop = (
            events[label]["cpu_ms_per_hour"]
            for label in ("quantlab warehouse compact", "the same, nothing to do", "Polars loop: read → sort → write")
        )
        measured = f"{whole - nothing:.0f} ms (Polars loop {loop:.0f} ms)"
        yield Target("CPU of an event hour of 40 tiny files", "events", measured, "≤ 60 ms")
    for line in further.get("up_to_date", []):
        measured = f"{line['seconds']:.2f} s (CPU {line['cpu_seconds']:.2f} s)"
        yield Target("`quantlab compact` on an up-to-date day", line["kind"], measured, "≤ 1.5 s")


def _of(results: dict[str, Any], size: str) -> list[dict[str, Any]]:
    return [contest for contest in results["contests"] if contest["size"] == size]


def _line(contest: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((line for line in contest["lines"] if line["name"] == name and "seconds" in line), None)


def _by_data(lines: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    for size, kind in dict.fromkeys((line["size"], line["kind"]) for line in lines):
        yield size, kind, {line["label"]: line for line in lines if (line["size"], line["kind"]) == (size, kind)}


def _wall_and_cpu(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    wall, cpu = (ours[name] / theirs[name] for name in ("seconds", "cpu_seconds"))
    return f"{wall:.2f} (CPU {cpu:.2f})"
