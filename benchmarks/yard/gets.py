"""Every object of a bucket, fetched and thrown away, as many at a time as a run has in flight; prints how many."""

from __future__ import annotations

import asyncio
import os
import sys

from obstore.store import S3Store

AT_ONCE = 64


async def main(bucket: str) -> None:
    """List, fetch."""
    store = S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
        client_options={"allow_http": True},
    )
    gate = asyncio.Semaphore(AT_ONCE)

    async def fetch(key: str) -> int:
        async with gate:
            result = await store.get_async(key)
            return len(await result.bytes_async())

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(item["path"])) for batch in store.list() for item in batch]
    print(sum(task.result() > 0 for task in tasks))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    # Without the interpreter's end, in which a thread of the engine may abort the process (`lake/store/requesting.py`).
    sys.stdout.flush()
    os._exit(0)
