"""A home of Dagster's that cannot be used, a Postgres that is down: one line, no secret, and the other lake goes on."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import quantlab_dagster
from quantlab_dagster.cli.app import main
from quantlab_dagster.cli.runs.faults import fault_of_home, fault_of_opening
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.market.settling import begin, seed
from quantlab_dagster.market.state_store import StateStore
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import PAIR, Lakes, spec
from quantlab_dagster_tests.warehouse.event_lakes import EventLake
from quantlab_dagster_tests.warehouse.event_lakes import spec as hour_spec

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.present

ROOT = Path(quantlab_dagster.__file__).parents[1]
SHIPPED = (ROOT / "dagster.yaml").read_text()
POSTGRES = SHIPPED + (ROOT / "deploy" / "celery" / "dagster.yaml").read_text()
SECRET = "s3cr3t-pw"  # noqa: S105

# what dagster.yaml says, DAGSTER_POSTGRES_URL, what is said, exit code
FAULTS: dict[str, tuple[str, str | None, str, int]] = {
    "dead": (POSTGRES, f"postgresql+psycopg2://dagster:{SECRET}@127.0.0.1:1/dagster", "Connection refused", 1),
    "name": (POSTGRES, f"postgresql+psycopg2://u:p@{SECRET}@nowhere.invalid/dagster", "could not translate", 1),
    "unset": (POSTGRES, None, "takes DAGSTER_POSTGRES_URL from the environment, where it is not set", 2),
    "driver": (POSTGRES, f"postgresql://dagster:{SECRET}@127.0.0.1:1/dagster", "the Python module psycopg", 2),
    "garbage": (POSTGRES, f"what {SECRET}", "URL of Dagster's database there cannot be understood", 2),
    "dialect": (POSTGRES, f"postgresql+none://u:{SECRET}@h/d", "URL of Dagster's database there cannot be", 2),
    "port": (POSTGRES, f"postgresql+psycopg2://u:p/{SECRET}@h:port/d", "dagster.yaml: Dagster cannot open what it", 2),
    "unknown": (
        "foo: bar\n",
        None,
        'Dagster refuses it (Received unexpected config entry "foo" at the root). Mend it',
        2,
    ),
    "no number": (f"telemetry: {{enabled: {SECRET}}}\n", None, "root:telemetry:enabled", 2),
    "no mapping": ("run_monitoring: 5\n", None, "root:run_monitoring must be dict", 2),
    "a word": ("run_retries: true\n", None, "root:run_retries must be dict", 2),
    "a list": ("concurrency: [1]\n", None, "root:concurrency must be dict", 2),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two lakes: a day is due in the one, the other has an hour to merge."""
    lakes, events = Lakes.of(Rig("local", None, tmp_path)), EventLake.of(Rig("local", None, tmp_path))
    events.put_spec(hour_spec())
    day = last_eligible_day(utc_now())
    lakes.put_spec(spec(day=day, parts=2, rows=20))
    before = day - dt.timedelta(days=1)
    asyncio.run(
        StateStore(lakes.compact).update(lambda _: seed(begin(None, before, utc_now()), before, utc_now(), [PAIR]))
    )
    for name, value in {
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "QUANTLAB_METRICS_FILE": str(tmp_path / "quantlab.prom"),
        "WAREHOUSE_URL": events.url,
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def typed(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Types a command on a home with a fault."""

    def type_it(fault: str, *arguments: str) -> tuple[object, str, str]:
        text, url, _, _ = FAULTS[fault]
        (home / "dagster.yaml").write_text(text)
        if url is not None:
            monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert SECRET not in out + err
        assert "Traceback" not in out + err
        return ended.value.code, out, err

    return type_it


@pytest.mark.parametrize("fault", FAULTS)
def test_a_home_that_cannot_be_used_is_one_line(typed: Callable[..., Any], home: Path, fault: str) -> None:
    code, _, err = typed(fault, "prune")
    _, _, said, expected = FAULTS[fault]
    [line] = [line for line in err.splitlines() if not line.startswith(f"{home / 'dagster.yaml'}: ")]
    assert line.startswith(f"error: {home}")
    assert said in line
    assert code == expected


@pytest.mark.parametrize("command", ["compact --date DAY", "catch-up", "daemon"])
def test_whatever_needs_the_history_says_so(typed: Callable[..., Any], command: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("became Dagster's"))
    code, _, err = typed("dead", *command.replace("DAY", str(last_eligible_day(utc_now()))).split())
    assert (code, err.count("error: ")) == (1, 1)


@pytest.mark.parametrize(("fault", "code"), [("dead", 1), ("unset", 2)])
def test_status_goes_on_with_the_event_lake(typed: Callable[..., Any], fault: str, code: int) -> None:
    ended, out, _ = typed(fault, "status", "--json")
    document = json.loads(out)
    assert ended == code
    assert FAULTS[fault][2] in document["market_data"]["problem"]
    assert document["event_lake"]["cold_hours"] == 1


@pytest.mark.parametrize("fault", ["dead", "unset"])
def test_metrics_say_it_and_judge_the_event_lake(typed: Callable[..., Any], fault: str, tmp_path: Path) -> None:
    code, _, err = typed(fault, "metrics", "write")
    written = (tmp_path / "quantlab.prom").read_text()
    assert code == 1
    assert FAULTS[fault][2] in err
    assert 'quantlab_lake_fine{lake="market_data"} 0' in written
    assert 'quantlab_lake_judged_timestamp_seconds{lake="events"}' in written


def test_what_is_no_fault_of_the_home_is_none() -> None:
    assert fault_of_home(ValueError("x")) is None
    assert fault_of_home(ModuleNotFoundError("no", name="quantlab_dagster.nowhere")) is None
    assert "(ValueError)" in str(fault_of_opening(ValueError(SECRET), Path("/home")))
    assert SECRET not in str(fault_of_opening(ValueError(SECRET), Path("/home")))
