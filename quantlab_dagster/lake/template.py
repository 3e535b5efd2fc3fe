"""How the event lake's directories are named: a template such as `app_id={app}/year={Y}/month={m}/day={d}/hour={H}`.

Pure. A template goes from the app (if there is one) to the day and perhaps the hour. Months, days and hours may be
padded or not: paths stay as they were found. What no template explains is told, with the one that would.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING

from quantlab_dagster.errors import PathError
from quantlab_dagster.lake.paths import check_value
from quantlab_dagster.lake.store.objects import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["DEFAULT_TEMPLATE", "ONE_DAY", "ONE_HOUR", "SLOTS", "Layout", "hour_text", "likely_template"]

DEFAULT_TEMPLATE = "app_id={app}/year={Y}/month={m}/day={d}/hour={H}"

SLOTS = "_compaction/"
"""Prefix of the slots. Engines ignore names that begin with an underscore."""

ONE_HOUR = dt.timedelta(hours=1)
ONE_DAY = dt.timedelta(days=1)

_COMPACTED = "compacted_"
_FIELD = re.compile(r"\{([^{}]*)\}")
_TIMES = "YmdH"
_ORDERS = ("Ymd", "YmdH", "appYmd", "appYmdH")
_NOT_IN_TEXT = re.compile(r"[\x00-\x1f\x7f{}]")
_REMEDY = (
    "Write it as in app_id={app}/year={Y}/month={m}/day={d}/hour={H}, {app}/date={Y}-{m}-{d}/hour={H} or dt={Y}{m}{d}"
)
_LONGEST_ENUMERATED = 366


@dataclass(frozen=True, slots=True)
class _Level:
    """One directory of a template.

    Attributes:
        text: as it stands in the template.
        fields: names of what it tells, in order.
        pattern: of the directory's name.
        fixed: the fields that are always padded, because another one touches them.
    """

    text: str
    fields: tuple[str, ...]
    pattern: re.Pattern[str]
    fixed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Layout:
    """A template, and which files below it hold events.

    Attributes:
        template: of directories: `{app}`, `{Y}`, `{m}`, `{d}` and `{H}` stand for what they say.
        files: pattern of the names of event files, as a shell has it.

    Raises:
        PathError: the template cannot be used.
    """

    template: str = DEFAULT_TEMPLATE
    files: str = "*.parquet"

    def __post_init__(self) -> None:
        _levels(self.template)
        if not self.files or "/" in self.files:
            raise PathError(self.files, "is no pattern of file names", "Use one such as *.parquet, part-* or *")

    @property
    def has_apps(self) -> bool:
        """Whether paths name an app."""
        return "{app}" in self.template

    @property
    def by_hour(self) -> bool:
        """Whether the smallest partition is an hour; else it is a day."""
        return "{H}" in self.template

    @property
    def app_level(self) -> str:
        """What stands before the app in the name of its directory; empty where there is none."""
        return self.template.partition("{app}")[0] if self.has_apps else ""

    @property
    def _app_name(self) -> str:
        return self.app_level.removesuffix("=") or "app"

    def is_event_file(self, name: str) -> bool:
        """Whether an object of a partition holds events: what an engine would read."""
        if name.startswith(("_", ".")) or not name:
            return False
        return fnmatchcase(name, self.files) or (name.startswith(_COMPACTED) and name.endswith(".parquet"))

    # ---- directories -------------------------------------------------------------------------------------------

    def directory(self, app: str, hour: dt.datetime) -> str:
        """The directory of a partition, ending in a slash, all values padded.

        Raises:
            PathError: the app cannot stand in a path.
        """
        values = {"Y": f"{hour.year:04d}", "m": f"{hour:%m}", "d": f"{hour:%d}", "H": f"{hour:%H}"}
        if self.has_apps:
            values["app"] = check_value(self._app_name, app)
        return "".join(f"{_filled(level.text, values)}/" for level in _levels(self.template))

    def read(self, directory: str) -> tuple[str, dt.datetime] | None:
        """App ("" if there are none) and beginning of the partition of a directory; None if it is that of none."""
        values = self._values(directory)
        if values is None:
            return None
        app = values.get("app", "")
        if app in (".", ".."):  # no store can address their slots
            return None
        try:
            year, month, day, hour = (int(values.get(name, 0)) for name in _TIMES)
            return app, dt.datetime(year, month, day, hour, tzinfo=dt.UTC)
        except ValueError:
            return None

    def _values(self, directory: str) -> dict[str, str] | None:
        names, levels = directory.rstrip("/").split("/"), _levels(self.template)
        if len(names) != len(levels) or not directory.endswith("/") or directory.endswith("//"):
            return None
        values: dict[str, str] = {}
        for name, level in zip(names, levels, strict=True):
            found = level.pattern.fullmatch(name)
            if found is None:
                return None
            values |= found.groupdict()
        return values

    def may_lead_to_events(self, path: str) -> bool:
        """Whether a partition may lie below a path of the first directories, which ends in a slash."""
        names = path.rstrip("/").split("/")
        return all(
            level.pattern.fullmatch(name) for name, level in zip(names, _levels(self.template), strict=False)
        ) and len(names) <= len(_levels(self.template))

    # ---- slots -------------------------------------------------------------------------------------------------

    def slot_of(self, directory: str) -> str:
        """Key of the slot of a partition's directory: no two partitions, of whatever layouts, share one."""
        if self.template != DEFAULT_TEMPLATE:
            return f"{SLOTS}{directory.rstrip('/')}.json"
        values = self._values(directory)
        assert values is not None  # it is that of a partition
        app, year, month, day, hour = (values[name] for name in ("app", *_TIMES))
        return f"{SLOTS}{app}/{year}-{month}-{day}T{hour}.json"

    def directory_of_slot(self, key: str) -> str | None:
        """The directory of the partition whose slot this is; None if it is no slot of this layout."""
        if not key.startswith(SLOTS) or not key.endswith(".json"):
            return None
        name = key.removeprefix(SLOTS).removesuffix(".json")
        if self.template == DEFAULT_TEMPLATE:
            found = _COMPACT_SLOT.fullmatch(name)
            if found is None:
                return None
            name = _filled(DEFAULT_TEMPLATE, found.groupdict())
        directory = f"{name}/"
        return directory if self.read(directory) is not None else None

    def is_slot_of_another(self, key: str) -> bool:
        """Whether this is the slot that another layout has for a directory which is a partition of this one, too.

        Only between the default layout, whose slots have names of their own, and others: `{app}/year=…` reads
        `app_id=demo/year=…` as well, of an app `app_id=demo`.
        """
        if not key.startswith(SLOTS) or not key.endswith(".json"):
            return False
        name = key.removeprefix(SLOTS).removesuffix(".json")
        found = _COMPACT_SLOT.fullmatch(name)
        directories = [f"{name}/", *([f"{_filled(DEFAULT_TEMPLATE, found.groupdict())}/"] if found else ())]
        return any(self.read(one) is not None and self.slot_of(one) != key for one in directories)

    # ---- ranges of keys ----------------------------------------------------------------------------------------

    def prefix_of(self, app: str) -> str:
        """Below which all partitions of an app lie."""
        return f"{self.app_level}{check_value(self._app_name, app)}/" if self.has_apps else ""

    def slots_of(self, app: str) -> str:
        """Below which all slots of an app lie."""
        return f"{SLOTS}{app}/" if self.template == DEFAULT_TEMPLATE else f"{SLOTS}{self.prefix_of(app)}"

    def apps_of_slots(self, directories: Iterable[str]) -> list[str]:
        """Whose slots lie in these directories below the slots' prefix; one without a name if there are no apps."""
        if not self.has_apps:
            return [""]
        level = "" if self.template == DEFAULT_TEMPLATE else self.app_level
        return [name.removeprefix(level) for name in directories if name.startswith(level) and name != level]

    def keys(self, app: str, first: dt.datetime | None, last: dt.datetime | None) -> Range:
        """Where all keys of an app's partitions from one hour to another lie, and perhaps some others."""
        return self._between(self.prefix_of(app), _day_text(self.template), first, last)

    def slot_keys(self, app: str, first: dt.datetime | None, last: dt.datetime | None) -> Range:
        """Where all keys of an app's slots from one hour to another lie, and perhaps some others."""
        text = _day_text(self.template) if self.by_hour else f"{_day_text(self.template).removesuffix('/')}."
        text = "{Y}-{m}-{d}T" if self.template == DEFAULT_TEMPLATE else text
        return self._between(self.slots_of(app), text, first, last)

    def _between(self, prefix: str, text: str, first: dt.datetime | None, last: dt.datetime | None) -> Range:
        literal = text.partition("{")[0]
        fixed = frozenset().union(*(level.fixed for level in _levels(self.template)))
        after, until = "", None
        if first is not None:
            end = min(last or dt.datetime.max.replace(tzinfo=dt.UTC), _end_of_year(first))
            after = prefix + _before(min(_spelled(text, _days(first, end), fixed), key=str.encode))
        elif not self.has_apps:  # what is not of this layout may be millions of slots
            after = f"{prefix}{literal}!"
        if last is not None:
            begin = max(first or dt.datetime.min.replace(tzinfo=dt.UTC), _begin_of_year(last))
            until = prefix + max(_spelled(text, _days(begin, last), fixed), key=str.encode) + _BEYOND
        elif not self.has_apps:
            until = f"{prefix}{literal}:"
        return Range(after, until)


