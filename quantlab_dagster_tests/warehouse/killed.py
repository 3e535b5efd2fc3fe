"""Compact an event lake in a process that kills itself (SIGKILL) right after its N-th change to the store.

python -m quantlab_dagster_tests.warehouse.killed URL SCRATCH N NOW

The environment says how to reach S3; and if it names a DIRECT_ENDPOINT_URL, what the server honours is asked there.
It prints `died after change N: METHOD` and is killed; or it prints `made M changes` and ends with 0: there was no N-th
change, and the work was done. Any other end is a failure: 3, the work was not done; 4, it lived though it made N
changes; 5, it made none, so nothing of the store was watched.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import sys
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from quantlab_dagster.lake.store.local import LocalStore
from quantlab_dagster.lake.store.objects import S3Options
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.lake.store.probing import answers_of
from quantlab_dagster.lake.warehouse import Scope
from quantlab_dagster.warehouse.pack import Rules
from quantlab_dagster.warehouse.place import WarehousePlace
from quantlab_dagster.warehouse.sweep import sweep
from quantlab_dagster.work.limits import Limits
from quantlab_dagster_tests.warehouse.event_lakes import HourRecorder

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.base import Store

CHANGES = ("compare_and_swap", "stage", "publish", "discard", "delete_unchanged", "delete_all_unchanged")


class _Changes:
    """The names of the changes made; the process dies right after the N-th, before anybody knows of it."""

    def __init__(self, number: int) -> None:
        self.made: list[str] = []
        self._number = number

    def count(self, name: str) -> None:
        self.made.append(name)
        if len(self.made) == self._number:
            sys.stdout.write(f"died after change {self._number}: {name}\n")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(self, name: str, method: Any) -> Any:
        @wraps(method)
        async def wrapped(*arguments: Any, **options: Any) -> Any:
            result = await method(*arguments, **options)
            self.count(name)
            return result

        return wrapped

    def deadly_deletion(self, method: Any) -> Any:
        @wraps(method)
        def wrapped(*arguments: Any) -> Any:
            result = method(*arguments)
            if result:
                self.count("delete_unchanged")
            return result

        return wrapped


def kill_after(store: Store, number: int) -> list[str]:
    """Let the process die right after the N-th change to stores of this kind, before anybody knows that it was made.

    Returns:
        The names of the changes made, which grows.
    """
    kind, changes = type(store), _Changes(number)
    for name in CHANGES:
        if name != "delete_unchanged" or kind is not LocalStore:
            setattr(kind, name, changes.deadly(name, getattr(kind, name)))
    if kind is LocalStore:  # which deletes many one after the other in a thread, without asking for each
        kind._delete_if_free = changes.deadly_deletion(kind._delete_if_free)  # type: ignore[method-assign]
    return changes.made


def main(url: str, scratch: Path, number: int, now: dt.datetime) -> int:
    s3 = None
    if url.startswith("s3:"):  # not through the resource, which would import Dagster first
        s3 = S3Options(boto3.Session(), os.environ["AWS_REGION"], os.environ["AWS_ENDPOINT_URL"])
    store = open_store(url, s3)
    direct = os.environ.get("DIRECT_ENDPOINT_URL")
    if s3 and direct:
        known = open_store(url, replace(s3, endpoint_url=direct))
        asyncio.run(known.capabilities())
        answers_of(url, s3.endpoint).update(answers_of(url, direct))
    made = kill_after(store, number)
    place = WarehousePlace(store, Rules(), Limits(64 << 20, scratch_base=scratch), clock=lambda: now)
    done = asyncio.run(sweep(place, Scope(), HourRecorder()))
    sys.stdout.write(f"made {len(made)} changes\n")
    if not made:
        return 5
    if 0 < number <= len(made):
        return 4
    return 0 if all(outcome.status == "compacted" for outcome in done.outcomes) else 3


if __name__ == "__main__":
    at, directory, nth, time = sys.argv[1:]
    sys.exit(main(at, Path(directory), int(nth), dt.datetime.fromisoformat(time)))
