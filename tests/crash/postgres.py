"""A PostgreSQL of this check's own: found or installed, started in a temporary folder, stopped at the end.

`python -m tests.crash.postgres COMMAND ...` runs a command beside it, with LLMSERVE_TEST_POSTGRES_URL set.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import local_server

__all__ = ["PostgresUnavailableError", "postgres"]

_DEBIAN = Path("/usr/lib/postgresql")


class PostgresUnavailableError(Exception):
    """There is none here, and none can be had; the message says why."""


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server and yield the SQLAlchemy URL of its database; raises `PostgresUnavailableError`."""
    tools = _tools()
    as_user: dict[str, str] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root; Debian's package makes a user for it
        as_user = {"user": _user(), "group": ""}
        as_user["group"] = str(pwd.getpwnam(as_user["user"]).pw_gid)
    with tempfile.TemporaryDirectory(prefix="llmserve-postgres-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), local_server.free_port()
        if as_user:
            shutil.chown(folder, as_user["user"])
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        _run(as_user, tools / "initdb", "-D", folder / "data", "-A", "trust", "-U", "llmserve", "--no-sync")
        control = (tools / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log")
        _run(as_user, *control, "-o", options, "start")
        try:
            yield f"postgresql://llmserve@127.0.0.1:{port}/postgres"
        finally:
            _run(as_user, *control, "-m", "immediate", "stop")


def _tools() -> Path:
    """The folder with PostgreSQL's programs, installed by Debian's package manager if it has to be and can be."""
    found = _installed()
    if found is not None:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise PostgresUnavailableError("no PostgreSQL is installed, and only root could install Debian's")
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", "postgresql"]):
        done = subprocess.run(
            command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PostgresUnavailableError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    found = _installed()
    if found is None:
        raise PostgresUnavailableError("Debian's postgresql brought no initdb and no pg_ctl")
    return found


def _installed() -> Path | None:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(_DEBIAN.glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "pg_ctl").exists()), None)


def _user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise PostgresUnavailableError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _run(as_user: dict[str, str], *command: str | Path) -> None:
    options = {"user": as_user["user"], "group": int(as_user["group"]), "extra_groups": []} if as_user else {}
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise PostgresUnavailableError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-300:]}")


def main() -> int:
    """Run a command beside a PostgreSQL; where there can be none, say so and succeed."""
    try:
        with postgres() as url:
            return subprocess.run(
                sys.argv[1:], env=os.environ | {"LLMSERVE_TEST_POSTGRES_URL": url}, check=False
            ).returncode
    except PostgresUnavailableError as reason:
        print(f"SKIPPED: {reason}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
