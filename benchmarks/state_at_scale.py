"""What the state costs when the lake is large: time and memory of a step's record, of a roll-up, and of a look.

    python benchmarks/state_at_scale.py [SYMBOL_DAYS_A_DAY] [DAYS]

Nothing is compacted: outcomes are made up, and the lake is a local directory.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import resource
import sys
import tempfile
import time
from pathlib import Path

from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.market.catchup import read_or_begin
from quantlab_dagster.market.journal import Journal, entry_of
from quantlab_dagster.market.outcome import Outcome, Status
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.plan import Action
from quantlab_dagster.market.settling import begin, settle_day
from quantlab_dagster.market.state import STATE_KEY, State
from quantlab_dagster.market.state_store import StateStore

PAIRS = [Pair(exchange, stream) for exchange in ("binance", "bybit", "okx") for stream in "abcde"]


def outcomes(pair: Pair, day: dt.date, symbols: int) -> list[Outcome]:
    """How a step's symbol-days ended."""
    return [
        Outcome(
            SymbolDay(pair.exchange, pair.stream, f"symbol{number:04d}usdt", day),
            Status.SUCCESS,
            Action.BUILD,
            "not published",
            rows=123_456,
            bytes_in=91_000_000,
            day_quality="GOOD",
            raw_fingerprint="0" * 64,
        )
        for number in range(symbols)
    ]


async def main(a_day: int, days: int) -> None:
    """Work through the days, and say what each costs."""
    with tempfile.TemporaryDirectory() as directory:
        lakes = [Path(directory) / name for name in ("raw", "compact")]
        for lake in lakes:
            lake.mkdir()
        raw, compact = (open_store(str(lake), None) for lake in lakes)
        first, now = dt.date(2026, 1, 1), dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)
        states, journal = StateStore(compact), Journal(compact)
        await states.update(lambda before: begin(before, first, now, PAIRS))
        print("day | 15 steps, s | roll-up's fold, s | a look, s | _state.json, MB | records | peak RSS, MiB")
        for number in range(days):
            day, moment = first + dt.timedelta(days=number), now + dt.timedelta(days=number)
            started = time.monotonic()
            for pair in PAIRS:
                done = outcomes(pair, day, a_day // len(PAIRS))
                await journal.append(entry_of(pair, day, done, moment, whole=True))
            steps = time.monotonic() - started
            started = time.monotonic()

            def settle(state: State, day: dt.date = day, moment: dt.datetime = moment) -> State:
                return settle_day(state, day, Status.SUCCESS, moment, PAIRS)

            state = await states.fold(lambda before: before or State(), day=day, then=settle)
            rolled = time.monotonic() - started

            def clock(moment: dt.datetime = moment) -> dt.datetime:
                return moment

            place = MarketPlace(raw, compact, clock=clock)
            started = time.monotonic()
            await read_or_begin(place, PAIRS)
            look = time.monotonic() - started
            size = (lakes[1] / STATE_KEY).stat().st_size / 1e6
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(
                f"{number + 1:3d} | {steps:11.2f} | {rolled:17.2f} | {look:9.2f} | {size:15.1f} | "
                f"{len(state.partitions):7,} | {peak:4d}",
                flush=True,
            )


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*[*numbers, 10_000, 30][:2] if len(numbers) < 2 else numbers))
