"""How the command line behaves around its work: narrow screens, closed pipes, signals, homes, files of settings."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from rich.console import Console

from quantlab_dagster.cli import demo, entry
from quantlab_dagster.cli.app import main
from quantlab_dagster.cli.screen import Screen
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.settings import env_file, load_settings, unknown_variables
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster.work.merging import Merging
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.lakes import PAIR, Lakes, spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAY = dt.date(2026, 1, 8)
TWO = f"compact --date {DAY} --to {DAY + dt.timedelta(days=1)}"


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    found = Lakes.of(Rig("local", None, tmp_path))
    for name, value in {
        "QUANTLAB_RAW_URL": found.raw_url,
        "QUANTLAB_COMPACT_URL": found.compact_url,
        "QUANTLAB_EXCHANGES": PAIR.exchange,
        "QUANTLAB_STREAMS": PAIR.stream,
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    found.put_spec(spec(day=DAY, parts=2, rows=20))
    return found


def quantlab(capsys: pytest.CaptureFixture[str], arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    return ended.value.code, *capsys.readouterr()


# ---- tables ----------------------------------------------------------------------------------------------------------

COLUMNS = ("symbol-day", "action", "#parts", "why")
ROWS = [
    ("binance/bbo/adausdt/20260108", "up_to_date", "3,252", "published from the same raw parts"),
    ("binance/mark_price/btcusdt/20260108", "build", "12", ""),
]


def shown(width: int, columns: tuple[str, ...] = COLUMNS, rows: Sequence[tuple[str, ...]] = ROWS) -> str:
    screen = Screen()
    screen.out = Console(file=io.StringIO(), width=width, highlight=False)
    screen.table("Plan [x]", columns, rows)
    return str(screen.out.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [200, 100, 80, 50, 20])
def test_nothing_is_cut_off_however_narrow_the_screen_is(width: int) -> None:
    text = shown(width)
    assert "…" not in text
    for row in ROWS:
        assert row[0] in text
        assert row[2] in text
    together = " ".join(text.replace("│", " ").split())
    assert all(word in together for word in ROWS[0][3].split())


def test_a_screen_that_is_wide_enough_gets_a_table_and_others_lines() -> None:
    assert all(row[0] in shown(width) for width in range(20, 140) for row in ROWS), "what names a row is never broken"
    least = next(width for width in range(20, 200) if "│" in shown(width))
    assert 80 <= least <= 100
    assert "│" in shown(least + 40)
    assert shown(50).splitlines() == [
        "Plan [x]",
        "binance/bbo/adausdt/20260108",
        "  action  up_to_date",
        "  parts   3,252",
        "  why     published from the same raw parts",
        "binance/mark_price/btcusdt/20260108",
        "  action  build",
        "  parts   12",
    ]
    assert "symbol-day" in shown(50, rows=[]), "a table without rows is one"


# ---- days and files of settings --------------------------------------------------------------------------------------


def test_yesterday_is_a_day(lakes: Lakes, capsys: pytest.CaptureFixture[str]) -> None:
    lakes.put_spec(spec(day=utc_now().date() - dt.timedelta(days=1), parts=2, rows=20))
    code, out, _ = quantlab(capsys, "plan --date yesterday --to today")
    assert code == 0
    assert "1 of 1 symbol-days would be built" in out
    code, _, err = quantlab(capsys, "plan --date tomorrow")
    assert (code, "tomorrow: is not a day" in err) == (2, True)


def test_yesterday_is_a_day_wherever_one_is_typed(lakes: Lakes, capsys: pytest.CaptureFixture[str]) -> None:
    yesterday = utc_now().date() - dt.timedelta(days=1)
    lakes.put_spec(spec(day=yesterday, parts=2, rows=20))
    code, out, _ = quantlab(capsys, "calendar yesterday")
    assert (code, f"calendar/month={yesterday:%Y%m}.html" in out) == (0, True)
    if yesterday > last_eligible_day(utc_now()):  # between midnight and 02:30 it is a day that may still be written to
        code, _, err = quantlab(capsys, "state seed --last-compacted yesterday")
        assert (code, f"{yesterday}: is not complete" in err) == (2, True)
        return
    assert quantlab(capsys, "state seed --last-compacted yesterday")[0] == 0
    code, _, err = quantlab(capsys, "state accept yesterday --reason x")
    assert (code, f"{yesterday}: is settled already" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("metrics serve --port", "--host or --port"),
        ("warehouse run --metrics-port", "--metrics-host or --metrics-port"),
    ],
)
def test_a_taken_port_is_said_with_the_options_that_name_another(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, options: str
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", lakes.raw_url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = quantlab(capsys, f"{arguments} {taken.getsockname()[1]}")
    assert (code, f"Use another {options}; or stop what listens there" in err) == (2, True)


def test_who_verifies_at_a_terminal_sees_where_it_is(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lakes.raw_url
    monkeypatch.setenv("FORCE_COLOR", "1")  # what is no terminal counts as one
    shown = quantlab(capsys, f"verify --date {DAY} --json")[2]
    assert f"{PAIR} {DAY}" in shown
    assert "days of pairs" in shown
    monkeypatch.delenv("FORCE_COLOR")
    assert quantlab(capsys, f"verify --date {DAY} --json")[2] == ""


def test_a_file_of_settings_is_named_by_an_option(
    lakes: Lakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTLAB_ENV_FILE", "")  # restored at the end, whatever the option sets
    monkeypatch.delenv("QUANTLAB_RAW_URL")
    monkeypatch.delenv("QUANTLAB_COMPACT_URL")
    (tmp_path / "quantlab.env").write_text("QUANTLAB_RAW_URL=/nowhere/at/all\n")
    named = tmp_path / "mine.env"
    named.write_text(f"QUANTLAB_RAW_URL={lakes.raw_url}\nQUANTLAB_COMPACT_URL={lakes.compact_url}\n")
    code, out, _ = quantlab(capsys, f"--env-file {named} plan --date {DAY}")
    assert (code, "1 of 1 symbol-days" in out) == (0, True)
    assert os.environ["QUANTLAB_ENV_FILE"] == str(named), "what is started from here reads the same"
    assert load_settings().raw_url == lakes.raw_url
    assert unknown_variables() == []
    named.write_text("QUANTLAB_ENV_FILE=/another\n")
    assert unknown_variables() == ["QUANTLAB_ENV_FILE"], "a file names no other file"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("command", [f"verify --date {DAY}", "verify --date 9999-12-31"], ids=["fine", "refused"])
def test_an_output_that_is_closed_changes_no_exit_code(lakes: Lakes, command: str, closed: str) -> None:
    del lakes
    line = f"{sys.executable} -c 'from quantlab_dagster.cli.entry import main; main()' {command}"
    expected, done = (
        subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, timeout=120, check=False)
        for text in (line, f"{line} {closed}")
    )
    assert done.returncode == expected.returncode
    assert done.stdout in ("", expected.stdout)
    assert done.stderr in ("", expected.stderr)


@pytest.mark.parametrize("command", ["plan", "cost", "verify", "compact", "quality"])
@pytest.mark.parametrize("days", [f"--date {DAY} --to 9999-12-31", "--date 9999-12-31"])
def test_days_that_are_still_to_come_are_refused_at_once(
    lakes: Lakes, capsys: pytest.CaptureFixture[str], command: str, days: str
) -> None:
    del lakes
    code, out, err = quantlab(capsys, f"{command} {days}")
    assert (code, out) == (2, "")
    assert err.startswith("error: 9999-12-31: is still to come. The last day there can be is today, ")


@pytest.mark.parametrize("content", [None, "directory", b"\xff\xfe"])
def test_a_named_file_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str | None
) -> None:
    named = tmp_path / "mine.env"
    if content == "directory":
        named.mkdir()
    elif isinstance(content, bytes):
        named.write_bytes(content)
    monkeypatch.setenv("QUANTLAB_ENV_FILE", str(named))
    with pytest.raises(SettingsError, match=r"mine\.env: (does not exist|is no file that can|is not UTF-8)"):
        load_settings()
    monkeypatch.delenv("QUANTLAB_ENV_FILE")
    assert env_file() == "quantlab.env", "which need not exist"


# ---- pipes and signals -----------------------------------------------------------------------------------------------


def entered(monkeypatch: pytest.MonkeyPatch, work: Any) -> int:
    """The exit code of the entry point, with this in the place of all commands."""

    def run() -> None:
        work()
        sys.exit(0)

    module = ModuleType("quantlab_dagster.cli.app")
    module.main = run  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        patched.setattr(sys, "stdout", sys.stdout)  # as they are, and again at the end
        patched.setattr(sys, "stderr", sys.stderr)
        with pytest.raises(SystemExit) as ended:
            entry.main()
    return int(ended.value.code or 0)


def test_who_is_stopped_before_anything_is_loaded_says_so_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    assert entered(monkeypatch, stopped) == 130
    assert capsys.readouterr() == ("", "stopped\n")


def closed_pipe() -> io.TextIOWrapper:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


def test_results_that_nobody_reads_end_the_command_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    went_on = []

    def work() -> None:
        sys.stdout.write("a" * 100_000)
        went_on.append(True)

    with closed_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert entered(monkeypatch, work) == 141
        assert entered(monkeypatch, lambda: sys.stdout.write("little")) == 0, "it goes nowhere from now on"
    with closed_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert entered(monkeypatch, lambda: sys.stdout.write("little")) == 141, "found when the buffer is emptied"
    assert went_on == []
    assert capsys.readouterr().err == ""


def test_what_is_told_beside_the_results_may_go_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def work() -> None:
        sys.stderr.write("progress")
        sys.stderr.flush()
        done.append(True)
        sys.exit(1)

    with closed_pipe() as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        assert entered(monkeypatch, work) == 1
    assert done == [True]


def test_a_terminal_that_lacks_a_character_ends_nothing_and_json_says_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert entered(monkeypatch, lambda: Screen(as_json=True).document({"lakes": "a → bµ 🕯"})) == 0
    assert json.loads(written.getvalue()) == {"lakes": "a → bµ 🕯"}


def test_results_for_which_there_is_no_room_are_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        assert entered(monkeypatch, lambda: sys.stdout.write("little")) == 1
    assert "standard output: No space left on device" in capsys.readouterr().err


def test_head_and_a_pager_that_ends_early_see_no_traceback(lakes: Lakes) -> None:
    assert lakes.raw_url
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m quantlab_dagster.cli plan --date {DAY} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert ended.stdout == "141\n"
    assert len(ended.stderr.splitlines()) == 1, "which lakes it looked at"


@pytest.mark.guards("interrupt-next-day")
def test_a_run_that_is_stopped_says_what_stands_and_begins_no_other_day(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lakes.put_spec(spec(day=DAY + dt.timedelta(days=1), parts=2, rows=20))
    builds = []

    async def stopped(*_: Any, **__: Any) -> None:
        import asyncio  # noqa: PLC0415

        builds.append(True)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    with monkeypatch.context() as patched:
        patched.setattr(Merging, "build", stopped)
        code, out, err = quantlab(capsys, TWO)
    assert (code, out, len(builds)) == (130, "", 1)
    assert err.endswith(
        "stopped: what is said to be done stands, all else is as it was; the same command goes on with it\n"
    )
    assert "Traceback" not in err
    with dg.DagsterInstance.get() as instance:
        [run] = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.CANCELED
    code, out, _ = quantlab(capsys, TWO)
    assert (code, "2 symbol-days: 2 built" in out) == (0, True)


_AT_A_TERMINAL = """
import asyncio, fcntl, os, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from quantlab_dagster.cli.app import main
from quantlab_dagster.work.merging import Merging

