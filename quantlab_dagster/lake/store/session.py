"""A boto3 session from keys or a profile: where the credentials of S3 come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    import boto3.session

__all__ = ["open_session"]


def open_session(
    url: str,
    keys: tuple[str | None, str | None, str | None],
    *,
    profile: str | None,
    region: str | None,
    remedy: str,
) -> boto3.session.Session:
    """A session that has credentials.

    Args:
        url: what they are for, for messages.
        keys: access key, secret, session token; without an access key boto3 looks where it always does.
        profile: of AWS's configuration files; where no keys are given.
        region: of the bucket.
        remedy: what to do where there are none; who asks knows the settings.

    Raises:
        SettingsError: there are no usable credentials.
    """
    # Imported here: local lakes do without, and it takes a while.
    import boto3  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    try:
        session = boto3.Session(
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            aws_session_token=keys[2],
            profile_name=None if keys[0] else profile,
            region_name=region,
        )
        found = session.get_credentials()
    except BotoCoreError as error:
        raise SettingsError(url, f"no usable AWS credentials ({error})", remedy) from error
    if found is None:
        raise SettingsError(url, "no AWS credentials found", remedy)
    return session
