"""What lies between a model's bytes and who watches: the first delta; a long reply, beside the vendors' packages."""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import httpx
from figures import spread

from kode.core import (
    Agent,
    AgentTemplate,
    AnthropicProvider,
    Dependencies,
    GeminiProvider,
    MemoryStore,
    OpenAIProvider,
    TextBlock,
)
from kode.core.kernel.message import Message
from kode.core.provider import Assembler, ModelRequest, Provider

CHUNKS = 2_000
ASKED = 300
PAUSE_S = 0.005
Package = tuple[Callable[[], Awaitable[str]], Callable[[], Awaitable[None]]]
"""How to ask with it, and how to close it."""


# ---- the first delta -----------------------------------------------------------------------------------------


async def first_delta(folder: str) -> dict[str, Any]:
    """Milliseconds from the server's write, stamped there, to a subscriber's hands; and to httpx alone.

    The server is a process of its own; both read the machine's monotonic clock. ``first`` comes with the headers of the
    answer, ``later`` into a stream at rest.
    """
    with _server({}) as url:
        found = await _watched(f"{url}/v1")
        bare = await _bare(f"{url}/v1")
    return {
        f"{which} delta, {who}, ms (p50 / p99)": {name: figure(taken[at]) for name, figure in _FIGURES.items()}
        for who, taken in (("subscriber of an agent", found), ("httpx alone", bare))
        for at, which in enumerate(("first", "later"))
    }


@contextmanager
def _server(bodies: dict[bytes, bytes]) -> Iterator[str]:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, bodies), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        server.terminate()
        server.join()


