"""Days, pairs, deployments, late and vanished parts, crashes, seeds, accepts, repairs, rebuilds: against a small model.

Two deployments with different pairs work on one lake, on a local directory, through the functions of `market/`. After
every step what stands in the lake is compared with what the model knows; the model looks at files alone.

For a longer run set QUANTLAB_MODEL_EXAMPLES=300 and QUANTLAB_MODEL_STEPS=60; with QUANTLAB_MODEL_SHRINK=0 a failure is
shown as it was met. `-s` says how many steps it was. The last long run, on 2026-11-28: 100 examples, 2,748 steps, each
rule 70 to 396 times, and nothing failed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quantlab_dagster.errors import QuantlabError, StoreUnavailable
from quantlab_dagster.lake.market import Pair, SymbolDay
from quantlab_dagster.lake.store.opening import open_store
from quantlab_dagster.market.accepting import accept
from quantlab_dagster.market.compact import compact_and_record
from quantlab_dagster.market.late import scan_slice
from quantlab_dagster.market.outcome import Verdict
from quantlab_dagster.market.place import MarketPlace
from quantlab_dagster.market.plan import Requested
from quantlab_dagster.market.rebuild import rebuild_state
from quantlab_dagster.market.rollup import roll_up_and_settle
from quantlab_dagster.market.settling import begin, seed, unsettled_days
from quantlab_dagster.market.state import STATE_KEY, State
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.market.verify import verify_pair
from quantlab_dagster.work.limits import Limits
from quantlab_dagster_tests.lakes import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from quantlab_dagster.lake.store.base import Store

FIRST = dt.date(2026, 1, 8)
DAYS = [FIRST + dt.timedelta(days=number) for number in range(3)]
NOW = dt.datetime(2026, 1, 11, 12, tzinfo=dt.UTC)
BBO, TRADE, FUNDING = (Pair("binance", stream) for stream in ("bbo", "trade", "funding"))
DEPLOYMENTS = {"small": (BBO,), "large": (BBO, TRADE)}
SYMBOLS = ("a", "b")

deployments = st.sampled_from(sorted(DEPLOYMENTS))
days = st.sampled_from(DAYS)
places = st.builds(
    lambda pair, symbol, day: SymbolDay(pair.exchange, pair.stream, symbol, day),
    st.sampled_from([BBO, TRADE]),
    st.sampled_from(SYMBOLS),
    days,
)
seeds = st.integers(0, 1 << 16)


# ---- how often each rule was applied ---------------------------------------------------------------------------------

applied: Counter[str] = Counter()


def step(**given: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule of the model that is counted: a long run says how many steps it was."""

    def declare(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def counting(self: Lake, **drawn: Any) -> None:
            applied[function.__name__] += 1
            self.time.pass_by(1)
            function(self, **drawn)

        ruled: Callable[..., None] = cast("Any", rule)(**given)(counting)
        return ruled

    return declare


# ---- what the code under test is called with -------------------------------------------------------------------------


class Died(StoreUnavailable):
    """The process is gone: nothing that it would still write arrives."""

    def __init__(self) -> None:
        super().__init__("here", "died")


@dataclass(slots=True)
class Time:
    """The present time, the same for all deployments; it stays before the next day becomes eligible."""

    now: dt.datetime = NOW

    def pass_by(self, minutes: int) -> None:
        self.now = min(self.now + dt.timedelta(minutes=minutes), NOW + dt.timedelta(hours=14))


class Dying:
    """A store of a process that dies before its nth change, counted from one."""

    def __init__(self, store: Store, change: int) -> None:
        self._store, self._left = store, change

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("put", "compare_and_swap", "delete", "delete_unchanged"):
            return found

        async def changing(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left <= 0:
                raise Died
            return await found(*arguments, **options)

        return changing


@dataclass(slots=True)
class Deployed:
    """One deployment's ways to work on the lake. All that depends on signatures of `market/` is here."""

    raw: Path
    compact: Path
    scratch: Path
    pairs: tuple[Pair, ...]
    time: Time

    def place(self, dies_before: int = 0) -> MarketPlace:
        limits = Limits(16 << 20, scratch_base=self.scratch)
        place = MarketPlace(
            open_store(str(self.raw)), open_store(str(self.compact)), limits, clock=lambda: self.time.now
        )
        return replace(place, compact=cast("Store", Dying(place.compact, dies_before))) if dies_before else place

    def compact_day(self, pair: Pair, day: dt.date, requested: Requested, dies_before: int = 0) -> None:
        work = compact_and_record(self.place(dies_before), pair, day, listener=Recorder(), requested=requested)
        self._run(work, dies_before)

    def roll_up(self, day: dt.date, dies_before: int = 0) -> bool:
        """Whether the day is settled."""
        done = self._run(roll_up_and_settle(self.place(dies_before), self.pairs, day), dies_before)
        return bool(done and done[0].settled)

    def rebuild(self) -> None:
        self._run(rebuild_state(self.place(), self.pairs))

    def begin(self) -> None:
        self._run(self._states.update(lambda before: begin(before, FIRST, self.time.now, self.pairs)))

    def seed(self, day: dt.date) -> bool:
        """Whether it was allowed."""
        return self._done(self._states.update(lambda before: seed(before, day, self.time.now, self.pairs)))

    def accept(self, what: dt.date | SymbolDay) -> bool:
        """Whether there was something to accept."""
        return self._done(accept(self.place(), what, "because", self.pairs))

    def look_for_late_parts(self) -> State:
        """A whole round; returns the state with what it found."""
        state = self._run(self._states.view())
        found = self._run(
            scan_slice(self.place(), self._states, state, self.pairs, look_back_days=len(DAYS), seconds=None)
        )
        return cast("State", found)

    def repair(self, day: dt.date) -> None:
        """As `quantlab compact --repair` does: what is wrong is built over, what is missing is built."""
        for pair in self.pairs:
            for item in self._run(verify_pair(self.place(), pair, day)):
                if item.verdict is not Verdict.RIGHT:
                    requested = Requested(overwrite=item.verdict is Verdict.WRONG)
                    symbols = [item.symbol_day.symbol]
                    self._run(
                        compact_and_record(
                            self.place(), pair, day, listener=Recorder(), symbols=symbols, requested=requested
                        )
                    )

    def open_days(self, state: State) -> list[dt.date]:
        return unsettled_days(state, DAYS[-1], self.pairs)

    @property
    def _states(self) -> StateStore:
        return StateStore(self.place().compact)

    def _done(self, work: Coroutine[Any, Any, Any]) -> bool:
        try:
            self._run(work)
        except QuantlabError:
            return False
        return True

    def _run(self, work: Coroutine[Any, Any, Any], dies_before: int = 0) -> Any:
        try:
            return asyncio.run(work)
        except Died:
            assert dies_before
        except QuantlabError:
            raise
        return None


# ---- the model -------------------------------------------------------------------------------------------------------


def rows(seed: int) -> pa.Table:
    rng = Random(seed)
    return pa.table(
        {"ts_event": [rng.randrange(50) for _ in range(4)], "x": [rng.randrange(1 << 40) for _ in range(4)]}
    )


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@dataclass(frozen=True, slots=True)
class Published:
    """A day that its meta commits.

    Attributes:
        rows: that it has.
        sources: raw objects that it says it was made of, by name and ETag; None if that is not known.
        table: its rows.
    """

    rows: int
    sources: tuple[tuple[str, str], ...] | None
    table: pa.Table


def naive(tables: list[pa.Table]) -> dict[str, list[int]]:
    """Rows in the order of (ts_event, part, row), numbered."""
    found = [
        (row["ts_event"], part, at, row["x"]) for part, t in enumerate(tables) for at, row in enumerate(t.to_pylist())
    ]
    ordered = sorted(found)
    return {"ts_event": [row[0] for row in ordered], "seq": list(range(len(ordered))), "x": [row[3] for row in ordered]}


class Lake(RuleBasedStateMachine):
    """The lake, and what must hold of it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="model-"))
        for name in ("raw", "compact", "scratch"):
            (self.root / name).mkdir()
        self.time = Time()
        self.deployed = {
            name: Deployed(self.root / "raw", self.root / "compact", self.root / "scratch", pairs, self.time)
            for name, pairs in DEPLOYMENTS.items()
        }
        self.store = open_store(str(self.root / "raw"))
        self.parts: dict[SymbolDay, dict[str, pa.Table | None]] = {}
        self.contents: dict[tuple[SymbolDay, str, str], pa.Table] = {}
        self.rows: dict[SymbolDay, int] = {}
        self.may_shrink: set[SymbolDay] = set()
        self.true: set[tuple[Pair, dt.date]] = set()
        self.decided: set[dt.date] = set()
        self.watermark: dt.date | None = None
        self.inventory: set[str] = set()
        self.accepted: dict[str, set[tuple[str, str]]] = {}
        self.counter = 0

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # -- the raw lake --

    def _put(self, where: SymbolDay, name: str, table: pa.Table | None) -> None:
        data = b"no parquet" if table is None else parquet(table)
        etag = asyncio.run(self.store.put(where.key(name), data))
        self.parts.setdefault(where, {})[name] = table
        if table is not None:
            self.contents[where, name, etag] = table

    @initialize(where=places, seed=seeds, by=deployments)
    def starts(self, where: SymbolDay, seed: int, by: str) -> None:
        (self.root / "raw" / BBO.prefix).mkdir(parents=True)
        self._new_part(where, seed)
        self.deployed[by].begin()

    @step(where=places, seed=seeds)
    def new_part(self, where: SymbolDay, seed: int) -> None:
        self._new_part(where, seed)

    def _new_part(self, where: SymbolDay, seed: int) -> None:
        self.counter += 1
        self._put(where, f"part-1767830400-{self.counter:06d}.parquet", rows(seed))

    @step(where=places)
    def corrupt_part(self, where: SymbolDay) -> None:
        self.counter += 1
        self._put(where, f"part-1767830400-{self.counter:06d}.parquet", None)

    def _some_part(self, pick: int) -> tuple[SymbolDay, str]:
        found = [(where, name) for where, parts in self.parts.items() for name in parts]
        return found[pick % len(found)]

    @precondition(lambda self: any(self.parts.values()))
    @step(pick=seeds)
    def part_vanishes(self, pick: int) -> None:
        where, name = self._some_part(pick)
        asyncio.run(self.store.delete(where.key(name)))
        del self.parts[where][name]

    @precondition(lambda self: any(self.parts.values()))
    @step(pick=seeds, seed=seeds)
    def part_is_replaced(self, pick: int, seed: int) -> None:
        where, name = self._some_part(pick)
        self._put(where, name, rows(seed))

    # -- work --

    @step(by=deployments, day=days, overwrite=st.booleans(), dies_before=st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]))
    def compacts(self, by: str, day: dt.date, overwrite: bool, dies_before: int) -> None:
        self._compact(by, day, Requested(overwrite=overwrite), dies_before)

    @step(by=deployments, day=days)
    def compacts_and_may_shrink(self, by: str, day: dt.date) -> None:
        self.may_shrink |= {where for where in self._known() if where.day == day}
        self._compact(by, day, Requested(overwrite=True, allow_shrink=True))

    def _compact(self, by: str, day: dt.date, requested: Requested, dies_before: int = 0) -> None:
        for pair in DEPLOYMENTS[by]:
            self.deployed[by].compact_day(pair, day, requested, dies_before)

    @step(by=deployments, day=days, dies_before=st.sampled_from([0, 0, 0, 1, 2]))
    def rolls_up(self, by: str, day: dt.date, dies_before: int) -> None:
        self._roll_up(by, day, dies_before)

    def _roll_up(self, by: str, day: dt.date, dies_before: int = 0) -> None:
        true = {(pair, day) for pair in DEPLOYMENTS[by] if self._is_done(pair, day)}
        settled = self.deployed[by].roll_up(day, dies_before)
        if dies_before and len(true) == len(DEPLOYMENTS[by]):
            self.true |= true  # it may have died after it had settled the day
        if settled:
            self.true |= {(pair, day) for pair in DEPLOYMENTS[by]}
            let_be = self._state().accepted or {}
            for where in self._known():
                if where.day != day or where.pair not in DEPLOYMENTS[by]:
                    continue
                key = where.state_key
                assert self._symbol_day_is_done(where) or key in let_be, f"{day} was settled, and {key} is not done"
                if key in let_be and self._listed(where):
                    assert self._listed(where) == self.accepted[key], f"{key} is accepted, and its raw parts are others"

    @step(by=deployments)
    def catches_up(self, by: str) -> None:
        for day in self.deployed[by].open_days(self._state()):
            self._compact(by, day, Requested())
            self._roll_up(by, day)

    @step(by=deployments)
    def finds_late_parts(self, by: str) -> None:
        """What a round passes over, nobody finds; and what it finds, the day's next run builds in."""
        self.time.pass_by(61)
        state = self.deployed[by].look_for_late_parts()
        late = [
            where
            for where in self._known()
            if where.pair in DEPLOYMENTS[by] and state.covers(where.pair, where.day) and self._has_late_parts(where)
        ]
        assert {where.state_key for where in late} <= state.late_scan.stale.keys()
        for pair, day in sorted({(where.pair, where.day) for where in late}):
            self.deployed[by].compact_day(pair, day, Requested())
        for where in late:
            assert not self._has_late_parts(where), where
        after = self._state().late_scan.stale
        assert not {where.state_key for where in late} & after.keys(), "what was built in is not stale"

    def _has_late_parts(self, where: SymbolDay) -> bool:
        """Whether it has raw parts, still has all that it was made of, and was made of fewer; or of none so far."""
        there, found = self._listed(where), self._committed(where)
        if not there or self._read(where, "quarantine.json") is not None:
            return False
        if found is None:
            return self._read(where, "meta.json") is None
        return found.sources is not None and set(found.sources) < there

    # -- people --

    @step(by=deployments, day=days)
    def accepts(self, by: str, day: dt.date) -> None:
        before = self._state().accepted or {}
        if self.deployed[by].accept(day):
            self.decided.add(day)
            for key, decision in (self._state().accepted or {}).items():
                if decision != before.get(key):
                    self.accepted[key] = self._listed(self._of(key))

    @step(by=deployments, where=places)
    def accepts_symbol_day(self, by: str, where: SymbolDay) -> None:
        if self.deployed[by].accept(where):
            self.accepted[where.state_key] = self._listed(where)

    def _listed(self, where: SymbolDay) -> set[tuple[str, str]]:
        return {(info.name, info.etag) for info in asyncio.run(self.store.list_objects(where.prefix))}

    @step(where=places)
    def data_is_damaged(self, where: SymbolDay) -> None:
        path = self.root / "compact" / where.key("data.parquet")
        if path.exists():
            path.write_bytes(b"junk")

    @step(by=deployments, day=days)
    def repairs(self, by: str, day: dt.date) -> None:
        self.deployed[by].repair(day)

    @step(by=deployments, day=st.sampled_from(DAYS[:2]))
    def seeds_state(self, by: str, day: dt.date) -> None:
        if self.deployed[by].seed(day):
            self.decided |= {other for other in DAYS if other <= day}

    @step(by=deployments)
    def rebuilds(self, by: str) -> None:
        self._look_at_all(by)
        self.deployed[by].rebuild()

    @step(by=deployments, junk=st.sampled_from([b"", b"{", b"{}", b"[]", b'{"last_compacted_date": "20620101x"}']))
    def state_is_ruined_and_rebuilt(self, by: str, junk: bytes) -> None:
        (self.root / "compact" / STATE_KEY).write_bytes(junk)
        self._look_at_all(by)
        # Who remembered the watermark and what is gone from the lake is no more; decisions go with the file.
        self.watermark, self.decided = None, set()
        pairs = (BBO, TRADE)
        there = [self._of(key) for key in self.inventory]
        self.inventory = {where.state_key for where in there if where.pair in pairs and self._committed(where)}
        self.deployed[by].rebuild()

    def _look_at_all(self, by: str) -> None:
        self.true |= {(pair, day) for pair in DEPLOYMENTS[by] for day in DAYS if self._is_done(pair, day)}

    # -- what the files say --

    def _state(self) -> State:
        state = asyncio.run(StateStore(open_store(str(self.root / "compact"))).view())
        assert state is not None
        return state

    def _known(self) -> list[SymbolDay]:
        return [
            SymbolDay(pair.exchange, pair.stream, symbol, day)
            for pair in (BBO, TRADE)
            for symbol in SYMBOLS
            for day in DAYS
        ]

    def _of(self, key: str) -> SymbolDay:
        return next(where for where in self._known() if where.state_key == key)

    def _read(self, where: SymbolDay, name: str) -> Any:
        path = self.root / "compact" / where.prefix / name
        return json.loads(path.read_text()) if path.exists() else None

    def _committed(self, where: SymbolDay) -> Published | None:
        meta, data = self._read(where, "meta.json"), self.root / "compact" / where.prefix / "data.parquet"
        if meta is None or not data.exists() or hashlib.sha256(data.read_bytes()).hexdigest() != meta["sha256"]:
            return None
        sources = self._read(where, "sources.json")
        known = sources is not None and sources["raw_fingerprint"] == meta["raw_fingerprint"]
        objects = tuple((item["name"], item["etag"]) for item in sources["objects"]) if known else None
        return Published(meta["rows"], objects, pq.ParquetFile(data).read())

    def _is_done(self, pair: Pair, day: dt.date) -> bool:
        """Whether each symbol of the pair that has raw parts that day is published, or quarantined."""
        of_day = (where for where in self._known() if where.pair == pair and where.day == day)
        return all(self._symbol_day_is_done(where) for where in of_day)

    def _symbol_day_is_done(self, where: SymbolDay) -> bool:
        if not self.parts.get(where):
            return True
        return self._committed(where) is not None or self._read(where, "quarantine.json") is not None

    # -- what must hold --

    @invariant()
    def published_days_are_what_they_say(self) -> None:
        for where in self._known():
            found = self._committed(where)
            if found is None:
                continue
            assert found.rows == len(found.table), where
            if found.sources is not None:
                made_of = [self.contents[where, name, etag] for name, etag in found.sources]
                assert found.table.to_pydict() == naive(made_of), where

    @invariant()
    def no_day_has_fewer_rows(self) -> None:
        for where in self._known():
            found = self._committed(where)
            if found is None:
                continue
            assert found.rows >= self.rows.get(where, 0) or where in self.may_shrink, where
            self.rows[where] = found.rows
            self.may_shrink.discard(where)

    @invariant()
    def the_watermark_never_moves_back(self) -> None:
        watermark = self._state().watermark
        assert self.watermark is None or (watermark is not None and watermark >= self.watermark)
        self.watermark = watermark

    @invariant()
    def nothing_is_called_settled_that_was_not(self) -> None:
        state = self._state()
        begin = dt.datetime.strptime(state.catch_up_from, "%Y%m%d").date() if state.catch_up_from else DAYS[-1]  # noqa: DTZ007
        for day in DAYS:
            if day < begin or day in self.decided or not state.is_settled(day):
                continue
            someone = any(all((pair, day) in self.true for pair in pairs) for pairs in DEPLOYMENTS.values())
            assert someone, f"{day} is called settled, and nobody found it so"
            for pair in (BBO, TRADE, FUNDING):
                assert not state.covers(pair, day) or (pair, day) in self.true, f"{day} for {pair}"

    @invariant()
    def the_inventory_loses_nothing(self) -> None:
        there = set(self._state().partitions)
        assert self.inventory <= there, self.inventory - there
        self.inventory = there

    @invariant()
    def scratch_is_empty(self) -> None:
        assert [
            path for path in (self.root / "scratch").rglob("*") if path.is_file() and path.suffix == ".parquet"
        ] == []


LONG = "QUANTLAB_MODEL_EXAMPLES" in os.environ
SHRINKS = os.environ.get("QUANTLAB_MODEL_SHRINK", "1") == "1"

Lake.TestCase.settings = settings(
    max_examples=int(os.environ.get("QUANTLAB_MODEL_EXAMPLES", "12")),
    stateful_step_count=int(os.environ.get("QUANTLAB_MODEL_STEPS", "20")),
    deadline=None,
    derandomize=not LONG,
    phases=list(Phase) if SHRINKS else [Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


TestLake = Lake.TestCase
if LONG:
    TestLake = pytest.mark.timeout(0)(TestLake)


@pytest.fixture(scope="module", autouse=True)
def _said_at_the_end() -> Iterator[None]:
    """What a run was worth, shown with `-s`."""
    yield
    said = ", ".join(f"{name} {times}" for name, times in sorted(applied.items()))
    sys.stderr.write(f"\n{applied.total()} steps: {said}\n")
