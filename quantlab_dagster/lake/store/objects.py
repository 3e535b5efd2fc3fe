"""The plain values that go into a store and come out of it; they need no engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import boto3

__all__ = [
    "PROBE_DIRECTORY",
    "Completion",
    "Directory",
    "Names",
    "ObjectInfo",
    "Range",
    "RequestKind",
    "Requests",
    "S3Options",
    "Staged",
    "first_error",
]

RequestKind = Literal["LIST", "GET", "HEAD", "PUT", "DELETE"]
Completion = Literal["done", "gone", "parts differ"]

PROBE_DIRECTORY = ".quantlab-probe"
"""Just below the root: objects with which a server is tried out, for seconds. No listing of a store shows them."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing or a HEAD shows it.

    Attributes:
        key: relative to the store's URL.
        size_bytes: length of its content.
        etag: the store's tag of this content, without quotes. On local directories it derives from inode and time.
        received: where the content was read, the ETag that these bytes have if ETags are made of MD5 sums; else empty.
        checksum: where the content was written to a file, the CRC-32 of what was written; else None.
        linked: whether the content was not copied to a file: the file is the object itself, by another name.
    """

    key: str
    size_bytes: int
    etag: str
    received: str = field(default="", compare=False, repr=False)
    checksum: int | None = field(default=None, compare=False, repr=False)
    linked: bool = field(default=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The last segment of the key."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Range:
    """Keys in byte order: those that come after one, itself left out, and before another.

    Attributes:
        after: where it begins; empty for the beginning.
        until: where it ends; None for the end.
    """

    after: str = ""
    until: str | None = None

    def __contains__(self, key: str) -> bool:
        return key.encode() > self.after.encode() and not self.ends_before(key)

    def ends_before(self, key: str) -> bool:
        """Whether a key, and all that follow it, are beyond."""
        return self.until is not None and key.encode() >= self.until.encode()


@dataclass(frozen=True, slots=True)
class Directory:
    """One level of a listing.

    Attributes:
        directories: names of the common prefixes just below, without slashes, sorted.
        objects: the objects just below, sorted by key.
    """

    directories: tuple[str, ...]
    objects: tuple[ObjectInfo, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """The directories of one level.

    Attributes:
        directories: names of the common prefixes just below, without slashes, sorted.
        odd: those that no request can name, for people: what stands in no text is escaped; sorted.
        files: names of the objects just below, sorted; none where there is an odd one.
    """

    directories: tuple[str, ...]
    odd: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Staged:
    """An object that is in the store but not visible.

    Attributes:
        key: where it will appear.
        upload_id: makes it visible, once.
        etags: of its uploaded parts in order, without quotes; empty on local directories.
        size_bytes: length of its content.
    """

    key: str
    upload_id: str
    etags: tuple[str, ...]
    size_bytes: int


class Requests:
    """Counts requests by kind. Retries inside the engine are not seen."""

    def __init__(self) -> None:
        self._counts: Counter[RequestKind] = Counter()

    def add(self, kind: RequestKind, number: int = 1) -> None:
        """Count requests."""
        self._counts[kind] += number

    @property
    def total(self) -> int:
        """Requests of all kinds."""
        return self._counts.total()

    def by_kind(self) -> dict[str, int]:
        """A copy of the counts."""
        return {str(kind): number for kind, number in sorted(self._counts.items())}


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to reach S3.

    Attributes:
        session: where credentials (and the default region) come from; None makes unsigned requests.
        region: of the bucket.
        endpoint_url: None for AWS itself.
        verify_tls: whether certificates are checked.
        ca_bundle: PEM file of authorities that are trusted, too; empty for none.
        encryption: how the server encrypts what is written (AES256, aws:kms, aws:kms:dsse); empty: as the bucket says.
        kms_key: which key it is to use, with aws:kms; empty for the account's own.
        retries: attempts after the first one fails.
        region_setting: name of the setting that the region comes from, for remedies.
        endpoint_setting: name of the setting that the endpoint comes from, for remedies.
        ca_setting: name of the setting that the authorities come from.
    """

    session: boto3.session.Session | None
    region: str
    endpoint_url: str | None
    verify_tls: bool = True
    ca_bundle: str = ""
    encryption: str = ""
    kms_key: str = ""
    retries: int = 6
    region_setting: str = ""
    endpoint_setting: str = ""
    ca_setting: str = ""

    @property
    def endpoint(self) -> str:
        """Said explicitly, so that no engine picks up an AWS_ENDPOINT_URL that is meant for the other lake."""
        return (self.endpoint_url or f"https://s3.{self.region}.amazonaws.com").rstrip("/")


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, unwrapped: it says what happened, the others are its consequences."""
    first = errors.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
