"""What the steps of a pair's day hand to each other, through the compact lake: all that their machines share.

Small JSON texts below `compacted/handover/`. The step that ends the day removes all of its pair's day, of dead runs,
too. What is gone reads as an empty text, and whoever needs it does the work itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import dagster as dg

from quantlab_dagster.work.stopping import run_interruptible

if TYPE_CHECKING:
    from quantlab_dagster.defs.resources import LakeResource
    from quantlab_dagster.lake.store.base import Store

__all__ = ["HANDED_OVER", "HANDOVER", "LakeHandover", "forget_handed_over"]

HANDOVER = "handover"
"""Key of the IO manager among the resources."""
HANDED_OVER = "compacted/handover/"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")


class LakeHandover(dg.IOManager):
    """Keeps texts in the compact lake, between the steps of one pair's day.

    Args:
        lake: the compact one.
    """

    def __init__(self, lake: LakeResource) -> None:
        self._lake = lake

    def handle_output(self, context: dg.OutputContext, obj: str) -> None:
        """Write the text that a step hands over."""
        content = obj.encode()
        run_interruptible(self._lake.store().put(_key(context, context.partition_key), content))

    def load_input(self, context: dg.InputContext) -> str:
        """The text; empty if it is gone, or of another run, as where that is executed again from its failure.

        What that run's steps said may be long ago; whoever hears nothing looks for itself.
        """
        handed = context.upstream_output
        assert handed is not None  # no input of these steps comes from elsewhere
        if handed.run_id != context.step_context.run_id:
            return ""
        found = run_interruptible(self._lake.store().get_if_exists(_key(handed, context.partition_key)))
        return found[0].decode() if found else ""


async def forget_handed_over(compact: Store, context: dg.OpExecutionContext) -> None:
    """Remove what steps of this pair's day handed over, in whatever run.

    Of another run of the same pair's day that goes on it takes away what it would say of its symbol-days, not these.
    """
    ours = _of_day(context.partition_key, context.op_handle.path[0])
    for info in await compact.list_objects(HANDED_OVER):
        if info.name.startswith(ours):
            await compact.delete(info.key)


def _key(handed: dg.OutputContext, partition: str) -> str:
    run_id, step, *rest = handed.get_identifier()
    node, _, op = step.partition(".")
    name = _NOT_IN_NAMES.sub("-", "-".join((op, *rest))).strip("-")
    # No directories, which a local lake would keep for ever.
    return f"{HANDED_OVER}{_of_day(partition, node)}{run_id}-{name}.json"


def _of_day(partition: str, node: str) -> str:
    return f"{partition}-{node}-"
