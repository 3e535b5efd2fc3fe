"""Every document that the command line prints for programs: its keys, their order, the types of what they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster.market.outcome import Status, Verdict
from quantlab_dagster.market.plan import Action
from quantlab_dagster.warehouse.outcome import HourStatus
from quantlab_dagster_tests.contract.snapshots import check, differences, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum
    from typing import Any

    from quantlab_dagster_tests.contract.desk import Desk

pytestmark = pytest.mark.present

MARKET = ("compact", "cost", "plan", "verify", "status", "catch-up", "quality", "live", "prune", "calendar")
EVENTS = ("warehouse-compact", "warehouse-recover", "warehouse-plan", "warehouse-status")


def words(items: Iterable[dict[str, Any]], key: str) -> set[str]:
    return {item[key] for item in items}


def symbol_days(desk: Desk, name: str) -> list[dict[str, Any]]:
    return [item for document in desk.documents(name) for item in document["symbol_days"]]


def hours(desk: Desk, name: str) -> list[dict[str, Any]]:
    return [item for document in desk.documents(name) for item in document["hours"]]


# ---- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARKET)
def test_a_document_of_the_market_data_is_as_it_was(market_desk: Desk, name: str) -> None:
    check(f"document-{name}", shape_of(*market_desk.documents(name)))


@pytest.mark.parametrize("name", EVENTS)
def test_a_document_of_the_event_lake_is_as_it_was(events_desk: Desk, name: str) -> None:
    check(f"document-{name}", shape_of(*events_desk.documents(name)))


def test_the_document_of_state_rebuild_is_as_it_was(rebuilt_desk: Desk) -> None:
    check("document-state-rebuild", shape_of(*rebuilt_desk.documents("state-rebuild")))


def test_documents_are_indented_text_and_not_escaped(market_desk: Desk, events_desk: Desk, rebuilt_desk: Desk) -> None:
    texts = [
        text
        for desk, names in ((market_desk, MARKET), (events_desk, EVENTS))
        for name in names
        for text in desk.printed[name]
    ]
    assert [text for text in texts if text != json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"] == []
    assert any("ethµsdt" in text for text in texts)
    [line, _] = rebuilt_desk.printed["state-rebuild"]
    assert line == json.dumps(json.loads(line)) + "\n", "this one is a line"


def test_the_state_is_shown_as_it_is_in_the_lake(market_desk: Desk) -> None:
    [text] = market_desk.printed["state"]
    assert text.encode() == (market_desk.compact / "compacted" / "_state.json").read_bytes()


# ---- the words in them -----------------------------------------------------------------------------------------------


def test_the_words_are_as_they_were() -> None:
    enums: dict[str, type[StrEnum]] = {
        "status": Status,
        "action": Action,
        "verdict": Verdict,
        "hour status": HourStatus,
    }
    check("words", {name: [word.value for word in enum] for name, enum in enums.items()})


def test_the_words_are_in_the_documents(market_desk: Desk, events_desk: Desk) -> None:
    compacted = symbol_days(market_desk, "compact")
    assert words(compacted, "status") == {"success", "quarantine", "failed"}
    assert words(compacted, "action") == {"build", "up_to_date", "keep", "quarantined"}
    assert words(compacted, "error") == {"", "MalformedObject"}
    assert words(symbol_days(market_desk, "catch-up"), "status") == {"success", "quarantine", "failed"}
    planned = [item for document in market_desk.documents("plan") for item in document]
    assert words(planned, "action") == {"build", "up_to_date", "keep"}
    verified = [item for document in market_desk.documents("verify") for item in document]
    assert words(verified, "verdict") == {"right", "wrong", "quarantined", "not_published"}
    swept = hours(events_desk, "warehouse-compact")
    assert words(swept, "status") == {"compacted", "untouched", "busy", "failed"}
    assert words(swept, "error") == {"", "MalformedObject"}
    assert words(hours(events_desk, "warehouse-recover"), "status") == {"compacted", "busy", "failed"}


def test_wrong_usage_is_exit_code_two_and_prints_no_document(market_desk: Desk) -> None:
    for arguments in ("compact --json", "plan --date 9999-99-99 --json", "warehouse compact --hour noon --json"):
        assert market_desk(arguments, exits=2) == ""


# ---- the snapshots themselves ----------------------------------------------------------------------------------------


def test_shapes_unite_what_values_look_like() -> None:
    values: list[Any] = [{"a": 1, "c": [], "20260108": 1}, {"a": None, "b": "x", "c": [{"d": True}], "20260109": 2}]
    assert json.dumps(shape_of(*values)) == json.dumps(
        {"a": "int|null", "b?": "str", "c": [{"d": "bool"}], "<YYYYMMDD>": "int"}
    )
    assert shape_of(None, {"a": 0.5}) == {"either": ["null", {"a": "float"}]}
    with pytest.raises(AssertionError, match="not always at the same place"):
        shape_of({"a": 1, "b": 1}, {"b": 1, "a": 1})


@pytest.mark.parametrize(
    ("pinned", "found", "texts"),
    [
        ({"a": "int"}, {"a": "int", "b": "int"}, ["x.b is new"]),
        ({"a": "int", "b": "int"}, {"a": "int"}, ["x.b is gone"]),
        ([{"a": "int"}], [{"b": "int"}], ["x[0].a is gone", "x[0].b is new"]),
        ({"a": [{"b": "int"}]}, {"a": [{"b": "str"}]}, ['x.a[0].b is "str" instead of "int"']),
        (
            {"a": "int", "b": "int"},
            {"b": "int", "a": "int"},
            ["the keys of x are in the order ['b', 'a'] instead of ['a', 'b']"],
        ),
        (["int"], [], ['x is [] instead of ["int"]']),
    ],
)
def test_every_difference_is_named(pinned: Any, found: Any, texts: list[str]) -> None:
    assert differences("x", pinned, found) == texts
    assert differences("x", pinned, pinned) == []
