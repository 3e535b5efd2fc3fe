"""Making the next item while the one before is worked on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(source: Generator[T]) -> Generator[T]:
    """The items of a generator in their order, each made in a thread while the one before is worked on.

    It is closed when this is, and whatever it raises comes in the place of the item.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as maker:
        try:
            coming = maker.submit(_next, source)
            while item := coming.result():
                coming = maker.submit(_next, source)
                yield item.pop()  # whoever gets it decides how long it stays in memory
        finally:
            maker.submit(source.close).result()


def _next(source: Generator[T]) -> list[T]:
    """The next item in a list, or an empty one."""
    return [*islice(source, 1)]
