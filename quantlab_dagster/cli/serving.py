"""`quantlab dev`, `webserver` and `daemon`: Dagster's own commands, on a home that is ready for them.

Dagster reads its home before it loads any code of ours, so its commands alone start on one without a configuration
(or on none at all). These make it ready, and then this process becomes Dagster's.

No `from __future__ import annotations`: Typer reads the annotations as objects.
"""

import errno
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from quantlab_dagster.errors import SettingsError

__all__ = ["daemon", "dev", "webserver"]

_Host = Annotated[
    str, typer.Option(help="Address to listen at. Dagster has no log-in: put a proxy with one before any other.")
]
_Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")]
_Workspace = Annotated[
    Path | None,
    typer.Option(help="Another workspace.yaml, for code servers elsewhere.", exists=True, dir_okay=False),
]


def dev(
    host: _Host = "127.0.0.1",
    port: _Port = 3000,
    workspace: _Workspace = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Show what the demo made, whatever lakes are configured.")
    ] = False,
) -> None:
    """Dagster's web server and daemon together, for one machine."""
    if demo:
        from quantlab_dagster.cli.demo import forget_what_is_configured

        forget_what_is_configured(os.environ)
    _refuse_taken(host, port)
    _become(["quantlab_dagster.cli.runs.unsaid", "dev", *_listening(host, port)], workspace)


def webserver(host: _Host = "127.0.0.1", port: _Port = 3000, workspace: _Workspace = None) -> None:
    """Dagster's web server: the pages. It launches runs, but schedules and sensors need the daemon."""
    _refuse_taken(host, port)
    _become(["dagster_webserver", *_listening(host, port)], workspace)


def daemon(workspace: _Workspace = None) -> None:
    """Dagster's daemon: schedules, sensors, backfills and the queue. One of a home, never two."""
    _become(["dagster._daemon", "run"], workspace)


def _listening(host: str, port: int) -> list[str]:
    return ["--host", host, "--port", str(port)]


def _become(module: Sequence[str], workspace: Path | None) -> NoReturn:
    """Replace this process: signals, exit code and the service manager's process id are Dagster's.

    Args:
        module: of Dagster, and its arguments.
        workspace: its workspace.yaml; None is ours.
    """
    from quantlab_dagster.cli.runs.home import CONFIGURATION, WORKSPACE, ensure_dagster_home
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.settings import load_settings

    if workspace is not None:
        _refuse_foreign(workspace)
    home = ensure_dagster_home(load_settings(), Screen().note)
    if not (home / CONFIGURATION.name).samefile(CONFIGURATION):
        from quantlab_dagster.cli.runs.instance import open_instance

        open_instance(home).dispose()  # what is wrong with it is said here, and not in Dagster's traceback
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", *module, "--workspace", str(workspace or WORKSPACE)]
    os.execv(sys.executable, command)  # noqa: S606  # no shell, and nothing in it comes from elsewhere


def _refuse_foreign(workspace: Path) -> None:
    """Dagster would print what it cannot read as a workspace: all of it.

    Raises:
        SettingsError: the file is no YAML mapping, or cannot be read.
    """
    import yaml  # type: ignore[import-untyped]

    where, remedy = f"--workspace {workspace}", "Name a workspace.yaml, such as the shipped one"
    try:
        found = yaml.safe_load(workspace.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise SettingsError(where, "is not valid YAML", remedy) from None
    except OSError as error:
        raise SettingsError(where, f"cannot be read ({error.strerror})", remedy) from None
    if not isinstance(found, dict) or not found:
        raise SettingsError(where, "is no workspace: it has no names with values", remedy)


def _refuse_taken(host: str, port: int) -> None:
    """Dagster's web server would end at a taken port after some seconds, and `dagster dev` would wait for it.

    Raises:
        SettingsError: the port is taken, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise SettingsError(f"--host {host}", f"is no address ({error.strerror})", "Use 127.0.0.1 or 0.0.0.0") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            cause = f"is taken at {host}: another program listens there, perhaps this one, started before"
            raise SettingsError(
                f"--port {port}", cause, "Stop it, or use another: --port 3001 (make dev PORT=3001)"
            ) from None
        cause = f"cannot be listened at, at {host} ({error.strerror})"
        raise SettingsError(f"--port {port}", cause, "Use a port above 1023, at an address of this machine") from None
