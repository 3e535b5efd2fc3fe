from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from quantlab_dagster.work.stopping import run_interruptible


class Interrupted(BaseException):
    """What an earlier handler raises."""


def raising(*_: object) -> None:
    raise Interrupted


@pytest.fixture(autouse=True)
def _handlers() -> object:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.guards("signal-lost")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_callback_is_not_lost(number: signal.Signals) -> None:
    """Where a raising handler alone would be caught by the loop, and the work would go on."""
    signal.signal(number, raising)
    cleaned_up = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
            await asyncio.sleep(30)
        finally:
            cleaned_up.append(True)

    with pytest.raises(Interrupted):
        run_interruptible(work())
    assert cleaned_up == [True]
    assert signal.getsignal(number) is raising


def test_results_and_errors_pass_and_handlers_are_restored() -> None:
    async def value() -> int:
        return 3

    async def error() -> None:
        raise ValueError("mine")

    signal.signal(signal.SIGTERM, raising)
    assert run_interruptible(value()) == 3
    with pytest.raises(ValueError, match="mine"):
        run_interruptible(error())
    assert signal.getsignal(signal.SIGTERM) is raising
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_it_is_plain_asyncio() -> None:
    async def value() -> int:
        return 3

    results = []
    thread = threading.Thread(target=lambda: results.append(run_interruptible(value())))
    thread.start()
    thread.join()
    assert results == [3]


def test_a_process_without_handlers_ends_by_the_signal() -> None:
    code = (
        "import asyncio, os, signal\n"
        "from quantlab_dagster.work.stopping import run_interruptible\n"
        "async def work():\n"
        "    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.sleep(30)\n"
        "run_interruptible(work())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60, capture_output=True)
    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_stays_ignored(number: signal.Signals) -> None:
    """As in a job that a shell has put into the background."""
    signal.signal(number, signal.SIG_IGN)

    async def work() -> str:
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        return "done"

    assert run_interruptible(work()) == "done"
    assert signal.getsignal(number) is signal.SIG_IGN
