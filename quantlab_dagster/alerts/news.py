"""What is news of the things that are wrong: each is told when it appears, seldom again, and when it is over. Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from quantlab_dagster.errors import masked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["AGAIN_AFTER", "CHANGED_AFTER", "Kind", "Known", "Message", "News", "Trouble", "decide", "dump", "load"]

AGAIN_AFTER = dt.timedelta(days=1)
"""What is still wrong is told again after so long."""

CHANGED_AFTER = dt.timedelta(hours=1)
"""What is wrong in another way than was told is told after so long."""

_MOST_ITEMS, _MOST_CHARACTERS = 20, 700


class Kind(StrEnum):
    """What there is to tell of a trouble."""

    NEW = "new"
    CHANGED = "changed"
    STILL = "still"
    OVER = "over"
    GONE = "gone"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong now.

    Attributes:
        what: its name, which stays the same while it lasts.
        text: how, for people.
    """

    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a trouble.

    Attributes:
        since: when it was first seen.
        told: when people were last told; None if they were not yet.
        digest: of the text that they were told.
    """

    since: dt.datetime
    told: dt.datetime | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class News:
    """One thing to tell.

    Attributes:
        kind: of the news.
        what: of the trouble.
        text: how it is wrong; empty where it is over or gone.
        since: when it was first seen.
    """

    kind: Kind
    what: str
    text: str
    since: dt.datetime

    @property
    def line(self) -> str:
        """For people."""
        since = f"since {self.since:%Y-%m-%d %H:%M} UTC"
        if self.kind is Kind.OVER:
            return f"OVER {self.what} (it was wrong {since})"
        if self.kind is Kind.GONE:
            return f"GONE {self.what} (it was wrong {since}): no longer looked at, so whether it is over is not known"
        if self.kind is Kind.TEST:
            return f"TEST {self.what} (at {self.since:%Y-%m-%d %H:%M} UTC): {_short(self.text)}"
        return f"{self.kind.value.upper()} {self.what} ({since}): {_short(self.text)}"


@dataclass(frozen=True, slots=True)
class Message:
    """All that there is to tell at one time; it is sent as one, and has arrived or not as one.

    Attributes:
        news: not empty.
    """

    news: tuple[News, ...] = field(default=())

    @property
    def summary(self) -> str:
        """In some words: how many of which kind."""
        counts = {kind: sum(one.kind is kind for one in self.news) for kind in Kind}
        return "quantlab: " + ", ".join(f"{number} {kind.value}" for kind, number in counts.items() if number)

    @property
    def text(self) -> str:
        """The whole, in lines."""
        lines = [one.line for one in self.news[:_MOST_ITEMS]]
        more = len(self.news) - _MOST_ITEMS
        return "\n".join([self.summary, *lines, *([f"and {more} more"] if more > 0 else [])])

    @property
    def document(self) -> dict[str, Any]:
        """For programs."""
        items = [
            {"kind": one.kind.value, "what": one.what, "text": masked(one.text), "since": one.since.isoformat()}
            for one in self.news
        ]
        return {"summary": self.summary, "text": self.text, "news": items}


def decide(
    known: Mapping[str, Known],
    troubles: Iterable[Trouble],
    now: dt.datetime,
    *,
    at_once: bool = False,
    looked: Collection[str] | None = None,
) -> tuple[tuple[News, ...], dict[str, Known]]:
    """What is to be told now, and what is to be remembered once that has arrived.

    What is seen for the first time is told if it is still there the next time: what passes by itself is no news.

    Args:
        known: what is remembered, by the trouble's name.
        troubles: all that is wrong now.
        now: the present time.
        at_once: whether what is seen for the first time is told.
        looked: the names of all that was looked at, wrong or not: what is not among them is gone, and not over. None
            if that is everything.
    """
    news: list[News] = []
    after: dict[str, Known] = {}
    for trouble in troubles:
        before = known.get(trouble.what) or Known(now)
        first = trouble.what not in known and not at_once
        kind = None if first else _kind(before, _digest(trouble.text), now)
        if kind is None:
            after[trouble.what] = before
        else:
            news.append(News(kind, trouble.what, trouble.text, before.since))
            after[trouble.what] = Known(before.since, now, _digest(trouble.text))
    ended = (what for what, one in known.items() if what not in after and one.told is not None)
    for what in ended:
        kind = Kind.OVER if looked is None or what in looked else Kind.GONE
        news.append(News(kind, what, "", known[what].since))
    return tuple(news), after


def _kind(before: Known, digest: str, now: dt.datetime) -> Kind | None:
    if before.told is None:
        return Kind.NEW
    if digest != before.digest and now - before.told >= CHANGED_AFTER:
        return Kind.CHANGED
    return Kind.STILL if now - before.told >= AGAIN_AFTER else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _short(text: str) -> str:
    text = masked(text)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def dump(known: Mapping[str, Known]) -> dict[str, list[str | None]]:
    """What is remembered, as JSON values."""
    return {
        what: [one.since.isoformat(), one.told.isoformat() if one.told else None, one.digest]
        for what, one in known.items()
    }


def load(document: object) -> dict[str, Known]:
    """What was remembered.

    Raises:
        ValueError: this is not it.
    """
    try:
        assert isinstance(document, dict)
        return {
            str(what): Known(
                dt.datetime.fromisoformat(since), dt.datetime.fromisoformat(told) if told else None, str(digest)
            )
            for what, (since, told, digest) in document.items()
        }
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"is no memory of what was told: {json.dumps(document, default=str)[:80]}") from error
