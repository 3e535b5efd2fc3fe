"""What the engine, botocore and the operating system raise, as domain errors that name the object."""

from __future__ import annotations

import re

from obstore import exceptions as obs

from quantlab_dagster.errors import (
    AccessDenied,
    Archived,
    ObjectNotFound,
    ScratchUnusable,
    StoreError,
    StoreUnavailable,
    UnaddressableKey,
)

__all__ = ["DomainErrors", "broke_off", "came_damaged", "first_line", "map_error"]

# Texts of errors hold URLs, hence keys, but percent-encoded: a key cannot imitate these.
_NOT_TRUSTED = "InvalidCertificate("  # of the engine, in what it says for debugging
_NOT_VERIFIED = "CERTIFICATE_VERIFY_FAILED"
_WHY_NOT_TRUSTED = re.compile(r"InvalidCertificate\(\s*(\w+)")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = "<Code>NoSuchBucket</Code>"
_NO_UPLOAD = "NoSuchUpload"
_ARCHIVED = "<Code>InvalidObjectState</Code>"
_EXHAUSTED = " retries, max_retries"
_LOCAL = "Generic LocalFileSystem error:"
_BAD_FILE_NAME = f"{_LOCAL} Filenames containing trailing"
_DENIED = (401, 403)
_NOT_FOUND = 404
_RETRIED = (408, 429)
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
# Said of a body that is not what its checksum, or the one in the signature, says.
_DAMAGED = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")
# Refusals that pass, although their status does not say so.
_PASSING = (
    *_DAMAGED,
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
)


class DomainErrors:
    """A context that turns what is raised in it into domain errors.

    Args:
        where: the object's full name.
        passing: what is not to be turned into anything.
    """

    def __init__(self, where: str, passing: tuple[type[Exception], ...] = ()) -> None:
        self._where = where
        self._passing = passing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, (*self._passing, StoreError)):
            return
        mapped = map_error(self._where, error)
        if mapped is not None:
            raise mapped from error


def map_error(where: str, error: BaseException) -> StoreError | None:
    """The domain error for what was raised about an object; None if it is not of the store, nor of a file."""
    if _is_botocores(error):
        return _map_botocore(where, error)
    if isinstance(error, OSError) and error.errno is not None:  # not of the store: a file of ours
        return ScratchUnusable(where, f"a local file cannot be used ({error})")
    if isinstance(error, FileNotFoundError) and _NO_BUCKET not in str(error):
        return ObjectNotFound(where, "does not exist", "Check the URL and the key")
    if isinstance(error, obs.PermissionDeniedError | obs.UnauthenticatedError | PermissionError):
        return _denied(where, str(error))
    # Keys that cannot be parsed are a ValueError; a TypeError where a list of keys would do, too.
    bad_key = isinstance(error, obs.InvalidPathError | ValueError)
    bad_key |= isinstance(error, TypeError) and "Expected string path" in str(error)
    if bad_key or str(error).startswith(_BAD_FILE_NAME):
        cause = f"holds a key that cannot be addressed ({first_line(error)})"
        return UnaddressableKey(where, cause, "Rename or remove that object")
    if isinstance(error, obs.BaseError | OSError):
        return _map_generic(where, error)
    return None


def broke_off(error: StoreUnavailable) -> bool:
    """Whether the engine has not tried again by itself: obstore, if the connection broke; botocore never does."""
    if _is_botocores(error.__cause__):
        return True
    text = str(error.__cause__)
    return not _STATUS.search(text) and _EXHAUSTED not in text


def came_damaged(error: StoreUnavailable) -> bool:
    """Whether the server refused what was sent, since it had not the checksum that was sent with it."""
    return any(code in str(error.__cause__) for code in _DAMAGED)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened; its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _map_generic(where: str, error: BaseException) -> StoreError:
    """Listings report everything as one generic error; its text holds the status."""
    text, first = str(error), first_line(error)
    if text.startswith(_LOCAL):
        return StoreError(where, f"the file system refused ({first})", "Check the space and the permissions there")
    if _NOT_TRUSTED in text:
        return _untrusted(where, text)
    found = _STATUS.search(text)
    status = int(found.group(1)) if found else None
    if status == _NOT_FOUND or _NO_BUCKET in text:
        return _no_bucket(where, first)
    return _refused(where, None if any(f"<Code>{code}</Code>" in text for code in _DAMAGED) else status, first)


def _map_botocore(where: str, error: BaseException) -> StoreError:
    from botocore import exceptions as boto  # noqa: PLC0415  # loaded already, but not where nobody needs it

    first = first_line(error)
    if isinstance(error, boto.ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket":
            return _no_bucket(where, first)
        if code == _NO_UPLOAD:
            return ObjectNotFound(where, "its upload has been published or discarded meanwhile", "Run again")
        # A status for a code means that the body was cut short; only the answer to a HEAD has none.
        cut = code == str(status) and error.operation_name != "HeadObject"
        if status == _NOT_FOUND and not cut:
            return ObjectNotFound(where, "does not exist", "Check the URL and the key")
        passing = status not in _DENIED and status < _SERVER_ERROR and (cut or code in _PASSING)
        return _refused(where, None if passing else status, first)
    if isinstance(error, boto.SSLError) and _NOT_VERIFIED in str(error):
        return _untrusted(where, str(error))
    credentials = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)
    if isinstance(error, (*credentials, boto.TokenRetrievalError, boto.SSOError)):
        return _denied(where)
    network = (boto.ConnectionError, boto.HTTPClientError)
    # What is no BotoCoreError is an answer that was cut short.
    passing = isinstance(error, network) or not isinstance(error, boto.BotoCoreError)
    return _refused(where, None if passing else 0, first)


def _no_bucket(where: str, first: str) -> StoreError:
    return StoreError(where, f"the bucket does not exist ({first})", "Check URL, endpoint and region")


def _refused(where: str, status: int | None, first: str) -> StoreError:
    """Which error it is, by its status; None if there was no answer."""
    if status in _DENIED:
        return _denied(where)
    transient = status is None or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED) or status in _RETRIED
    if not transient:
        return StoreError(where, f"the store refused the request ({first})", "Check the URL and the settings")
    return StoreUnavailable(where, f"no usable answer after retries ({first})", "Nothing was decided; run again later")


def _untrusted(where: str, said: str) -> StoreError:
    found = _WHY_NOT_TRUSTED.search(said)
    cause = f"the server's certificate is not trusted{f' ({found.group(1)})' if found else ''}"
    return StoreError(
        where,
        cause,
        "Name the authority that signed it (a CA bundle, docs/operations.md), and check the endpoint's name",
    )


def _denied(where: str, said: str = "") -> AccessDenied:
    if _ARCHIVED in said:
        cause = "is in cold storage (InvalidObjectState)"
        return Archived(where, cause, "Restore it first; it is tried again when its hour is looked at again")
    return AccessDenied(where, "access denied", "Check the credentials, and that they may do this on this bucket")


def _is_botocores(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] == "botocore"
