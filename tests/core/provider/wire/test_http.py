"""The wire, against a real server on loopback: every failure is one readable error, and no key shows anywhere."""

from __future__ import annotations

import gzip
import logging
import pickle
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import anyio
import httpx
import pytest
from tests.servers.chat import ChatServer, Said, call, fail, html, raw, say

from kode.core.errors import ProviderError, UsageError
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import Assembler, HttpOptions, ModelRequest, OpenAIProvider, Reply, Secrets

pytestmark = pytest.mark.integration

KEY = "sk-canary-0123456789"
LONG = "Once upon a time there was a story that went on. " * 20

Make = Callable[..., OpenAIProvider]


@pytest.fixture
async def make(chat_server: ChatServer) -> AsyncIterator[Make]:
    """Providers of the server, closed in the end."""
    made: list[OpenAIProvider] = []

    def build(url: str | None = None, http: HttpOptions | None = None, **more: Any) -> OpenAIProvider:
        made.append(OpenAIProvider(model="m", base_url=url or chat_server.url, environ={}, http=http, **more))
        return made[-1]

    yield build
    for each in made:
        await each.close()


def request(**more: Any) -> ModelRequest:
    return ModelRequest("m", (Message(0, "user", (TextBlock("hi"),), 0),), **more)


async def ask(provider: OpenAIProvider, question: ModelRequest | None = None) -> Reply:
    assembler = Assembler(provider.name, provider.model)
    async with provider.stream(question or request()) as chunks:
        async for chunk in chunks:
            assembler.feed(chunk)
    return assembler.finish()


