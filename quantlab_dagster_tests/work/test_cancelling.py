"""Work that must not be cut off in the middle gets some time to end."""

from __future__ import annotations

import asyncio

import pytest

from quantlab_dagster.work.stopping import ended_within


async def cancelled_meanwhile(work_seconds: float, given_seconds: float) -> list[str]:
    events: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(work_seconds)
            events.append("ended")
        except asyncio.CancelledError:
            events.append("cut off")
            raise

    task = asyncio.ensure_future(ended_within(given_seconds, work()))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    return events


def test_work_that_ends_in_time_ends() -> None:
    assert asyncio.run(cancelled_meanwhile(0.2, 5)) == ["ended"]


@pytest.mark.guards("signal-lost")
def test_work_that_does_not_is_cut_off() -> None:
    assert asyncio.run(cancelled_meanwhile(30, 0.1)) == ["cut off"]


def test_results_and_errors_pass_through() -> None:
    async def fails() -> None:
        raise ValueError("as it is")

    assert asyncio.run(ended_within(1, asyncio.sleep(0, "result"))) == "result"
    with pytest.raises(ValueError, match="as it is"):
        asyncio.run(ended_within(1, fails()))
