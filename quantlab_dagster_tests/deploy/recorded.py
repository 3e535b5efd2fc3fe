"""All requests of whole runs, as the server saw them, by lake, and what each needs to be allowed."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from quantlab_dagster_tests.faults import FaultProxy, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

Price = Literal["write", "read", "free"]


@dataclass(frozen=True, slots=True)
class Action:
    """What a request needs to be allowed, and of which class its price is.

    Attributes:
        name: as IAM calls it.
        resource: its ARN.
        price: class of the request in AWS's price list: PUT, COPY, POST and LIST are "write"; GET and HEAD "read".
    """

    name: str
    resource: str
    price: Price


def actions_of(request: Request) -> list[Action]:
    """What a request does; a bulk delete one thing for each of its objects.

    Raises:
        ValueError: nothing that is known here.
    """
    url = urlsplit(request.target)
    query = parse_qs(url.query, keep_blank_values=True)
    bucket, _, key = unquote(url.path).lstrip("/").partition("/")
    whole, one = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{key}"
    match request.method, bool(key):
        case "GET", False if "uploads" in query:
            return [Action("s3:ListBucketMultipartUploads", whole, "write")]
        case "GET", False:
            return [Action("s3:ListBucket", whole, "write")]
        case "GET", True if "uploadId" in query:
            return [Action("s3:ListMultipartUploadParts", one, "write")]
        case (("GET" | "HEAD"), True):
            return [Action("s3:GetObject", one, "read")]
        case (("PUT" | "POST"), True):
            return [Action("s3:PutObject", one, "write")]
        case "DELETE", True if "uploadId" in query:
            return [Action("s3:AbortMultipartUpload", one, "free")]
        case "DELETE", True:
            return [Action("s3:DeleteObject", one, "free")]
        case "POST", False if "delete" in query:
            keys = re.findall(r"<Key>(.*?)</Key>", request.body.decode())
            return [Action("s3:DeleteObject", f"{whole}/{item}", "free") for item in keys]
    raise ValueError(f"{request.method} {request.target}")


class Recorder(FaultProxy):
    """A proxy that remembers each request."""

    def __init__(self, target_url: str) -> None:
        super().__init__(target_url)
        self.requests: list[Request] = []

    def rewritten(self, request: Request) -> Request:
        """The same."""
        self.requests.append(request)
        return request

    def actions(self) -> list[Action]:
        """All that was done, in any order."""
        return [action for request in list(self.requests) for action in actions_of(request)]


@dataclass(frozen=True, slots=True)
class Recorders:
    """One in front of each lake, and one for who only reads what is published."""

    raw: Recorder
    compact: Recorder
    warehouse: Recorder
    reader: Recorder


@contextmanager
def recording(endpoint_url: str) -> Iterator[Recorders]:
    """Put a proxy for each lake in front of a server."""
    with ExitStack() as stack:
        raw, compact, warehouse, reader = (stack.enter_context(Recorder(endpoint_url)) for _ in range(4))
        yield Recorders(raw, compact, warehouse, reader)
