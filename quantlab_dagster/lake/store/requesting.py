"""How a store sends requests: in time, in threads where they block, again where that helps, and counted."""

from __future__ import annotations

import asyncio
import atexit
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from quantlab_dagster.errors import StoreUnavailable, masked
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.faults import DomainErrors, broke_off
from quantlab_dagster.lake.store.objects import Requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Requesting", "pause"]

T = TypeVar("T")
P = ParamSpec("P")


class Requesting(ABC):
    """What sends requests about the objects below a URL.

    Args:
        url: as given by the user, for messages.
        retries: attempts after the first one fails.
    """

    def __init__(self, url: str, retries: int) -> None:
        self.url = masked(url.rstrip("/"))  # for messages only
        self.requests = Requests()
        self._retries = retries
        self._pool: ThreadPoolExecutor | None = None
        _settle_at_exit()

    @property
    def address(self) -> str:
        """Where it is, however the user wrote that."""
        return self.url

    def name(self, key: str) -> str:
        """The full name of an object, for messages."""
        return f"{self.url}/{key}"

    @abstractmethod
    def _check_root(self) -> None:
        """Raise a StoreError where an engine would take a root that has gone for an empty one."""

    async def _asked(self, key: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What a blocking request returns, which is sent again as often as the store's other requests are."""
        return await self._repeated(partial(self._threaded, key, partial(function, *args, **kwargs)))

    async def _threaded(
        self, key: str, function: Callable[..., T], *args: Any, running: list[Future[Any]] | None = None
    ) -> T:
        """What a function returns that blocks. If cancelled, this ends at once, and the thread after a bounded time."""
        with self._errors(key):
            self._check_root()
            future = self._threads.submit(function, *args)
            if running is not None:
                running.append(future)
            return await asyncio.wrap_future(future)

    @property
    def _threads(self) -> ThreadPoolExecutor:
        # Our own: `asyncio.run` waits for the threads of the default one, even when it was cancelled.
        if self._pool is None:
            self._pool = ThreadPoolExecutor(limits.THREADS, thread_name_prefix="store")
        return self._pool

    async def _repeated(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat what the engine does not: requests that broke off in a way it cannot tell from success."""
        for repetition in range(self._retries):
            try:
                return await request()
            except StoreUnavailable as error:
                if not broke_off(error):
                    raise
            await pause(repetition)
        return await request()

    def _errors(self, key: str, passing: tuple[type[Exception], ...] = ()) -> DomainErrors:
        return DomainErrors(self.name(key), passing)


async def pause(repetition: int) -> None:
    """Wait before something is repeated, twice as long each time."""
    await asyncio.sleep(min(limits.LONGEST_WAIT_SECONDS, limits.FIRST_WAIT_SECONDS * 2**repetition))


# A thread of the engine that still hands its last result over while the interpreter is being finalised aborts the
# process (SIGABRT, in one exit of seven here; PyO3/pyo3-async-runtimes#40). Asleep, we leave the lock to it: 0.02 s
# made it 0 of 200.
_SECONDS_FOR_ENGINE_TO_SETTLE = 0.1


@cache
def _settle_at_exit() -> None:
    atexit.register(time.sleep, _SECONDS_FOR_ENGINE_TO_SETTLE)
