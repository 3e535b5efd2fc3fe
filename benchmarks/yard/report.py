"""What was measured as text: tables in Markdown, from plain data, so that an earlier run can be put beside this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.yard.targets import targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.yard.contest import Standing
    from benchmarks.yard.data import Dataset

__all__ = ["contest_of", "contest_table", "document"]

_HEAD = (
    "| | wall | ÷ limit | ÷ Polars | CPU | ÷ Polars | cores kept busy | peak memory | output | ÷ Polars | checked |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def contest_of(data: Dataset, standings: Sequence[Standing], rounds: int, load: tuple[float, float]) -> dict[str, Any]:
    """A contest as plain data."""
    return {
        "kind": data.kind,
        "size": data.size,
        "days": data.shape.days,
        "parts": data.shape.parts,
        "rows": data.shape.rows,
        "rounds": rounds,
        "load": load,
        "lines": [_plain(one) for one in standings],
    }


def _plain(one: Standing) -> dict[str, Any]:
    line: dict[str, Any] = {"name": one.competitor.name, "label": one.competitor.label, "error": one.error}
    if one.runs:
        line |= {
            "seconds": one.seconds,
            "cpu_seconds": one.cpu_seconds,
            "peak_mib": one.peak_mib,
            "size_bytes": one.size_bytes,
            "checked": _checked(one),
            "wrong": one.wrong,
            "all_seconds": [round(run.seconds, 3) for run in one.runs],
            "all_cpu_seconds": [round(run.cpu_seconds, 3) for run in one.runs],
        }
    return line


def _checked(one: Standing) -> str:
    if one.wrong:
        return f"**wrong**: {one.wrong}"
    if one.verdict is None:
        return ""
    if not one.competitor.ordered:
        return "rows right, not sorted"
    return "right, ties exact" if one.verdict.exact else "right, ties in another order"


def contest_table(contest: dict[str, Any]) -> str:
    """One contest as a table."""
    shape = f"{contest['days']:,} x {contest['parts']:,} parts, {contest['rows']:,} rows each"
    low, high = contest["load"]
    medians = f"Rounds: {contest['rounds']}. Load before and after, on all cores: {low:.1f}, {high:.1f}."
    lines = [f"### {contest['size']}, {contest['kind']}: {shape}", "", medians, "", *_HEAD]
    by_name = {line["name"]: line for line in contest["lines"] if "seconds" in line}
    limit, polars = by_name.get("limit", {}), by_name.get("polars", {})
    for line in contest["lines"]:
        if "seconds" not in line:
            lines.append(f"| {line['label']} | {line['error']} |{' |' * 9}")
            continue
        cells = [
            line["label"],
            f"{line['seconds']:.2f} s",
            _ratio(line, limit, "seconds"),
            _ratio(line, polars, "seconds"),
            f"{line['cpu_seconds']:.2f} s",
            _ratio(line, polars, "cpu_seconds"),
            f"{line['cpu_seconds'] / line['seconds']:.2f}",
            f"{line['peak_mib']:,.0f} MiB",
            f"{line['size_bytes'] / 1e6:,.1f} MB",
            _ratio(line, polars, "size_bytes"),
            line["checked"] + (f"; later {line['error']}" if line["error"] else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _ratio(line: dict[str, Any], base: dict[str, Any], what: str) -> str:
    return f"{line[what] / base[what]:.2f}" if base.get(what) else ""


def further_table(title: str, lines: list[dict[str, Any]]) -> str:
    """Lines of one further measurement as a table."""
    columns = {
        "seconds": ("wall", "{:.2f} s"),
        "cpu_seconds": ("CPU", "{:.2f} s"),
        "peak_mib": ("peak memory", "{:,.0f} MiB"),
        "parts_per_second": ("parts a second", "{:,.0f}"),
        "cpu_ms_per_hour": ("CPU per event hour", "{:,.0f} ms"),
    }
    used = {name: column for name, column in columns.items() if any(name in line for line in lines)}
    head = f"| | {' | '.join(heading for heading, _ in used.values())} |"
    text = [f"### {title}", "", head, "|---" * (len(used) + 1) + "|"]
    for line in lines:
        where = f" ({line['size']}, {line['kind']})" if "kind" in line else ""
        cells = [form.format(line[name]) if name in line else "" for name, (_, form) in used.items()]
        text.append(f"| {line['label']}{where} | {' | '.join(cells)} |")
    return "\n".join([*text, ""])


_TITLES = {
    "one_core": "One core and all of them",
    "scans": "Full scans, engine loaded",
    "up_to_date": "Fixed cost",
    "s3": "Parts on S3 (SeaweedFS on the same cores)",
    "events": "The event lake: hours of 40 files of 50 rows",
}


def document(results: dict[str, Any], before: dict[str, Any] | None) -> str:
    """The whole page."""
    text = [
        "# Results of the yardstick",
        "",
        "Made by these commands; do not edit. `README.md` beside this page says what the lines mean.",
        "",
        *(f"    {command}" for command in results["commands"]),
        "",
        _machine(results),
        *(f"- {remark}" for remark in results["remarks"]),
        *([""] if results["remarks"] else []),
        *([f"Before: {_run(before)}.", ""] if before else []),
        "## Targets",
        "",
        *_targets(results, before),
        "",
        "## Contests",
        "",
        *map(contest_table, results["contests"]),
        *(["## Further", ""] if results["further"] else []),
        *(further_table(_TITLES[name], lines) for name, lines in results["further"].items() if lines),
        *_notes(results),
    ]
    return "\n".join(text).rstrip() + "\n"


def _machine(results: dict[str, Any]) -> str:
    pairs = [f"{name} {value}" for name, value in results["machine"].items()]
    return f"{', '.join(pairs)}. Medians of the rounds; peak memory of all rounds.\n"


def _run(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return f"commit {machine['commit']} on {machine['date']}"


def _targets(results: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    now, then = targets(results), targets(before) if before else []
    earlier = {(one.what, one.kind): one for one in then}
    columns = ["", "data", *(["before"] if before else []), "measured", "target"]
    text = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in now:
        was = earlier.get((one.what, one.kind))
        cells = [one.what, one.kind, *([was.measured if was else ""] if before else []), one.measured, one.target]
        text.append(f"| {' | '.join(cells)} |")
    return text


def _notes(results: dict[str, Any]) -> list[str]:
    return ["## Not measured", "", *(f"- {line}" for line in results["notes"]), ""] if results["notes"] else []
