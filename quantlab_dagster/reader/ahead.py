"""Work that other threads do before its result is asked for: decoding goes on while rows are used."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["AtOnce", "Begun", "InTurn", "side_by_side"]

S = TypeVar("S")
T = TypeVar("T")

_AT_ONCE = 16


class AtOnce(Executor):
    """An executor without threads: a task is done when it is begun, by the thread that begins it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do a task."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # raised when it is asked for
            done.set_exception(error)
        return done


class Begun(Generic[T]):
    """Tasks of which some are begun before they are asked for; each is asked for once.

    Args:
        pool: whose threads do the work.
        tasks: in the order in which they will about be asked for.
        ahead: so many are begun beyond the last one that was asked for.
    """

    def __init__(self, pool: Executor, tasks: Sequence[Callable[[], T]], ahead: int) -> None:
        self._pool = pool
        self._tasks = tasks
        self._ahead = ahead
        self._coming: dict[int, Future[T]] = {}
        self._next = 0

    def result(self, number: int) -> T:
        """What a task brings, and the errors that it raises."""
        while self._next < min(number + 1 + self._ahead, len(self._tasks)):
            self._coming[self._next] = self._pool.submit(self._tasks[self._next])
            self._next += 1
        return self._coming.pop(number).result()

    def left(self) -> Iterator[T]:
        """Begin nothing more, and give back what was begun, did not fail and was not asked for."""
        self._next = len(self._tasks)
        coming = [future for future in self._coming.values() if not future.cancel()]
        self._coming.clear()
        wait(coming)
        yield from (future.result() for future in coming if future.exception() is None)


class InTurn(Generic[T]):
    """What tasks bring, in their order; the first are begun at once.

    Args:
        pool: whose threads do the work.
        tasks: to be done; a generator is asked for the next one when there is room.
        ahead: so many are begun beyond the one that is waited for.
    """

    def __init__(self, pool: Executor, tasks: Iterable[Callable[[], T]], ahead: int) -> None:
        self._pool = pool
        self._tasks = iter(tasks)
        self._coming: deque[Future[T]] = deque()
        self._begin(ahead)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        self._begin(1)
        if not self._coming:
            raise StopIteration
        return self._coming.popleft().result()

    def _begin(self, count: int) -> None:
        try:
            for task in islice(self._tasks, count):
                self._coming.append(self._pool.submit(task))
        except Exception as error:  # noqa: BLE001  # raised when its turn has come
            failed: Future[T] = Future()
            failed.set_exception(error)
            self._coming.append(failed)
            self._tasks = iter(())

    def close(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        self._tasks = iter(())
        wait([future for future in self._coming if not future.cancel()])


def side_by_side(do: Callable[[S], T], items: Sequence[S], *, is_remote: bool) -> list[T]:
    """What is done for each item, in their order: several at once where each takes a request, and else one by one."""
    if not is_remote or len(items) <= 1:
        return [do(item) for item in items]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(do, items))
