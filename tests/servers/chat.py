"""A chat-completions server on loopback: follows a script, is strict about requests, misbehaves on demand.

    def test_it(chat_server):                                  # fixture of tests/conftest.py
        chat_server.reply(call("fs_read", {"path": "a.txt"}), "It says hello.")
        run_kode("run", "read a.txt", env={"OPENAI_BASE_URL": chat_server.url})    # any process, any event loop
        assert chat_server.requests[-1].messages[-1]["content"] == "hello"

It lives in threads of the test's process, so what it is told and what it saw is right there. Each request takes the
next reply: a string is said as text; ``say``, ``call``, ``calls``, ``fail``, ``html`` and ``raw`` make others, and
``.but(...)`` changes one: ``say("Long story").but(fault="reset", at="story")``. ``chat_server.script = function``
decides from the request instead. A request that the real API would refuse gets its 400 and is kept in
``chat_server.refused``, which the fixture holds to be empty in the end. Without a reply left it answers 400 too.
``chat_server.key = "sk-1"`` asks for that key. ``stop()`` and ``start()`` take it away and bring it back on its port.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

from .chat_rules import problem

__all__ = ["ChatServer", "Said", "Seen", "call", "calls", "fail", "html", "raw", "say"]

_MARGIN_S = 20.0
"""A thread of the server never waits longer for anything."""


@dataclass(frozen=True)
class Said:
    """One reply, and how it goes over the wire."""

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    """Name and arguments of each."""
    reasoning: str = ""
    finish: str | None = None
    usage: tuple[int, int] | None = (10, 5)
    piece: int = 6
    """Characters per delta."""
    frames: tuple[Any, ...] | None = None
    """Sent instead of the frames made from the fields above: a dict as JSON, a string as it is."""
    done: bool = True
    """Send ``[DONE]``."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent instead of a completion."""
    chop: int | None = None
    """Bytes per write; None: a frame per write."""
    pause_s: float = 0.0
    """Between writes."""
    fault: Literal["stall", "cut", "reset"] | None = None
    """``stall`` says nothing more until the client leaves, ``cut`` ends the connection, ``reset`` breaks it."""
    at: int | str | None = None
    """Where: after so many bytes of the body, or behind this text in it; None: before any answer."""

    def but(self, **changes: Any) -> Said:
        """The same, changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    raw: bytes
    body: Any
    """Its JSON, or None."""

    @property
    def messages(self) -> list[Any]:
        return cast("list[Any]", self.body["messages"])


def say(text: str, **more: Any) -> Said:
    """Text."""
    return Said(text=text, **more)


def call(name: str, arguments: Any, **more: Any) -> Said:
    """One tool call; arguments that are a string are sent as they are."""
    return Said(calls=((name, arguments),), **more)


def calls(*each: tuple[str, Any], **more: Any) -> Said:
    """Several tool calls in one reply."""
    return Said(calls=each, **more)


def fail(status: int, message: str = "Broken on purpose.", *, retry_after: str | None = None, **error: Any) -> Said:
    """An error as the API reports it; further fields (``code=``, ``type=``) go into its object."""
    body = json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": None, **error}})
    headers = {"content-type": "application/json", **({"retry-after": retry_after} if retry_after else {})}
    return Said(status=status, body=body.encode(), headers=headers)


def html(status: int, text: str = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>") -> Said:
    """A page of some proxy."""
    return Said(status=status, body=text.encode(), headers={"content-type": "text/html"})


def raw(body: bytes, content_type: str | None = "text/event-stream", status: int = 200, **more: Any) -> Said:
    """Any body at all."""
    return Said(status=status, body=body, headers={"content-type": content_type or ""}, **more)


class ChatServer:
    """See the module. All of it may be used from any thread."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.refused: list[str] = []
        """What was wrong with requests that got a 400 from the rules, or found no reply."""
        self.script: Callable[[Seen], Said | str] | None = None
        self.key: str | None = None
        self.left = 0
        """Replies that their client did not wait for."""
        self.connections = 0
        """Connections accepted so far."""
        self._replies: list[Said] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        self.stopping = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        """The base URL, with ``/v1``."""
        return f"http://127.0.0.1:{self._port}/v1"

    def reply(self, *replies: Said | str) -> None:
        """Queue replies."""
        with self._lock:
            self._replies += [say(each) if isinstance(each, str) else each for each in replies]

    def start(self) -> None:
        """Listen; again on the port of before."""
        if self._http is not None:
            return
        self.stopping = threading.Event()
        self._http = _Http(("127.0.0.1", self._port), self)
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Break all connections and listen no more."""
        http, self._http = self._http, None
        if http is None or self._thread is None:
            return
        self.stopping.set()
        http.shutdown()
        self._thread.join(_MARGIN_S)
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        http.server_close()  # waits for the threads of requests

    def wait_for(self, condition: Callable[[ChatServer], bool], timeout_s: float = 10.0) -> None:
        """Block until something is so; for threads and processes. An async test polls instead."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout_s), "the server never got there"

    def tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def choose(self, seen: Seen) -> Said:
        """Give the reply to a request, or the refusal of it."""
        if self.key is not None and seen.headers.get("authorization") != f"Bearer {self.key}":
            return fail(401, "Incorrect API key provided.", type="invalid_request_error", code="invalid_api_key")
        if seen.path != "/v1/chat/completions" or seen.method != "POST":
            return fail(404, f"Invalid URL ({seen.method} {seen.path})", type="invalid_request_error")
        wrong = problem(seen.body)
        if wrong is None and self.script is not None:
            chosen = self.script(seen)
            return say(chosen) if isinstance(chosen, str) else chosen
        with self._lock:
            if wrong is None and self._replies:
                return self._replies.pop(0)
        wrong = wrong or "The test queued no reply for this request."
        self.refused.append(wrong)
        return fail(400, wrong, type="invalid_request_error")


