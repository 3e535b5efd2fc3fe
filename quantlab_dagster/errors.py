"""Errors that people meet: each names the object, the cause and what to do next.

Every error also inherits the matching builtin, so that callers who know nothing of this package can catch it.
"""

from __future__ import annotations

import re

__all__ = [
    "AccessDenied",
    "Archived",
    "AuditFailed",
    "BadPart",
    "Cancelled",
    "ConditionalWriteUnsupported",
    "Conflict",
    "CorruptPart",
    "DayRefused",
    "DecoderFailed",
    "MachineFault",
    "MalformedObject",
    "NothingToAccept",
    "NotifyFailed",
    "NullOrder",
    "ObjectChanged",
    "ObjectNotFound",
    "PathError",
    "PlanStuck",
    "QuantlabError",
    "SchemaConflict",
    "ScratchUnusable",
    "ServerUnsafe",
    "SettingsError",
    "ShrinkRefused",
    "StoreError",
    "StoreUnavailable",
    "TableFormat",
    "UnaddressableKey",
    "Withheld",
    "masked",
]

# Keys of AWS have slashes; `host:9000/…@…` is no password.
_USER_INFO = re.compile(r"://(?:[^/\s@]+|[^/\s@:]+:(?!\d+/)[^\s@]*)@")
_SIGNED = re.compile(
    r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig|token|password|secret)=)[^&\s)'\"]+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """A text without the secrets that stand in its URLs: `user:password@`, and the values of signed queries."""
    return _SIGNED.sub(r"\1***", _USER_INFO.sub("://***@", text))


class QuantlabError(Exception):
    """Base of all expected errors.

    Args:
        where: the object concerned: a URL, key, column, setting or day.
        cause: what is wrong with it.
        remedy: what the reader should do next.
    """

    def __init__(self, where: str, cause: str, remedy: str = "") -> None:
        # At once: who shows an error may show its parts.
        self.where = masked(where)
        self.cause = masked(cause)
        self.remedy = masked(remedy)
        super().__init__(self.where, self.cause, self.remedy)

    def __str__(self) -> str:
        text = f"{self.where}: {self.cause}" if self.where else self.cause
        return f"{text}. {self.remedy}" if self.remedy else text


class SettingsError(QuantlabError, ValueError):
    """A setting is missing, malformed or contradicts another."""


class PathError(QuantlabError, ValueError):
    """A key or a value does not fit the path grammar of the lake."""


class DayRefused(QuantlabError, ValueError):
    """The day is not eligible: today, the future, or yesterday before 02:30 UTC."""


class NothingToAccept(QuantlabError, ValueError):
    """An operator accepted what needs no decision: a settled day, or a symbol-day neither quarantined nor stale."""


class StoreError(QuantlabError, OSError):
    """The object store answered with an error that a retry will not mend."""

    # OSError formats (errno, strerror) itself; ours is the message to show.
    __str__ = QuantlabError.__str__


class StoreUnavailable(StoreError, ConnectionError):
    """The store did not answer, or not usefully, after all retries. Nothing was decided; run again later."""


class ObjectNotFound(StoreError, FileNotFoundError):
    """There is definitely no such object."""


class AccessDenied(StoreError, PermissionError):
    """The credentials do not allow this request."""


class Archived(AccessDenied):
    """The object is in cold storage (Glacier and the like), and must be restored before it can be read."""


class Withheld(AccessDenied):
    """What is to be merged may not be read: it is denied, or in cold storage. Its partition is left out.

    Args:
        denied: what the store said of the object.
    """

    def __init__(self, denied: AccessDenied) -> None:
        self.denied = denied
        super().__init__(denied.where, denied.cause, denied.remedy)

    def __reduce__(self) -> tuple[type[Withheld], tuple[AccessDenied]]:
        return type(self), (self.denied,)


class UnaddressableKey(StoreError, ValueError):
    """A key holds what no request can name (an empty segment, `..`, a control character); found by a listing, too.

    It is the fault of this one name: what lies elsewhere is not concerned.
    """


