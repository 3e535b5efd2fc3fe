"""Compact an event lake in a process that kills itself (SIGKILL) right after its N-th change to the store.

python -m quantlab_dagster_tests.hours.killed URL SCRATCH N NOW

The environment says how to reach S3. Ends with 0 where there is no N-th change: then the work was done.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import os
import signal
import sys
from functools import wraps
from pathlib import Path
from typing import Any

import boto3

from quantlab_dagster.hours.compact import EventPlace
from quantlab_dagster.hours.pack import Rules
from quantlab_dagster.hours.sweep import sweep
from quantlab_dagster.lake.events import Scope
from quantlab_dagster.lake.store import S3Options, Store, open_store
from quantlab_dagster_tests.hours.event_lakes import HourRecorder

CHANGES = ("compare_and_swap", "stage", "publish", "discard", "delete_unchanged")


def kill_after(number: int) -> None:
    """Let the process die right after the N-th change, before anybody knows that it was made."""
    counter = itertools.count(1)

    def deadly(method: Any) -> Any:
        @wraps(method)
        async def wrapped(*arguments: Any, **options: Any) -> Any:
            result = await method(*arguments, **options)
            if next(counter) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for name in CHANGES:
        setattr(Store, name, deadly(getattr(Store, name)))


def main(url: str, scratch: Path, number: int, now: dt.datetime) -> int:
    s3 = None
    if url.startswith("s3:"):  # not through the resource, which would import Dagster first
        s3 = S3Options(boto3.Session(), os.environ["AWS_REGION"], os.environ["AWS_ENDPOINT_URL"])
    store = open_store(url, s3)
    kill_after(number)
    place = EventPlace(store, Rules(), 64 << 20, scratch_base=scratch, clock=lambda: now)
    done = asyncio.run(sweep(place, Scope(), HourRecorder()))
    return 0 if all(outcome.status == "compacted" for outcome in done.outcomes) else 3


if __name__ == "__main__":
    at, directory, nth, time = sys.argv[1:]
    sys.exit(main(at, Path(directory), int(nth), dt.datetime.fromisoformat(time)))
