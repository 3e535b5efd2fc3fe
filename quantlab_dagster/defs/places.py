"""Where assets lie, in the words of Dagster's pages; the same for both lakes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["kinds_of", "uri_of"]


def uri_of(url: str, key: str = "") -> str:
    """Where something lies, as a URI: a directory by its absolute path, whichever way it is configured.

    Args:
        url: of a lake: s3://bucket/prefix, file:///directory, or a path. Settings refuse those that hold credentials.
        key: within the lake.
    """
    base = url if "://" in url else Path(url).absolute().as_uri()
    return f"{base.rstrip('/')}/{key}"


def kinds_of(url: str, *kinds: str) -> set[str]:
    """The kinds of an asset, its store among them. Dagster shows three."""
    return {*kinds, "s3"} if url.startswith("s3://") else set(kinds)
