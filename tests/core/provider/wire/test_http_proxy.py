"""Through a proxy to a server with TLS: the proxy sees where to, and neither key nor prompt."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.servers.chat import ChatServer

from kode.core import OpenAIProvider
from kode.core.errors import ProviderError
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import HttpOptions, ModelRequest, Reply, fold

pytestmark = pytest.mark.integration

KEY, PASSWORD = "sk-canary-4711-abcdef", "canary-password"
ASKED = ModelRequest("m", (Message(0, "user", (TextBlock("canary of a prompt"),), 0),))


class Proxy:
    """An HTTP proxy that connects whoever gives the password to one server, and keeps what it could read."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.seen = b""
        self.tunnels = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = self._keep(socket.create_server(("127.0.0.1", 0)))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._listen)

    def stop(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._open:
            each.close()

    def _keep(self, opened: socket.socket) -> socket.socket:
        self._open.append(opened)
        return opened

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self._keep(self._listener.accept()[0]))

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4_096)
        self.seen += head
        if b64encode(f"u:{PASSWORD}".encode()) not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        self.tunnels += 1
        server = self._keep(socket.create_connection(("127.0.0.1", self.target)))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._start(self._pass, server, client)
        self._pass(client, server)

    def _pass(self, here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while data := here.recv(65_536):
                self.seen += data
                there.sendall(data)
        with suppress(OSError):
            there.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def certificate(component: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of ours for model.invalid, key and all in one file."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = component("openssl", "apt-get install openssl")
    made = folder / "made.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=model.invalid", "-addext", "subjectAltName=DNS:model.invalid",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return made


@pytest.fixture
def proxy(chat_server: ChatServer, certificate: Path) -> Iterator[Proxy]:
    """In front of the chat server, which speaks TLS here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    http = chat_server._http
    assert http is not None
    http.socket = context.wrap_socket(http.socket, server_side=True)
    proxy = Proxy(http.server_address[1])
    yield proxy
    proxy.stop()


async def ask(proxy: Proxy, certificate: Path, user: str, times: int = 1) -> Reply:
    trusted = ssl.create_default_context(cafile=str(certificate))
    options = HttpOptions(proxy=f"http://{user}@127.0.0.1:{proxy.port}", tls=trusted, connect_timeout_s=5)
    provider = OpenAIProvider(
        model="m", base_url="https://model.invalid", api_key=KEY, http=options, environ={}, api="chat"
    )
    try:
        for _ in range(times):
            async with provider.stream(ASKED) as chunks:
                reply = fold([chunk async for chunk in chunks])
        return reply
    finally:
        await provider.close()


async def test_a_tunnel(chat_server: ChatServer, proxy: Proxy, certificate: Path) -> None:
    chat_server.key = KEY
    chat_server.reply("Hello", "Hello")
    assert (await ask(proxy, certificate, f"u:{PASSWORD}", times=2)).text == "Hello"
    assert proxy.seen.startswith(b"CONNECT model.invalid:443 HTTP/1.1\r\n")
    assert b"canary" not in proxy.seen
    assert b"canary of a prompt" in chat_server.requests[0].raw
    assert (proxy.tunnels, chat_server.connections) == (1, 1)


async def test_a_proxy_that_refuses(proxy: Proxy, certificate: Path) -> None:
    with pytest.raises(ProviderError, match="through the proxy: 407") as caught:
        await ask(proxy, certificate, "u:wrong-password")
    assert (caught.value.code, proxy.tunnels) == ("connection", 0)
    assert "wrong-password" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


async def test_a_server_nobody_trusts_behind_it(proxy: Proxy) -> None:
    options = HttpOptions(proxy=f"http://u:{PASSWORD}@127.0.0.1:{proxy.port}")
    provider = OpenAIProvider(model="m", base_url="https://model.invalid", api_key=KEY, http=options, environ={})
    with pytest.raises(ProviderError, match="cannot be trusted") as caught:
        async with provider.stream(ASKED):
            pass
    await provider.close()
    assert not caught.value.retryable
    assert b"canary" not in proxy.seen
