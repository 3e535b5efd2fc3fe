"""The JSON objects of a lake: typed, both ways."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from quantlab_dagster import __version__
from quantlab_dagster.errors import MalformedObject

__all__ = ["WRITER", "WRITER_VERSION", "Record"]

WRITER = "quantlab-dagster"
WRITER_VERSION = __version__


class Record(BaseModel):
    """A JSON object of the lake. Fields of other writers are kept."""

    remedy: ClassVar[str] = "Restore the object, or remove it and compact the day again"
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Fields that are not written where they are None: they came later, and older objects keep their bytes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @classmethod
    def read(cls, content: bytes, where: str) -> Self:
        """Parse an object of the lake.

        Raises:
            MalformedObject: it is no such record. It is never treated as absent.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            at = ".".join(str(item) for item in first["loc"])
            cause = f"{at}: {first['msg']}" if at else first["msg"]  # of what is no JSON it names no place
            raise MalformedObject(
                where,
                f"is not a valid {cls.__name__} record ({cause})",
                cls.remedy,
            ) from None

    def dump(self) -> bytes:
        """The object's bytes: indented JSON, keys in a fixed order."""
        unset = {name for name in self.left_out if getattr(self, name) is None}
        return f"{self.model_dump_json(indent=2, exclude=unset)}\n".encode()
