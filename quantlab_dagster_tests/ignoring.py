"""A server that ignores a condition: a real one behind a proxy that takes the condition out of each request.

    with IgnoringProxy(server, "replace_if_match") as proxy:
        ...  # at proxy.url a PUT with If-Match overwrites, whatever is there

Signatures cover what is taken out, so the proxy signs again, as the server's own user.
"""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from quantlab_dagster_tests.faults import FaultProxy, Request

if TYPE_CHECKING:
    from quantlab_dagster.lake.store.probing import Condition
    from quantlab_dagster_tests.servers import S3Server

__all__ = ["CONDITIONS", "IgnoringProxy"]

CONDITIONS: tuple[Condition, ...] = (
    "create_if_absent",
    "replace_if_match",
    "delete_if_match",
    "bulk_delete",
    "part_etags",
)
_HEADERS = {
    "create_if_absent": ("PUT", "if-none-match"),
    "replace_if_match": ("PUT", "if-match"),
    "delete_if_match": ("DELETE", "if-match"),
}
# What is signed or summed anew.
_OF_CONTENT = re.compile(
    "(?i)authorization|x-amz-(date|content-sha256|checksum-.*|sdk-checksum-.*)|content-(md5|length)"
)
_ETAG = re.compile(rb"<ETag>.*?</ETag>")


class IgnoringProxy(FaultProxy):
    """A proxy before a server, which seems to know nothing of one kind of condition.

    Args:
        server: what is behind it.
        ignored: which condition, by the name of the capability that the server then has not.
    """

    def __init__(self, server: S3Server, ignored: Condition) -> None:
        super().__init__(server.endpoint_url)
        self._s3 = server
        self._ignored = ignored
        self.taken_out = 0

    def rewritten(self, request: Request) -> Request:
        changed = self._without_condition(request)
        if changed == request:
            return request
        self.taken_out += 1
        return self._signed(changed)

    def _without_condition(self, request: Request) -> Request:
        query = parse_qs(urlsplit(request.target).query, keep_blank_values=True)
        if self._ignored in _HEADERS:
            method, header = _HEADERS[self._ignored]
            kept = tuple(one for one in request.headers if request.method != method or one[0].lower() != header)
            return replace(request, headers=kept)
        if self._ignored == "bulk_delete" and request.method == "POST" and "delete" in query:
            return replace(request, body=_ETAG.sub(b"", request.body))
        if self._ignored == "part_etags" and request.method == "POST" and "uploadId" in query:
            etags = iter(self._parts(request.target, query["uploadId"][0]))
            return replace(request, body=_ETAG.sub(lambda found: next(etags, found.group()), request.body))
        return request

    def _parts(self, target: str, upload_id: str) -> list[bytes]:
        """The ETags that the parts of an upload have, worded as in its completion; none if there is no upload."""
        bucket, _, key = unquote(urlsplit(target).path).lstrip("/").partition("/")
        with closing(self._s3.client()) as client:
            try:
                parts = client.list_parts(Bucket=bucket, Key=key, UploadId=upload_id).get("Parts", [])
            except client.exceptions.ClientError:
                return []
        return [f"<ETag>{part['ETag']}</ETag>".encode() for part in parts]

    def _signed(self, request: Request) -> Request:
        kept = {name: value for name, value in request.headers if not _OF_CONTENT.fullmatch(name)}
        if request.body:
            md5 = hashlib.md5(request.body, usedforsecurity=False).digest()
            kept |= {"Content-MD5": base64.b64encode(md5).decode(), "Content-Length": str(len(request.body))}
        url = f"{self._s3.endpoint_url}{request.target}"
        signing = AWSRequest(request.method, url, headers=kept, data=request.body)
        S3SigV4Auth(Credentials(self._s3.access_key, self._s3.secret_key), "s3", self._s3.region).add_auth(signing)
        return replace(request, headers=tuple(signing.headers.items()))
