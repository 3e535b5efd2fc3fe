"""`quantlab alerts test`: what is sent, what is said of it, and that a message which did not arrive is no success."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.alerts import notify
from quantlab_dagster.cli.app import main
from quantlab_dagster_tests.alerts.hook import SECRET, Hook, webhook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def hook() -> Iterator[Hook]:
    with webhook() as hook:
        yield hook


def told(capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    with pytest.raises(SystemExit) as ended:
        main(["alerts", "test"])
    output = capsys.readouterr()
    assert SECRET not in output.out + output.err
    return int(ended.value.code or 0), output.out, output.err


def test_a_message_is_sent_as_alerts_are_and_what_came_back_is_said(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTLAB_ALERT_URL", hook.url)
    code, out, _ = told(capsys)
    assert (code, len(hook.texts)) == (0, 1)
    assert out.startswith("the webhook at 127.0.0.1 answered 200. It got: quantlab: 1 test\nTEST of alerts (at ")
    assert hook.texts[0] in out


@pytest.mark.parametrize(
    ("answer", "said"),
    [(404, "answered 404"), (302, "answered 302"), (500, "answered 500"), (None, "cannot be reached")],
)
def test_a_message_that_did_not_arrive_is_no_success(
    hook: Hook,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: int | None,
    said: str,
) -> None:
    monkeypatch.setattr(notify, "_ATTEMPTS", 1)
    hook.answers = [answer] if answer else []
    monkeypatch.setenv("QUANTLAB_ALERT_URL", hook.url if answer else f"http://127.0.0.1:1/{SECRET}")
    code, out, err = told(capsys)
    assert (code, out, hook.texts) == (1, "", [])
    assert err.startswith(f"error: the webhook at 127.0.0.1: {said}. Nobody was told; see QUANTLAB_ALERT_URL")


def test_a_command_gets_it_and_its_failure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "tell.py"
    script.write_text(
        f"import sys\nopen({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())\nsys.exit(len(sys.argv) - 1)"
    )
    monkeypatch.setenv("QUANTLAB_ALERT_COMMAND", f"{sys.executable} {script}")
    code, out, _ = told(capsys)
    assert code == 0
    assert "ended with 0. It got: quantlab: 1 test" in out
    [news] = json.loads((tmp_path / "got").read_text())["news"]
    assert (news["kind"], news["what"]) == ("test", "of alerts")
    monkeypatch.setenv("QUANTLAB_ALERT_COMMAND", f"{sys.executable} {script} fail")
    code, out, err = told(capsys)
    assert (code, out) == (1, "")
    assert "ended with 1. Nobody was told" in err


def test_without_anybody_to_tell_it_is_a_matter_of_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys)
    assert code == 2
    assert "are not set: nobody is told" in err
