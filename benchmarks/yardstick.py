"""The yardstick: our compaction beside what other engines do without audit, on data of two kinds, in one run.

    python benchmarks/yardstick.py --sizes small,tiny --kinds ours,wide --rounds 3

Whole processes, in turn; medians. What each writes is compared with an oracle before its time counts. Ratios within one
run mean something on any machine; times do not. benchmarks/README.md says what the lines are.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.yard import further
from benchmarks.yard.contest import COMPETITORS, OURS, compete
from benchmarks.yard.data import KINDS, SIZES, dataset
from benchmarks.yard.machine import describe, load
from benchmarks.yard.measure import Failed
from benchmarks.yard.report import contest_of, contest_table, document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.yard.data import Dataset

_ALSO: dict[str, tuple[str, Callable[[Dataset, int, Path], list[dict[str, Any]]]]] = {
    "scans": ("scans", further.full_scans),
    "one-core": ("one_core", further.one_core),
    "up-to-date": ("up_to_date", further.up_to_date),
    "s3": ("s3", further.over_s3),
}
_EVENT_HOURS = 100


def main() -> int:
    """Measure what was asked for, print it, write it; returns 1 if an output of ours is wrong or could not be made."""
    asked = _asked()
    base = asked.data or Path(tempfile.gettempdir()) / "quantlab-yardstick"
    base.mkdir(parents=True, exist_ok=True)
    before = json.loads(asked.before.read_text()) if asked.before else None
    results: dict[str, Any] = {"commands": [], "machine": {}, "contests": [], "further": {}, "remarks": []}
    if asked.add and asked.out and asked.out.with_suffix(".json").exists():
        results = json.loads(asked.out.with_suffix(".json").read_text())
    results["commands"].append(shlex.join(["python", "benchmarks/yardstick.py", *_kept(sys.argv[1:])]))
    results["machine"] = describe()
    results["remarks"] += [asked.remark] if asked.remark else []
    results["notes"] = []
    with tempfile.TemporaryDirectory(dir=base, prefix="run-") as name:
        for size in asked.sizes:
            for kind in asked.kinds if size != "events" else ():
                data, work = dataset(base, kind, size), Path(name) / f"{kind}-{size}"
                _contest(results, data, asked, work)
                _write(results, before, asked.out)
                for also in asked.also:
                    measurement, measure = _ALSO[also]
                    _measure(results, measurement, partial(measure, data, asked.rounds, work))
                    _write(results, before, asked.out)
        if "events" in asked.sizes:
            _measure(results, "events", partial(further.events, base, asked.hours, asked.rounds, Path(name)))
    _write(results, before, asked.out)
    return 0 if is_fine(results) else 1


def is_fine(results: dict[str, Any]) -> bool:
    """Whether all of ours that was asked for was measured, and is right."""
    ours = {one.name for one in OURS}
    lines = [line for contest in results["contests"] for line in contest["lines"] if line["name"] in ours]
    return not any(line["error"] or line["wrong"] for line in lines) and not results["notes"]


def _contest(results: dict[str, Any], data: Dataset, asked: argparse.Namespace, work: Path) -> None:
    chosen = [one for one in (*COMPETITORS, *OURS) if one.name in {*asked.against, *asked.ours}]
    work.mkdir()
    results["contests"] = [one for one in results["contests"] if (one["kind"], one["size"]) != (data.kind, data.size)]
    begun = load()
    standings = compete(data, chosen, asked.rounds, work)
    contest = contest_of(data, standings, asked.rounds, (begun, load()))
    results["contests"].append(contest)
    print(contest_table(contest), flush=True)


def _measure(results: dict[str, Any], name: str, measure: Callable[[], list[dict[str, Any]]]) -> None:
    try:
        lines = measure()
        measured = {(line.get("kind"), line.get("size")) for line in lines}
        kept = [
            line for line in results["further"].get(name, []) if (line.get("kind"), line.get("size")) not in measured
        ]
        results["further"][name] = kept + lines
    except Failed as failed:
        print(f"{name}: {failed}", file=sys.stderr)
        results["notes"].append(f"{name}: {failed}")


def _write(results: dict[str, Any], before: dict[str, Any] | None, out: Path | None) -> None:
    if out:
        out.write_text(document(results, before))
        out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", type=_names([*SIZES, "events"]), default="small,few,events")
    parser.add_argument("--kinds", type=_names(KINDS), default="ours,wide")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=_names(one.name for one in COMPETITORS), default="limit,polars")
    parser.add_argument("--ours", type=_names(one.name for one in OURS), default="kernel,lake")
    parser.add_argument("--also", type=_names(_ALSO), default="", help="further measurements on each data set")
    parser.add_argument("--hours", type=int, default=_EVENT_HOURS, help="of the event lake")
    parser.add_argument("--data", type=Path, help="where data is made once, and kept; the system's temporary directory")
    parser.add_argument("--out", type=Path, help="page to write (Markdown); the figures go beside it (.json)")
    parser.add_argument("--add", action="store_true", help="keep what the page has of other data, and add to it")
    parser.add_argument("--remark", help="a sentence for the page, as on how busy the machine was")
    parser.add_argument("--before", type=Path, help="figures of an earlier run (.json), to be put beside these")
    return parser.parse_args()


def _names(all_names: Iterable[str]) -> Callable[[str], list[str]]:
    known = list(all_names)

    def parse(text: str) -> list[str]:
        names = known if text == "all" else [name for name in text.split(",") if name]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return names

    return parse


def _kept(words: list[str]) -> list[str]:
    """The options without those that say where something lies on this machine."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in {"--data", "--out", "--before"}:
            skip = True
        elif not word.startswith(("--data=", "--out=", "--before=")):
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
