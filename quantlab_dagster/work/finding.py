"""What is judged of a lake, for asset checks and for `status`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether one thing is as it should be.

    Attributes:
        name: of the check.
        passed: whether it is.
        text: what was found, for people.
        number: of things that are wrong, where they are counted.
    """

    name: str
    passed: bool
    text: str
    number: int = 0
