"""Reading and writing `_state.json`: every change is a compare-and-swap, retried."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from quantlab_dagster.errors import Conflict
from quantlab_dagster.market.inventory import move_oldest, recalled
from quantlab_dagster.market.journal import Journal, Kept
from quantlab_dagster.market.settling import fold
from quantlab_dagster.market.state import ADOPTED_KEY, STATE_KEY, State, salvage

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection

    from quantlab_dagster.lake.store.base import Store

__all__ = ["StateStore"]


class StateStore:
    """Reads and writes the state of a compact lake: every change is a compare-and-swap, retried.

    Args:
        store: the compact lake.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._journal = Journal(store)

    @property
    def name(self) -> str:
        """Full name of the file."""
        return self._store.name(STATE_KEY)

    async def exists(self) -> bool:
        """Whether there is a state, without reading it."""
        return await self._store.head(STATE_KEY) is not None

    async def read(self) -> State | None:
        """The file; None only if there is definitely none. What steps did since is not in it: see `view`.

        Raises:
            MalformedObject: it cannot be understood.
            StoreError: it cannot be read.
        """
        found = await self._store.get_if_exists(STATE_KEY)
        return State.read(found[0], self.name) if found else None

    async def view(self) -> State | None:
        """The state with all that steps did folded in; nothing is written. Same errors as `read`."""
        return (await self.view_all())[0]

    async def view_all(self) -> tuple[State | None, dict[str, str]]:
        """As `view`; and by key, why entries of the journal cannot be understood."""
        kept = await self._journal.read()  # first: what is folded meanwhile is then in the file
        state = await self.read()
        return (await self._folded(state, kept) if state is not None else None), kept.unreadable

    async def _folded(self, state: State, kept: Kept) -> State:
        return fold(await recalled(self._store, state, kept.troubled), kept.entries.values())

    async def replace_unreadable(self, make: Callable[[State | None], State]) -> State:
        """Put a state in the place of one that cannot be understood, which is first copied beside it.

        The place is never empty meanwhile: no state at all would be a cold start, and pass over open days.

        Args:
            make: from what can be believed of it, or None.
        """
        content, info = await self._store.get(STATE_KEY)
        await self._store.put(f"{STATE_KEY}.unreadable", content)
        state = make(salvage(content))
        await self._store.compare_and_swap(STATE_KEY, state.dump(), info.etag)
        return state

    async def update(self, change: Callable[[State | None], State], *, recall: Collection[str] = ()) -> State:
        """Apply a change to the state as it is now; again if somebody else changed it meanwhile.

        The first time that a file of other software is written to, it is kept beside as it was.

        Args:
            change: pure; called once per attempt.
            recall: state keys of symbol-days whose records the change must see, also if they have moved.

        Returns:
            The state that now stands.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Conflict),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            stop=stop_after_delay(120),
            reraise=True,
        ):
            with attempt:
                found = await self._store.get_if_exists(STATE_KEY)
                before = State.read(found[0], self.name) if found else None
                after = change(await recalled(self._store, before, recall) if before is not None else None)
                if after != before:
                    if found and before is not None and before.catch_up_from is None:
                        with suppress(Conflict):  # it was kept before
                            await self._store.compare_and_swap(ADOPTED_KEY, found[0], None)
                    etag = found[1].etag if found else None
                    await self._store.compare_and_swap(STATE_KEY, after.dump(), etag)
                return after
        raise AssertionError("unreachable")  # pragma: no cover

    async def fold(
        self,
        begin: Callable[[State | None], State],
        *,
        day: dt.date | None = None,
        but: Collection[dt.date] = (),
        then: Callable[[State], State] = lambda state: state,
    ) -> State:
        """Fold what steps did into the state, change it, and remove what was folded.

        Args:
            begin: makes a state where there is none; pure, as `then` is.
            day: only the entries of this day are folded; None folds those of all days.
            but: except these days, where steps are still at work.
            then: what else changes.

        Returns:
            The state that now stands, with all other entries that were read folded in, too, though not in the file.
        """
        kept = await self._journal.read(day)
        folded = kept.without(but)
        rest = Kept({key: entry for key, entry in kept.entries.items() if key not in folded.entries}, kept.unreadable)
        changing = self.update(
            lambda before: then(fold(begin(before), folded.entries.values())), recall=folded.troubled
        )
        after = await move_oldest(self._store, await changing, self.update)
        await self._journal.forget(folded)
        return await self._folded(after, rest)
