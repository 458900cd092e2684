"""docs/examples/web_app.py behind a real server, asked by real clients that come and go."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from tests.examples.conftest import EXAMPLES, PATIENCE_S, until
from tests.servers.chat import ChatServer, call, say

from kode.core import (
    Agent,
    AgentTemplate,
    Dependencies,
    KodeError,
    MemoryStore,
    ScriptedProvider,
    StatelessAgent,
    errors,
)

event_stream: Any = import_module("event_stream")
web_app: Any = import_module("web_app")

pytestmark = pytest.mark.integration
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 3


@pytest.fixture
def url(request: pytest.FixtureRequest, world: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server in a thread; it must stop by itself."""
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(web_app, "TEMPLATE", web_app.TEMPLATE.changed(model="openai:m"))
    app = getattr(request, "param", web_app.app)
    server = event_stream.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/agents"
    server.should_exit = True
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not event_stream.OPEN


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE_S) as client:
        yield client


class Viewer:
    """A client that shows what it is told and comes back with the last id it has seen."""

    def __init__(self, url: str, method: str = "GET", message: str | None = None, key: str = "k1") -> None:
        self.url, self.method = url, method
        self.body = None if message is None else {"message": message}
        self.headers = {} if message is None else {"Idempotency-Key": key}
        self.last = ""
        self.cursors: list[int] = []
        self.types: list[str] = []
        self.pieces: list[str] = []
        """Of the reply that is being told."""
        self.attempt: str | None = None
        self.texts: list[str] = []
        """Replies that are complete."""
        self.end: dict[str, Any] = {}
        self.comments = 0

    def follow(self, stop: Callable[[dict[str, Any]], bool] = lambda _: False) -> Viewer:
        """Connect, and read until the end or an event at which to break off."""
        headers = {**self.headers, **({"Last-Event-ID": self.last} if self.last else {})}
        # A client of its own: leaving breaks the connection.
        with httpx.stream(self.method, self.url, json=self.body, headers=headers, timeout=PATIENCE_S) as stream:
            assert stream.status_code == 200, stream.read()
            for line in stream.iter_lines():
                if line.startswith("id: "):
                    self.last = line[4:]
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    self.take(event)
                    if stop(event):
                        break
                elif line.startswith(":"):
                    self.comments += 1
                    if stop({"type": "comment"}):
                        break
        return self

    def take(self, event: dict[str, Any]) -> None:
        self.types.append(event["type"])
        if event.get("cursor") and event["type"] not in ("result", "failed"):
            self.cursors.append(event["cursor"])
        if event.get("attempt") not in (None, self.attempt):
            self.attempt = event["attempt"]
            self.pieces.clear()  # what an attempt before this one has shown does not count
        match event["type"]:
            case "text_chunk":
                self.pieces.append(event["delta"])
            case "text_chunk_end":
                assert event["delta"].startswith("".join(self.pieces))  # nothing missed, nothing doubled
                self.pieces.clear()
                self.texts.append(event["delta"])
            case "result" | "failed":
                self.end = event

    def has_all(self, first: int = 1) -> bool:
        return self.cursors == list(range(first, first + len(self.cursors)))


def after(pieces: int) -> Callable[[dict[str, Any]], bool]:
    """Stop after so many pieces of text."""
    left = iter(range(pieces))
    return lambda event: done(event) or (event["type"] == "text_chunk" and next(left, None) is None)


def done(event: dict[str, Any]) -> bool:
    return bool(event["type"] == "done")


# ---- requests ----------------------------------------------------------------------------------------------------

FASTAPI = FastAPI(
    routes=list(web_app.routes), exception_handlers={KodeError: web_app.failed}, lifespan=web_app.lifespan
)


@pytest.mark.parametrize("url", [web_app.app, FASTAPI], ids=["starlette", "fastapi"], indirect=True)
def test_a_message_is_answered_once(url: str, http: httpx.Client, chat_server: ChatServer) -> None:
    chat_server.reply("Hello.", "Again.")
    headers = {"Idempotency-Key": "k1"}
    first = http.post(f"{url}/team/a/messages", json={"message": "Hi"}, headers=headers)
    again = http.post(f"{url}/team/a/messages", json={"message": "Hi"}, headers=headers)
    assert (first.status_code, first.json()["text"], first.json()["agent_id"]) == (200, "Hello.", "team/a")
    assert again.json() == first.json()
    assert http.post(f"{url}/team/a/messages", json={"message": "Hi"}).json()["text"] == "Again."
    assert len(chat_server.requests) == 2


def test_a_person_decides(url: str, http: httpx.Client, chat_server: ChatServer) -> None:
    chat_server.reply(call("refund", {"order": "7", "cents": 250}), "Done.")
    paused = http.post(f"{url}/a/messages", json={"message": "Pay it back"})
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    (pending,) = paused.json()["pending"]
    yes = {"call": pending, "decision": "allow", "by": "ann"}
    for _ in range(2):  # delivered twice, it counts once
        decided = http.post(f"{url}/a/decisions", json=yes)
        assert (decided.status_code, decided.json()["text"]) == (200, "Done.")
    assert chat_server.requests[-1].messages[-1]["content"] == "Paid 250 cents back for order 7."
    late = http.post(f"{url}/a/decisions", json={**yes, "decision": "deny"})
    assert (late.status_code, late.json()["code"]) == (400, "not_pending")