_BEYOND = "\U0010ffff"
_COMPACT_SLOT = re.compile(
    r"(?P<app>[^/]+)/(?P<Y>[0-9]{4})-(?P<m>[0-9]{1,2})-(?P<d>[0-9]{1,2})T(?P<H>[0-9]{1,2})", re.DOTALL
)


@cache
def _levels(template: str) -> tuple[_Level, ...]:
    def refuse(cause: str) -> PathError:
        return PathError(template, cause, _REMEDY)

    if "".join(_FIELD.findall(template)) not in _ORDERS:
        raise refuse("names not the app (or none), year, month, day (and hour) in this order, each once")
    levels = []
    for number, text in enumerate(template.split("/")):
        if not text or text in (".", "..") or _NOT_IN_TEXT.search(_FIELD.sub("", text)):
            raise refuse(f"has a directory {text!r}")
        fields = tuple(_FIELD.findall(text))
        if "app" in fields and (number or fields != ("app",) or not text.endswith("{app}")):
            raise refuse("has the app not at the end of its first directory")
        if not fields:
            raise refuse(f"has a directory {text!r} that tells nothing: let the lake's URL name it")
        if text.startswith(("_", ".")):
            raise refuse(f"has a directory {text!r}, which engines ignore")
        touching = {name for pair in re.findall(r"\{(\w+)\}(?=\{(\w+)\})", text) for name in pair} - {"Y"}
        levels.append(_Level(text, fields, _pattern(text, touching), frozenset(touching)))
    return tuple(levels)


