"""Finding what there is, by delimiter: the cost grows with the directories looked at, not with the files below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.lake.layout import Pair, is_part_name, value_of

if TYPE_CHECKING:
    from quantlab_dagster.lake.layout import SymbolDay
    from quantlab_dagster.lake.store import ObjectInfo, Store

__all__ = ["find_pairs", "find_parts", "find_symbols"]


async def find_symbols(store: Store, pair: Pair) -> list[str]:
    """Symbols that a pair has or ever had, sorted: one listing. Whether they have a given day, `find_parts` tells."""
    listing = await store.list_directory(pair.prefix)
    return [symbol for name in listing.directories if (symbol := value_of("symbol", name))]


async def find_parts(store: Store, symbol_day: SymbolDay) -> list[ObjectInfo]:
    """The parts of one symbol-day, in byte order of their keys; only its own directory is listed.

    Raises:
        StoreError: the listing failed; it is never taken for an empty one.
    """
    objects = await store.list_objects(symbol_day.prefix)
    return [
        info
        for info in objects
        if is_part_name(info.name) and info.key == symbol_day.key(info.name)  # nothing from deeper directories
    ]


async def find_pairs(store: Store) -> list[Pair]:
    """All (exchange, stream) pairs of a lake, sorted: one listing, and one per exchange."""
    root = await store.list_directory("")
    pairs = []
    for name in root.directories:
        exchange = value_of("exchange", name)
        if exchange:
            listing = await store.list_directory(f"{name}/")
            pairs += [Pair(exchange, stream) for text in listing.directories if (stream := value_of("stream", text))]
    return sorted(pairs)