class TableFormat(StoreError):
    """A prefix belongs to a table format, which keeps account of its files: nothing may be merged there in place."""


class ObjectChanged(StoreError):
    """The object is not the one that was listed: replaced or deleted between the listing and the read."""


class Conflict(StoreError):
    """Another writer changed the object since it was read; read it again and decide anew."""


class ConditionalWriteUnsupported(StoreError):
    """The server refuses a correct conditional write; concurrent writers could not be told apart."""


class ServerUnsafe(StoreError):
    """The server ignores conditions without which files cannot be replaced safely; nothing is done there."""


class ScratchUnusable(StoreError):
    """A local file that is read, written or copied for a store cannot be used; the object itself is not at fault.

    Args:
        where: the object that was worked on.
        cause: which file, and what is wrong with it.
    """

    def __init__(self, where: str, cause: str) -> None:
        remedy = "Check the space and the permissions there, or set QUANTLAB_SCRATCH_DIR to another place"
        super().__init__(where, cause, remedy)

    def __reduce__(self) -> tuple[type[ScratchUnusable], tuple[str, str]]:
        return type(self), (self.where, self.cause)


class MachineFault(QuantlabError, OSError):
    """This machine could not do the work: no memory, no space, no more open files, a disk that fails.

    Nothing is said about the data by it, and nothing is quarantined.
    """

    __str__ = QuantlabError.__str__

    def __reduce__(self) -> tuple[type[MachineFault], tuple[str, str, str]]:
        return type(self), (self.where, self.cause, self.remedy)


class MalformedObject(QuantlabError, ValueError):
    """A JSON object of the lake exists but cannot be understood. It is never treated as absent."""


class NotifyFailed(QuantlabError, ConnectionError):
    """A message to people did not arrive, as far as is known. It is told again at the next look."""

    __str__ = QuantlabError.__str__


class PlanStuck(QuantlabError, RuntimeError):
    """A replacement can neither be completed nor given up without an operator's look."""


class BadPart(QuantlabError, ValueError):
    """A raw part cannot be merged; its symbol-day is quarantined.

    Args:
        part: key of the part.
        cause: what is wrong with it.
    """

    def __init__(self, part: str, cause: str) -> None:
        self.part = part
        super().__init__(
            part,
            cause,
            "Replace or remove the part, then compact the day again; nothing was published from it",
        )

    def __reduce__(self) -> tuple[type[BadPart], tuple[str, str]]:
        return type(self), (self.part, self.cause)


class CorruptPart(BadPart):
    """The part is not a readable Parquet file, or contradicts its own footer."""


class NullOrder(BadPart):
    """The part has nulls in the column that orders the day."""


class SchemaConflict(BadPart):
    """The part has a column that cannot be united with the others' without loss."""


class DecoderFailed(QuantlabError, RuntimeError):
    """The process that decodes cannot start, or ended again and again, and no part alone is to blame."""


class AuditFailed(QuantlabError, AssertionError):
    """The written file is not proved to hold exactly the rows of the parts in order. It is not published."""


class ShrinkRefused(QuantlabError, ValueError):
    """The built file has fewer rows than the published day that it would replace. Nothing was written.

    Args:
        where: the meta that would be replaced.
        rows: rows that were built.
        before: rows that the meta says.
    """

    def __init__(self, where: str, rows: int, before: int) -> None:
        self.rows = rows
        self.before = before
        super().__init__(
            where,
            f"says {before:,} rows, and the raw parts now have {rows:,}: nothing was replaced",
            "See what happened to the raw parts; --allow-shrink publishes fewer rows",
        )

    def __reduce__(self) -> tuple[type[ShrinkRefused], tuple[str, int, int]]:
        return type(self), (self.where, self.rows, self.before)


class Cancelled(Exception):  # not an error: somebody asked for it
    """The merge was asked to stop; the unfinished output is of no use."""
