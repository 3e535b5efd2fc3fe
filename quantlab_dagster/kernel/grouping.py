"""Which parts unite: those of a directory in as few groups as a greedy look finds, the greatest first. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quantlab_dagster.errors import SchemaConflict
from quantlab_dagster.kernel.columns import unite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantlab_dagster.kernel.parts import Footer
    from quantlab_dagster.kernel.terms import Part

__all__ = ["Grouping", "group_parts"]

_MOST_TRIED = 64
"""Groups that a schema is tried with: the time must not grow with the square of a lake's disorder."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Parts that unite, and why the others do not.

    Attributes:
        groups: keys of parts that unite, in their order; the group of the most frequent schema first.
        bad: key and cause of parts that unite with nothing.
        why: key and cause of the parts that are not in the first group.
    """

    groups: tuple[tuple[str, ...], ...]
    bad: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)


def group_parts(parts: Iterable[Part], footers: Iterable[Footer], order_by: str) -> Grouping:
    """Group parts by what unites. The most frequent schemas choose first.

    Args:
        parts: in key order.
        footers: theirs; parts of equal schemas share their layouts.
        order_by: must be an integer column of every part.
    """
    alike: dict[int, list[tuple[Part, Footer]]] = {}
    for part, footer in zip(parts, footers, strict=True):
        alike.setdefault(id(footer.layout), []).append((part, footer))
    united: list[list[list[tuple[Part, Footer]]]] = []  # groups, of schemas, of parts
    bad: dict[str, str] = {}
    why: dict[str, str] = {}
    for schema in sorted(alike.values(), key=lambda found: (-len(found), found[0][0].key.encode())):
        own = _conflict([schema], order_by)
        if own:
            bad |= {part.key: own for part, _ in schema}
            continue
        first_cause = ""
        for group in united[:_MOST_TRIED]:
            cause = _conflict([*group, schema], order_by)
            if not cause:
                group.append(schema)
                break
            first_cause = first_cause or cause
        else:
            united.append([schema])
        why |= {part.key: first_cause for part, _ in schema if first_cause}
    groups = (sorted((part.key for schema in group for part, _ in schema), key=str.encode) for group in united)
    return Grouping(tuple(tuple(keys) for keys in groups), bad, why)


def _conflict(schemas: list[list[tuple[Part, Footer]]], order_by: str) -> str:
    """Why these schemas do not unite; empty if they do."""
    first = sorted((schema[0] for schema in schemas), key=lambda found: found[0].key.encode())
    try:
        unite([part for part, _ in first], [footer for _, footer in first], order_by)
    except SchemaConflict as error:
        return error.cause
    return ""
