"""The yardstick: our compaction beside what other engines do without audit, on data of two kinds, in one run.

    python benchmarks/yardstick.py --sizes small,tiny --kinds ours,wide --rounds 3

Whole processes, in turn; medians. What each writes is compared with an oracle before its time counts. Ratios within one
run mean something on any machine; times do not. benchmarks/README.md says what the lines are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.yard.contest import COMPETITORS, OURS, compete
from benchmarks.yard.data import KINDS, SIZES, dataset
from benchmarks.yard.report import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def main() -> None:
    """Measure what was asked for, print it."""
    asked = _asked()
    base = asked.data or Path(tempfile.gettempdir()) / "quantlab-yardstick"
    base.mkdir(parents=True, exist_ok=True)
    chosen = [one for one in (*COMPETITORS, *OURS) if one.name in {*asked.against, *asked.ours}]
    with tempfile.TemporaryDirectory(dir=base) as name:
        for size in asked.sizes:
            for kind in asked.kinds:
                data = dataset(base, kind, size)
                standings = compete(data, chosen, asked.rounds, Path(name) / f"{kind}-{size}")
                print(table(data, standings), flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", type=_names(SIZES), default="small,tiny")
    parser.add_argument("--kinds", type=_names(KINDS), default="ours,wide")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=_names(one.name for one in COMPETITORS), default="limit,polars")
    parser.add_argument("--ours", type=_names(one.name for one in OURS), default="kernel,lake")
    parser.add_argument("--data", type=Path, help="where data is made and kept")
    return parser.parse_args()


def _names(all_names: Iterable[str]) -> Callable[[str], list[str]]:
    known = list(all_names)

    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
