"""A bucket, or a prefix of one, on whatever server speaks S3."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as obs
from obstore import store as engines

from quantlab_dagster.errors import (
    AccessDenied,
    ConditionalWriteUnsupported,
    Conflict,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
)
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.engine import s3_engine
from quantlab_dagster.lake.store.multipart import BlockingS3
from quantlab_dagster.lake.store.objects import Staged
from quantlab_dagster.lake.store.probing import NO_ETAG, Probing, answers_of
from quantlab_dagster.lake.store.requesting import pause
from quantlab_dagster.lake.store.transfers import Sent, composite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from concurrent.futures import Future

    from obstore import PutMode

    from quantlab_dagster.lake.store.objects import Completion, ObjectInfo, S3Options
    from quantlab_dagster.lake.store.probing import Answers
    from quantlab_dagster.lake.store.transfers import Sending

__all__ = ["S3Store", "s3_store"]

logger = logging.getLogger(__name__)

_CREATE_ATTEMPTS = 3
_MD5 = re.compile(r"[0-9a-f]{32}")
_OF_AWS = re.compile(r"https://[^/]*\.amazonaws\.com(\.cn)?(:443)?/?")


class S3Store(Probing):
    """A store on a server. Make one with `s3_store`.

    Args:
        url: as given by the user, for messages.
        engine: the obstore store, rooted at the URL.
        blocking: requests that the engine has no words for, below the same URL.
        retries: attempts after the first one fails.
        answers: what is known of the server; grows.
        checks_signatures: whether the server is known to refuse a body that is not the one that was signed.
    """

    def __init__(
        self,
        url: str,
        engine: engines.S3Store,
        blocking: BlockingS3,
        *,
        retries: int,
        answers: Answers,
        checks_signatures: bool = False,
    ) -> None:
        super().__init__(url, engine, blocking, retries=retries, answers=answers)
        self._checks_signatures = checks_signatures

    def _check_root(self) -> None:
        """Nothing to do: the server says itself that there is no such bucket."""

    def _requests_of(self, parts: int) -> int:
        return 2 + parts  # begin and end

    async def _arrived(self, key: str, etag: str, sent: Sent) -> bool:
        if etag == sent.etag:
            return True
        if self._checks_signatures and not self._known.matched:
            return True  # its ETags may well be no MD5 sums, and what came damaged would have been refused
        try:
            return await self.sha256(key) == sent.sha256
        except ObjectNotFound:
            return False

    # ---- conditional writes ------------------------------------------------------------------------------------

    async def _swap(self, key: str, content: bytes, expected_etag: str | None) -> str:
        sent = Sent.of(content)
        for _ in range(limits.SENDINGS):
            written, proved = await self._swap_unproved(key, content, expected_etag)
            if proved or await self._arrived(key, written, sent):
                return written
            logger.warning("%s was sent, and other bytes are there: it is sent again", self.name(key))
            expected_etag = written
        raise self._never_arrived(key)

    async def _swap_unproved(self, key: str, content: bytes, expected_etag: str | None) -> tuple[str, bool]:
        """Write on condition. Returns the new ETag, and whether the content was seen to be there."""
        if expected_etag == "":
            # SeaweedFS takes an empty If-Match for none at all, and overwrites.
            raise StoreError(self.name(key), "has no ETag to compare with", "Use a store that gives ETags")
        # AWS refuses to create an object (409) while another writer's attempt at it is not decided.
        forms = [None] * _CREATE_ATTEMPTS if expected_etag is None else [f'"{expected_etag}"', expected_etag]
        for number, form in enumerate(forms):
            if number and form is None:
                await pause(number)
            attempt = partial(self._swap_once, key, content, form, expected_etag)
            written = await self._repeated(attempt)
            if written is not None:
                return written
        raise ConditionalWriteUnsupported(
            self.name(key),
            "the server refuses a conditional write although the object is unchanged",
            "Without it concurrent writers cannot be told apart; use a server that supports If-None-Match and If-Match",
        )

    async def _swap_once(
        self, key: str, content: bytes, form: str | None, expected_etag: str | None
    ) -> tuple[str, bool] | None:
        """One conditional write, as above. Returns None if it was refused although the object is unchanged."""
        self.requests.add("PUT")
        unanswered: StoreUnavailable | None = None
        try:
            with self._errors(key, passing=(obs.AlreadyExistsError, obs.PreconditionError)):
                mode: PutMode = "create" if form is None else {"e_tag": form}
                result = await obstore.put_async(self._engine, key, content, mode=mode, use_multipart=False)
            return await self._etag_after_put(key, result["e_tag"]), False
        except (obs.AlreadyExistsError, obs.PreconditionError):
            pass
        except StoreUnavailable as error:
            unanswered = error
        # It may have been done nevertheless: the answer was lost, and a retry failed on its own success, or there was
        # none, since the engine does not repeat a conditional write that may have been done.
        current = await self.get_if_exists(key)
        if current is not None and current[0] == content:
            return current[1].etag, True
        if (current[1].etag if current else None) != expected_etag:
            raise Conflict(self.name(key), "was changed by another writer", "Run again")
        if unanswered is not None:
            raise unanswered
        return None

    # ---- conditional deletes -----------------------------------------------------------------------------------

    async def _delete_unchanged(self, key: str, etag: str) -> bool:
        form = await self._answer("delete_if_match")
        if not form:
            gone = await self._asked(key, self._blocking.look_and_delete, key, etag)
            self.requests.add("HEAD")
            self.requests.add("DELETE", int(gone))
            return gone
        for _ in range(2):
            self.requests.add("DELETE")
            if await self._asked(key, self._blocking.delete_if_match, key, form.format(etag)):
                return True
            # Another content; or it has gone, perhaps by our own request, whose answer was lost.
            current = await self.head(key)
            if current is None or current.etag != etag:
                return current is None
        cause = "the server refuses a conditional delete although the object is unchanged"
        raise StoreError(self.name(key), cause, "Run again, or use a server that supports If-Match")

    async def _bulk_delete(self) -> Callable[[Sequence[tuple[str, str]]], Awaitable[Collection[str]]] | None:
        form = await self._answer("bulk_delete")
        if not form:
            return None

        async def together(versions: Sequence[tuple[str, str]]) -> Collection[str]:
            self.requests.add("DELETE")
            said = [(key, form.format(etag)) for key, etag in versions]
            try:
                return await self._asked(versions[0][0], self._blocking.delete_together, said)
            except (AccessDenied, StoreUnavailable):
                raise
            except StoreError as error:  # such as a key that fits in no XML: the others must not suffer
                logger.warning("%s; they are deleted one by one", error)
                return ()

        return together

    # ---- staging -----------------------------------------------------------------------------------------------

    async def _begin(self, key: str) -> str:
        return await self._asked(key, self._blocking.begin, key)

    async def _upload(self, key: str, upload_id: str, sending: Sending, running: list[Future[Any]]) -> tuple[str, ...]:
        gate = asyncio.Semaphore(limits.UPLOADS_AT_ONCE)

        async def upload(number: int, piece: bytes) -> str:
            try:
                self.requests.add("PUT")
                # Its MD5 sum goes with it, and the server refuses what has another. What is sent again is the same.
                send = partial(self._blocking.upload_part, key, upload_id, number, piece)
                return await self._repeated(partial(self._threaded, key, send, running=running))
            finally:
                gate.release()

        tasks: list[asyncio.Task[str]] = []
        pieces = sending.pieces(limits.PART_BYTES)
        async with asyncio.TaskGroup() as group:
            while True:
                await gate.acquire()
                with self._errors(key):
                    piece = await asyncio.to_thread(next, pieces, None)
                if piece is None:
                    break
                tasks.append(group.create_task(upload(1 + len(tasks), piece)))
        return tuple(task.result() for task in tasks)

    def _abort(self, key: str, upload_id: str) -> None:
        self._blocking.abort(key, upload_id)

    async def _publish(self, staged: Staged) -> ObjectInfo | None:
        # All servers say OK to a second completion while the object is there.
        self.requests.add("LIST")
        if not await self._asked(staged.key, self._blocking.exists, staged.key, staged.upload_id):
            return None
        match await self._completed(staged):
            case "done":
                # If it is not seen to be made of these parts, the caller looks at what is there.
                there = await self.head(staged.key)
                return there if there and there.etag == _etag_of_parts(staged.etags) else None
            case "gone":
                return None
            case "parts differ":  # somebody is discarding it, or stopped half-way
                await self.discard(staged)
                return None

    async def _discard(self, staged: Staged) -> bool:
        key, blocking = staged.key, self._blocking
        # Ceph 16 lets an upload be completed and aborted at once, says OK to both, and hours later deletes the bytes.
        # So first spoil it: with another part in place no completion succeeds but one that has begun. Then try to
        # complete it with a part that it cannot have, which fails once no other completion is under way.
        before = await self.head(key)
        self.requests.add("PUT")
        try:
            await self._asked(key, blocking.upload_part, key, staged.upload_id, 1, b"discarded")
        except ObjectNotFound:
            return False
        if await self._completed(Staged(key, staged.upload_id, (NO_ETAG,), 0)) == "parts differ":
            self.requests.add("DELETE")
            await self._asked(key, blocking.abort, key, staged.upload_id)
        # A completion may have come first, which no answer tells: SeaweedFS keeps both parts, and says OK to the abort.
        return await self.head(key) == before

    async def _completed(self, staged: Staged) -> Completion:
        """Complete an upload, seeing what became of earlier attempts before trying again."""
        key, upload_id, blocking = staged.key, staged.upload_id, self._blocking

        async def attempt() -> Completion:
            try:
                return await self._threaded(key, blocking.complete, key, upload_id, staged.etags)
            except StoreUnavailable:
                # The answer was lost; or this is Ceph, which says 500 if there is no such upload.
                if not await self._threaded(key, blocking.exists, key, upload_id):
                    return "gone"
                raise

        self.requests.add("PUT")
        return await self._repeated(attempt)

    def _find_staged(self, prefix: str) -> list[Staged]:
        return self._blocking.below(prefix)

    def _find_names(self, prefix: str) -> list[str]:
        return self._blocking.names_below(prefix)

    @property
    def levels_above(self) -> int:
        """`Store.levels_above`, up to the bucket."""
        return self._blocking.levels_above

    def _find_above(self, level: int, directory: str) -> tuple[str, list[str]]:
        self.requests.add("LIST")
        return self._blocking.peek_above(level, directory)


def _etag_of_parts(etags: tuple[str, ...]) -> str:
    """The ETag of an upload that consists of these parts, where they are MD5 sums; else nothing that is one."""
    if not all(_MD5.fullmatch(etag) for etag in etags):
        return ""
    return composite([bytes.fromhex(etag) for etag in etags])


def s3_store(url: str, options: S3Options, *, setting: str = "") -> S3Store:
    """Open a bucket, or a prefix of one.

    Args:
        url: `s3://bucket/prefix`.
        options: how to reach it.
        setting: name of the setting that the URL comes from, for remedies.

    Raises:
        SettingsError: the URL, the region or the endpoint cannot be used.
    """
    found = s3_engine(url, options, setting=setting)
    blocking = BlockingS3(found.bucket, found.prefix, options)
    # AWS compares each body with the SHA-256 that the engine signs.
    checks = options.session is not None and bool(_OF_AWS.fullmatch(options.endpoint))
    answers = answers_of(url, options.endpoint)
    return S3Store(url, found.engine, blocking, retries=options.retries, answers=answers, checks_signatures=checks)
