"""`quantlab catch-up` in this process: open days first, whole rounds, back-off, and no failure swallowed."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.cli.runs.in_process import step_failures
from quantlab_dagster.cli.runs.market import RunReport, catch_up
from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.store.base import Store
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.settling import begin, seed
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.settings import load_settings
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import PAIR, Lakes, Recorder, spec, symbol_day

if TYPE_CHECKING:
    from quantlab_dagster.market.catchup import CatchUp
    from quantlab_dagster.market.outcome import Outcome
    from quantlab_dagster.market.state import State

pytestmark = pytest.mark.present


@pytest.fixture
def day() -> dt.date:
    return last_eligible_day(utc_now())


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, day: dt.date) -> Lakes:
    """The last eligible day is open, all before it is settled."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lakes.put_spec(spec(day=day, parts=2, rows=20))
    before = day - dt.timedelta(days=1)
    asyncio.run(
        StateStore(lakes.compact).update(lambda _: seed(begin(None, before, utc_now()), before, utc_now(), [PAIR]))
    )
    return lakes


def caught_up(listener: Any = None, *, minutes: int = 0) -> tuple[RunReport, CatchUp]:
    return catch_up(
        load_settings(),
        listener=listener or Recorder(),
        tell=lambda _: None,
        clock=lambda: utc_now() + dt.timedelta(minutes=minutes),
    )


def state_of(lakes: Lakes) -> State:
    state = asyncio.run(StateStore(lakes.compact).read())
    assert state is not None
    return state


@pytest.mark.guards("outage-uses-up")
def test_a_day_that_failed_waits_for_cron_as_well(lakes: Lakes, day: dt.date) -> None:
    broken = symbol_day(day=day).key("meta.json")
    asyncio.run(lakes.compact.put(broken, b"no json"))
    report, left = caught_up()
    assert [item.status.value for item in report.outcomes] == ["failed"]
    assert len(report.run_ids) == 1
    report, left = caught_up()
    assert report.run_ids == []
    assert left.waiting == (day,)
    assert f"{day}: failed 1 time, tried again from " in left.skipped[0]
    asyncio.run(lakes.compact.delete(broken))
    report, left = caught_up(minutes=6)
    assert len(report.run_ids) == 1
    assert (report.failures, left.skipped) == ([], ())
    assert state_of(lakes).is_settled(day)


def test_an_error_that_nobody_expected_is_said_with_its_cause() -> None:
    @dg.op
    def counts() -> None:
        try:
            dt.date.max + dt.timedelta(days=1)
        except OverflowError as error:
            raise RuntimeError("cannot count") from error

    @dg.job
    def counting() -> None:
        counts()

    result = counting.execute_in_process(raise_on_error=False)
    assert step_failures(result, {}) == ["counts: OverflowError: date value out of range"]


class Collector(Recorder):
    """While a pair is compacted, a symbol comes that its step does not see."""

    def __init__(self, lakes: Lakes, day: dt.date) -> None:
        super().__init__()
        self._raw, self._day = Path(lakes.raw_url), day

    def finished(self, outcome: Outcome) -> None:
        super().finished(outcome)
        seen, late = (self._raw / symbol_day(symbol, self._day).prefix for symbol in ("adausdt", "btcusdt"))
        late.mkdir(parents=True, exist_ok=True)
        for part in seen.iterdir():
            (late / part.name).write_bytes(part.read_bytes())


@pytest.mark.guards("roll-up-swallowed")
def test_the_failure_of_a_roll_up_is_not_swallowed_and_its_pairs_run_again(lakes: Lakes, day: dt.date) -> None:
    report, _ = caught_up(Collector(lakes, day))
    assert [item.reason for item in report.outcomes] == ["not published"], "as the roll-up says of the other"
    [failure] = report.failures
    assert failure.startswith("compact__state: 1 of 2 symbol-days are neither published nor quarantined: ")
    assert f"{symbol_day('btcusdt', day)}: not published" in failure
    assert state_of(lakes).days[f"{day:%Y%m%d}"].status == "failed"
    report, _ = caught_up(minutes=6)
    assert sorted(item.symbol_day.symbol for item in report.outcomes) == ["adausdt", "btcusdt"]
    assert report.failures == []
    assert state_of(lakes).is_settled(day)


@pytest.mark.guards("scan-gap")
def test_the_search_for_late_parts_goes_all_the_way(lakes: Lakes, day: dt.date) -> None:
    for number in range(310):
        directory = Path(lakes.raw_url) / symbol_day(f"symbol{number}", day).prefix
        directory.mkdir(parents=True)
        (directory / "no.part").write_bytes(b"")
    caught_up()
    caught_up(minutes=61)
    [scan] = state_of(lakes).late_scan.rounds.values()
    assert scan.started_at is not None
    assert scan.cursor is None


def test_a_search_that_is_put_off_is_said(lakes: Lakes, day: dt.date, capsys: pytest.CaptureFixture[str]) -> None:
    def said() -> str:
        with pytest.raises(SystemExit):
            main(["catch-up"])
        return capsys.readouterr().out

    put_off = "and not now: the next search is from"
    assert put_off not in said()
    assert put_off in said()
    del lakes, day


@pytest.mark.guards("scan-before-open")
def test_open_days_are_run_although_late_parts_cannot_be_looked_for(
    lakes: Lakes, day: dt.date, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_pairs(*_: object) -> None:
        raise StoreUnavailable("raw", "no root today")

    original = Store.list_names

    async def list_names(store: Store, prefix: str) -> Any:
        fails = not prefix and store.url == lakes.raw_url
        return await (no_pairs() if fails else original(store, prefix))

    monkeypatch.setattr(Store, "list_names", list_names)
    report, _ = caught_up()
    assert [item.status.value for item in report.outcomes] == ["success"]
    assert report.failures == ["late parts could not be looked for: raw: no root today"]
    assert state_of(lakes).is_settled(day)


@dg.op
def one_step() -> None:
    raise dg.Failure("1 of 1 symbol-days failed: binance/bbo/a/20260108: not published")


@dg.op
def other_step() -> None:
    raise dg.Failure("1 of 2 symbol-days are open: binance/bbo/b/20260108: not published")


@dg.job
def two_steps() -> None:
    one_step()
    other_step()


@pytest.mark.guards("roll-up-swallowed")
def test_a_reason_explains_the_failure_of_its_own_step_only() -> None:
    result = two_steps.execute_in_process(raise_on_error=False)
    known = {"one_step": ["binance/bbo/a/20260108: not published", "not published"]}
    [failure] = step_failures(result, known)
    assert failure.startswith("other_step: 1 of 2")
    assert len(step_failures(result, {})) == 2
