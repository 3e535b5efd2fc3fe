"""docs/reliability.md: what went wrong before, beside the tests that guard against it; and what becomes of bad parts.

python quantlab_dagster_tests/reliability.py > docs/reliability.md

The marks `@pytest.mark.guards(…)` are read in the tests' source, the outcomes in what the last long run of the corpus
wrote. Only the table of types is made on the spot, by a small merge for each.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # pragma: no cover - as a script, the project is not on the path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from quantlab_dagster_tests.fault_list import CHAPTERS, FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from quantlab_dagster_tests.fault_list import Chapter, Fault

__all__ = ["PAGE", "BadMark", "Guard", "find_guards", "page"]

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
OUTCOMES = TESTS / "kernel" / "corpus_outcomes.json"
_TYPES = "quantlab_dagster_tests.kernel.type_survival"
_SPARK = "quantlab_dagster_tests.kernel.spark.readings"
_FLIPS = "quantlab_dagster_tests.integration.flipped_bits"
_SAID = ("slow", "server", "browser")
_NOT_YET = "xfail"


class BadMark(ValueError):
    """A mark that does not do what it says."""


@dataclass(frozen=True, slots=True, order=True)
class Guard:
    """A test that guards against faults.

    Attributes:
        file: of the test, below the tests' directory.
        name: of the test.
        faults: ids.
        needs: what else its marks say: slow, server, browser; or xfail: then it does not guard yet.
    """

    file: str
    name: str
    faults: tuple[str, ...]
    needs: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it guards: not while it is expected to fail."""
        return _NOT_YET not in self.needs


def find_guards(tests: Path = TESTS) -> list[Guard]:
    """Every test that carries the mark, in the order of files and lines.

    Raises:
        BadMark: a mark names no fault, an unknown one, or something other than texts; or stands where no test is.
    """
    return [guard for path in sorted(tests.rglob("*.py")) for guard in _guards_in(path, tests)]


def _guards_in(path: Path, tests: Path) -> Iterator[Guard]:
    text = path.read_text()
    if "guards(" not in text:
        return
    tree = ast.parse(text, str(path))
    of_all = frozenset(_needs(_module_marks(tree)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        faults = [fault for mark in node.decorator_list for fault in _faults(mark, f"{path.name}::{node.name}")]
        if not faults:
            continue
        if isinstance(node, ast.ClassDef) or not node.name.startswith("test_"):
            raise BadMark(f"{path.name}::{node.name} is no test, and cannot guard against {', '.join(faults)}")
        needs = of_all | frozenset(_needs(node.decorator_list))
        file = path.relative_to(tests).as_posix()
        yield Guard(file, node.name, tuple(faults), tuple(need for need in (*_SAID, _NOT_YET) if need in needs))


def _faults(mark: ast.expr, where: str) -> list[str]:
    if not (isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr == "guards"):
        return []
    faults = [argument.value for argument in mark.args if isinstance(argument, ast.Constant)]
    if not mark.args or mark.keywords or len(faults) < len(mark.args):
        raise BadMark(f"{where}: guards takes ids of faults, written out")
    unknown = [fault for fault in faults if fault not in FAULTS]
    if unknown:
        raise BadMark(f"{where}: {unknown[0]!r} is not in fault_list.py")
    return [str(fault) for fault in faults]


def _module_marks(tree: ast.Module) -> list[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(name, "id", "") for name in node.targets] == ["pytestmark"]:
            return list(node.value.elts) if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
    return []


def _needs(marks: Iterable[ast.expr]) -> Iterator[str]:
    for mark in marks:
        plain = mark.func if isinstance(mark, ast.Call) else mark
        if isinstance(plain, ast.Attribute) and plain.attr in (*_SAID, _NOT_YET):
            yield plain.attr


# ---- the page --------------------------------------------------------------------------------------------------------

_HEAD = """# Reliability

What went wrong before, and the tests that would fail if it came back. Generated: do not edit it, but run
`python quantlab_dagster_tests/reliability.py > docs/reliability.md`. The list is in
`quantlab_dagster_tests/fault_list.py`; the tests name their faults themselves, with `@pytest.mark.guards("…")`. A test
in *italics* is slow, or needs a server or a browser.
"""


def page(guards: list[Guard] | None = None, outcomes: Path = OUTCOMES) -> str:
    """The whole page, in Markdown."""
    guards = find_guards() if guards is None else guards
    by_fault: dict[str, list[Guard]] = {}
    for guard in guards:
        for fault in guard.faults:
            by_fault.setdefault(fault, []).append(guard)
    missing = [fault for fault in FAULTS if not any(guard.holds for guard in by_fault.get(fault, []))]
    holding = sum(guard.holds for guard in guards)
    left = f"{len(missing)} have no test yet." if missing else "None is without a test."
    text = [
        _HEAD,
        f"{len(FAULTS)} faults; {holding} tests guard against {len(FAULTS) - len(missing)} of them. {left}\n",
    ]
    text += [_chapter(chapter, by_fault) for chapter in CHAPTERS]
    text += [_corpus(outcomes), _flips(), _types()]
    return "\n".join(part for part in text if part)


def _chapter(chapter: Chapter, by_fault: dict[str, list[Guard]]) -> str:
    rows = [f"| {_cell(fault)} | {_tests(by_fault.get(fault.id, []))} |" for fault in chapter.faults]
    head = [f"## {chapter.title}", "", chapter.origin, "", "| what happened | tests |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


def _cell(fault: Fault) -> str:
    said = fault.sentence.replace("|", "\\|").replace("*", "\\*")
    return f"{said} <sub>`{fault.id}`</sub>"


def _tests(guards: list[Guard]) -> str:
    tests = [_test(guard) for guard in sorted(guards)]
    return "<br>".join(tests if any(guard.holds for guard in guards) else ["**no test yet**", *tests])


def _test(guard: Guard) -> str:
    said = guard.name.removeprefix("test_").replace("_", " ")
    module = guard.file.removesuffix(".py").replace("/", ".")
    named = f"{said} <sub>`{module}`</sub>"
    if not guard.holds:
        return f"{named} (not cured yet)"
    return f"*{named}*" if guard.needs else named


def _corpus(outcomes: Path) -> str:
    """What became of the parts of the last long run of the corpus; nothing if there was none."""
    if not outcomes.exists():
        return ""
    found: dict[str, Any] = json.loads(outcomes.read_text())
    kinds: list[str] = found["outcomes"]
    rows = [
        f"| {region} | {' | '.join(str(counts.get(kind, 0) or '·') for kind in kinds)} |"
        for region, counts in found["regions"].items()
    ]
    return "\n".join(
        [
            "## What becomes of damaged and foreign parts",
            "",
            *found["said"],
            "",
            f"| region | {' | '.join(kinds)} |",
            f"|---|{'---:|' * len(kinds)}",
            *rows,
            "",
        ]
    )


def _flips() -> str:
    """What became of bits that flipped in requests, in the last long run of that."""
    table: str = importlib.import_module(_FLIPS).table()
    return f"## What becomes of a bit that flips on its way\n\n{table}\n" if table else ""


def _types() -> str:
    """The table of types and what becomes of them, where its module is there."""
    if importlib.util.find_spec(_TYPES) is None:
        return ""
    table: str = importlib.import_module(_TYPES).types_table()
    spark = importlib.import_module(_SPARK)
    told = spark.told(json.loads(spark.READINGS.read_text()))
    return f"## What becomes of types\n\n{table.rstrip()}\n\n{told}\n"


if __name__ == "__main__":  # pragma: no cover
    sys.stdout.write(page())
