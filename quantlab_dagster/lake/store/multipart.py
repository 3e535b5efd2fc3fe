"""The S3 requests that obstore has no words for: multipart uploads, deletes on condition, listings with odd names.

Through boto3, which blocks: `S3Store` runs them in threads, tries again, and words the errors.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from typing import TYPE_CHECKING, Any

from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.objects import Completion, Staged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

    from quantlab_dagster.lake.store.objects import S3Options

__all__ = ["BlockingS3"]

_NOT_FOUND = 404
_PRECONDITION_FAILED = 412
# Of an upload SeaweedFS and AWS say NoSuchUpload, Ceph sometimes NoSuchKey.
_GONE = ("NoSuchUpload", "NoSuchKey")
# A part replaced by a smaller one is too small to Ceph, unless it is the last.
_PARTS_DIFFER = ("InvalidPart", "EntityTooSmall")


class BlockingS3:
    """Multipart uploads, conditional deletes and listings with odd names, below a prefix. Raises what botocore raises.

    Args:
        bucket: its name.
        prefix: of all keys, without slashes at its ends; may be empty.
        options: how to reach S3.
    """

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._options = options
        self._made: S3Client | None = None
        self._making = threading.Lock()  # boto3 clients may be shared between threads, but not made by two at once

    # ---- uploads -----------------------------------------------------------------------------------------------

    def begin(self, key: str) -> str:
        """Begin an upload. Returns its id."""
        encryption: dict[str, Any] = {}
        if self._options.encryption:
            encryption["ServerSideEncryption"] = self._options.encryption
        if self._options.kms_key:
            encryption["SSEKMSKeyId"] = self._options.kms_key
        begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._prefix + key, **encryption)
        return begun["UploadId"]

    def upload_part(self, key: str, upload_id: str, number: int, content: bytes) -> str:
        """Upload a part. Returns its ETag."""
        # Verified on arrival; the SHA-256 that is signed anyway SeaweedFS does not look at.
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        answer = self._client.upload_part(
            Bucket=self._bucket,
            Key=self._prefix + key,
            UploadId=upload_id,
            PartNumber=number,
            Body=content,
            ContentMD5=md5,
        )
        return answer["ETag"].strip('"')

    def exists(self, key: str, upload_id: str) -> bool:
        """Whether an upload is neither completed nor aborted."""
        client = self._client
        try:
            client.list_parts(Bucket=self._bucket, Key=self._prefix + key, UploadId=upload_id, MaxParts=1)
        except client.exceptions.ClientError as error:
            if _code(error) in _GONE:
                return False
            raise
        return True

    def complete(self, key: str, upload_id: str, etags: tuple[str, ...]) -> Completion:
        """Make an upload visible, unless its parts are not these."""
        client = self._client
        try:
            client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._prefix + key,
                UploadId=upload_id,
                MultipartUpload={
                    "Parts": [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in enumerate(etags, 1)]
                },
            )
        except client.exceptions.ClientError as error:
            if _code(error) in _GONE:
                return "gone"
            if _code(error) in _PARTS_DIFFER:
                return "parts differ"
            raise
        return "done"

    def abort(self, key: str, upload_id: str) -> None:
        """Abort an upload; it is no error if there is none (SeaweedFS does not tell)."""
        client = self._client
        try:
            client.abort_multipart_upload(Bucket=self._bucket, Key=self._prefix + key, UploadId=upload_id)
        except client.exceptions.ClientError as error:
            if _code(error) not in _GONE:
                raise

    def below(self, prefix: str) -> list[Staged]:
        """Uploads that are neither completed nor aborted, in any order."""
        start = self._prefix + prefix
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=start)
        return [
            Staged(upload["Key"].removeprefix(self._prefix), upload["UploadId"], (), 0)
            for page in pages
            for upload in page.get("Uploads", [])
            if upload["Key"].startswith(start)
        ]

    # ---- listings ----------------------------------------------------------------------------------------------

    def names_below(self, prefix: str) -> list[str]:
        """Names of the common prefixes just below a prefix, whatever they hold; boto3 asks for them encoded."""
        start = self._prefix + prefix
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start, Delimiter="/")
        return [
            found["Prefix"].removeprefix(start).removesuffix("/")
            for page in pages
            for found in page.get("CommonPrefixes", [])
        ]

    @property
    def levels_above(self) -> int:
        """How many prefixes the prefix lies in, the whole bucket included."""
        return self._prefix.count("/")

    def peek_above(self, level: int, directory: str) -> tuple[str, list[str]]:
        """URL of a directory above the prefix, and the keys of one page below it, as they go on from there."""
        above = self._prefix.rstrip("/").split("/")[:-level]
        start = "/".join([*above, directory, ""])
        page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=start)
        found = [one["Key"].removeprefix(start) for one in page.get("Contents", [])]
        return f"s3://{self._bucket}/{start}", found

    # ---- deletes -----------------------------------------------------------------------------------------------

    def delete_if_match(self, key: str, if_match: str) -> bool:
        """Delete on condition. Returns False if the server says that the condition does not hold."""
        client = self._client
        try:
            client.delete_object(Bucket=self._bucket, Key=self._prefix + key, IfMatch=if_match)
        except client.exceptions.ClientError as error:
            if _status(error) == _PRECONDITION_FAILED:
                return False
            if _code(error) not in _GONE:
                raise
        return True

    def delete_together(self, versions: Sequence[tuple[str, str]]) -> set[str]:
        """Delete objects, each on condition, in one request.

        Args:
            versions: keys, and the ETags as the server wants them.

        Returns:
            The keys that the server says it has deleted.
        """
        answer = self._client.delete_objects(
            Bucket=self._bucket,
            Delete={"Objects": [{"Key": self._prefix + key, "ETag": if_match} for key, if_match in versions]},
        )
        return {found["Key"].removeprefix(self._prefix) for found in answer.get("Deleted", [])}

    def look_and_delete(self, key: str, etag: str) -> bool:
        """Delete what has this ETag, in two requests with as little as possible between them."""
        client = self._client
        try:
            current = client.head_object(Bucket=self._bucket, Key=self._prefix + key)["ETag"].strip('"')
        except client.exceptions.ClientError as error:
            if _status(error) == _NOT_FOUND:  # the answer to a HEAD has no code
                return True
            raise
        if current != etag:
            return False
        client.delete_object(Bucket=self._bucket, Key=self._prefix + key)
        return True

    @property
    def _client(self) -> S3Client:
        with self._making:
            if self._made is None:
                self._made = self._make_client()
            return self._made

    def _make_client(self) -> S3Client:
        # Imported here: local lakes, and those that are only read, do without.
        import boto3.session  # noqa: PLC0415
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        session = self._options.session
        config = Config(
            connect_timeout=limits.CONNECT_SECONDS,
            read_timeout=limits.READ_SECONDS,
            max_pool_connections=limits.THREADS,
            # `S3Store` tries again: it can be cancelled meanwhile, and looks at what became of the first attempt.
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": "path"},
            # Else AWS wants a checksum of each part once more when the upload is completed.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        if session is None:
            config = config.merge(Config(signature_version=UNSIGNED))
        client = (session or boto3.session.Session()).client(
            "s3",
            region_name=self._options.region,
            endpoint_url=self._options.endpoint,
            verify=(self._options.ca_bundle or None) if self._options.verify_tls else False,
            config=config,
        )
        client.meta.events.register_last("before-call.s3", _expect_nothing)
        return client


def _expect_nothing(params: dict[str, Any], **_: object) -> None:
    """Send a part without asking first: it takes a round trip, and a second where a proxy does not answer that."""
    params["headers"].pop("Expect", None)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _status(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]
