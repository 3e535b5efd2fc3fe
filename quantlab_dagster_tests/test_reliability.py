"""The page of faults and tests is what the tests say, and what is not tested is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quantlab_dagster_tests.fault_list import CHAPTERS, FAULTS, KNOWN_GAPS
from quantlab_dagster_tests.reliability import PAGE, BadMark, Guard, find_guards, page

if TYPE_CHECKING:
    from pathlib import Path


def test_the_page_is_what_the_tests_say() -> None:
    assert PAGE.read_text() == page(), "python quantlab_dagster_tests/reliability.py > docs/reliability.md"


def test_what_is_not_tested_is_known_and_only_shrinks() -> None:
    """A fault whose last test goes is noticed; so is one that has a test at last: take it out of KNOWN_GAPS."""
    guarded = {fault for guard in find_guards() if guard.holds for fault in guard.faults}
    assert set(FAULTS) - guarded == KNOWN_GAPS


def test_faults_have_one_name_and_one_sentence() -> None:
    assert len(FAULTS) == sum(len(chapter.faults) for chapter in CHAPTERS)
    for fault in FAULTS.values():
        assert fault.id == fault.id.lower().replace(" ", "-")
        assert (fault.sentence[0].isupper() or fault.sentence[0].isdigit(), fault.sentence[-1]) == (True, "."), fault.id


def test_a_fault_without_a_test_is_said() -> None:
    [first, *_] = FAULTS
    text = page([Guard("market/test_x.py", "test_it_holds", (first,), ("slow",))])
    line = next(line for line in text.splitlines() if f"`{first}`" in line)
    assert line.endswith("| *it holds <sub>`market.test_x`</sub>* |")
    assert text.count("**no test yet**") == len(FAULTS) - 1
    assert f"{len(FAULTS) - 1} have no test yet." in text


def test_a_test_that_is_expected_to_fail_guards_nothing() -> None:
    [first, *_] = FAULTS
    text = page([Guard("market/test_x.py", "test_it_holds", (first,), ("xfail",))])
    line = next(line for line in text.splitlines() if f"`{first}`" in line)
    assert "**no test yet**<br>it holds <sub>`market.test_x`</sub> (not cured yet)" in line
    assert "0 tests guard against 0 of them" in text


SOURCE = """
import pytest
{head}
@pytest.mark.slow
@pytest.mark.guards({faults})
def {name}():
    pass
"""


def written(directory: Path, faults: str, name: str = "test_x", head: str = "") -> Path:
    (directory / "market").mkdir()
    (directory / "market" / "test_it.py").write_text(SOURCE.format(faults=faults, name=name, head=head))
    return directory


def test_marks_are_found_in_the_source(tmp_path: Path) -> None:
    one, two, *_ = FAULTS
    found = find_guards(
        written(tmp_path, f"{one!r}, {two!r}", head="pytestmark = [pytest.mark.server, pytest.mark.xfail()]")
    )
    assert found == [Guard("market/test_it.py", "test_x", (one, two), ("slow", "server", "xfail"))]


@pytest.mark.parametrize(
    ("faults", "name"),
    [("'no such fault'", "test_x"), ("", "test_x"), ("FAULTS[0]", "test_x"), ("'part-lost'", "helper")],
)
def test_a_mark_that_says_nothing_is_refused(tmp_path: Path, faults: str, name: str) -> None:
    with pytest.raises(BadMark):
        find_guards(written(tmp_path, faults, name))