async def failure(provider: OpenAIProvider, question: ModelRequest | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ask(provider, question)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the server lives in threads
            await anyio.sleep(0.005)


# ---- failures -------------------------------------------------------------------------------------------------------

ERROR = b'{"error": {"message": "Broken.", "type": "server_error"}}'
SSE = "text/event-stream"
FAULTS: list[tuple[Said, str, bool, str]] = [
    (fail(401, "No such key."), "authentication", False, "401 Unauthorized: No such key."),
    (fail(403, "Not you."), "permission", False, "403 Forbidden"),
    (fail(404, "No model."), "model_not_found", False, "Check the model's name and the base URL."),
    (fail(400, "Odd."), "bad_request", False, "400 Bad Request: Odd."),
    (fail(413, "Big."), "context_too_long", False, "413"),
    (fail(422, "Odd."), "bad_request", False, "422"),
    (fail(429, "Slow."), "rate_limited", True, "429 Too Many Requests: Slow."),
    (fail(500), "overloaded", True, "500 Internal Server Error"),
    (fail(529), "overloaded", True, "529"),
    (fail(500).but(headers={"x-should-retry": "false"}), "overloaded", False, "500"),
    (html(502), "overloaded", True, "502 Bad Gateway: 502 Bad Gateway nginx (text/html)"),
    (html(200), "protocol", False, "text/html that is no stream of events: '502 Bad Gateway nginx'"),
    (raw(b"hello", "text/plain"), "protocol", False, "text/plain that is no stream of events: 'hello'"),
    (raw(b"hello", None), "protocol", False, "no content type that is no stream"),
    (raw(b"hello", "application/json"), "protocol", False, "application/json that is no stream"),
    (raw(b"{", "application/json"), "protocol", False, "no JSON object: '{'"),
    (raw(b"\x00\xff\x1b[31m" * 50, "image/png"), "protocol", False, "image/png"),
    (raw(b"data: {oops\n\n"), "protocol", False, "no JSON object: '{oops'"),
    (raw(b""), "truncated", True, "nothing in it"),
    (raw(b"", "application/json"), "truncated", True, "nothing in it"),
    (raw(b": waiting\n\n: waiting\n\n"), "truncated", True, "ended in the middle"),
    (raw(b"data: {"), "truncated", True, "ended in the middle"),
    (raw(ERROR, "application/json"), "overloaded", True, "openai refused: Broken."),
    (raw(b"data: " + ERROR + b"\n\n"), "overloaded", True, "openai refused: Broken."),
    (raw(b"", status=204), "protocol", False, "answered 204 No Content, which is no reply."),
    (raw(b"", status=302).but(headers={"location": f"https://u:{KEY}@elsewhere/v2?key={KEY}"}), "protocol", False,
     "answered 302 and sends us on to https://elsewhere/v2: not followed with a key."),
    (raw(b"", status=304), "protocol", False, "answered 304 Not Modified, which is no reply. Check the base URL."),
    (raw(b"hello", "text/\x9b31mplain\x85"), "protocol", False, "with text/ 31mplain that is no stream"),
    (html(502).but(headers={"content-type": "x/\x9b31m"}), "overloaded", True, "(x/ 31m)"),
    (say("", done=False, frames=({"choices": [{"delta": {"content": "a"}}]},)), "truncated", True, "in the middle"),
    (say(LONG).but(fault="cut"), "connection", True, "before it answered"),
    (say(LONG).but(fault="cut", at=0), "truncated", True, "in the middle of the reply"),
    (say(LONG).but(fault="cut", at="story"), "truncated", True, "in the middle of the reply"),
    (call("f", {"path": LONG}).but(fault="cut", at="upon"), "truncated", True, "in the middle of the reply"),
    (say(LONG).but(fault="reset"), "connection", True, "broke the connection before it answered"),
    (say(LONG).but(fault="reset", at="story"), "connection", True, "broke the connection in the middle"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "code", "retryable", "text"),
    FAULTS,
    ids=[f"{i}-{said.status}-{code}" for i, (said, code, *_) in enumerate(FAULTS)],
)
async def test_failures(chat_server: ChatServer, make: Make, said: Said, code: str, retryable: bool, text: str) -> None:
    chat_server.reply(said)
    error = await failure(make())
    assert (error.code, error.retryable) == (code, retryable)
    assert text in error.message
    assert "<" not in error.message
    assert error.message.isprintable()
    assert error.fields["provider"] == "openai"
    assert error.__context__ is None
    assert error.__cause__ is None


async def test_what_the_server_wants_about_trying_again(chat_server: ChatServer, make: Make) -> None:
    chat_server.reply(fail(429, retry_after="7"), fail(503, retry_after="Tue, 14 Nov 2023 22:13:50 GMT"))
    provider = make()
    first, second = await failure(provider), await failure(provider)
    assert first.fields["retry_after_s"] == 7.0
    assert second.fields["retry_after_s"] == 0.0
    assert (first.fields["status"], first.fields["request_id"]) == (429, "req-1")


async def test_nobody_listens(make: Make) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        error = await failure(make(f"http://127.0.0.1:{held.getsockname()[1]}/v1"))
    assert (error.code, error.retryable) == ("connection", True)
    assert "cannot be reached at http://127.0.0.1:" in error.message
    assert "Check the base URL" in error.message


async def test_no_such_host(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # a real question would leave this machine
    error = await failure(make("http://nobody.invalid"))
    assert (error.code, error.retryable) == ("connection", True)
    assert "http://nobody.invalid/v1/chat/completions: " in error.message
    assert "Name or service not known" in error.message


async def test_tls_to_a_server_without(chat_server: ChatServer, make: Make) -> None:
    error = await failure(make(chat_server.url.replace("http:", "https:")))
    assert error.code == "connection"
    assert "SSL" in error.message


@pytest.mark.parametrize(
    "said",
    [
        b"220 mail ready\r\n\r\n",
        # The library quotes what it cannot read.
        f"HTTP/1.1 200 OK\r\nyou sent {KEY}\r\n\r\n".encode(),
        f"HTTP/1.1 200 OK\r\n{'x' * 130} you sent {KEY}\r\n\r\n".encode(),
    ],
)
async def test_a_server_that_speaks_something_else(make: Make, said: bytes) -> None:
    async def greet(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(said)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        error = await failure(make(f"http://127.0.0.1:{port}", api_key=KEY))
        tasks.cancel_scope.cancel()
    assert (error.code, error.retryable) == ("protocol", False)
    assert "does not speak HTTP" in error.message
    assert ("illegal header line" in error.message) == (b"HTTP" in said)
    assert "sk-ca" not in everything(error)


@pytest.mark.parametrize("at", [None, 0, "story"])
async def test_silence(chat_server: ChatServer, make: Make, at: Any) -> None:
    chat_server.reply(say(LONG).but(fault="stall", at=at))
    error = await failure(make(http=HttpOptions(idle_timeout_s=0.1)))
    assert (error.code, error.retryable) == ("timeout", True)
    assert "silent for 0.1 s; raise HttpOptions.idle_timeout_s" in error.message
    await until(lambda: chat_server.left == 1)


async def test_a_slow_reply_is_not_silence(chat_server: ChatServer, make: Make) -> None:
    chat_server.reply(say("a b c d e f", piece=2, pause_s=0.04))
    reply = await ask(make(http=HttpOptions(idle_timeout_s=0.2)))  # all together it takes longer
    assert reply.text == "a b c d e f"


async def test_no_connection_is_free(chat_server: ChatServer, make: Make) -> None:
    chat_server.reply(say(LONG).but(fault="stall", at="story"))
    provider = make(http=HttpOptions(max_connections=1, pool_timeout_s=0.05))
    async with provider.stream(request()):
        error = await failure(provider)
    assert (error.code, error.retryable) == ("timeout", True)
    assert "all 1 connections busy" in error.message


@pytest.mark.parametrize("said", [say(LONG), raw(b'{"a": "' + b"x" * 3_000 + b'"}', "application/json")])
async def test_too_much(chat_server: ChatServer, make: Make, said: Said) -> None:
    chat_server.reply(said)
    error = await failure(make(http=HttpOptions(max_reply_bytes=2_000)))
    assert (error.code, error.retryable) == ("protocol", False)
    assert "more than 2,000 bytes" in error.message


async def test_a_document_is_one_event_and_bounded_as_one(chat_server: ChatServer, make: Make) -> None:
    chat_server.reply(raw(b'{"a": "' + b"x" * 3_000 + b'"}', "application/json"), say(LONG))
    provider = make(http=HttpOptions(max_event_bytes=2_000))
    error = await failure(provider)
    assert (error.code, error.retryable) == ("protocol", False)
    assert "more than 2,000 bytes; see HttpOptions.max_event_bytes" in error.message
    assert (await ask(provider)).text == LONG


WHOLE = b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("status", "kind", "body", "code", "text"),
    [
        (200, "application/json", WHOLE, "protocol", "packed its answer, though it was asked not to"),
        (200, SSE, b"data: " + WHOLE + b"\n\n", "protocol", "packed its answer, though it was asked not to"),
        (500, "application/json", ERROR, "overloaded", "it said nothing"),
    ],
)
async def test_what_is_packed_is_not_unpacked(
    chat_server: ChatServer, make: Make, status: int, kind: str, body: bytes, code: str, text: str
) -> None:
    headers = {"content-type": kind, "content-encoding": "gzip"}
    chat_server.reply(Said(status=status, body=gzip.compress(body), headers=headers))
    error = await failure(make())
    assert error.code == code
    assert text in error.message
    chat_server.reply(raw(WHOLE, kind).but(headers={"content-type": kind, "content-encoding": "Identity"}))
    if kind == "application/json":
        assert (await ask(make())).text == "Hello"
    else:
        assert (await failure(make())).code == "protocol"


async def test_an_error_page_that_never_ends(chat_server: ChatServer, make: Make) -> None:
    chat_server.reply(Said(status=500, body=b"<p>x</p>" * 100_000))
    error = await failure(make())
    assert error.code == "overloaded"
    assert len(error.message) < 400


# ---- hostile, but right ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chop", [1, 2, 7, 1_000_000])
async def test_any_cut_of_the_bytes(chat_server: ChatServer, make: Make, chop: int) -> None:
    text = 'naïve 😀 "quoted"\r\n'
    chat_server.reply(call("fs_read", {"päth": text}, text=text, reasoning="hm 🤔", chop=chop))
    reply = await ask(make())
    assert reply.text == text
    assert [block.input for _, block in reply.calls] == [f'{{"päth":{_quoted(text)}}}']


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"').replace("\r\n", "\\r\\n") + '"'


async def test_what_servers_do_behind_a_complete_reply(chat_server: ChatServer, make: Make) -> None:
    provider = make()
    whole = say("Hello", done=False)
    chat_server.reply(whole, whole.but(fault="reset", at="}}}"), whole.but(fault="cut", at="}}}"))
    for _ in range(3):
        assert (await ask(provider)).text == "Hello"


async def test_a_whole_completion_instead_of_a_stream(chat_server: ChatServer, make: Make) -> None:
    whole = b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}'
    chat_server.reply(raw(whole, "application/json; charset=utf-8"))
    reply = await ask(make())
    assert (reply.text, reply.usage.input) == ("Hello", 3)


# ---- connections ----------------------------------------------------------------------------------------------------


async def test_agents_share_connections(chat_server: ChatServer, make: Make) -> None:
    provider = make()
    chat_server.script = lambda seen: "Hello"
    for _ in range(5):
        await ask(provider)
    assert chat_server.connections == 1
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask, provider)
    assert chat_server.connections <= 8


