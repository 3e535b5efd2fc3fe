"""A platform engineer's first hour, as it is typed; and what the operations guide tells them to type exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from quantlab_dagster.cli.app import app
from quantlab_dagster.work.prices import Prices
from quantlab_dagster_tests.deploy.places import DEPLOY, ROOT, script

GUIDE = (ROOT / "docs" / "operations.md").read_text()
COMMANDS = sorted(set(re.findall(r"\bquantlab ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", GUIDE)))


@pytest.mark.slow
@pytest.mark.server
def test_the_first_hour_goes_as_it_is_written() -> None:
    virtual_environment = str(Path(script("python")).parents[1])
    done = subprocess.run(
        [DEPLOY / "first_hour.sh", virtual_environment],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=850,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.endswith("The first hour is over: all of it worked.\n")


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_the_guide_exists(words: str) -> None:
    assert len(COMMANDS) > 10
    command = get_command(app)
    first, *rest = words.split()
    found = command.commands[first]  # type: ignore[attr-defined]
    if rest and hasattr(found, "commands"):
        assert rest[0] in found.commands


def test_a_file_that_the_guide_names_is_there() -> None:
    named = set(re.findall(r"`(deploy/[\w./-]+?|[\w-]+\.json)`", GUIDE))
    named -= {"meta.json", "sources.json", "quality_day.json", "quarantine.json", "_state.json"}
    assert len(named) > 6
    for name in named:
        assert (ROOT / name).exists() or (DEPLOY / "iam" / name).exists(), name
    for target in re.findall(r"\]\(([\w.-]+)\)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target


def test_every_policy_is_explained() -> None:
    for path in (DEPLOY / "iam").iterdir():
        assert f"`{path.name}`" in GUIDE
        assert json.loads(path.read_text())["Version"] == "2012-10-17"


def test_the_prices_of_the_guide_are_understood() -> None:
    [line] = [line for line in GUIDE.splitlines() if "--prices" in line]
    text = shlex.split(line)[shlex.split(line).index("--prices") + 1]
    assert Prices.parse(text).writes_per_thousand == 0.0054
