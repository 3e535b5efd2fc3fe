"""Which conditions a store honours. Pure; found out by `Store.capabilities`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["Capabilities"]

_WORDS = {
    "create_if_absent": "PUT only if absent",
    "replace_if_match": "PUT only if unchanged",
    "delete_if_match": "DELETE only if unchanged",
    "bulk_delete": "bulk delete with an ETag for each object",
    "part_etags": "part ETags compared when an upload is completed",
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Which conditions a store honours: the request is refused where they do not hold, and done where they do.

    Attributes:
        create_if_absent: a PUT with `If-None-Match: *`.
        replace_if_match: a PUT with `If-Match`.
        delete_if_match: a DELETE with `If-Match`.
        bulk_delete: a DeleteObjects request with an ETag for each object.
        part_etags: the completion of an upload names its parts by their ETags.
    """

    create_if_absent: bool
    replace_if_match: bool
    delete_if_match: bool
    bulk_delete: bool
    part_etags: bool

    def missing(self, *names: str) -> list[str]:
        """Those that are not honoured, for people.

        Args:
            names: of attributes to be looked at; all if there are none.
        """
        return [_WORDS[name] for name, honoured in self.as_dict().items() if not honoured and name in (names or _WORDS)]

    def as_dict(self) -> dict[str, bool]:
        """The attributes by name."""
        return asdict(self)

    def __str__(self) -> str:
        """For people, in one line."""
        honoured = [_WORDS[name] for name, is_honoured in self.as_dict().items() if is_honoured]
        missing = "".join(f"; not: {text}" for text in self.missing())
        return f"{', '.join(honoured) or 'no condition'}{missing}"
