"""Processes: told apart, and seen to end."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from quantlab_dagster.work import processes
from quantlab_dagster.work.processes import has_ended, process_of, this_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system has no /proc")


@contextmanager
def sleeping(program: str = "sleep") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([program, "60"]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_runs_until_it_is_killed() -> None:
    with sleeping() as child:
        process = process_of(child.pid)
        assert has_ended(process) is not True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        if process.started:
            assert has_ended(process), "its parent has not asked for it yet"
        child.wait()
        assert has_ended(process)


@pytest.mark.guards("living-run-ended")
@needs_proc
def test_an_id_that_is_used_again_is_another_process() -> None:
    me = process_of(os.getpid())
    assert has_ended(me) is False
    assert has_ended(replace(me, started=str(int(me.started) - 1))) is True
    assert process_of(me.pid) == me, "the same at every look"


@needs_proc
def test_the_start_is_what_the_system_says_whatever_the_program_is_called(tmp_path: Path) -> None:
    odd = tmp_path / "a) R (b 1"
    odd.symlink_to(str(shutil.which("sleep")))
    with sleeping(str(odd)) as child:
        started = int(process_of(child.pid).started) / os.sysconf("SC_CLK_TCK")
        assert started == pytest.approx(psutil.Process(child.pid).create_time() - psutil.boot_time(), abs=2)
        assert has_ended(process_of(child.pid)) is False


def test_without_proc_what_has_the_id_may_be_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    assert (this_machine().boot, this_machine().pids) == ("", "")
    with sleeping() as child:
        process = process_of(child.pid)
        assert process.started == ""
        assert has_ended(process) is None
        child.kill()
        child.wait()
        assert has_ended(process) is True


@pytest.mark.guards("living-run-ended")
def test_what_is_hidden_from_us_is_not_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    me = process_of(os.getpid())

    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    assert has_ended(me) is None


def test_an_id_that_no_system_has_is_gone() -> None:
    assert has_ended(replace(process_of(os.getpid()), pid=1 << 80)) is True
