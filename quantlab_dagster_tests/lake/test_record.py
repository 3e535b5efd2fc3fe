"""Records as bytes: what was written once is written again, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict

from quantlab_dagster.errors import MalformedObject
from quantlab_dagster.lake.record import Record

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=12,
)


class Sample(Record):
    """Anything."""

    model_config = ConfigDict(extra="allow")

    value: Any


@given(_VALUES)
def test_bytes_are_those_of_pythons_own_json(value: object) -> None:
    """Which wrote them before: a day that is published again has the same bytes, and an idle slot the same length."""
    wanted = json.dumps({"value": value, "extra": value}, indent=2, ensure_ascii=False) + "\n"
    assert Sample(value=value, extra=value).dump() == wanted.encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no json", "is not a valid Sample record (Invalid JSON: "),
        (b"{}", "is not a valid Sample record (value: Field required)"),
    ],
)
def test_a_record_that_cannot_be_understood_says_where_and_why(content: bytes, why: str) -> None:
    with pytest.raises(MalformedObject) as caught:
        Sample.read(content, "some/object.json")
    assert str(caught.value).startswith(f"some/object.json: {why}")
