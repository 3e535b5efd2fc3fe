"""The alerts: promtool proves when they fire, and that its proof would notice a rule that is wrong."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]

from quantlab_dagster import metrics
from quantlab_dagster_tests.deploy.places import DEPLOY, ROOT, program

if TYPE_CHECKING:
    from pathlib import Path

PROMETHEUS = DEPLOY / "prometheus"
_ALL: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
RECORDS = [rule for rule in _ALL if "record" in rule]
RULES = [rule for rule in _ALL if "alert" in rule]
NAMES = [rule["alert"] for rule in RULES]


def promtool(*arguments: str, directory: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool", "prometheus"), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def known_names() -> set[str]:
    """The names of all metrics that the code writes."""
    return {
        *(f"quantlab_compaction_{name}" for name in (*metrics._COUNTERS, *metrics._GAUGES)),
        *(f"quantlab_lake_{name}" for name in metrics._LAKE_GAUGES),
        *(f"quantlab_live_{name}" for name in metrics._LIVE_GAUGES),
    }


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bquantlab_\w+", expression))


def test_a_metric_that_is_asked_for_is_one_that_is_written() -> None:
    asked = {name for rule in _ALL for name in names_in(rule["expr"])}
    assert len(asked) > 15
    assert asked <= known_names()
    assert names_in("quantlab_lake_fine == 0 and quantlab_lake_good") - known_names() == {"quantlab_lake_good"}


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RECORDS) + len(RULES)} rules found" in done.stdout


def test_each_alert_fires_when_it_must_and_not_otherwise() -> None:
    done = promtool("test", "rules", "alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_proved_to_fire_to_wait_and_to_be_silent() -> None:
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text())["tests"]
    well, *troubled = cases
    assert {item["alertname"] for item in well["alert_rule_test"] if not item["exp_alerts"]} == set(NAMES)
    fired: set[str] = set()
    waited: set[str] = set()
    for case in troubled:
        for item in case["alert_rule_test"]:
            (fired if item["exp_alerts"] else waited).add(item["alertname"])
    assert fired == set(NAMES)
    assert waited == set(NAMES)


def broken(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """A rule made wrong in each way that its test must notice: another limit, another lake, at once, never."""
    expression: str = rule["expr"]
    turned = (
        "vector(0) > 1",
        re.sub(r"(> \d+|== 0|>= 2)", ">= 0", expression),
        expression.replace('"market_data"', '"other"'),
        expression.replace('"events"', '"other"'),
    )
    changes = [{"expr": text} for text in turned if text != expression]
    changes.append({"for": "9h"})
    if rule["for"] != "0m":
        changes.append({"for": "0m"})
    return [{**rule, **change} for change in changes]


def proof_of(name: str) -> dict[str, Any]:
    """The part of the proof that is about one alert."""
    proof: dict[str, Any] = yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text())
    for case in proof["tests"]:
        case["alert_rule_test"] = [item for item in case["alert_rule_test"] if item["alertname"] == name]
    return {**proof, "tests": [case for case in proof["tests"] if case["alert_rule_test"]]}


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_the_proof_notices_a_rule_that_is_wrong(rule: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "alerts_test.yaml").write_text(yaml.safe_dump(proof_of(rule["alert"])))

    def proved(tried: dict[str, Any]) -> bool:
        (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [*RECORDS, tried]}]}))
        return promtool("test", "rules", "alerts_test.yaml", directory=tmp_path).returncode == 0

    assert proved(rule)
    assert [wrong for wrong in broken(rule) if proved(wrong)] == []


def test_each_alert_leads_to_its_heading_in_the_operations_guide() -> None:
    headings = re.findall(r"^#{2,4} (Quantlab\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert headings == NAMES
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
