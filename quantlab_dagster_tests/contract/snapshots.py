"""Snapshots: the shape of JSON values (their keys in order, the types of what they hold), compared with a file's."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

DIRECTORY = Path(__file__).parent / "snapshots"
UPDATE = "UPDATE_SNAPSHOTS"

# Strings that programs take apart: their format is part of the contract.
_FORMATS = {
    "YYYY-MM-DD": r"\d{4}-\d{2}-\d{2}",
    "YYYYMMDD": r"\d{8}",
    "YYYY-MM-DDTHH": r"\d{4}-\d{2}-\d{2}T\d{2}",
    "YYYY-MM-DDTHH:MM:SSZ": r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z",
    "app/YYYY-MM-DDTHH": r"[^/ ]+/\d{4}-\d{2}-\d{2}T\d{2}",
    "exchange/stream/symbol/YYYYMMDD": r"[^/= ]+/[^/= ]+/[^/= ]+/\d{8}",
    "SHA-256": r"[0-9a-f]{64}",
    "UUID": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "compacted_UUID.parquet": r"compacted_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.parquet",
}

# Keys that are data: all of their values have one shape.
_NAMES = {
    "YYYY-MM-DD": r"\d{4}-\d{2}-\d{2}",
    "YYYYMMDD": r"\d{8}",
    "exchange/stream/symbol/YYYYMMDD": r"[^/= ]+/[^/= ]+/[^/= ]+/\d{8}",
    "exchange/stream/symbol": r"[^/= ]+/[^/= ]+/[^/= ]+",
    "exchange/stream": r"[^/= ]+/[^/= ]+",
    "app_id=…/year=…/month=…/day=…/hour=…/file": r"app_id=[^/]+/year=\d+/month=\d+/day=\d+/hour=\d+/[^/]+\.parquet",
    "file": r"[^/]+\.parquet",
}


def shape_of(*values: Any) -> Any:
    """What all of these JSON values look like: types for values, one item for a list, keys in order for an object.

    A key that some objects lack ends in "?". A value that is an object or a list here and something else there is
    {"either": […]}.
    """
    words = sorted({_type_of(value) for value in values if not isinstance(value, (dict, list))})
    shapes: list[Any] = ["|".join(words)] if words else []
    lists = [value for value in values if isinstance(value, list)]
    if lists:
        items = [item for value in lists for item in value]
        shapes.append([shape_of(*items)] if items else [])
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        shapes.append(_fields_of(objects))
    return shapes[0] if len(shapes) == 1 else {"either": shapes}


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return next((f"str {name}" for name, regex in _FORMATS.items() if re.fullmatch(regex, value)), "str")
    return type(value).__name__


def _fields_of(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    order: list[str] = []
    for found in sorted(objects, key=list):  # the shape is one, whichever of them a run wrote first
        at = 0
        for key, value in found.items():
            name = _name_of(key)
            values.setdefault(name, []).append(value)
            if name not in order:
                order.insert(at, name)
            elif order.index(name) + 1 < at:
                raise AssertionError(f"the key {key!r} is not always at the same place: {list(found)}, {order}")
            at = order.index(name) + 1
    return {
        name if name.startswith("<") or len(values[name]) == len(objects) else f"{name}?": shape_of(*values[name])
        for name in order
    }


def _name_of(key: str) -> str:
    return next((f"<{name}>" for name, regex in _NAMES.items() if re.fullmatch(regex, key)), key)


def check(name: str, found: Any) -> None:
    """Compare a value with its snapshot."""
    check_bytes(f"{name}.json", (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())


def check_bytes(file: str, found: bytes) -> None:
    """Compare JSON with a snapshot's bytes, or write that if `UPDATE_SNAPSHOTS` is set. Says what differs."""
    if os.environ.get(UPDATE):
        (DIRECTORY / file).write_bytes(found)
    before = pinned(file)
    assert before, f"there is no snapshot {file} yet: write it with {UPDATE}=1"
    differing = differences(file.removesuffix(".json"), json.loads(before), json.loads(found))
    assert not differing, "; ".join(differing)
    assert before.decode() == found.decode(), f"{file}: the same values, written differently"


def pinned(file: str) -> bytes:
    """The bytes of a snapshot; none if it is not there yet."""
    path = DIRECTORY / file
    return path.read_bytes() if path.exists() else b""


def differences(where: str, pinned: Any, found: Any) -> list[str]:
    """What differs between two shapes, one text for each difference."""
    if isinstance(pinned, dict) and isinstance(found, dict):
        texts = [f"{where}.{key} is gone" for key in pinned if key not in found]
        texts += [f"{where}.{key} is new" for key in found if key not in pinned]
        common, order = [key for key in pinned if key in found], [key for key in found if key in pinned]
        if common != order:
            texts.append(f"the keys of {where} are in the order {order} instead of {common}")
        return texts + [text for key in common for text in differences(f"{where}.{key}", pinned[key], found[key])]
    if isinstance(pinned, list) and isinstance(found, list) and len(pinned) == len(found):
        pairs = enumerate(zip(pinned, found, strict=True))
        return [text for at, pair in pairs for text in differences(f"{where}[{at}]", *pair)]
    before, after = json.dumps(pinned, ensure_ascii=False), json.dumps(found, ensure_ascii=False)  # 2 is not 2.0
    return [] if before == after else [f"{where} is {after} instead of {before}"]
