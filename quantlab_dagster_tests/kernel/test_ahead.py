"""The next item is made while the one before is worked on."""

from __future__ import annotations

import threading
import weakref
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.kernel.ahead import ahead

if TYPE_CHECKING:
    from collections.abc import Generator


def test_items_come_in_their_order_whatever_they_are() -> None:
    def items() -> Generator[int | None]:
        yield from (1, None, 0, 2)

    assert list(ahead(items())) == [1, None, 0, 2]
    assert list(ahead(number for number in range(0))) == []


def test_the_next_one_is_made_meanwhile() -> None:
    made = threading.Event()

    def items() -> Generator[int]:
        yield 1
        made.set()
        yield 2

    for _ in ahead(items()):
        assert made.wait(10)
        break


def test_no_more_than_one_is_made_ahead() -> None:
    begun: list[int] = []

    def items() -> Generator[int]:
        for number in range(5):
            begun.append(number)
            yield number

    for number in ahead(items()):
        assert max(begun) <= number + 1


def test_an_item_is_not_held_for_longer_than_whoever_got_it_holds_it() -> None:
    """Windows are large."""

    class Item:
        pass

    def items() -> Generator[Item]:
        for _ in range(2):
            yield Item()

    coming = ahead(items())
    item = next(coming)
    held = weakref.ref(item)
    del item
    assert held() is None
    coming.close()


def test_an_error_comes_where_the_item_should() -> None:
    def items() -> Generator[int]:
        yield 1
        raise ValueError("no second")

    found = []
    with pytest.raises(ValueError, match="no second"):
        found += [*ahead(items())]
    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="no second"):
        next(coming)


def test_the_source_is_closed_when_nobody_wants_more() -> None:
    closed: list[str] = []

    def items() -> Generator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(threading.current_thread().name)

    with closing(ahead(items())) as coming:
        next(coming)
    assert len(closed) == 1