def _p99(taken: Sequence[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


_FIGURES: dict[str, Callable[[Sequence[float]], float]] = {"p50": statistics.median, "p99": _p99}


async def _watched(url: str) -> tuple[list[float], list[float]]:
    provider = OpenAIProvider(model="m", base_url=url, api_key="", environ={})
    deps = Dependencies(MemoryStore(), providers={"m": provider})
    agent = await Agent.create(template=AgentTemplate("t", model="m"), dependencies=deps)
    first: list[float] = []
    later: list[float] = []
    for turn in range(ASKED + 5):
        async with agent.stream("go") as events:
            taken = [_since(event.delta) async for event in events if event.type == "text_chunk"]
        if turn >= 5:
            first.append(taken[0])
            later.extend(taken[1:])
    await provider.close()
    return first, later


async def _bare(url: str) -> tuple[list[float], list[float]]:
    first: list[float] = []
    later: list[float] = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for turn in range(ASKED + 5):
            taken = []
            async with client.stream("POST", f"{url}/chat/completions", json={}) as response:
                async for data in response.aiter_bytes():
                    for line in data.split(b"\n\n"):
                        if line.startswith(b"data: {"):
                            said = json.loads(line[6:])["choices"][0]["delta"].get("content")
                            taken += [_since(said)] if said else []
            if turn >= 5:
                first.append(taken[0])
                later.extend(taken[1:])
    return first, later


def _since(stamp: str) -> float:
    return (time.monotonic_ns() - int(stamp)) / 1e6


def serve(pipe: Connection, bodies: dict[bytes, bytes]) -> None:
    """Answer a request whose path holds a key of ``bodies`` with that, others with deltas that say when they left."""
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_talk, args=(connection, bodies), daemon=True).start()


def _talk(connection: socket.socket, bodies: dict[bytes, bytes]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError), connection, connection.makefile("rb") as lines:
        while path := _request(lines):
            body = next((body for each, body in bodies.items() if each in path), None)
            if body is None:
                _tell_the_time(connection)
            else:
                connection.sendall(_HEAD + _piece(body) + b"0\r\n\r\n")


def _tell_the_time(connection: socket.socket) -> None:
    time.sleep(PAUSE_S)
    connection.sendall(_HEAD + _frame({"content": str(time.monotonic_ns())}))
    for _ in range(3):
        time.sleep(PAUSE_S)
        connection.sendall(_frame({"content": str(time.monotonic_ns())}))
    connection.sendall(_frame({}, "stop") + _piece(b"data: [DONE]\n\n") + b"0\r\n\r\n")


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _request(lines: Any) -> bytes:
    path: bytes = lines.readline()
    length = 0
    line = path
    while line.strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
        line = lines.readline()
    lines.read(length)
    return path


def _frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    made = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return _piece(b"data: %s\n\n" % json.dumps(made).encode())


def _piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# ---- folding -------------------------------------------------------------------------------------------------


async def fold(folder: str) -> dict[str, Any]:
    """CPU milliseconds of this process for a reply of 2,000 deltas over loopback, from request to finished reply."""
    bodies = {b"/messages": _messages(CHUNKS), b"Generate": _contents(CHUNKS), b"/chat/": _chats(CHUNKS)}
    rows: dict[str, Any] = {}
    with _server(bodies) as url:
        ours: dict[str, Provider] = {
            "Anthropic": AnthropicProvider(base_url=url, environ={}),
            "Gemini": GeminiProvider(base_url=url, environ={}),
            "chat": OpenAIProvider(model="m", base_url=url, environ={}),
        }
        theirs = {"Anthropic": _by_anthropic, "Gemini": _by_google, "chat": _by_openai}
        for name, provider in ours.items():
            rows[f"{name}, ours"] = await _cpu(lambda provider=provider: _fold(provider))
            await provider.close()
            ask, close = theirs[name](url)
            rows[f"{name}, the vendor's package"] = await _cpu(ask)
            await close()
    return rows


async def _fold(provider: Provider) -> str:
    assembler = Assembler()
    async with provider.stream(ModelRequest("m", (Message(0, "user", (TextBlock("hi"),), 0),))) as chunks:
        async for chunk in chunks:
            assembler.feed(chunk)
    return assembler.finish().text


async def _cpu(ask: Callable[[], Awaitable[str]]) -> dict[str, float]:
    taken = []
    for _ in range(9):
        start = time.process_time()
        text = await ask()
        taken.append((time.process_time() - start) * 1e3)
        assert text == "token " * CHUNKS
    return spread(taken[1:])


def _messages(count: int) -> bytes:
    usage = {"input_tokens": 10, "output_tokens": 1}
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage,
             "stop_reason": None, "stop_sequence": None}  # fmt: skip
    said = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "token "}}
    ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}
    events: list[Any] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[said] * count,
        {"type": "content_block_stop", "index": 0}, ended, {"type": "message_stop"},
    ]  # fmt: skip
    return b"".join(b"event: %s\ndata: %s\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in events)


def _contents(count: int) -> bytes:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}

    def one(text: str, **more: Any) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": text}]}
        return {"candidates": [{"content": content, "index": 0, **more}], "usageMetadata": usage, "modelVersion": "m"}

    return _lines([*[one("token ")] * (count - 1), one("token ", finishReason="STOP")])


def _chats(count: int) -> bytes:
    def one(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    return _lines([*[one({"content": "token "})] * count, one({}, "stop")]) + b"data: [DONE]\n\n"


def _lines(values: Iterable[Any]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in values)


def _by_anthropic(url: str) -> Package:
    import anthropic

    client = anthropic.AsyncAnthropic(api_key="none", base_url=url)

    async def ask() -> str:
        hi: Any = [{"role": "user", "content": "hi"}]
        async with client.messages.stream(model="m", max_tokens=9, messages=hi) as stream:
            return await stream.get_final_text()

    return ask, client.close


def _by_openai(url: str) -> Package:
    import openai

    client = openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1")

    async def ask() -> str:
        async with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "hi"}]) as stream:
            return (await stream.get_final_completion()).choices[0].message.content or ""

    return ask, client.close


def _by_google(url: str) -> Package:
    from google import genai
    from google.genai.types import HttpOptions

    client = genai.Client(api_key="none", http_options=HttpOptions(base_url=url))

    async def ask() -> str:
        stream = await client.aio.models.generate_content_stream(model="m", contents="hi")
        return "".join([each.text or "" async for each in stream])

    return ask, client.aio.aclose
