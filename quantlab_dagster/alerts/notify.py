"""Sending a message to a webhook or a command: within a time, and with no secret in what is said of a failure."""

from __future__ import annotations

import json
import os
import shlex
import signal
import string
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_exponential

from quantlab_dagster.errors import NotifyFailed

if TYPE_CHECKING:
    from quantlab_dagster.alerts.news import Message

__all__ = ["DEFAULT_TEMPLATE", "Command", "Notifier", "Webhook", "check_template", "filled"]

DEFAULT_TEMPLATE = '{"text": "$text"}'
"""What Slack, Mattermost and their like take."""

_PLACES = ("text", "summary")
_ATTEMPTS, _ALL_SECONDS, _REQUEST_SECONDS, _COMMAND_SECONDS = 3, 25.0, 5.0, 25.0
_TOO_MANY, _SERVER_ERROR, _OK = 429, 500, range(200, 300)


class Notifier(Protocol):
    """Tells people."""

    def tell(self, message: Message) -> str:
        """Send a message.

        Returns:
            Who got it and what came back, for people; no secret.

        Raises:
            NotifyFailed: it did not arrive, as far as is known.
        """


def filled(template: str, message: Message) -> str:
    """A JSON text, in which `$text` and `$summary` stand for those of a message, within quotes."""
    values = {"text": message.text, "summary": message.summary}
    return string.Template(template).substitute({name: json.dumps(value)[1:-1] for name, value in values.items()})


def check_template(template: str) -> str:
    """A template that can be used, as it is.

    Raises:
        ValueError: it knows other places than these, or makes no JSON.
    """
    try:
        json.loads(string.Template(template).substitute(dict.fromkeys(_PLACES, "x")))
    except KeyError as error:
        raise ValueError(f"has a place {error} that nothing fills; there are $text and $summary") from None
    except ValueError as error:
        raise ValueError(f"makes no JSON: {error}; a dollar sign is written $$") from None
    return template


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts a JSON text. A plain object: what it holds never shows in Dagster's pages.

    Attributes:
        url: where to; a secret as a whole.
        template: of the text.
        pause: seconds before the second attempt; twice that before the third.
        timeout: seconds in which the server must connect, and then answer.
    """

    url: str = field(repr=False)
    template: str = DEFAULT_TEMPLATE
    pause: float = 1.0
    timeout: float = _REQUEST_SECONDS

    def tell(self, message: Message) -> str:
        """Post it, again where that may help."""
        body = filled(self.template, message).encode()
        where = f"the webhook at {urlsplit(self.url).hostname}"
        problem, status = "", 0
        try:
            status = Retrying(
                retry=retry_if_exception(lambda error: isinstance(error, _Passing)),
                stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_ALL_SECONDS - 2 * self.timeout),
                wait=wait_exponential(multiplier=self.pause, max=4),
                reraise=True,
            )(self._post, body)
        except (_Passing, _Refused) as error:
            problem = str(error)
        if problem:  # raised out here: what requests raises has the URL in it
            remedy = "It is tried again; see QUANTLAB_ALERT_URL"
            raise NotifyFailed(where, problem, remedy)
        return f"{where} answered {status}"

    def _post(self, body: bytes) -> int:
        import requests  # noqa: PLC0415  # whoever has no webhook does without

        problem, status = "", 0
        try:
            with (
                requests.Session() as session,
                session.post(
                    self.url,
                    data=body,
                    headers={"Content-Type": "application/json"},
                    timeout=(self.timeout, self.timeout),
                    allow_redirects=False,
                    stream=True,  # the answer's body is not read: it may never end
                ) as response,
            ):
                status = response.status_code
        except (requests.ConnectionError, requests.Timeout) as error:
            problem = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
        except (requests.RequestException, ValueError) as error:
            raise _Refused(f"cannot be used ({type(error).__name__})") from None
        if problem:
            raise _Passing(problem)
        if status == _TOO_MANY or status >= _SERVER_ERROR:
            raise _Passing(f"answered {status}")
        if status not in _OK:
            raise _Refused(f"answered {status}")
        return status


class _Passing(Exception):
    """Another attempt may succeed."""


class _Refused(Exception):
    """Another attempt would not."""


@dataclass(frozen=True, slots=True)
class Command:
    """Runs a command, which gets the message as one JSON document on its standard input. Its output is not kept.

    Attributes:
        line: the command as it would be typed; no shell reads it.
        timeout: seconds after which it is killed, with all that it started.
    """

    line: str = field(repr=False)
    timeout: float = _COMMAND_SECONDS

    def tell(self, message: Message) -> str:
        """Run it once; the next look tries again."""
        arguments = shlex.split(self.line)
        where = f"the command {arguments[0] if arguments else ''}"
        remedy = "It is tried again; see QUANTLAB_ALERT_COMMAND"
        try:
            process = subprocess.Popen(  # noqa: S603  # an operator set it
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, IndexError) as error:
            raise NotifyFailed(where, f"cannot be started ({type(error).__name__})", remedy) from None
        try:
            process.communicate(json.dumps(message.document).encode(), timeout=self.timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise NotifyFailed(where, f"took more than {self.timeout:g} s, and was killed", remedy) from None
        if process.returncode:
            raise NotifyFailed(where, f"ended with {process.returncode}", remedy)
        return f"{where} ended with 0"