class _Http(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], chat: ChatServer) -> None:
        self.chat = chat
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error; what else goes wrong must be seen."""
        import sys

        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.chat.refused.append(f"the server itself failed: {error!r}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _MARGIN_S
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.chat.opened(self.connection)

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.server.chat.closed(self.connection)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        chat = self.server.chat
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = None
        with suppress(ValueError):
            body = json.loads(data)
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, data, body)
        chat.requests.append(seen)
        said = chat.choose(seen)
        chat.tell()
        try:
            self._answer(said, seen)
        except OSError:
            chat.left += 1
            self.close_connection = True
        chat.tell()

    def _answer(self, said: Said, seen: Seen) -> None:
        parts = _parts(said, seen)
        payload = b"".join(parts)
        limit = _limit(said, payload)
        if limit is None and said.fault is not None:
            self._misbehave(said)
            return
        self.send_response(said.status)
        streamed = said.body is None and bool(seen.body.get("stream"))
        kind = "text/event-stream" if streamed else "application/json"
        for name, value in {"content-type": kind, "x-request-id": "req-1", **said.headers}.items():
            if value:
                self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._write(parts if said.chop is None else _chopped(payload, said.chop), said, limit)
        if said.fault is not None:
            self._misbehave(said)
            return
        self.wfile.write(b"0\r\n\r\n")

    def _write(self, parts: Sequence[bytes], said: Said, limit: int | None) -> None:
        sent = 0
        for part in parts:
            if limit is not None and sent + len(part) > limit:
                part = part[: limit - sent]
            if part:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                sent += len(part)
            if sent == limit:
                return
            if said.pause_s:
                time.sleep(said.pause_s)

    def _misbehave(self, said: Said) -> None:
        self.close_connection = True
        if said.fault == "stall":
            began = time.monotonic()
            while time.monotonic() - began < _MARGIN_S and not self.server.chat.stopping.is_set():
                readable, _, _ = select.select([self.connection], [], [], 0.02)
                if readable and not self.connection.recv(1):
                    raise ConnectionResetError
        elif said.fault == "reset":
            # With this a close sends RST at once, whatever is still unsent.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


# ---- what a reply looks like ------------------------------------------------------------------------------


def _limit(said: Said, payload: bytes) -> int | None:
    if said.fault is None or said.at is None:
        return None
    if isinstance(said.at, int):
        return min(said.at, len(payload))
    place = payload.find(said.at.encode())
    assert place >= 0, f"{said.at!r} is not in the reply"
    return place + len(said.at.encode())


def _chopped(payload: bytes, size: int) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)]


def _parts(said: Said, seen: Seen) -> list[bytes]:
    if said.body is not None:
        return [said.body]
    body = seen.body
    if not body.get("stream"):
        return [json.dumps(_whole(said, body)).encode()]
    frames = _frames(said, body) if said.frames is None else list(said.frames)
    texts = [each if isinstance(each, str) else f"data: {json.dumps(each)}\n\n" for each in frames]
    if said.done:
        texts.append("data: [DONE]\n\n")
    return [each.encode() for each in texts]


def _frames(said: Said, body: Any) -> list[Any]:
    frames = [_frame(body, {"role": "assistant", "content": "" if said.text else None})]
    frames += [_frame(body, {"reasoning_content": piece}) for piece in _pieces(said.reasoning, said.piece)]
    frames += [_frame(body, {"content": piece}) for piece in _pieces(said.text, said.piece)]
    for index, (name, arguments) in enumerate(said.calls):
        start = {"name": name, "arguments": ""}
        frames.append(_call(body, index, {"id": f"call_{index}", "type": "function", "function": start}))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        frames += [_call(body, index, {"function": {"arguments": piece}}) for piece in _pieces(text, said.piece)]
    frames.append(_frame(body, {}, _finish(said)))
    if said.usage is not None and (body.get("stream_options") or {}).get("include_usage"):
        frames.append({**_head(body, "chat.completion.chunk"), "choices": [], "usage": _usage(said.usage)})
    return frames


def _whole(said: Said, body: Any) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.calls:
        message["tool_calls"] = [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for index, (name, arguments) in enumerate(said.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": _finish(said), "logprobs": None}
    return {**_head(body, "chat.completion"), "choices": [choice], "usage": _usage(said.usage or (0, 0))}


def _pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _head(body: Any, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": f"{body['model']}-2026"}


def _frame(body: Any, delta: Any, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_head(body, "chat.completion.chunk"), "choices": [choice]}


def _call(body: Any, index: int, part: Any) -> dict[str, Any]:
    return _frame(body, {"tool_calls": [{"index": index, **part}]})


def _finish(said: Said) -> str:
    return said.finish or ("tool_calls" if said.calls else "stop")


def _usage(tokens: tuple[int, int]) -> dict[str, Any]:
    asked, said = tokens
    return {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
