"""A real Postgres on loopback, for as long as a context lasts."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import psycopg2

from quantlab_dagster_tests.servers import HOST, START_SECONDS, free_ports, started_process

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "a pass/word"  # noqa: S105  # of a server that lives for seconds
_INSTALL: Final = "apt-get install postgresql"
_POLL_SECONDS: Final = 0.1
_LARGEST_CLUSTER: Final = ("-c", "max_connections=200")
_NOTHING_SURVIVES: Final = ("-c", "fsync=off", "-c", "full_page_writes=off")


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server with an empty database and its owner."""

    port: int
    name: str = "dagster"
    password: str = PASSWORD

    @property
    def url(self) -> str:
        """As Dagster takes it. The driver is named: of a plain postgresql:// SQLAlchemy 2.1 makes psycopg 3."""
        return f"postgresql+psycopg2://{self.name}:{quote(self.password, safe='')}@{HOST}:{self.port}/{self.name}"

    @property
    def variables(self) -> dict[str, str]:
        """As the shipped containers take it."""
        return {
            "DAGSTER_POSTGRES_HOST": HOST,
            "DAGSTER_POSTGRES_PORT": str(self.port),
            "DAGSTER_POSTGRES_USER": self.name,
            "DAGSTER_POSTGRES_PASSWORD": self.password,
            "DAGSTER_POSTGRES_DB": self.name,
        }

    def make_database(self) -> None:
        """Make the database; it fails while the server does not answer."""
        connection = psycopg2.connect(
            host=HOST, port=self.port, user=self.name, password=self.password, dbname="postgres"
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'create database "{self.name}"')
        finally:
            connection.close()


def missing() -> str | None:
    """What this machine lacks for it, if it lacks anything, and how to install it."""
    return None if _programs() else f"Postgres: it is not installed ({_INSTALL})"


def _programs() -> Path | None:
    """Where initdb and postgres are: Debian keeps them off the PATH, by version."""
    if (found := shutil.which("initdb")) and shutil.which("postgres"):
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


@contextmanager
def postgres(log: Path) -> Iterator[Postgres]:
    """Run a server. It refuses to be root's, so it is nobody's then.

    Args:
        log: what it says.
    """
    programs = _programs()
    assert programs is not None, missing()
    as_user: list[str | Path] = (
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    )
    with TemporaryDirectory(prefix="quantlab-postgres-") as name:
        directory = Path(name)
        data, password = directory / "data", directory / "password"
        password.write_text(PASSWORD)
        if as_user:
            shutil.chown(directory, "nobody")
            shutil.chown(password, "nobody")
        [port] = free_ports(1)
        server = Postgres(port)
        make = [*as_user, programs / "initdb", "-D", data, "-U", server.name, f"--pwfile={password}", "-E", "UTF8"]
        make += ["--auth=scram-sha-256", "--no-sync"]
        environment = {**os.environ, "LC_ALL": "C"}
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=directory, env=environment)
        where: list[str | Path] = ["-D", data, "-p", str(port), "-h", HOST, "-k", directory]
        argv = [*as_user, programs / "postgres", *where, *_NOTHING_SURVIVES, *_LARGEST_CLUSTER]
        with started_process(argv, log=log, env={}) as process:
            deadline = time.monotonic() + START_SECONDS
            while True:
                process.check()
                try:
                    server.make_database()
                except psycopg2.OperationalError:
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(_POLL_SECONDS)
                else:
                    break
            yield server