def test_each_event_loop_has_its_own(chat_server: ChatServer) -> None:
    provider = OpenAIProvider(model="m", base_url=chat_server.url, environ={})
    chat_server.script = lambda seen: "Hello"

    async def twice() -> str:
        await ask(provider)
        text = (await ask(provider)).text
        client = provider.http._clients.get()
        assert client is not None
        await client.aclose()
        return text

    assert [anyio.run(twice, backend=backend) for backend in ("asyncio", "trio", "asyncio")] == ["Hello"] * 3
    assert chat_server.connections == 3


async def test_leaving_early_tells_the_server_at_once(chat_server: ChatServer, make: Make) -> None:
    provider = make()
    chat_server.reply(say(LONG).but(fault="stall", at="story"), "Hello")
    async with provider.stream(request()) as chunks:
        await anext(chunks)
    await until(lambda: chat_server.left == 1)
    assert (await ask(provider)).text == "Hello"


@pytest.mark.parametrize("at", [None, 0, "story"])
async def test_cancelling_is_prompt(chat_server: ChatServer, make: Make, at: Any) -> None:
    provider = make()
    chat_server.reply(say(LONG).but(fault="stall", at=at), "Hello")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, provider)
        await until(lambda: len(chat_server.requests) == 1)
        tasks.cancel_scope.cancel()
    await until(lambda: chat_server.left == 1)
    assert (await ask(provider)).text == "Hello"


