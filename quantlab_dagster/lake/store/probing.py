"""What a server makes of conditions: found out by trying with objects of our own, once per store and process.

Nothing is assumed by the name of a server, since versions, proxies and gateways differ (docs/adr/0015).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from abc import abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import obstore
from obstore import exceptions as obs

from quantlab_dagster.errors import AccessDenied, StoreError, StoreUnavailable
from quantlab_dagster.lake.store.base import PROBE_DIRECTORY, Store
from quantlab_dagster.lake.store.capabilities import Capabilities
from quantlab_dagster.lake.store.objects import Staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from obstore import PutMode
    from obstore.store import S3Store as Engine

    from quantlab_dagster.lake.store.multipart import BlockingS3
    from quantlab_dagster.lake.store.objects import Completion

__all__ = ["NO_ETAG", "Answers", "Condition", "Probing", "answers_of"]

logger = logging.getLogger(__name__)

Condition = Literal["create_if_absent", "replace_if_match", "delete_if_match", "bulk_delete", "part_etags"]
Answers = dict[Condition, str]
"""How the server wants an ETag of a condition, as a format; empty if it ignores the condition."""

NO_ETAG = "0" * 32  # of no object, nor of a part

_QUOTED, _BARE = '"{}"', "{}"
_UPLOADS_TRIED = 3

_known: dict[tuple[str, str], Answers] = {}


def answers_of(url: str, endpoint: str) -> Answers:
    """What this process knows of a store: shared, and filled by whoever asks first."""
    return _known.setdefault((url, endpoint), {})


class Probing(Store):
    """A store on a server of which it is not known what it makes of conditions.

    Args:
        url: as given by the user, for messages.
        engine: the obstore store, rooted at the URL.
        blocking: requests that the engine has no words for, below the same URL.
        retries: attempts after the first one fails.
        answers: what is known of the server; grows.
    """

    def __init__(self, url: str, engine: Engine, blocking: BlockingS3, *, retries: int, answers: Answers) -> None:
        super().__init__(url, engine, retries=retries)
        self._blocking = blocking
        self._answers = answers
        self._asking: dict[Condition, asyncio.Task[str]] = {}

    @abstractmethod
    async def _completed(self, staged: Staged) -> Completion:
        """Complete an upload."""

    async def _capabilities(self) -> Capabilities:
        conditions: tuple[Condition, ...] = Condition.__args__  # type: ignore[attr-defined]
        # Each to its end: else what one of them had put would stay.
        found = await asyncio.gather(*map(self._answer, conditions), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return Capabilities(**{name: bool(answer) for name, answer in zip(conditions, found, strict=True)})

    async def _answer(self, condition: Condition) -> str:
        """How the server wants the ETag of a condition; empty if it ignores it. Found out once."""
        if condition not in self._answers:
            task = self._asking.get(condition)
            if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
                probes: dict[Condition, Callable[[], Coroutine[Any, Any, str]]] = {
                    "create_if_absent": self._probe_create,
                    "replace_if_match": self._probe_replace,
                    "delete_if_match": self._probe_delete,
                    "bulk_delete": self._probe_bulk_delete,
                    "part_etags": self._probe_part_etags,
                }
                task = self._asking[condition] = asyncio.create_task(probes[condition]())
            self._answers[condition] = await asyncio.shield(task)  # others wait for it, too
        return self._answers[condition]

    async def _honoured(self, tried: Awaitable[str]) -> str:
        """The answer of a trial; what the server does not know at all it does not honour."""
        try:
            return await tried
        except (AccessDenied, StoreUnavailable):
            raise
        except StoreError:
            return ""

    # ---- writes ------------------------------------------------------------------------------------------------

    async def _probe_create(self) -> str:
        async with self._own_object() as there, self._own_object() as absent:
            await self.put(there, b"probe")

            async def tried() -> str:
                if not await self._refuses(there, "create"):
                    return ""
                await self._swap(absent, b"probe", None)
                return _QUOTED

            return await self._honoured(tried())

    async def _probe_replace(self) -> str:
        async with self._own_object() as key:
            etag = await self.put(key, b"probe")

            async def tried() -> str:
                # The form that the server does not understand must not overwrite either: both are sent.
                for form in (_QUOTED, _BARE):
                    if not await self._refuses(key, {"e_tag": form.format(NO_ETAG)}):
                        return ""
                await self._swap(key, b"replaced", etag)
                return _QUOTED

            return await self._honoured(tried())

    async def _refuses(self, key: str, mode: PutMode) -> bool:
        """Whether a write is refused whose condition does not hold. Repeated as often as it takes to be answered."""

        async def attempt() -> bool:
            try:
                with self._errors(key, passing=(obs.AlreadyExistsError, obs.PreconditionError)):
                    await obstore.put_async(self._engine, key, b"refuse this", mode=mode, use_multipart=False)
            except (obs.AlreadyExistsError, obs.PreconditionError):
                return True
            return False

        self.requests.add("PUT")
        return await self._repeated(attempt)

    # ---- deletes -----------------------------------------------------------------------------------------------

    async def _probe_delete(self) -> str:
        key = _new_key()
        etag = await self.put(key, b"probe")

        async def delete_if_match(if_match: str) -> bool:
            self.requests.add("DELETE")
            return await self._asked(key, self._blocking.delete_if_match, key, if_match)

        async def refused() -> str:
            return "" if await delete_if_match(f'"{NO_ETAG}"') else _QUOTED

        for form in (_QUOTED, _BARE) if await self._honoured(refused()) else ():
            if await delete_if_match(form.format(etag)) or await self.head(key) is None:
                return form
        await self.delete(key)
        logger.warning(
            "%s: this server ignores the condition of a conditional delete. Each object is looked at right before it is"
            " deleted instead; one that is replaced within the milliseconds between would be lost.",
            self.url,
        )
        return ""

    async def _probe_bulk_delete(self) -> str:
        async with self._own_object() as kept, self._own_object() as gone:
            await self.put(kept, b"probe")
            etag = await self.put(gone, b"probe")

            async def tried() -> str:
                for form in (_QUOTED, _BARE):
                    self.requests.add("DELETE")
                    versions = [(kept, form.format(NO_ETAG)), (gone, form.format(etag))]
                    deleted = await self._asked(kept, self._blocking.delete_together, versions)
                    if kept in deleted or await self.head(kept) is None:
                        return ""
                    if await self.head(gone) is None:  # the answer may have been lost
                        return form
                return ""

            return await self._honoured(tried())

    # ---- uploads -----------------------------------------------------------------------------------------------

    async def _probe_part_etags(self) -> str:
        async with self._own_object() as key:
            for _ in range(_UPLOADS_TRIED):
                self.requests.add("PUT", 2)
                upload_id = await self._asked(key, self._blocking.begin, key)
                try:
                    await self._asked(key, self._blocking.upload_part, key, upload_id, 1, b"probe")
                    answer = await self._honoured(self._completed_with_another_part(key, upload_id))
                finally:
                    self.requests.add("DELETE")
                    await self._asked(key, self._blocking.abort, key, upload_id)
                if answer != "gone":
                    return answer
        # Another run has taken it for what a crash left.
        raise StoreUnavailable(self.name(key), "an upload vanished, again and again", "Run again")

    async def _completed_with_another_part(self, key: str, upload_id: str) -> str:
        match await self._completed(Staged(key, upload_id, (NO_ETAG,), 0)):
            case "parts differ":
                return _QUOTED
            case "gone":
                return "gone"
            case "done":
                return ""

    @asynccontextmanager
    async def _own_object(self) -> AsyncIterator[str]:
        """A key of our own, whose object is gone afterwards."""
        key = _new_key()
        try:
            yield key
        finally:
            await self.delete(key)


def _new_key() -> str:
    """Of an object that no listing of a store shows."""
    return f"{PROBE_DIRECTORY}/{uuid.uuid4().hex}"
