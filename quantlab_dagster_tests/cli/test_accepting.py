"""`quantlab state accept`: what an operator lets be is fine and listed with its reason, until its raw parts change."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quantlab_dagster.cli.app import main
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.outcome import Status
from quantlab_dagster.market.settling import begin, seed, settle_day
from quantlab_dagster.market.state import Acceptance, DayRecord, Delisted, LateScan, PartitionRecord, State, utc_text
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import PAIR, Lakes, spec, symbol_day

pytestmark = pytest.mark.present

DAY = last_eligible_day(utc_now())
ADA = symbol_day(day=DAY)
KEY = ADA.state_key


@dataclass(frozen=True, slots=True)
class Desk:
    """The command line in this process."""

    lakes: Lakes
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = self.capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    def status(self) -> tuple[int, dict[str, Any]]:
        """Exit code, and what is said of the market data; both must say the same."""
        code, output, errors = self("status", "--json")
        document = json.loads(output)
        assert document["fine"] == document["market_data"]["fine"] == (code == 0), errors
        assert document["market_data"]["fine"] == all(
            check["passed"] for check in document["market_data"]["checks"].values()
        )
        return code, document["market_data"]

    def look_again(self) -> None:
        """Let the next round of the search for late parts begin at once."""

        def change(state: State | None) -> State:
            assert state is not None
            scan = state.late_scan.model_copy(update={"rounds": {}})
            return state.model_copy(update={"late_scan": scan})

        asyncio.run(StateStore(self.lakes.compact).update(change))


@pytest.fixture
def quantlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    """The last eligible day is open, all before it is settled; one failed attempt is too many."""
    lakes = Lakes.of(Rig("local", None, tmp_path))
    variables = {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_CATCH_UP_ATTEMPTS": "1",
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    before = DAY - dt.timedelta(days=1)
    asyncio.run(
        StateStore(lakes.compact).update(lambda _: seed(begin(None, before, utc_now()), before, utc_now(), [PAIR]))
    )
    return Desk(lakes, capsys)


def raw(lakes: Lakes, name: str) -> Path:
    return Path(lakes.raw_url) / ADA.key(name)


@pytest.mark.guards("quarantine-not-acceptable")
def test_a_quarantine_is_fine_once_it_is_accepted_and_comes_back_with_other_raw_parts(quantlab: Desk) -> None:
    quantlab.lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    bad = raw(quantlab.lakes, "part-1999999999-000001.parquet")
    bad.write_bytes(b"PAR1 is no part")
    assert quantlab("catch-up")[0] == 1
    code, said = quantlab.status()
    assert (code, list(said["quarantined"]), said["accepted"]) == (1, [KEY], {})
    assert said["backlog"] == [], "a quarantined day is settled"

    code, output, errors = quantlab("state", "accept", KEY, "--reason", "the collector broke")
    assert code == 0, errors
    assert f"{KEY} is accepted" in output
    code, said = quantlab.status()
    assert (code, said["quarantined"], said["accepted"]) == (0, {}, {KEY: "the collector broke"})
    assert f"accepted {KEY}: the collector broke" in quantlab("status")[1]
    code, output, errors = quantlab("catch-up")
    assert code == 0, output + errors

    bad.write_bytes(b"PAR1 is another part that is none")
    quantlab.look_again()
    assert quantlab("catch-up")[0] == 1
    code, said = quantlab.status()
    assert (code, list(said["quarantined"]), said["accepted"]) == (1, [KEY], {})


def test_what_looks_at_a_quarantine_says_that_it_is_accepted_and_goes_by_it(quantlab: Desk) -> None:
    quantlab.lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    bad = raw(quantlab.lakes, "part-1999999999-000001.parquet")
    bad.write_bytes(b"PAR1 is no part")

    def found(command: str) -> tuple[int, str | None, str]:
        """Exit code, what the document says of the acceptance, and what is told to people."""
        code, output, _ = quantlab(*command.split(), "--date", f"{DAY}", "--json")
        document = json.loads(output)
        [item] = document["symbol_days"] if isinstance(document, dict) else document
        code_for_people, told, _ = quantlab(*command.split(), "--date", f"{DAY}")
        assert code_for_people == code
        return code, item["accepted"], told

    for command in ("compact", "verify"):
        code, accepted, told = found(command)
        assert (code, accepted, "accepted" in told) == (1, None, False), command
    assert quantlab("state", "accept", KEY, "--reason", "the collector broke")[0] == 0
    for command, summary in (
        ("compact", "1 symbol-days: 0 built (0 rows), 0 quarantined or failed, 1 accepted"),
        ("compact --retry-quarantine", "1 symbol-days: 0 built (0 rows), 0 quarantined or failed, 1 accepted"),
        ("verify", "0 right, 0 wrong, 0 not published, 1 accepted"),
    ):
        code, accepted, told = found(command)
        assert (code, accepted) == (0, "the collector broke"), command
        assert told.splitlines()[-2:] == [f"accepted {KEY}: the collector broke", summary]
    assert "│ quarantined, accepted │" in told
    bad.write_bytes(b"PAR1 is another part that is none")
    code, accepted, told = found("compact")
    assert (code, accepted, "accepted" in told) == (1, None, False), "the decision is void"


def test_a_state_that_cannot_be_understood_accepts_nothing_and_hides_nothing(quantlab: Desk) -> None:
    quantlab.lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    raw(quantlab.lakes, "part-1999999999-000001.parquet").write_bytes(b"PAR1 is no part")
    assert quantlab("catch-up")[0] == 1
    assert quantlab("state", "accept", KEY, "--reason", "the collector broke")[0] == 0
    asyncio.run(quantlab.lakes.compact.put("compacted/_state.json", b"{"))
    code, output, errors = quantlab("verify", "--date", f"{DAY}")
    assert (code, "0 right, 0 wrong, 1 not published" in output) == (1, True), errors


def test_a_late_day_that_failed_too_often_says_how_it_ends_and_ends_so(quantlab: Desk) -> None:
    quantlab.lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    assert quantlab("catch-up")[0] == 0
    (Path(quantlab.lakes.compact_url) / ADA.key("meta.json")).write_bytes(b"no json")
    quantlab.look_again()
    assert quantlab("catch-up")[0] == 1
    code, output, _ = quantlab("status")
    assert code == 1
    assert f"{DAY} exhausted, failed 1 times: failed 1 times; see its runs, then `quantlab state accept" in output
    assert "`quantlab state accept SYMBOL-DAY`" in output

    code, _, errors = quantlab("state", "accept", KEY, "--reason", "it was copied")
    assert code == 0, errors
    code, said = quantlab.status()
    assert (code, said["accepted"]) == (0, {KEY: "it was copied"}), said
    code, output, errors = quantlab("catch-up")
    assert code == 0, output + errors
    assert "0 days run" in output


def test_where_there_is_nothing_to_accept_that_is_said(quantlab: Desk) -> None:
    quantlab.lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    assert quantlab("catch-up")[0] == 0
    for what, why in ((KEY, "is neither quarantined nor stale"), (f"{DAY}", "is settled already")):
        code, _, errors = quantlab("state", "accept", what, "--reason", "why not")
        assert (code, why in errors, "Traceback" in errors) == (2, True, False), errors
    assert quantlab.status()[1]["accepted"] == {}
    for what in ("binance/bbo/adausdt", "2026-13-01"):
        assert quantlab("state", "accept", what, "--reason", "a slip")[0] == 2


def test_an_accepted_day_and_its_open_symbol_days_are_let_be_until_their_raw_parts_change(quantlab: Desk) -> None:
    quantlab.lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    meta = Path(quantlab.lakes.compact_url) / ADA.key("meta.json")
    meta.parent.mkdir(parents=True)
    meta.write_bytes(b"no json")
    assert quantlab("catch-up")[0] == 1
    assert quantlab.status()[0] == 1
    code, output, errors = quantlab("state", "accept", f"{DAY}", "--reason", "never mind")
    assert code == 0, errors
    assert f"last_compacted_date is {DAY:%Y%m%d}" in output
    assert quantlab.status()[0] == 0
    quantlab.look_again()
    code, output, errors = quantlab("catch-up")
    assert (code, "0 days run" in output) == (0, True), output + errors
    code, said = quantlab.status()
    assert (code, said["accepted"]) == (0, {KEY: "never mind"})

    meta.unlink()
    quantlab.look_again()
    code, output, errors = quantlab("catch-up")
    assert (code, "1 days run, 1 symbol-days, 0 quar" in output) == (0, True), output + errors
    code, said = quantlab.status()
    assert (code, said["accepted"]) == (0, {})


def test_a_silent_symbol_is_red_until_it_is_acknowledged_as_delisted(quantlab: Desk) -> None:
    code, _, errors = quantlab("state", "delisted", "binance/bbo/btcusdt", "--reason", "a slip")
    assert (code, "is no exchange/stream/symbol" in errors) == (2, True), errors
    quantlab.lakes.put_spec(spec(day=DAY, parts=2, rows=20))
    assert quantlab("catch-up")[0] == 0

    def spoke(state: State | None) -> State:
        assert state is not None
        return state.model_copy(update={"partitions": state.partitions | SPOKE})

    asyncio.run(StateStore(quantlab.lakes.compact).update(spoke))
    code, said = quantlab.status()
    before = f"{DAY - dt.timedelta(days=1)}"
    assert (code, said["silent"]) == (
        1,
        [{"name": "binance/bbo/btcusdt", "symbols": 1, "last": before, "none_on": f"{DAY}"}],
    )
    output = quantlab("status")[1]
    assert f"FAIL nothing_silent: binance/bbo/btcusdt: none on {DAY}, the last on {before}" in output
    assert quantlab("catch-up")[0] == 1

    code, output, errors = quantlab("state", "delisted", "binance/bbo/btcusdt", "--reason", "merged")
    assert (code, "binance/bbo/btcusdt counts as delisted until" in output) == (0, True), errors
    code, said = quantlab.status()
    assert (code, said["silent"], said["delisted"]) == (0, [], {"binance/bbo/btcusdt": "merged"})
    assert "delisted binance/bbo/btcusdt: merged" in quantlab("status")[1]
    assert quantlab("catch-up")[0] == 0


# ---- exit codes of what is not accepted, and of what is --------------------------------------------------------------

THEN = utc_text(utc_now())
OLD = f"{DAY - dt.timedelta(days=2):%Y%m%d}"
BAD = {KEY: PartitionRecord(status="quarantine", updated_at=THEN, error="a bad part", raw_fingerprint="abc")}
STALE = LateScan(stale={KEY: "abc"})
ACCEPTED = {KEY: Acceptance(of="abc", reason="known", updated_at=THEN)}
SPOKE = {
    f"binance/bbo/btcusdt/{DAY - dt.timedelta(days=number):%Y%m%d}": PartitionRecord(
        status="success", rows=1, updated_at=THEN
    )
    for number in (1, 2, 3)
}
GONE = {"binance/bbo/btcusdt": Delisted(day=f"{DAY:%Y%m%d}", reason="known", updated_at=THEN)}
FAILED = {f"{DAY:%Y%m%d}": DayRecord(status="failed", updated_at=THEN, reason="the store")}


@pytest.mark.parametrize(
    ("update", "wrong"),
    [
        pytest.param({}, set(), id="all is well"),
        pytest.param({"last_compacted_date": OLD, "settled_pairs": None}, {"freshness"}, id="an older day is open"),
        pytest.param({"days": FAILED}, {"nothing_failed"}, id="another deployment failed"),
        pytest.param({"partitions": BAD}, {"nothing_quarantined"}, id="quarantined"),
        pytest.param({"partitions": BAD, "accepted": ACCEPTED}, set(), id="accepted quarantine"),
        pytest.param({"late_scan": STALE}, {"not_stale"}, id="stale"),
        pytest.param({"late_scan": STALE, "accepted": ACCEPTED}, set(), id="accepted stale"),
        pytest.param({"late_scan": LateScan(odd=("x=y",))}, {"no_unclaimed_raw_prefix"}, id="odd"),
        pytest.param({"partitions": SPOKE}, {"nothing_silent"}, id="silent"),
        pytest.param({"partitions": SPOKE, "delisted": GONE}, set(), id="silent and delisted"),
        pytest.param({"last_compacted_date": "20620101"}, {"freshness"}, id="in the future"),
    ],
)
@pytest.mark.guards("open-days-fine", "watermark-ahead-fine")
def test_the_exit_code_is_the_judgement(quantlab: Desk, update: dict[str, Any], wrong: set[str]) -> None:
    quantlab.lakes.put_spec(spec(day=DAY, parts=1, rows=10))

    def settled(before: State | None) -> State:
        state = settle_day(before or begin(None, DAY, utc_now()), DAY, Status.SUCCESS, utc_now(), [PAIR])
        return state.model_copy(update=update)

    asyncio.run(StateStore(quantlab.lakes.compact).update(settled))
    code, said = quantlab.status()
    assert {name for name, check in said["checks"].items() if not check["passed"]} == wrong
    assert code == (1 if wrong else 0)
