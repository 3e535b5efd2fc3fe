"""Who imports whom: the package's rooms (folders, and modules at the top), the arrows between them, and circles.

python quantlab_dagster_tests/import_graph.py [PACKAGE_DIRECTORY]

Reads the source; imports in functions and those for types count, too.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Graph", "circle", "floors", "read_graph"]

Arrow = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Graph:
    """The imports within a package.

    Attributes:
        lines: of each module, by its name without the package's; empty for the package itself.
        arrows: (importing module, imported module).
        packages: modules that are folders.
    """

    lines: dict[str, int]
    arrows: frozenset[Arrow]
    packages: frozenset[str]

    @property
    def top_level(self) -> list[str]:
        """Modules that lie flat at the top."""
        return sorted(name for name in self.lines if name and "." not in name and name not in self.packages)

    def room(self, module: str) -> str:
        """The folder of a module; a module at the top is a room by itself."""
        return module if module in self.packages else module.rpartition(".")[0] or module

    @property
    def rooms(self) -> list[str]:
        """All rooms."""
        return sorted({self.room(module) for module in self.lines if module})

    def room_arrows(self) -> set[Arrow]:
        """Arrows between different rooms."""
        pairs = {(self.room(a), self.room(b)) for a, b in self.arrows if a and b}
        return {(a, b) for a, b in pairs if a != b}


def read_graph(package: Path) -> Graph:
    """Read the imports of a package from its directory."""
    paths: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    packages = frozenset(name for name, path in paths.items() if path.name == "__init__.py")
    arrows = {
        (name, target)
        for name, path in paths.items()
        for target in _imported(path.read_text(), package.name, name, is_package=name in packages, known=set(paths))
        if target != name
    }
    lines = {name: path.read_text().count("\n") for name, path in paths.items()}
    return Graph(lines, frozenset(arrows), packages)


def _imported(source: str, package: str, module: str, *, is_package: bool, known: set[str]) -> set[str]:
    full = f"{package}.{module}".rstrip(".")
    parent = full if is_package else full.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), parent)
            # `from package import module` imports the module.
            modules = {f"{base}.{alias.name}" for alias in node.names}
            inner = {name for name in modules if name.removeprefix(f"{package}.") in known}
            found |= inner or {base}
    return {name.removeprefix(f"{package}.") for name in found if name.removeprefix(f"{package}.") in known}


def circle(arrows: Iterable[Arrow]) -> list[str]:
    """A circle of imports, its first node repeated at its end; empty if there is none."""
    sorter = TopologicalSorter[str]()
    for importing, imported in sorted(arrows):
        sorter.add(importing, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def floors(arrows: set[Arrow]) -> int:
    """How many rooms the longest way down leads through; 0 where there is a circle."""
    if circle(arrows):
        return 0
    depth: dict[str, int] = {}

    def below(room: str) -> int:
        if room not in depth:
            depth[room] = 1 + max((below(b) for a, b in arrows if a == room), default=0)
        return depth[room]

    return max(below(room) for room, _ in arrows)


def main(package: Path) -> None:
    """Print the figures of a package."""
    graph = read_graph(package)
    arrows, total = graph.room_arrows(), sum(graph.lines.values())
    flat = sum(graph.lines[name] for name in graph.top_level)
    say = sys.stdout.write
    say(f"{len(graph.lines)} modules, {total:,} lines, {len(graph.rooms)} rooms, {len(arrows)} arrows between rooms\n")
    names = ", ".join(graph.top_level)
    say(f"{len(graph.top_level)} modules flat at the top, {flat / total:.0%} of all lines: {names}\n")
    say(f"floors: {floors(arrows) or 'none, for there is a circle'}\n")
    say(f"a circle of rooms: {' -> '.join(circle(arrows)) or 'none'}\n")
    say(f"a circle of modules: {' -> '.join(circle(graph.arrows)) or 'none'}\n")
    for a, b in sorted(arrows):
        say(f"  {a} -> {b}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "quantlab_dagster")