def _pattern(text: str, fixed: Iterable[str]) -> re.Pattern[str]:
    made, at = "", 0
    for found in _FIELD.finditer(text):
        name = found[1]
        width = "{4}" if name == "Y" else "{2}" if name in fixed else "{1,2}"
        value = r"[^\x00-\x1f\x7f/]+" if name == "app" else f"[0-9]{width}"
        # In front of a plain app stands nothing that engines ignore.
        guard = r"(?![_.])" if name == "app" and not found.start() else ""
        made += f"{re.escape(text[at : found.start()])}{guard}(?P<{name}>{value})"
        at = found.end()
    return re.compile(made + re.escape(text[at:]))


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda found: values[found[1]], text)


def _day_text(template: str) -> str:
    """What stands below an app up to the day, and the character after it: it begins every key of that day."""
    text = template.partition("/")[2] if "{app}" in template else template
    end = text.index("{d}") + len("{d}")
    return f"{text}/"[: end + 1] if f"{text}/"[end] != "{" else text[:end]


def _spelled(text: str, days: Iterable[dt.date], fixed: frozenset[str]) -> Iterator[str]:
    """A text of these days, in every spelling."""
    for day in days:
        months, numbers = (
            {f"{value:02d}", f"{value:02d}" if name in fixed else str(value)}
            for name, value in (("m", day.month), ("d", day.day))
        )
        for month, number in itertools.product(months, numbers):
            yield _filled(text, {"Y": f"{day.year:04d}", "m": month, "d": number})


