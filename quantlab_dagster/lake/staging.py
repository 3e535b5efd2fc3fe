"""What obstore has no words for: uploads that become visible later and only once, and deletes on condition.

On S3 these are multipart uploads with their ids, and `DELETE` with `If-Match`, through boto3. In a local directory they
are hidden files that are renamed. All of it blocks: `Store` runs it in threads, tries again, and words the errors.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

    from quantlab_dagster.lake.store import S3Options

__all__ = ["STAGED_DIRECTORY", "THREADS", "Completion", "LocalStaging", "S3Staging", "Staged"]

Completion = Literal["done", "gone", "parts differ"]

THREADS = 32
STAGED_DIRECTORY = ".quantlab-staged"
# Without it the directory of a staged `x.parquet` would look like a Parquet file to whoever globs.
_SUFFIX = ".staged"
_LOCAL_ID = re.compile(r"[0-9a-f]{32}")
_ATTEMPTS = 10
_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_NOT_FOUND = 404
_PRECONDITION_FAILED = 412
# Of an upload SeaweedFS and AWS say NoSuchUpload, Ceph sometimes NoSuchKey.
_GONE = ("NoSuchUpload", "NoSuchKey")
# A part replaced by a smaller one is too small to Ceph, unless it is the last.
_PARTS_DIFFER = ("InvalidPart", "EntityTooSmall")


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


class S3Staging:
    """Multipart uploads and conditional deletes below a prefix of a bucket. Raises what botocore raises.

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
        return self._client.create_multipart_upload(Bucket=self._bucket, Key=self._prefix + key)["UploadId"]

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
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=THREADS,
            # `Store` tries again itself: it can be cancelled meanwhile, and looks at what became of the first attempt.
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
            verify=None if self._options.verify_tls else False,
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


class LocalStaging:
    """Hidden files of a directory, each below a path that mirrors its key. Raises OSErrors.

    Args:
        root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._area = root / STAGED_DIRECTORY

    def begin(self) -> str:
        """A new id."""
        return uuid.uuid4().hex

    def stage(self, key: str, upload_id: str, path: Path) -> None:
        """Copy a file into the area; its bytes are on the disk when this returns."""
        target = self._path(key, upload_id)
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
                    break
                except FileNotFoundError:  # somebody has just removed the directory, since it was empty
                    if attempt + 1 == _ATTEMPTS or not path.exists():
                        raise
            _sync(target)
        except BaseException:
            self.discard(key, upload_id)
            raise

    def publish(self, key: str, upload_id: str) -> bool:
        """Move the file to where it belongs, and see that this survives a loss of power. False: there is none."""
        source, target = self._path(key, upload_id), self._root / key
        if not _LOCAL_ID.fullmatch(upload_id) or not source.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except FileNotFoundError:
            if source.exists():  # then it is the target's directory that has gone
                raise
            return False
        directory = target.parent
        while directory != self._root.parent:
            _sync(directory)
            directory = directory.parent
        self._tidy(source.parent)
        return True

    def discard(self, key: str, upload_id: str) -> bool:
        """Remove the file. False: there is none."""
        path = self._path(key, upload_id)
        if not _LOCAL_ID.fullmatch(upload_id):
            return False
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        finally:
            self._tidy(path.parent)
        return True

    def below(self, prefix: str) -> list[Staged]:
        """All files in the area, below a prefix that ends in a slash or is empty, in any order."""
        return [
            Staged(str(Path(directory).relative_to(self._area)).removesuffix(_SUFFIX), name, (), 0)
            for directory, _, names in os.walk(self._area / prefix)
            if directory.endswith(_SUFFIX)
            for name in names
            if _LOCAL_ID.fullmatch(name)
        ]

    def _path(self, key: str, upload_id: str) -> Path:
        return self._area / f"{key}{_SUFFIX}" / upload_id

    def _tidy(self, directory: Path) -> None:
        """Remove directories that are empty; others may be filling or removing them at the same time."""
        with suppress(OSError):
            while directory != self._root:
                directory.rmdir()
                directory = directory.parent


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
