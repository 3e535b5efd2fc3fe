"""Messages that arrive, that do not, and what is said then: never the webhook's address."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.alerts.news import Kind, Message, News
from quantlab_dagster.alerts.notify import Command, Webhook, check_template, filled
from quantlab_dagster.errors import NotifyFailed, SettingsError
from quantlab_dagster.settings import Settings, load_settings
from quantlab_dagster_tests.alerts.hook import SECRET, Hook, webhook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MESSAGE = Message(
    (News(Kind.NEW, "compact/state freshness", 'day "9"\nis \\ open', dt.datetime(2026, 1, 9, tzinfo=dt.UTC)),)
)


@pytest.fixture
def hook() -> Iterator[Hook]:
    with webhook() as hook:
        yield hook


def test_a_message_arrives_as_slack_takes_it(hook: Hook) -> None:
    Webhook(hook.url).tell(MESSAGE)
    assert hook.got == [{"text": MESSAGE.text}]
    assert 'day "9"\nis \\ open' in hook.texts[0], "as JSON has it"


def test_a_template_makes_what_others_take(hook: Hook) -> None:
    template = '{"title": "$summary", "body": {"lines": ["$text", "costs $$5"]}}'
    Webhook(hook.url, template).tell(MESSAGE)
    assert hook.got == [{"title": "quantlab: 1 new", "body": {"lines": [MESSAGE.text, "costs $5"]}}]


@pytest.mark.parametrize("answers", [[500], [503, 429], ["hang"]])
def test_what_may_pass_is_tried_again(hook: Hook, answers: list[int | str]) -> None:
    hook.answers = list(answers)
    Webhook(hook.url, pause=0.01, timeout=0.5).tell(MESSAGE)
    assert len(hook.got) == 1
    assert hook.answers == []


@pytest.mark.parametrize(
    ("answers", "left", "says"),
    [
        ([500, 502, 503, 200], 1, "answered 503"),
        ([403, 200], 1, "answered 403"),
        ([302, 200], 1, "answered 302"),
        (["hang", "hang", "hang", 200], 1, "did not answer in time"),
    ],
)
def test_what_does_not_arrive_fails_in_time_and_says_no_secret(
    hook: Hook, answers: list[int | str], left: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hook.answers = list(answers)
    started = time.monotonic()
    with pytest.raises(NotifyFailed, match=says) as caught:
        Webhook(hook.url, pause=0.01, timeout=0.4).tell(MESSAGE)
    assert time.monotonic() - started < 15
    assert (hook.got, len(hook.answers)) == ([], left)
    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert "the webhook at 127.0.0.1" in said
    assert SECRET not in said
    assert "services" not in said


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:1/{SECRET}", f"http://user:{SECRET}@[bad/", f"http://.invalid./{SECRET}"]
)
def test_an_address_that_leads_nowhere_is_not_said_either(url: str) -> None:
    notifier = Webhook(url, pause=0.01, timeout=0.5)
    with pytest.raises(NotifyFailed) as caught:
        notifier.tell(MESSAGE)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(notifier)


# ---- a command -------------------------------------------------------------------------------------------------------


def test_a_command_reads_the_message(tmp_path: Path) -> None:
    file = tmp_path / "got it.json"
    Command(f"tee '{file}'").tell(MESSAGE)
    document = json.loads(file.read_text())
    assert document["text"] == MESSAGE.text
    assert document["news"][0] | {"text": ""} == {
        "kind": "new",
        "what": "compact/state freshness",
        "text": "",
        "since": "2026-01-09T00:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("line", "says"),
    [("false --token=secret", "the command false: ended with 1"), ("/no/such/thing secret", "cannot be started")],
)
def test_a_command_that_fails_is_said_without_what_it_was_given(line: str, says: str) -> None:
    with pytest.raises(NotifyFailed, match=says) as caught:
        Command(line).tell(MESSAGE)
    assert "secret" not in str(caught.value)


def test_a_command_that_hangs_is_killed_with_what_it_started() -> None:
    started = time.monotonic()
    with pytest.raises(NotifyFailed, match=r"took more than .* s, and was killed"):
        Command("sh -c 'sleep 60 & sleep 60'", timeout=0.3).tell(MESSAGE)
    assert time.monotonic() - started < 20


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "says"),
    [('{"text": "$txt"}', "'txt' that nothing fills"), ('{"text": $text}', "makes no JSON"), ("$", "makes no JSON")],
)
def test_a_template_that_cannot_work_is_refused_at_once(
    template: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=says):
        check_template(template)
    monkeypatch.setenv("QUANTLAB_ALERT_TEMPLATE", template)
    with pytest.raises(SettingsError, match="QUANTLAB_ALERT_TEMPLATE"):
        load_settings()
    assert json.loads(filled('{"text": "$text"}', MESSAGE))["text"] == MESSAGE.text


@pytest.mark.parametrize(
    "variables",
    [
        {"QUANTLAB_ALERT_URL": f"ftp://host/{SECRET}"},
        {"QUANTLAB_ALERT_URL": f"https://host/{SECRET}", "QUANTLAB_ALERT_COMMAND": "true"},
        {"QUANTLAB_ALERT_COMMAND": "tell 'us"},
    ],
)
def test_settings_that_contradict_are_refused_without_the_secret(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="QUANTLAB_ALERT") as caught:
        load_settings()
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


def test_the_address_is_in_no_page_of_the_settings() -> None:
    assert SECRET not in repr(Settings(QUANTLAB_ALERT_URL=f"https://host/{SECRET}"))