async def _rest(chunks: Any) -> None:
    async for _ in chunks:
        pass


async def test_closing_ends_what_streams_and_a_later_request_connects_anew(chat_server: ChatServer, make: Make) -> None:
    provider = make()
    chat_server.reply(say(LONG).but(fault="stall", at="story"), "Hello")
    stream = provider.stream(request())
    async with stream as chunks:
        await anext(chunks)
        await provider.close()
        await provider.close()
        with pytest.raises(ProviderError) as caught:
            await _rest(chunks)
    assert caught.value.retryable
    assert not provider.http.connected
    assert (await ask(provider)).text == "Hello"
    assert provider.http.connected
    assert chat_server.connections == 2


async def test_proxies(chat_server: ChatServer, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    chat_server.reply("Hello")
    assert (await ask(make())).text == "Hello"  # the environment's is not used
    error = await failure(make(http=HttpOptions(env_proxy=True)))
    assert error.code == "connection"
    proxied = make("http://model.invalid/v1", HttpOptions(proxy=chat_server.url.removesuffix("/v1")))
    error = await failure(proxied)
    assert chat_server.requests[-1].path == "http://model.invalid/v1/chat/completions"
    assert error.code == "model_not_found"


async def test_a_client_of_ones_own(chat_server: ChatServer, make: Make) -> None:
    chat_server.reply("Hello")
    client = httpx.AsyncClient(headers={"x-mine": "1"}, trust_env=False)
    assert (await ask(make(http=HttpOptions(client=lambda: client)))).text == "Hello"
    assert chat_server.requests[-1].headers["x-mine"] == "1"


async def test_a_client_that_is_given_is_not_closed(chat_server: ChatServer, make: Make) -> None:
    """A function makes clients for the provider, and those are closed with it; one that is given is its owner's."""
    chat_server.reply("Hello", "Hello", "Again")
    async with httpx.AsyncClient(headers={"x-mine": "1"}, trust_env=False) as client:
        for options in (HttpOptions(client=client), HttpOptions(client=client)):
            provider = make(http=options)
            assert (await ask(provider)).text == "Hello"
            await provider.close()
        assert not client.is_closed
        assert chat_server.connections == 1, "the providers shared it"
    made = httpx.AsyncClient(trust_env=False)
    provider = make(http=HttpOptions(client=lambda: made))
    await ask(provider)
    await provider.close()
    assert made.is_closed


@pytest.mark.parametrize(
    "name", ["connect_timeout_s", "idle_timeout_s", "pool_timeout_s", "max_connections", "max_event_bytes"]
)
def test_options_are_checked(name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(UsageError, match=f"HttpOptions.{name} is 0"):
        HttpOptions(**options)


# ---- the key --------------------------------------------------------------------------------------------------------

ECHOES: list[Said] = [
    fail(401, f"Incorrect API key provided: {KEY}."),
    html(403, f"<p>Your key {KEY} is blocked</p>"),
    raw(f"you sent {KEY}".encode(), "text/plain"),
    raw(f"data: {KEY}\n\n".encode()),
    raw(b'data: {"error": {"message": "%s"}}\n\n' % KEY.encode()),
    raw(b"", status=307).but(headers={"location": f"http://x/{KEY}"}),
    # Where the message is cut, the key must not be.
    *(fail(401, f"{'x' * (200 - shown)}{KEY}") for shown in range(4, len(KEY), 6)),
    html(502, f"<html>{'x ' * 94}{KEY}</html>"),
    html(502, f"{' ' * 7_980}<p>{KEY}"),
    html(502, f"{' ' * 7_995}{KEY}"),
    html(502, f"<p>{KEY[:9]}<i></i>\n&#x{ord(KEY[9]):x};{KEY[10:]}".replace("<i></i>\n", "")),
    html(502, f"{' ' * 65_516}{KEY}"),
    raw(f"{'z' * 185}{KEY}".encode(), "text/plain"),
    raw(f"{' ' * 990}{KEY}".encode(), "text/plain"),
    raw(f"data: {'y' * 185}{KEY}\n\n".encode()),
    raw(b'data: {"error": {"message": "%s%s"}}\n\n' % (b"y" * 190, KEY.encode())),
    fail(500).but(headers={"x-request-id": KEY}),
    fail(401, f"No such key: {KEY.upper()}"),
    raw(b"", status=307).but(headers={"location": f"http://{KEY.upper()}.x/"}),
    raw(b"nope", f"text/{KEY}"),
    html(502).but(headers={"content-type": f"text/{KEY}"}),
    say(LONG).but(fault="reset"),
    say(LONG).but(fault="cut", at="story"),
    say(LONG).but(fault="stall"),
]


def everything(error: BaseException) -> str:
    """All that a log, a report or a debugger may show of an error, the locals of our frames included."""
    shown = [repr(error), str(error), repr(vars(error)), repr(pickle.dumps(error))]
    shown += traceback.format_exception(error)
    trace = error.__traceback__
    while trace is not None:
        frame: FrameType = trace.tb_frame
        if "/tests/" not in frame.f_code.co_filename:
            shown += [repr(value) for value in frame.f_locals.values()]
        trace = trace.tb_next
    return "\n".join(shown)


@pytest.mark.parametrize("said", ECHOES, ids=[str(i) for i in range(len(ECHOES))])
async def test_the_key_shows_nowhere(
    chat_server: ChatServer, make: Make, said: Said, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    chat_server.reply(said)
    provider = make(api_key=KEY, extra_headers={"x-team": f"team-{KEY}"}, http=HttpOptions(idle_timeout_s=0.1))
    error = await failure(provider, request(extra_headers={"x-more": f"more-{KEY}"}))
    sent = chat_server.requests[-1].headers
    assert (sent["authorization"], sent["x-team"], sent["x-more"]) == (f"Bearer {KEY}", f"team-{KEY}", f"more-{KEY}")
    shown = everything(error) + repr(provider) + repr(provider.http.secrets) + repr(provider.http.options)
    assert "canary" not in shown.lower()
    assert "sk-ca" not in error.message.lower(), "nor does the beginning of it"
    ours = [record for record in caplog.records if not record.name.startswith("httpcore")]
    assert "canary" not in "\n".join(record.getMessage() for record in ours)
    # Of httpcore's own debug log only what the server itself sent back may hold it.
    sending = [record.getMessage() for record in caplog.records if "send_request" in record.getMessage()]
    assert sending
    assert "canary" not in "\n".join(sending)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BASIC", "Token", "api-key"])
async def test_of_a_header_with_a_scheme_the_secret_part_is_hidden(
    chat_server: ChatServer, make: Make, scheme: str
) -> None:
    chat_server.reply(fail(401, f"No such key: {KEY}."))
    error = await failure(make(api_key="", extra_headers={"authorization": f"{scheme} {KEY}"}))
    assert "No such key: ***" in error.message


def test_a_secret_is_hidden_as_json_and_urls_quote_it_and_where_a_text_was_cut_in_it() -> None:
    hide = Secrets([("x-key", 'sec"ret/\\value')]).hide
    assert hide(r'{"a": "sec\"ret/\\value"}') == '{"a": "***"}'
    assert hide("http://x/sec%22ret%2F%5Cvalue/y") == "http://x/***/y"
    assert hide('It was sec"ret/\\va') == "It was ***"
    assert hide("It is sec") == "It is sec"
    assert Secrets([("authorization", "Bearer none")]).hide("none of it, bearer none") == "none of it, bearer none"


@pytest.mark.parametrize("bad", [f"{KEY}\nx", f"{KEY}é", f"{KEY}\x00"])
async def test_a_key_that_cannot_be_sent_is_refused_unseen(chat_server: ChatServer, make: Make, bad: str) -> None:
    with pytest.raises(UsageError, match="'authorization' cannot be sent") as caught:
        make(api_key=bad)
    assert "canary" not in everything(caught.value)
    error = await failure(make(), request(extra_headers={"x-more": bad}))
    assert error.code == "bad_request"
    assert "'x-more'" in error.message
    assert "canary" not in everything(error)
    assert chat_server.requests == []


@pytest.mark.parametrize("url", [f"http://user:{KEY}@host", f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}",
                                 f"http://host/v1?api-version=1&key={KEY}"])  # fmt: skip
def test_a_key_in_the_url_is_refused_unseen(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIProvider(base_url=url, api_key=KEY, environ={"OPENAI_API_KEY": KEY})
    assert "canary" not in caught.value.message
    assert caught.value.code == "bad_base_url"