def test_a_client_says_how_long_it_waits(url: str, http: httpx.Client, chat_server: ChatServer) -> None:
    chat_server.reply(say(TEXT).but(fault="stall", at="best"), "Here it is.")
    headers = {"Idempotency-Key": "k1", "Prefer": "respond-async, wait=1"}
    first = http.post(f"{url}/a/messages", json={"message": "Hi"}, headers=headers)
    assert (first.status_code, first.json()["status"]) == (202, "deadline")
    until(lambda: chat_server.left == 1)
    second = http.post(f"{url}/a/messages", json={"message": "Hi"}, headers=headers)
    assert (second.status_code, second.json()["text"], second.json()["run"]) == (200, "Here it is.", 1)


def test_a_client_that_leaves_finds_the_answer_later(url: str, http: httpx.Client, chat_server: ChatServer) -> None:
    chat_server.reply(say(TEXT).but(pause_s=0.01))
    asked: dict[str, Any] = {"json": {"message": "Hi"}, "headers": {"Idempotency-Key": "k1"}}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/a/messages", timeout=0.3, **asked)
    assert http.post(f"{url}/a/messages", **asked).json()["text"] == TEXT
    assert (len(chat_server.requests), chat_server.left) == (1, 0)


def test_what_is_wrong_has_a_status(url: str, http: httpx.Client, chat_server: ChatServer) -> None:
    chat_server.reply("Hello.")
    key = {"Idempotency-Key": "k1"}
    http.post(f"{url}/a/messages", json={"message": "Hi"}, headers=key)
    tried = [
        http.post(f"{url}/a/messages", content=b"{"),
        http.post(f"{url}/a/messages", content=b'["Hi"]'),
        http.post(f"{url}/a/messages", json={}),
        http.post(f"{url}/a/messages", json={"message": ["Hi"]}),
        http.get(f"{url}/a/events", headers={"Last-Event-ID": "yesterday"}),
        http.post(f"{url}/a/events", json={"message": "Hi"}, headers={"Last-Event-ID": "yesterday"}),
        http.post(f"{url}/a/decisions", json={"decision": "allow"}),
        http.post(f"{url}/b/decisions", json={"call": "1.1.1", "decision": "allow"}),
        http.get(f"{url}/b/events"),
        http.post(f"{url}/a/messages", json={"message": "Ho"}, headers=key),
        http.post(f"{url}//messages", json={"message": "Hi"}),
    ]
    assert [(each.status_code, each.json()["code"]) for each in tried] == [
        (400, "bad_body"),
        (400, "bad_body"),
        (400, "bad_message"),
        (400, "bad_message"),
        (400, "bad_position"),
        (400, "bad_position"),
        (400, "not_pending"),
        (404, "not_found"),
        (404, "not_found"),
        (409, "duplicate_id"),
        (400, "bad_agent_id"),
    ]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.UsageError, 400),
        (errors.NotFoundError, 404),
        (errors.AgentExistsError, 409),
        (errors.DuplicateIdError, 409),
        (errors.FencedError, 409),
        (errors.LeaseLostError, 409),
        (errors.InboxFullError, 429),
        (errors.NotBoundError, 500),
        (errors.StoreError, 500),
        (errors.StoreUnavailableError, 503),
        (errors.ProviderUnavailableError, 503),
    ],
)
def test_each_family_has_its_status(kind: type[KodeError], status: int) -> None:
    async def tell() -> Any:
        return await web_app.failed(None, kind("Oh.", code="oh"))

    answer = anyio.run(tell)
    assert (answer.status_code, json.loads(answer.body)) == (status, {"code": "oh", "message": "Oh."})


# ---- events ------------------------------------------------------------------------------------------------------


def test_a_stream_that_broke_is_taken_up_again(url: str, chat_server: ChatServer) -> None:
    chat_server.reply(say(TEXT).but(fault="stall", at="worst"), say(TEXT))
    viewer = Viewer(f"{url}/a/events", "POST", "Tell me").follow(after(5))
    assert "".join(viewer.pieces) != ""
    until(lambda: chat_server.left == 1)  # nobody waits for the model any more
    viewer.follow()
    assert (viewer.end["type"], viewer.end["status"], viewer.end["text"]) == ("result", "ok", TEXT)
    assert (viewer.texts, viewer.types.count("text_chunk_start")) == ([TEXT], 2)
    # From its first event to its last; an unknown agent is made first, and nobody has watched that.
    assert viewer.has_all(viewer.cursors[0])
    again = Viewer(f"{url}/a/events", "POST", "Tell me")
    again.last = "0"
    again.follow()
    assert (again.has_all(), again.texts, again.end) == (True, [TEXT], viewer.end)
    assert again.cursors[-1] == viewer.cursors[-1]
    assert len(chat_server.requests) == 2


