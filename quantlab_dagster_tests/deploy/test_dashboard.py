"""The dashboard: Grafana knows each field, and each query finds something in a Prometheus that scraped real runs."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml  # type: ignore[import-untyped]
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from quantlab_dagster.market.eligibility import last_eligible_day
from quantlab_dagster.work.clock import utc_now
from quantlab_dagster_tests.conftest import Rig
from quantlab_dagster_tests.deploy.places import DEPLOY, program
from quantlab_dagster_tests.deploy.processes import running, until
from quantlab_dagster_tests.deploy.test_prometheus import known_names, names_in
from quantlab_dagster_tests.lakes import Lakes, spec, symbol_day
from quantlab_dagster_tests.servers import HOST, free_ports
from quantlab_dagster_tests.warehouse.event_lakes import EventLake
from quantlab_dagster_tests.warehouse.event_lakes import spec as hour_spec

if TYPE_CHECKING:
    from pathlib import Path

RAW: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in RAW["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]

_ONLY_WHILE_AN_ALERT_FIRES = 'ALERTS{alertname=~"Quantlab.+"}'


def known_to_grafana(dashboard: dict[str, Any]) -> Any:
    """What Grafana's own library makes of a dashboard: fields that it does not know are gone."""
    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """Where something of a document is not in another one."""
    if isinstance(given, dict):
        return [
            item
            for key, value in given.items()
            for item in (lost(value, kept[key], f"{path}/{key}") if key in kept else [f"{path}/{key}"])
        ]
    if isinstance(given, list):
        if len(given) != len(kept):
            return [path]
        return [item for one, two in zip(given, kept, strict=True) for item in lost(one, two, path)]
    return [] if given == kept else [path]


def test_every_field_is_known_to_grafana() -> None:
    assert lost(RAW, known_to_grafana(RAW)) == []
    odd = json.loads(json.dumps(RAW).replace('"legendFormat"', '"legend_format"').replace('"gridPos"', '"grid"'))
    found = lost(odd, known_to_grafana(odd))
    assert "/panels/targets/legend_format" in found
    assert "/panels/grid" in found


def test_the_panels_lie_beside_each_other_and_each_has_a_name() -> None:
    places: set[tuple[int, int]] = set()
    for panel in RAW["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not places & cells, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in RAW["panels"]}) == len(RAW["panels"])
    assert all(panel["title"] for panel in RAW["panels"])
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


def test_a_metric_that_is_shown_is_one_that_is_written() -> None:
    shown = {name for expression in EXPRESSIONS for name in names_in(expression)}
    assert len(shown) > 15
    assert shown <= known_names()


def ask(url: str, path: str, **query: str) -> Any:
    with urlopen(f"{url}{path}?{urlencode(query)}", timeout=10) as answer:  # noqa: S310  # our own
        return json.load(answer)["data"]


def work(tmp_path: Path) -> dict[str, str]:
    """Runs over both lakes, counted; returns the environment of their settings."""
    rig = Rig("local", None, tmp_path)
    lakes, events = Lakes.of(rig), EventLake.of(rig)
    day, now = last_eligible_day(utc_now()), utc_now()
    parts = lakes.put_spec(spec(day=day))
    today = symbol_day(day=now.date())
    (tmp_path / lakes.raw_url / today.prefix).mkdir(parents=True)
    (tmp_path / lakes.raw_url / today.key(f"part-{now.timestamp():.0f}-000001.parquet")).write_bytes(parts[0].data)
    events.put_spec(hour_spec())
    env = {
        **os.environ,
        "QUANTLAB_RAW_URL": lakes.raw_url,
        "QUANTLAB_COMPACT_URL": lakes.compact_url,
        "QUANTLAB_EXCHANGES": "binance",
        "QUANTLAB_STREAMS": "bbo",
        "WAREHOUSE_URL": events.url,
        "QUANTLAB_SCRATCH_DIR": str(lakes.scratch),
        "QUANTLAB_METRICS_FILE": str(tmp_path / "quantlab.prom"),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }
    for command in (["compact", "--date", f"{day:%Y%m%d}"], ["warehouse", "compact"]):
        done = subprocess.run(
            [sys.executable, "-m", "quantlab_dagster.cli", *command],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    return env


@pytest.mark.slow
@pytest.mark.server
def test_prometheus_scrapes_real_runs_and_answers_every_panel(tmp_path: Path) -> None:
    prometheus = program("prometheus", "prometheus")
    env = work(tmp_path)
    metrics_port, port = free_ports(2)
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(DEPLOY / "prometheus" / "alerts.yaml")]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [f"{HOST}:{metrics_port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    serve = [sys.executable, "-m", "quantlab_dagster.cli", "metrics", "serve", "--port", str(metrics_port)]
    scrape = [
        prometheus,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address={HOST}:{port}",
    ]
    url = f"http://{HOST}:{port}"
    with (
        running(serve, env=env, directory=tmp_path, name="metrics"),
        running(scrape, env=env, directory=tmp_path, name="prometheus"),
    ):

        def value_of(query: str) -> list[Any]:
            found: list[Any] = ask(url, "/api/v1/query", query=query)["result"]
            return found

        until(lambda: value_of("count_over_time(quantlab_live_newest_part_age_seconds[1m]) > 1"), "nothing is scraped")
        for expression in EXPRESSIONS:
            if expression != _ONLY_WHILE_AN_ALERT_FIRES:
                assert value_of(expression), expression
        assert value_of(_ONLY_WHILE_AN_ALERT_FIRES + " or vector(0)")
        rules = [rule for group in ask(url, "/api/v1/rules")["groups"] for rule in group["rules"]]
        assert rules
        until(
            lambda: all(
                rule["health"] == "ok" for group in ask(url, "/api/v1/rules")["groups"] for rule in group["rules"]
            ),
            "a rule cannot be evaluated",
        )
        age = dt.timedelta(seconds=float(value_of("quantlab_live_newest_part_age_seconds")[0]["value"][1]))
        assert age < dt.timedelta(minutes=10)
        assert value_of('quantlab_compaction_rows_total{lake="market_data"}')[0]["value"][1] == "600"
