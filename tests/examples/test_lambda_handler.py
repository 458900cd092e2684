"""docs/examples/lambda_handler.py in a process of its own, where nothing but /tmp can be written to."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.examples.conftest import EXAMPLES, Shop
from tests.servers.chat import ChatServer, call, say

pytestmark = pytest.mark.integration
ROOT = EXAMPLES.parents[1]
HOST = Path(__file__).parent / "lambda_host.py"


def rest(path: str, body: Any = None, **headers: str) -> dict[str, Any]:
    """A REST API's event (version 1)."""
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": "POST",
        "headers": headers or None,
        "requestContext": {"requestId": "r-1", "stage": "prod"},
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


def url(path: str, body: Any, **headers: str) -> dict[str, Any]:
    """An HTTP API's or a function URL's event (version 2)."""
    return {
        "version": "2.0",
        "rawPath": path,
        "headers": headers,
        "requestContext": {"requestId": "r-2", "http": {"method": "POST", "path": path}},
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "isBase64Encoded": True,
    }


class Host:
    """One instance of the function."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.writable: list[str] = self._read()
        self.left_s = 0.0

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def invoke(self, event: dict[str, Any], left_s: float = 20.0) -> tuple[int, dict[str, Any]]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([event, left_s]) + "\n")
        self.process.stdin.flush()
        said, self.left_s = self._read()
        assert said["headers"] == {"content-type": "application/json"}
        return said["statusCode"], json.loads(said["body"])


@pytest.fixture
def start(
    component: Callable[[str, str], str],
    missing: Callable[[str], NoReturn],
    world: dict[str, str],
    shop: Shop,
    tmp_path: Path,
) -> Iterator[Callable[[], Host]]:
    """Start instances that share /tmp, and so a store that is kept there for want of a database."""
    (tmp_path / "tmp").mkdir()
    jail = [component("bwrap", "apt-get install bubblewrap"), "--unshare-pid", "--die-with-parent"]
    jail += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", str(tmp_path / "tmp"), "/tmp"]
    jail += ["--ro-bind", str(ROOT), str(ROOT), "--"]  # it may lie below /tmp
    tried = subprocess.run([*jail, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        missing(f"bwrap does not work here: {tried.stderr}")
    env = world | {
        "KODE_STORE": "sqlite:////tmp/agents.db?durability=process",
        "SHOP_URL": shop.url,
        "HOME": "/nowhere",
    }
    hosts: list[Host] = []

    def make() -> Host:
        hosts.append(Host([*jail, sys.executable, str(HOST), "/", "/usr", str(EXAMPLES), "/tmp"], env))
        return hosts[-1]

    yield make
    for host in hosts:
        with host.process:
            host.process.kill()


def test_an_instance_serves_again_and_again(start: Callable[[], Host], chat_server: ChatServer) -> None:
    chat_server.reply(call("fs_write", {"path": "a.txt", "content": "hello"}), "Written.", "Hello.", "Cold.")
    host = start()
    assert host.writable == ["/tmp"]
    status, first = host.invoke(
        rest("/prod/agents/team%2Fa/messages", {"message": "Write"}, **{"IDEMPOTENCY-key": "k1"})
    )
    assert (status, first["status"], first["text"], first["agent_id"]) == (200, "ok", "Written.", "team/a")
    assert host.invoke(url("/agents/team/a/messages", {"message": "Hi"}))[1]["text"] == "Hello."
    # One loop, one store, one connection to the model.
    assert chat_server.connections == 1
    # Delivered again, by the header's id or the gateway's, also to another instance.
    other = start()
    event = rest("/agents/team/a/messages", {"message": "Write"}, **{"Idempotency-Key": "k1"})
    assert other.invoke(event) == (200, first)
    assert other.invoke(url("/agents/team/a/messages", {"message": "Hi"}))[1]["text"] == "Hello."
    assert len(chat_server.requests) == 3
    event = rest("/agents/team/a/messages", {"message": "Hi"})
    assert [other.invoke(event)[1]["text"] for _ in range(2)] == ["Cold.", "Cold."]


def test_what_the_time_was_too_short_for_is_gone_on_with(
    start: Callable[[], Host], chat_server: ChatServer, shop: Shop
) -> None:
    chat_server.reply("Hi.", call("price", {"item": "tea"}), "Seven.", say("x").but(fault="stall"), "At last.")
    shop.closed.clear()
    host = start()
    host.invoke(url("/agents/a/messages", {"message": "Hi"}))  # so that what is timed is not the start
    event = url("/agents/a/messages", {"message": "Price?"}, **{"idempotency-key": "k1"})
    status, said = host.invoke(event, 2)
    while not shop.asked:  # this machine is slow: so much the better
        status, said = host.invoke(event, 2)
    assert (status, said["status"], said["unfinished"]) == (202, "deadline", ["2.1.1"])
    assert host.left_s > 0
    shop.closed.set()
    status, said = host.invoke(rest("/agents/a/continue"))
    assert (status, said["text"], said["run"], len(shop.asked)) == (200, "Seven.", 2, 2)
    # The same with the model in place of a tool, and the same request again in place of `continue`.
    event = url("/agents/a/messages", {"message": "And coffee?"}, **{"idempotency-key": "k2"})
    while len(chat_server.requests) < 4:
        assert host.invoke(event, 1.2)[0] == 202
    assert host.invoke(event)[1]["text"] == "At last."


def test_what_is_wrong_has_a_status(start: Callable[[], Host], chat_server: ChatServer) -> None:
    chat_server.reply("Hello.")
    host = start()
    host.invoke(rest("/agents/a/messages", {"message": "Hi"}))
    broken = {**rest("/agents/a/messages"), "body": "%", "isBase64Encoded": True}
    tried = [
        rest("/"),
        rest("/agents/nobody/continue"),
        broken,
        rest("/agents/a/messages", ["Hi"]),
        rest("/agents/a/messages"),
        rest("/agents/a/decisions", {"call": "1.1.1", "decision": "allow"}),
        rest("/agents/a/messages", {"message": "Ho"}),
    ]
    assert [(status, said["code"]) for status, said in map(host.invoke, tried)] == [
        (404, "not_found"),
        (404, "not_found"),
        (400, "bad_body"),
        (400, "bad_body"),
        (400, "bad_message"),
        (400, "not_pending"),
        (409, "duplicate_id"),
    ]
