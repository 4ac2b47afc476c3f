"""An embedded PostgreSQL: one server for all components that name one, on a Unix socket, with durable settings."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from apibase.local.binaries import PostgresBinaries, postgres_for, reachable_by
from apibase.local.errors import StackError
from apibase.local.probes import postgres_ok
from apibase.local.process import ProcessSpec
from apibase.local.service import Service

_SUPERUSER = "postgres"
_LONGEST_SOCKET = 107
_SOCKET = ".s.PGSQL.5432"
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "300",
    # Shared memory in the data folder, not in /dev/shm: nothing stays behind when the server is killed.
    "dynamic_shared_memory_type": "mmap",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] ",
}


@dataclass(frozen=True)
class PostgresPlan:
    """How to make the cluster and how to run it. `initialise` is None where the data folder has one already."""

    initialise: ProcessSpec | None
    server: Service
    connection_string: str


def plan_postgres(binaries: PostgresBinaries, data: Path, sockets: Path, logs: Path) -> PostgresPlan:
    """Prepare the folders. As root the server gets a user of its own, because PostgreSQL refuses to be root."""
    user = _unprivileged_user()
    folder = binaries.bin_dir
    _make_folder(data, user)
    _make_folder(sockets, user)
    if user:
        folder = postgres_for(binaries, pwd.getpwnam(user).pw_uid).bin_dir
        _check_reachable(data, user)
    if len(str(sockets / f"{_SOCKET}.lock")) > _LONGEST_SOCKET:
        message = f"{sockets} is too long for a Unix socket; set TMPDIR to a shorter folder"
        raise StackError(message)
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "TMPDIR": str(sockets)}
    initialise = None
    if not (data / "PG_VERSION").exists():
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
        make = (str(folder / "initdb"), f"--pgdata={data}", f"--username={_SUPERUSER}", *options)
        # Left to finish, which takes a second: interrupted, it would leave shared memory that nobody removes.
        initialise = ProcessSpec(
            "initdb",
            make,
            env,
            Path("/"),
            logs / "postgres.log",
            user=user,
            stop_signal=0,
            kill_signal=0,
            death_signal=0,
        )
    settings = _SETTINGS | {"unix_socket_directories": str(sockets)}
    command = (str(folder / "postgres"), "-D", str(data), *(f"--{key}={value}" for key, value in settings.items()))
    # SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one; SIGTERM would wait for every client to leave, and
    # SIGKILL would leave its shared memory behind.
    spec = ProcessSpec(
        "postgres", command, env, Path("/"), logs / "postgres.log",
        user=user, stop_signal=signal.SIGINT, kill_signal=signal.SIGQUIT, death_signal=signal.SIGINT,
    )  # fmt: skip
    server = Service(spec, partial(postgres_ok, sockets / _SOCKET, _SUPERUSER), "it takes no connection", within=30)
    return PostgresPlan(initialise, server, f"host={sockets} user={_SUPERUSER} database=postgres")


def _unprivileged_user() -> str:
    if os.geteuid() != 0:
        return ""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    message = "PostgreSQL will not run as root, and there is no user postgres or nobody to run it as"
    raise StackError(message)


def _make_folder(folder: Path, user: str) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    if user:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)


def _check_reachable(data: Path, user: str) -> None:
    if not reachable_by(data, pwd.getpwnam(user).pw_uid):
        message = f"PostgreSQL runs as user {user}, who can't reach {data}; name another folder with --data"
        raise StackError(message)
