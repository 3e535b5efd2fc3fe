"""Completing a plan: its output becomes visible, then its inputs go. Safe to repeat, and for several at once.

What makes it safe (docs/adr/0006): the output is an upload that can be made visible once only, by whoever comes first.
A compactor that stalled for an hour cannot put it back after others merged it further.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab_dagster.errors import ObjectNotFound, PlanStuck, StoreError
from quantlab_dagster.lake.warehouse import list_hour
from quantlab_dagster.work.wording import name_some

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store
    from quantlab_dagster.lake.warehouse import AppHour
    from quantlab_dagster.warehouse.slot import Claim, ReplacementPlan

__all__ = ["Completed", "complete"]

logger = logging.getLogger(__name__)

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Completed:
    """How a plan ended.

    Attributes:
        replaced: whether its output is visible and its inputs are gone; else nothing was changed, nor ever will be.
        kept: inputs that had changed meanwhile, and were left alone.
        doubled_seconds: how long a reader may have seen rows twice: from the upload's appearance, as far as this
            process saw it, to the last deletion.
        reason: why it was given up; empty if it was not.
    """

    replaced: bool
    kept: tuple[str, ...] = ()
    doubled_seconds: float = 0.0
    reason: str = ""


async def complete(
    store: Store, partition: AppHour, plan: ReplacementPlan, claim: Claim, *, give_up: bool = False
) -> Completed:
    """Complete a plan, or give it up for good if that is still possible and its inputs are no longer what was read.

    Args:
        store: the event lake.
        partition: whose plan.
        plan: from the partition's slot.
        claim: holds that slot as it was read; the caller writes it afterwards.
        give_up: an operator's decision: give up a plan whose output is gone, whatever became of its inputs.

    Raises:
        PlanStuck: the output was there, or its upload was removed, and now inputs are missing as well.
        Conflict: another compactor has moved the slot on.
        StoreError: a request failed; the plan stays, and the next run goes on with it.
    """
    key, staged = partition.key(plan.output), plan.staged(partition)
    appeared = time.monotonic()
    safe = give_up or plan.giving_up
    output = await store.head(key)
    published = None
    if output is None:
        if await _changed(store, partition, plan):
            # Said before it is done: whoever goes on after a crash must know why the upload is gone.
            await claim.write_plan(plan.model_copy(update={"giving_up": True}), claim.slot.corrupt)
            safe = await store.discard(staged) or safe
        else:
            published = await store.publish(staged)
        # If not by us: somebody else published it just now; or it never was; or it was, and is gone again.
        output = published or await store.head(key)
    if output is None:
        return await _given_up(store, partition, plan, claim, safe=safe)
    if output.size_bytes != plan.size_bytes:
        raise _foreign(store, key, f"has {output.size_bytes} bytes instead of the {plan.size_bytes} planned")
    if published is None:
        try:
            sha256 = await store.sha256(key)
        except ObjectNotFound:
            await claim.check()  # if others have completed the plan and merged its output further, this says so
            raise
        if sha256 != plan.sha256:
            raise _foreign(store, key, "has another content than planned")
        await store.discard(staged)  # in case the same bytes came from another upload
    kept = await _delete_inputs(store, partition, plan)
    return Completed(replaced=True, kept=kept, doubled_seconds=time.monotonic() - appeared)


async def _given_up(store: Store, partition: AppHour, plan: ReplacementPlan, claim: Claim, *, safe: bool) -> Completed:
    """The output is not there, and its upload can no longer become visible."""
    await claim.check()  # else the plan was completed, and its output merged further
    changed = await _changed(store, partition, plan)
    names = name_some(changed, _MOST_NAMED)
    if changed and not safe:
        await claim.write_plan(plan, claim.slot.corrupt)  # as it was: this was not our doing
        raise PlanStuck(
            claim.name,
            f"{plan.output} is gone, and so are inputs that it replaced, or they changed: {names}",
            "Restore that object, or see that no rows are missing and run `quantlab warehouse recover --give-up`",
        )
    reason = f"inputs changed or vanished before they were replaced: {names}" if changed else "its upload is gone"
    logger.warning("%s: the plan for %s is given up, nothing was changed: %s", partition, plan.output, reason)
    return Completed(replaced=False, reason=reason)


async def _changed(store: Store, partition: AppHour, plan: ReplacementPlan) -> list[str]:
    """Names of inputs that are not there as they were read."""
    there = {(info.name, info.etag) for info in await list_hour(store, partition)}
    return [item.name for item in plan.inputs if (item.name, item.etag) not in there]


def _foreign(store: Store, key: str, cause: str) -> StoreError:
    return StoreError(store.name(key), f"{cause}; no input was deleted", "Find out who wrote it, and move it away")


async def _delete_inputs(store: Store, partition: AppHour, plan: ReplacementPlan) -> tuple[str, ...]:
    """Delete exactly the bytes that were read. Returns the names of inputs that had changed, and stay."""
    gone = await store.delete_all_unchanged([(partition.key(item.name), item.etag) for item in plan.inputs])
    kept = tuple(item.name for item, is_gone in zip(plan.inputs, gone, strict=True) if not is_gone)
    for name in kept:
        logger.warning("%s was replaced after it had been read: it is kept", store.name(partition.key(name)))
    return kept
