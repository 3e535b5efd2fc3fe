"""A command after the work: bounded, its words kept, told no secrets; whatever it does, nothing is raised."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from quantlab_dagster.work import hook as hook_module
from quantlab_dagster.work.hook import (
    Hook,
    HookEnded,
    HookResult,
    hook_line,
    parse_command,
    run_hook,
    secret_arguments,
    secrets_in,
    without_secrets,
)

SECRET = "hunter2-recognisable"  # noqa: S105  # nobody's


def run(script: str, *, lines: tuple[str, ...] = (), seconds: float = 20.0, secrets: tuple[str, ...] = ()) -> HookEnded:
    hook = Hook((sys.executable, "-c", script), seconds)
    return asyncio.run(run_hook(hook, lines, {"PATH": os.environ["PATH"], "SAID": "yes"}, secrets))


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def test_it_reads_the_lines_and_its_words_are_kept() -> None:
    script = "import os, sys; print(sorted(os.environ)); print(sys.stdin.read().split()); print('bad', file=sys.stderr)"
    ended = run(script, lines=("a/", "ö/"))
    assert (ended.result, ended.code) == (HookResult.SUCCESS, 0)
    assert "'SAID'" in ended.output
    assert "HOME" not in ended.output, "it has the variables that it is given, and no others"
    assert ended.output.endswith("['a/', 'ö/']\nbad") or "['a/', 'ö/']" in ended.output
    assert "ended well" in hook_line(ended)


def test_one_that_reads_nothing_blocks_nobody() -> None:
    assert run("pass", lines=("x" * 1000,) * 1000).result is HookResult.SUCCESS


def test_its_failure_is_told_with_its_code_and_last_line() -> None:
    ended = run("import sys; print('first'); sys.exit('no such catalogue')")
    assert (ended.result, ended.code) == (HookResult.FAILURE, 1)
    assert hook_line(ended).endswith("s: no such catalogue") or "first" in hook_line(ended)
    assert "FAILED with exit code 1" in hook_line(ended)


@pytest.mark.parametrize(
    ("command", "why"), [("/no/such/program --password x", "No such file"), ("/etc --token x", "Permission denied")]
)
def test_one_that_cannot_start_is_a_failure_and_its_arguments_are_not_shown(command: str, why: str) -> None:
    ended = asyncio.run(run_hook(Hook(parse_command(command)), (), {}))
    assert (ended.result, ended.code) == (HookResult.FAILURE, None)
    assert why in ended.output
    assert "did not start" in hook_line(ended)
    assert " x" not in hook_line(ended)
    assert "password" not in repr(Hook(parse_command(command)))


_WITH_CHILD = """
import subprocess, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal as s, time; s.signal(15, s.SIG_IGN); time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_one_that_takes_too_long_is_ended_with_its_children_though_they_ignore_it() -> None:
    started = time.monotonic()
    ended = run(_WITH_CHILD, seconds=1.5)
    assert time.monotonic() - started < 8
    assert ended.result is HookResult.TIMEOUT
    assert "its time" in hook_line(ended)
    assert not alive(int(ended.output))


def test_a_cancelled_one_is_ended(tmp_path: Path) -> None:
    async def cancelled() -> None:
        script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        task = asyncio.ensure_future(run_hook(Hook((sys.executable, "-c", script)), (), {}))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = time.monotonic()
    asyncio.run(cancelled())
    assert time.monotonic() - started < 8
    assert not alive(int((tmp_path / "pid").read_text()))


def test_what_it_leaves_behind_keeps_nobody_waiting() -> None:
    script = "import subprocess, sys; subprocess.Popen(['sleep', '8']); print('done')"
    started = time.monotonic()
    ended = run(script)
    assert time.monotonic() - started < 6
    assert (ended.result, ended.output) == (HookResult.SUCCESS, "done")


def test_only_the_end_of_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run("for n in range(100_000): print('line', n)")
    assert ended.output.endswith("line 99999")
    assert ended.output.startswith("…")
    assert len(ended.output) < 5000
    monkeypatch.setattr(hook_module, "_SHOWN_CHARACTERS", 10)
    assert len(run("print('x' * 100)").output) == 11


def test_secrets_in_its_words_are_masked_before_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_module, "_SHOWN_CHARACTERS", 12)
    script = f"print({SECRET!r}); print('http://u:{SECRET}@host/'); print('end')"
    ended = run(script, secrets=(SECRET,))
    assert not any(SECRET[at : at + 6] in ended.output for at in range(len(SECRET) - 6))
    monkeypatch.setattr(hook_module, "_SHOWN_CHARACTERS", 1000)
    assert run(script, secrets=(SECRET,)).output == "***\nhttp://***@host/\nend"
    assert run("print('http://u:pass-word@host/')").output == "http://***@host/", "one that nobody knows of"


def test_its_environment_has_none_of_our_credentials_and_all_else() -> None:
    ours = {
        "AWS_ACCESS_KEY_ID": "1",
        "AWS_SECRET_ACCESS_KEY": "2",
        "AWS_SESSION_TOKEN": "3",
        "WAREHOUSE_AWS_SECRET_ACCESS_KEY": "4",
        "QUANTLAB_RAW_AWS_ACCESS_KEY_ID": "5",
        "QUANTLAB_PUSHGATEWAY_URL": "http://u:p@x",
        "COMPACTION_HOOK_COMMAND": f"trino --password {SECRET}",
    }
    others = {"PATH": "/bin", "TRINO_PASSWORD": SECRET, "AWS_PROFILE": "athena", "WAREHOUSE_URL": "s3://x"}
    assert without_secrets(ours | others) == others
    assert SECRET in secrets_in(others)
    assert secrets_in({"PATH": "/bin", "HOME": "/root"}) == set()


def test_arguments_that_are_secrets_by_their_names_are_known() -> None:
    command = (
        "trino",
        "--password",
        "one-two",
        "--access-token=three",
        "--api-key",
        "four",
        "--server",
        "x",
        "--secret",
    )
    assert secret_arguments(command) == {"one-two", "three", "four", ""}
    assert secret_arguments(("trino", "--execute", "CALL token()")) == set()


def test_commands_are_taken_apart_as_a_shell_does() -> None:
    assert parse_command("trino --server 'a b' --execute") == ("trino", "--server", "a b", "--execute")
    for wrong in ("", "  ", "''", "x 'y", "x \0"):
        with pytest.raises(ValueError, match=r"program|quotation|NUL"):
            parse_command(wrong)
