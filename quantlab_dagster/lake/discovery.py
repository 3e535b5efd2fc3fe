"""Finding what there is by delimiter, in both lakes: what no request can name is told apart, and stops itself only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from quantlab_dagster.lake.paths import value_of

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store

__all__ = ["Found", "find_values"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What was discovered.

    Attributes:
        items: sorted.
        odd: paths of directories that cannot be addressed, for people. They stop themselves only.
    """

    items: tuple[T, ...]
    odd: tuple[str, ...] = ()


async def find_values(store: Store, name: str, prefix: str) -> Found[str]:
    """The values of the directories `name=value` below a prefix: one listing.

    Raises:
        StoreError: the listing failed; it is never taken for an empty one.
    """
    names = await store.list_names(prefix)
    values = tuple(value for text in names.directories if (value := value_of(name, text)))
    odd = [*names.odd, *(repr(text) for text in names.directories if _is_odd(name, text))]
    return Found(values, tuple(sorted(f"{prefix}{text}" for text in odd)))


def _is_odd(name: str, text: str) -> bool:
    """Whether a directory says `name=`, but nothing that can be worked with.

    U+FFFD is what servers send in the place of a control character, which XML cannot hold: it finds nothing again.
    """
    return text == f"{name}=" or (text.startswith(f"{name}=") and "\ufffd" in text)
