"""Publishing that dies at any of its writes, while a reader reads in a loop: never a mixed or uncommitted day."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import polars as pl
import pytest

from quantlab_dagster import reader
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.synthetic.market import generate_parts
from quantlab_dagster_tests.lakes import Lakes, oracle, spec, symbol_day
from quantlab_dagster_tests.market.test_publish import dying_before

if TYPE_CHECKING:
    from quantlab_dagster_tests.conftest import Rig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(slots=True)
class Loop:
    """Reads a day again and again in a thread, and keeps what it saw, in the order in which it saw it first."""

    lake: reader.Lake
    versions: dict[str, pl.DataFrame]
    seen: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    reads: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                what = self._read()
            except (reader.DayUncommitted, reader.DayRebuilt) as error:
                what = type(error).__name__
            except Exception as error:  # noqa: BLE001  # shown by the test
                self.wrong.append(repr(error))
                return
            self.reads += 1
            if not self.seen or self.seen[-1] != what:
                self.seen.append(what)

    def _read(self) -> str:
        frame = pl.concat(list(self.lake.rows(columns=["ts_event", "seq", "bid_price"]).frames()))
        for name, version in self.versions.items():
            if frame.equals(version):
                return name
        self.wrong.append(f"{frame.height} rows of no version")
        return "mixed"

    _thread: threading.Thread = field(init=False)


@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_reader_sees_the_old_day_the_new_one_or_that_it_is_uncommitted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    for name, value in rig.env().items():
        monkeypatch.setenv(name, value)
    lakes = Lakes.of(rig)
    parts = lakes.put_spec(spec())
    late = replace(next(iter(generate_parts(spec(seed=9, parts=2)))), name="part-1767999999-000001.parquet")
    lakes.run()
    names = ["ts_event", "seq", "bid_price"]
    versions = {
        "old": pl.DataFrame(oracle(parts)).select(names),
        "new": pl.DataFrame(oracle([*parts, late])).select(names),
    }
    opened = reader.open_lake(lakes.compact_url, patience=0.0)
    with pytest.MonkeyPatch.context() as patched, Loop(opened, versions) as loop:
        lakes.put_raw(symbol_day(), [late])
        revive = dying_before(patched, type(lakes.compact), write)
        [item] = lakes.run().outcomes
        assert (item.status, item.error) == (Status.FAILED, "StoreUnavailable")
        after_death = _now(opened, versions)
        revive()
        [item] = lakes.run().outcomes
        assert item.built
        after_all = _now(opened, versions)
    assert loop.wrong == []
    assert loop.reads > 5
    assert after_death == ("old" if write == 1 else "DayUncommitted")
    assert after_all == "new"
    assert loop.seen[0] == "old"
    assert set(loop.seen) <= {"old", "new", "DayUncommitted", "DayRebuilt"}
    settled = [what for what in loop.seen if what in versions]
    assert settled in (["old"], ["old", "new"]) or settled == sorted(settled, reverse=True)


def _now(lake: reader.Lake, versions: dict[str, pl.DataFrame]) -> str:
    try:
        frame = lake.rows(columns=["ts_event", "seq", "bid_price"]).polars()
    except reader.DayUncommitted:
        return "DayUncommitted"
    return next(name for name, version in versions.items() if frame.equals(version))