async def build(*_, **__):
    print("at work")
    await asyncio.sleep(60)

Merging.build = build
main(sys.argv[1:])
"""


def test_ctrl_c_at_a_terminal_is_answered_by_the_command_alone(lakes: Lakes) -> None:
    """It goes to all processes of the terminal, those that show what the run prints included."""
    assert lakes.raw_url
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", _AT_A_TERMINAL, *f"compact --date {DAY}".split()]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            while content := os.read(ours, 4096):
                if b"at work" not in shown and b"at work" in shown + content:
                    os.write(ours, b"\x03")
                shown += content
        os.close(ours)
        assert process.wait(60) == 130, shown
    assert b"at work" in shown, "by which it is known that they run"
    assert b"Traceback" not in shown, shown.decode()
    assert b"stopped: what is said to be done stands" in shown


# ---- homes -----------------------------------------------------------------------------------------------------------


def test_a_home_whose_databases_cannot_be_used_is_said_and_the_lakes_are_judged_elsewhere(
    lakes: Lakes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged here; of another owner, read-only or on a full disk they fail in the same way."""
    assert quantlab(capsys, f"state seed --last-compacted {DAY - dt.timedelta(days=1)}")[0] == 0  # days are due
    assert quantlab(capsys, f"compact --date {DAY}")[0] == 0
    for database in (tmp_path / "home").rglob("*.db"):
        database.write_bytes(b"no database at all" * 100)
    for command in (f"compact --date {DAY}", "catch-up"):
        code, _, err = quantlab(capsys, command)
        assert code == 1
        assert "Traceback" not in err
        assert f"error: {tmp_path / 'home'}: Dagster's databases there cannot be used" in err
    code, out, err = quantlab(capsys, "status")
    assert code == 1
    assert "Dagster's databases there cannot be used" in out
    assert "EVENT LAKE" in out
    assert lakes.compact_keys()


def test_a_demo_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"demo-lake: cannot be made \(Not a directory\)"):
        demo.make_demo_lake(tmp_path / "file" / "demo-lake", demo.demo_specs())
