"""Whatever Dagster's pages name of this project they also describe: an operator need not look into the code."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from quantlab_dagster.definitions import build_definitions
from quantlab_dagster.defs.resources import LakeResource
from quantlab_dagster.settings import Settings

_OF_DAGSTER = {"io_manager"}


Named = dict[str, str | None]
"""What the pages name, with what they say of it."""


def of_location(definitions: dg.Definitions) -> Named:
    """Schedules, sensors, assets and checks."""
    repository = definitions.get_repository_def()
    automation: list[Any] = [*repository.schedule_defs, *repository.sensor_defs]
    graph = repository.asset_graph
    assets = {node.key.to_user_string(): node.description for node in graph.asset_nodes}
    checks = {str(key): graph.get_check_spec(key).description for key in graph.asset_check_keys}
    return {**{item.name: item.description for item in automation}, **assets, **checks}


def of_job(job: dg.JobDefinition) -> Named:
    """It, its steps, what can be configured of them, and its resources."""
    named: Named = {job.name: job.description}
    for node in job.all_node_defs:
        named[f"{job.name}: {node.name}"] = node.description
        config: Any = node.config_schema.as_field() if isinstance(node, dg.OpDefinition) else None
        fields = getattr(config.config_type, "fields", {}) if config else {}
        named |= {f"{node.name}.{name}": field.description for name, field in fields.items()}
    resources = {name: item.description for name, item in job.resource_defs.items() if name not in _OF_DAGSTER}
    return {**named, **resources}


@pytest.mark.parametrize("chunks", [{}, {"QUANTLAB_CHUNK_SIZE": "64MiB"}], ids=["plain", "chunks"])
def test_everything_that_the_pages_name_is_described(chunks: dict[str, str]) -> None:
    settings: dict[str, Any] = {"QUANTLAB_EXCHANGES": "binance", "QUANTLAB_STREAMS": "bbo", **chunks}
    definitions = build_definitions(Settings(**settings))
    found = of_location(definitions)
    for job in definitions.get_repository_def().get_all_jobs():
        if not job.name.startswith("__"):
            found |= of_job(job)
    assert {"prune_history", "compact/binance/bbo", "prune_history: prune_runs", "clock", "raw_lake"} <= found.keys()
    assert any(name.endswith(".symbols") for name in found)
    assert [name for name, text in found.items() if not (text or "").strip()] == []


def test_each_lake_says_what_it_holds() -> None:
    texts = {lake: LakeResource.of(Settings(), lake).__doc__ or "" for lake in ("raw", "compact", "warehouse")}
    first = {lake: text.splitlines()[0] for lake, text in texts.items()}
    assert len(set(first.values())) == len(first)
    assert "Raw market data" in first["raw"]
    assert not any("```" in text for text in texts.values()), "the launchpad shows it as a comment"
