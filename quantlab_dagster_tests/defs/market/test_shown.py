"""What the definitions tell before anything has run: groups, names, kinds, owners, places, columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from dagster._core.definitions.utils import is_valid_owner

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.errors import SettingsError
from quantlab_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

S3 = {
    "QUANTLAB_RAW_URL": "s3://quantlab-raw/some/prefix/",
    "QUANTLAB_COMPACT_URL": "s3://quantlab-compact",
    "WAREHOUSE_URL": "s3://warehouse/events",
    "QUANTLAB_OWNERS": "data@example.com,team:market",
}


def nodes(**settings: Any) -> dict[str, Any]:
    graph = build_definitions(Settings(**settings)).resolve_asset_graph()
    return {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}


def test_an_asset_says_exchange_stream_and_layer_however_its_key_is_cut() -> None:
    for name, node in nodes().items():
        layer, *rest = name.split("/")
        if layer not in ("raw", "compact") or len(rest) == 1:
            continue
        exchange, stream = rest
        word = {"raw": "raw", "compact": "compacted"}[layer]
        assert node.description.startswith(f"{exchange} {stream}, {word}: ")
        assert node.group_name == exchange
        shown = {key: value for key, value in node.tags.items() if not key.startswith("dagster/")}
        assert shown == {"exchange": exchange, "stream": stream, "layer": layer}


def test_odd_names_get_a_group_and_no_tag_that_dagster_refuses() -> None:
    found = nodes(QUANTLAB_EXCHANGES="bit.get,kraken futures", QUANTLAB_STREAMS="bbo+")
    assert {node.group_name for node in found.values()} == {
        "bit_get",
        "kraken_futures",
        "quality",
        "quantlab",
        "warehouse",
    }
    assert found["compact/bit_get/bbo_"].description.startswith("bit.get bbo+, ")
    assert "exchange" not in found["compact/kraken_futures/bbo_"].tags
    assert found["compact/bit_get/bbo_"].tags["exchange"] == "bit.get"


def test_every_asset_says_where_it_lies_whose_it_is_and_of_what_kind() -> None:
    found = nodes(**S3)
    for node in found.values():
        assert list(node.owners) == ["data@example.com", "team:market"]
        assert "s3" in node.kinds
        assert len(node.kinds) <= 3, "Dagster refuses more"
    uris = {name: node.metadata["dagster/uri"] for name, node in found.items()}
    assert uris["raw/okx/bbo"] == "s3://quantlab-raw/some/prefix/exchange=okx/stream=bbo/"
    assert uris["compact/okx/bbo"] == "s3://quantlab-compact/exchange=okx/stream=bbo/"
    assert uris["compact/state"] == "s3://quantlab-compact/compacted/_state.json"
    assert uris["warehouse/events"] == "s3://warehouse/events/"


def test_a_local_lake_is_named_by_its_absolute_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = nodes(QUANTLAB_RAW_URL="lake/raw", QUANTLAB_COMPACT_URL="file:///elsewhere/compact")
    assert found["raw/okx/bbo"].metadata["dagster/uri"] == f"file://{tmp_path}/lake/raw/exchange=okx/stream=bbo/"
    assert found["compact/okx/bbo"].metadata["dagster/uri"] == "file:///elsewhere/compact/exchange=okx/stream=bbo/"
    assert "s3" not in found["raw/okx/bbo"].kinds


def test_columns_are_described_before_the_first_day() -> None:
    found = nodes(QUANTLAB_EXCHANGES="okx", QUANTLAB_STREAMS="trade,liquidations")

    def columns(asset: str) -> list[str]:
        return [column.name for column in found[asset].metadata["dagster/column_schema"].columns]

    assert columns("compact/okx/trade")[:3] == ["ts_event", "seq", "ts_recv"]
    assert columns("raw/okx/trade")[:2] == ["ts_event", "ts_recv"]
    assert columns("compact/okx/trade")[-1] == "trade_id"
    assert columns("compact/okx/liquidations")[-1] == "stream_version", "of a new stream what all have"


@pytest.mark.parametrize("owners", ["data@example.com", "team:a", "a.b+c@d-e.org,team:market data"])
def test_owners_that_are_taken_are_those_that_dagster_takes(owners: str) -> None:
    assert all(is_valid_owner(owner) for owner in Settings(QUANTLAB_OWNERS=owners).owners)


@pytest.mark.parametrize("owners", ["market", "team:", "data@example", "data@example.com;team:x", "@example.com"])
def test_others_are_refused_by_name(owners: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_OWNERS", owners)
    with pytest.raises(SettingsError, match=r"QUANTLAB_OWNERS.*is neither an address, .* nor a team"):
        load_settings()
