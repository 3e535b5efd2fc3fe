"""What requests and bytes cost at a list price. Pure: amounts in, money out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LISTED", "Cost", "Prices", "Usage"]

_GB = 10**9
_THOUSAND = 1_000
_WRITES = ("PUT", "LIST")  # and COPY and POST, which count as PUT here
_READS = ("GET", "HEAD")
_FREE = ("DELETE",)


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list of S3's kind, in US dollars.

    Attributes:
        writes_per_thousand: PUT, COPY, POST and LIST requests.
        reads_per_thousand: GET, HEAD and all others that are not free.
        storage_per_gb_month: of 10^9 bytes for a month.
        transfer_per_gb: of 10^9 bytes that leave the region; 0 where the machine is in it.
    """

    writes_per_thousand: float
    reads_per_thousand: float
    storage_per_gb_month: float
    transfer_per_gb: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Prices of which some differ from those that are listed here.

        Args:
            text: name=dollars, comma-separated; empty for the list.

        Raises:
            SettingsError: it is not of this form, names no price, or one is no amount.
        """
        known = {item.name: float(getattr(LISTED, item.name)) for item in fields(cls)}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, amount = (word.strip() for word in item.partition("="))
            if name not in known:
                raise SettingsError(f"QUANTLAB_PRICES {item}", "names no price", f"There are {', '.join(known)}")
            try:
                known[name] = float(amount)
            except ValueError:
                known[name] = -1.0
            if not 0 <= known[name] < float("inf"):
                raise SettingsError(f"QUANTLAB_PRICES {item}", "is no amount of dollars", f"Write {name}=0.005")
        return cls(**known)


LISTED = Prices(writes_per_thousand=0.005, reads_per_thousand=0.0004, storage_per_gb_month=0.023)
"""AWS S3 Standard in us-east-1, as listed in 2025 (first 50 TB). eu-central-1 is some 7 to 8 % dearer."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What work does to a store.

    Attributes:
        requests: number by kind: LIST, GET, HEAD, PUT, DELETE.
        bytes_read: that leave the store.
        bytes_written: that go into it.
        bytes_stored: that lie in it afterwards.
    """

    requests: Mapping[str, int]
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_stored: int = 0

    def __add__(self, other: Usage) -> Usage:
        kinds = {**self.requests, **other.requests}
        return Usage(
            {kind: self.requests.get(kind, 0) + other.requests.get(kind, 0) for kind in kinds},
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.bytes_stored + other.bytes_stored,
        )

    def times(self, number: int) -> Usage:
        """So many times as much."""
        return Usage(
            {kind: count * number for kind, count in self.requests.items()},
            self.bytes_read * number,
            self.bytes_written * number,
            self.bytes_stored * number,
        )

    @property
    def total(self) -> int:
        """Requests of all kinds."""
        return sum(self.requests.values())


@dataclass(frozen=True, slots=True)
class Cost:
    """Money for some work, in US dollars.

    Attributes:
        requests: for the requests, once.
        transfer: for the bytes that leave the region, once.
        storage_month: for what is stored, each month that it stays.
    """

    requests: float
    transfer: float
    storage_month: float

    @classmethod
    def of(cls, usage: Usage, prices: Prices) -> Self:
        """What some usage costs.

        Raises:
            ValueError: a kind of request has no price.
        """
        if unknown := set(usage.requests) - {*_WRITES, *_READS, *_FREE}:
            raise ValueError(f"requests without a price: {sorted(unknown)}")
        writes, reads = (sum(usage.requests.get(kind, 0) for kind in kinds) for kinds in (_WRITES, _READS))
        return cls(
            writes / _THOUSAND * prices.writes_per_thousand + reads / _THOUSAND * prices.reads_per_thousand,
            usage.bytes_read / _GB * prices.transfer_per_gb,
            usage.bytes_stored / _GB * prices.storage_per_gb_month,
        )

    @property
    def once(self) -> float:
        """What is paid once."""
        return self.requests + self.transfer