def test_two_clients_watch_what_a_third_asked_for(url: str, http: httpx.Client, chat_server: ChatServer) -> None:
    chat_server.reply("Hello.", say(TEXT).but(pause_s=0.01))
    first = http.post(f"{url}/a/messages", json={"message": "Hi"}).json()["cursor"]
    steady, restless = Viewer(f"{url}/a/events"), Viewer(f"{url}/a/events")
    steady.last = restless.last = str(first)

    def leave_and_return() -> int:
        times = 0
        while "done" not in restless.types:
            restless.follow(after(2))
            times += 1
        return times

    with ThreadPoolExecutor(3) as threads:
        watching = threads.submit(steady.follow, done)
        returning = threads.submit(leave_and_return)
        asked = http.post(f"{url}/a/messages", json={"message": "Tell me"})
        watching.result(PATIENCE_S)
        assert returning.result(PATIENCE_S) > 3
    assert asked.json()["text"] == TEXT
    for viewer in (steady, restless):
        assert viewer.has_all(first + 1)
        assert viewer.texts == [TEXT]
        assert viewer.types.count("text_chunk_start") == 1


def test_what_is_wrong_with_a_request_has_a_status_and_no_stream(
    url: str, http: httpx.Client, chat_server: ChatServer
) -> None:
    chat_server.reply("Hello.")
    http.post(f"{url}/a/messages", json={"message": "Hi"}, headers={"Idempotency-Key": "k1"})
    other = http.post(f"{url}/a/events", json={"message": "Something else"}, headers={"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["code"]) == (409, "duplicate_id")
    place = http.get(f"{url}/a/events", headers={"Last-Event-ID": "999999"})
    assert (place.status_code, place.json()["code"]) == (400, "bad_position")
    deep = http.post(f"{url}/a/messages", content="[" * 60_000)
    assert (deep.status_code, deep.json()["code"]) == (400, "bad_body")
    unnamed = http.post(f"{url}/a/messages", json={"message": "Hi"}, headers={"Idempotency-Key": ""})
    assert (unnamed.status_code, unnamed.json()["code"]) == (400, "bad_item_id")


async def test_a_text_that_was_pruned_is_not_taken_for_another() -> None:
    async with MemoryStore() as store:
        deps = Dependencies(store, providers={"m": ScriptedProvider(lambda _: "answer")})
        for n in range(12):
            await StatelessAgent.run("a", f"{n}", template_id=AgentTemplate("t", model="m"), dependencies=deps)
        async with await Agent.open("a", deps) as agent:
            await agent.compact()
            await agent.complete()
            await store.prune("a", before=None, keep_events=10_000, keep_messages=2)
            events = await agent.subscribe(since=0, kinds=["text_chunk_end"])
            events.done = lambda: True
            shown = [await event_stream.EventStream(None, store)._shown(envelope) async for envelope in events]
    assert len(shown) >= 12
    assert {one["delta"] for one in shown} == {"answer"}


def test_a_quiet_stream_is_kept_alive(
    url: str, http: httpx.Client, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.02)
    chat_server.reply("Hello.")
    http.post(f"{url}/a/messages", json={"message": "Hi"})
    viewer = Viewer(f"{url}/a/events")
    comments = iter("..")
    viewer.follow(lambda event: event["type"] == "comment" and next(comments, None) is None)
    assert (viewer.comments, viewer.types) == (3, [])
    until(lambda: not event_stream.OPEN)  # and nothing is left of it


# ---- the end -----------------------------------------------------------------------------------------------------


def test_a_server_that_stops_lets_clients_come_back(
    url: str, http: httpx.Client, chat_server: ChatServer, world: dict[str, str]
) -> None:
    chat_server.reply("Hello.", say(TEXT).but(fault="stall", at="worst"), TEXT)
    http.post(f"{url}/a/messages", json={"message": "Hi"})
    program = [sys.executable, EXAMPLES / "web_app.py"]
    with subprocess.Popen(program, env=world | {"PORT": "0"}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://\S+", next(line for line in process.stderr if "running on" in line))
        assert found is not None
        watcher = Viewer(f"{found[0]}/agents/a/events")
        viewer = Viewer(f"{found[0]}/agents/a/events", "POST", "Tell me")
        watcher.last = viewer.last = "0"
        with ThreadPoolExecutor(2) as threads:
            streams = [threads.submit(each.follow) for each in (watcher, viewer)]
            until(lambda: watcher.pieces and viewer.pieces)
            process.send_signal(signal.SIGTERM)
            try:
                for stream in streams:
                    stream.result(PATIENCE_S / 2)  # ended in order: an end that is cut off raises
            except BaseException:
                process.kill()  # or its end would be waited for
                raise
        said = process.stderr.read()
        assert (process.wait(PATIENCE_S), "ERROR" in said, "Traceback" in said) == (-signal.SIGTERM, False, False), said
    assert viewer.end == {}
    viewer.url = f"{url}/a/events"
    viewer.follow()
    assert (viewer.end["text"], viewer.texts, viewer.has_all()) == (TEXT, ["Hello.", TEXT], True)