def _before(text: str) -> str:
    """A text that sorts before all that begin with this one, and after most others.

    Also where directories are walked by their names: SeaweedFS leaves `day=15/` out of what comes after `day=15`.
    """
    text = text.removesuffix("/")
    return text[:-1] + (f"{chr(ord(text[-1]) - 1)}~" if text[-1] != "0" else "")


def _days(first: dt.datetime, last: dt.datetime) -> list[dt.date]:
    begin = first.date()
    number = max(0, min(_LONGEST_ENUMERATED, (last.date() - begin).days))
    return [dt.date.fromordinal(begin.toordinal() + at) for at in range(number + 1)]


def _end_of_year(moment: dt.datetime) -> dt.datetime:
    return moment.replace(month=12, day=31, hour=23)


def _begin_of_year(moment: dt.datetime) -> dt.datetime:
    return moment.replace(month=1, day=1, hour=0)


def hour_text(hour: dt.datetime) -> str:
    """An hour as in slots and texts: 2026-01-15T10."""
    return f"{hour.year:04d}{hour:-%m-%dT%H}"


# ---- what no template explains ---------------------------------------------------------------------------------------

_UNITS = dict.fromkeys(("year", "y"), "{Y}") | dict.fromkeys(("month", "m"), "{m}")
_UNITS |= dict.fromkeys(("day", "d"), "{d}") | dict.fromkeys(("hour", "hr", "h"), "{H}")
_LONGEST_NUMBER = 4
_WRITTEN = (
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}[T-][0-9]{1,2}"), ("{Y}-{m}-{d}", "{H}")),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"), ("{Y}-{m}-{d}", "")),
    (re.compile(r"[0-9]{10}"), ("{Y}{m}{d}", "{H}")),
    (re.compile(r"[0-9]{8}"), ("{Y}{m}{d}", "")),
)


def likely_template(key: str) -> str:
    """The template that would explain a file's key; empty if none is likely."""
    *names, _ = key.split("/")
    guessed = [_guess(name) for name in names]
    plain = iter(("{Y}", "{m}", "{d}", "{H}"))
    for at, name in enumerate(names):
        if not guessed[at] and re.fullmatch(r"[0-9]{4}" if guessed[:at].count("{Y}") == 0 else r"[0-9]{1,2}", name):
            guessed[at] = next(plain, "")
    if names and not guessed[0]:
        title, equals, _ = names[0].rpartition("=")
        guessed[0] = f"{title}{equals}{{app}}"
    template = "/".join(guessed)
    try:
        layout = Layout(template)
    except PathError:
        return ""
    return template if layout.read(f"{'/'.join(names)}/") else ""


def _guess(name: str) -> str:
    title, equals, value = name.rpartition("=")
    if title.lower() in _UNITS and value.isdigit() and len(value) <= _LONGEST_NUMBER:
        return f"{title}={_UNITS[title.lower()]}"
    for pattern, (day, hour) in _WRITTEN:
        if pattern.fullmatch(value):
            between = re.sub(r"[0-9]", "", value)[2:] if hour else ""
            return f"{title}{equals}{day}{between}{hour}"
    return ""
