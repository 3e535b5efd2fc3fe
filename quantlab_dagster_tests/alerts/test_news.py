"""What is told, and when: each trouble once, seldom again, and when it is over."""

from __future__ import annotations

import datetime as dt

import pytest

from quantlab_dagster.alerts.news import Kind, Known, Message, News, Trouble, decide, dump, load

NOON = dt.datetime(2026, 1, 9, 12, tzinfo=dt.UTC)
MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)


class Memory:
    """Looks, one after the other; what is remembered goes through JSON between them."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}

    def look(self, after: dt.timedelta, **wrong: str) -> list[str]:
        news, known = decide(self.known, [Trouble(what, text) for what, text in wrong.items()], NOON + after)
        self.known = load(dump(known))
        return [f"{one.kind} {one.what}" for one in news]


def test_a_trouble_is_told_once_once_a_day_and_when_it_is_over() -> None:
    memory = Memory()
    assert memory.look(0 * MINUTE, disk="full") == []
    assert memory.look(MINUTE, disk="full") == ["new disk"]
    for minutes in (2, 3, 60, 600, 1439):
        assert memory.look(minutes * MINUTE, disk="full") == []
    assert memory.look(25 * HOUR, disk="full") == ["still disk"]
    assert memory.look(26 * HOUR, disk="full") == []
    assert memory.look(27 * HOUR) == ["over disk"]
    assert memory.look(28 * HOUR) == []
    assert memory.look(29 * HOUR, disk="full") == []
    assert memory.look(30 * HOUR, disk="full") == ["new disk"], "another time"


@pytest.mark.guards("gone-is-not-over")
def test_what_is_no_longer_looked_at_is_gone_and_not_over() -> None:
    known = {what: Known(NOON, NOON, "x") for what in ("okx", "binance")} | {"unsaid": Known(NOON)}
    news, after = decide(known, [], NOON + HOUR, looked={"binance"})
    assert [(one.kind, one.what) for one in news] == [(Kind.GONE, "okx"), (Kind.OVER, "binance")]
    assert after == {}
    assert news[0].line == (
        "GONE okx (it was wrong since 2026-01-09 12:00 UTC): no longer looked at, so whether it is over is not known"
    )


def test_what_passes_by_itself_is_no_news() -> None:
    memory = Memory()
    for minutes in range(0, 10, 2):
        assert memory.look(minutes * MINUTE, disk="full") == []
        assert memory.look((minutes + 1) * MINUTE) == []


def test_what_gets_worse_is_told_within_an_hour_and_no_oftener() -> None:
    memory = Memory()
    memory.look(0 * MINUTE, quarantine="one")
    assert memory.look(MINUTE, quarantine="two") == ["new quarantine"]
    told = [memory.look(minutes * MINUTE, quarantine=f"{minutes}") for minutes in range(2, 182)]
    assert [news for news in told if news] == [["changed quarantine"]] * 3
    assert memory.look(182 * MINUTE, quarantine="181") == []


def test_each_trouble_is_on_its_own() -> None:
    memory = Memory()
    memory.look(0 * MINUTE, a="x")
    assert memory.look(MINUTE, a="x", b="y") == ["new a"]
    assert memory.look(2 * MINUTE, a="x", b="y") == ["new b"]
    assert memory.look(3 * MINUTE, b="y") == ["over a"]


def test_a_message_says_all_of_it_in_lines_of_bounded_length() -> None:
    since = NOON - HOUR
    long = [News(Kind.NEW, f"thing {number}", "x" * 5000, since) for number in range(30)]
    text = Message(tuple(long)).text
    assert text.splitlines()[0] == "quantlab: 30 new"
    assert text.splitlines()[-1] == "and 10 more"
    assert len(text) < 16_000
    news, _ = decide(
        {"gone": Known(since, since, "")}, [Trouble("here", "s3://u:secret@b/x is bad")], NOON, at_once=True
    )
    assert Message(news).text.splitlines() == [
        "quantlab: 1 new, 1 over",
        "NEW here (since 2026-01-09 12:00 UTC): s3://***@b/x is bad",
        "OVER gone (it was wrong since 2026-01-09 11:00 UTC)",
    ]
    assert "secret" not in str(Message(news).document)


@pytest.mark.parametrize("document", [None, [], {"a": 1}, {"a": ["yesterday", None, ""]}, {"a": [1, 2, 3]}])
def test_what_was_never_remembered_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="no memory"):
        load(document)
