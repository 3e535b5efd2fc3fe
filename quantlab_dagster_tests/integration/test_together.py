"""Schedule, catch-up and people at once, on the same days: real processes, one lake, one Dagster instance."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.settling import seed
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.lakes import PAIR, Lakes, oracle, same_rows, spec, symbol_day

if TYPE_CHECKING:
    from pathlib import Path

    from quantlab_dagster_tests.conftest import Rig

pytestmark = pytest.mark.present

ONE_DAY = dt.timedelta(days=1)


@pytest.mark.guards("two-runs-at-once")
@pytest.mark.slow
def test_nobody_undoes_or_doubles_anybodys_work(rig: Rig, tmp_path: Path) -> None:
    lakes = Lakes.of(rig)
    last = last_eligible_day(utc_now())
    days = [last - 2 * ONE_DAY, last - ONE_DAY, last]
    raw = {
        (symbol, day): lakes.put_spec(spec(symbol, day=day, parts=20, rows=2_000))
        for day in days
        for symbol in ("adausdt", "btcusdt")
    }
    asyncio.run(StateStore(lakes.compact).update(lambda before: seed(before, days[0] - ONE_DAY, utc_now(), [PAIR])))
    home = tmp_path / "home"
    env = {
        **os.environ,
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo,trade",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "DAGSTER_HOME": str(home),
        **rig.env(),
    }
    everything = ["compact", "--date", f"{days[0]}", "--to", f"{days[-1]}"]
    commands = [["status"], everything, ["catch-up"], [*everything, "--overwrite"], ["catch-up"]]
    # Its databases first: several processes making them at once is Dagster's matter, not ours.
    home.mkdir()
    dg.DagsterInstance.local_temp(str(home)).dispose()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "quantlab_dagster.cli", *command],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    ended = [(process.communicate(timeout=300), process.returncode) for process in processes]
    for command, ((output, errors), code) in zip(commands[1:], ended[1:], strict=True):
        # An old day that another one is at work on is open yet: that is not fine, and nothing wrong.
        left_to_others = command == ["catch-up"] and "a run is queued or running" in output
        assert code == 0 or (code == 1 and left_to_others), (command, output, errors)

    for (symbol, day), parts in raw.items():
        assert same_rows(lakes.published(symbol_day(symbol, day)), oracle(parts))
        meta = json.loads(lakes.get(symbol_day(symbol, day).key("meta.json")))
        assert meta["revision"] == 1, "the content never changed"
    state = asyncio.run(StateStore(lakes.compact).read())
    assert state is not None
    assert state.watermark == last
    recorded = {key: record.status for key, record in state.partitions.items()}
    assert recorded == {symbol_day(symbol, day).state_key: "success" for symbol, day in raw}
    calm = subprocess.run(
        [sys.executable, "-m", "quantlab_dagster.cli", *everything, "--json"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {item["action"] for item in json.loads(calm.stdout)["symbol_days"]} == {"up_to_date"}
