"""What media an API takes, and how a file is sent ahead of a request."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import anthropic
import anyio
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from tests.servers.chat import fail, raw
from tests.servers.files import ChatFiles, GeminiFiles, MessagesFiles

from kode.core.errors import ProviderError, UsageError
from kode.core.kernel.message import MediaBlock, Message, TextBlock, ToolResultBlock
from kode.core.provider import (
    AnthropicProvider,
    Capabilities,
    GeminiProvider,
    MediaFile,
    MediaRule,
    ModelRequest,
    OpenAIProvider,
    Reply,
    TakesUploads,
    Uploaded,
    fold,
)
from kode.core.provider.anthropic.media import media_rules as anthropic_rules
from kode.core.provider.gemini.media import MEDIA as GEMINI
from kode.core.provider.media import fitted, media_type_of, problem, size_of, sniffed, typed
from kode.core.provider.openai.chat_reply import ChatReply
from kode.core.provider.openai.chat_request import Dialect, write_messages
from kode.core.provider.openai.media import media_rules as openai_rules
from kode.core.provider.presets import PRESETS
from kode.core.testing.clock import VirtualClock

CANARY = "sk-canary-0123456789"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(60))
PDF = b"%PDF-1.7\n" + bytes(200)
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(40)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(*blocks: Any) -> ModelRequest:
    return ModelRequest("m", (Message(0, "user", blocks, 0),))


def shown(request: ModelRequest, **rules: MediaRule) -> list[Any]:
    fit = fitted(request, Capabilities(media=rules))  # type: ignore[arg-type]
    return list(fit.messages[0].blocks)


# ---- types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (PNG, ("image", "image/png")),
        (b"\xff\xd8\xff\xe0", ("image", "image/jpeg")),
        (b"GIF89a", ("image", "image/gif")),
        (b"RIFF0000WEBPVP8 ", ("image", "image/webp")),
        (WAV, ("audio", "audio/wav")),
        (b"RIFF0000AVI LIST", ("video", "video/x-msvideo")),
        (b"\x00\x00\x00\x20ftypheic", ("image", "image/heic")),
        (b"\x00\x00\x00\x20ftypM4A ", ("audio", "audio/mp4")),
        (b"\x00\x00\x00\x20ftypisom", ("video", "video/mp4")),
        (PDF, ("file", "application/pdf")),
        (b"ID3\x04", ("audio", "audio/mpeg")),
        (b"hello", None),
        (b"", None),
        (b"RIFF", None),
    ],
)
def test_bytes_tell_their_type(head: bytes, kind: Any) -> None:
    assert sniffed(head) == kind


def test_the_type_is_that_of_the_bytes() -> None:
    png = text(PNG)
    for given in (
        MediaBlock("image", "image/jpeg", data=png),
        MediaBlock("image", data=png),
        MediaBlock("file", "image/png", data=png),
        MediaBlock("image", url=f"data:image/jpeg;base64,{png}"),
    ):
        found = typed(given)
        assert (found.type, found.media_type, found.data) == ("image", "image/png", png)
    assert typed(MediaBlock("image", "image/png", data=text(PDF))).type == "file"
    right = MediaBlock("audio", "audio/x-wav", data=text(WAV), opaque=None)
    assert typed(right) is right
    sound = MediaBlock("audio", "audio/mp4", data=text(b"\x00\x00\x00\x20ftypisom"))
    assert typed(sound) is sound  # a container of either is what it is said to be
    office = MediaBlock("file", "application/vnd.x-office", data=text(b"PK\x03\x04"))
    assert typed(office) is office
    assert typed(MediaBlock("file", data="no base64!")).data == "no base64!"
    assert media_type_of(MediaBlock("audio", "audio/mp3; rate=1")) == "audio/mpeg"


@pytest.mark.parametrize("size", range(8))
def test_sizes_are_those_of_the_bytes(size: int) -> None:
    assert size_of(text(bytes(size))) == size


# ---- what is refused ---------------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_by_name_before_it_is_sent() -> None:
    rule = MediaRule(frozenset({"image/png"}), max_bytes=67)
    with pytest.raises(UsageError, match=r"The image 'a.png' cannot be sent: it has 68 bytes, .* at most 67") as caught:
        shown(ask(MediaBlock("image", data=text(PNG), name="a.png")), image=rule)
    assert caught.value.code == "media_too_large"
    (block,) = shown(ask(MediaBlock("image", data=text(PNG))), image=replace(rule, max_bytes=68))
    assert block == MediaBlock("image", "image/png", data=text(PNG))
    # Also in a result, and all of them together.
    within = ToolResultBlock("c", (TextBlock("x"), MediaBlock("image", data=text(PNG))))
    with pytest.raises(UsageError, match="68 bytes"):
        shown(ask(within), image=rule)
    two = ask(MediaBlock("image", data=text(PNG)), MediaBlock("image", data=text(PNG)))
    with pytest.raises(UsageError, match="184 bytes of base64 together, and this model's API takes at most 183"):
        fitted(two, Capabilities(media={"image": MediaRule()}, max_media_bytes=183))
    fitted(two, Capabilities(media={"image": MediaRule(max_items=2)}, max_media_bytes=184))
    with pytest.raises(UsageError, match=r"has 2 of the kind 'image'.* at most 1") as caught:
        fitted(two, Capabilities(media={"image": MediaRule(max_items=1)}))
    assert caught.value.code == "too_many_media"


def test_what_the_api_has_no_form_for_stands_as_a_line() -> None:
    png = frozenset({"image/png"})
    given = ask(
        MediaBlock("image", "image/tiff", data="QQ=="),
        MediaBlock("audio", "audio/wav", data="QQ==", name="a.wav"),
        MediaBlock("image", url="https://x/a.png"),
        MediaBlock("image", file_id="file-1"),
        MediaBlock("image", file_id="file_1"),
        MediaBlock("file", "text/csv", data=text(b"a;b"), name="a.csv"),
    )
    before = given.messages[0]
    blocks = shown(given, image=MediaRule(png, urls=False, file_ids="file_"))
    assert [getattr(block, "text", block) for block in blocks] == [
        "[image image/tiff: left out, this model's API takes no image/tiff (it takes: image/png)]",
        "[audio audio/wav a.wav: left out, this model's API takes no audio (it takes: image)]",
        "[image: left out, this model's API fetches no URL; send the bytes]",
        "[image: left out, the id is no file of this vendor's; send the bytes]",
        MediaBlock("image", file_id="file_1"),
        "a.csv (text/csv):\na;b",
    ]
    assert given.messages[0] is before  # nobody changes what he was given
    plain = ask(TextBlock("hi"))
    assert fitted(plain, Capabilities()) is plain


@pytest.mark.parametrize("rules", [anthropic_rules(official=True), GEMINI, openai_rules("openai", "", official=True)])
def test_the_tables_hold_together(rules: Any) -> None:
    for rule in rules.values():
        assert rule.types
        assert all("/" in each and each == each.lower() for each in rule.types)
        assert rule.max_bytes > 0
        assert not rule.max_upload_bytes or rule.file_ids is not None
        known = {media_type_of(MediaBlock("file", each)) for each in rule.types}
        assert known == rule.types  # by the names that declared ones are brought to


def test_vendors_narrow_it() -> None:
    image = MediaBlock("image", "image/png", data="QQ==")
    url = MediaBlock("image", url="https://x/a.png")

    def takes(name: str, model: str, block: MediaBlock) -> bool:
        provider = PRESETS[name](model=model, api_key="k", environ={})
        return problem(block, provider.capabilities) is None

    assert not takes("deepseek", "deepseek-chat", image)
    assert takes("deepseek", "deepseek-v4-flash-vision", image)
    assert not takes("glm", "glm-4.6", image)
    assert takes("glm", "glm-4.6v", image)
    assert takes("ollama", "llava", image)
    assert not takes("ollama", "llava", url)
    assert takes("openrouter", "x/y", url)
    assert not takes("xai", "grok-4", MediaBlock("image", "image/gif", data="QQ=="))
    assert takes("minimax", "MiniMax-M2.5", image)


# ---- uploads over HTTP -------------------------------------------------------------------------------------


@pytest.fixture(params=[MessagesFiles, ChatFiles, GeminiFiles])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    server = request.param()
    server.key = CANARY
    yield server
    server.stop()
    assert server.refused == []


def provider_at(server: Any, **more: Any) -> Any:
    options = {"base_url": server.url, "api_key": CANARY, "environ": {}, "model": "m-1", **more}
    if isinstance(server, MessagesFiles):
        return AnthropicProvider(**options)
    return GeminiProvider(**options) if isinstance(server, GeminiFiles) else OpenAIProvider(**options)


async def test_a_file_is_sent_and_named(server: Any) -> None:
    clock = VirtualClock()
    provider = provider_at(server, clock=clock)
    given: object = provider
    assert isinstance(given, TakesUploads)
    done = await provider.upload(MediaFile("file", "application/pdf", PDF, name='a "b"\r\nx.pdf'))
    assert server.kept["0001"] == ("application/pdf", PDF)
    named = done.file_id or done.url or ""
    assert named.endswith("0001")
    assert server.forms[0]["filename"] == "a_b_x.pdf"
    if isinstance(server, GeminiFiles):
        assert done.url == f"{server.url}/files/0001"
        assert done.expires_at is not None
    if isinstance(server, ChatFiles):
        assert server.forms[0]["purpose"] == "user_data"
        assert server.forms[0]["expires_after[anchor]"] == "created_at"
    assert CANARY not in f"{provider.account}{done}"
    await provider.close()


async def test_a_refused_upload_says_so_and_shows_no_key(server: Any) -> None:
    provider = provider_at(server)
    server.broken = [fail(400, f"bad file, key {CANARY}")]
    with pytest.raises(ProviderError, match="bad file") as caught:
        await provider.upload(MediaFile("image", "image/png", PNG))
    assert CANARY not in str(caught.value)
    await provider.close()


def test_an_account_is_known_again_and_tells_nothing() -> None:
    def account(key: str, **more: Any) -> str:
        return str(OpenAIProvider(base_url="http://localhost:1", api_key=key, environ={}, **more).account)

    assert account(CANARY) == account(CANARY) != account("another-key-1")
    assert account(CANARY) != account(CANARY, name="mine")
    tag = account(CANARY).rpartition(" ")[2]
    assert len(tag) == 4
    assert CANARY not in account(CANARY)


async def test_a_file_that_is_not_ready_is_waited_for() -> None:
    server = GeminiFiles()
    server.looks = 2
    clock = VirtualClock()
    provider = provider_at(server, clock=clock)
    done: list[Uploaded] = []

    async def send() -> None:
        done.append(await provider.upload(MediaFile("video", "video/mp4", b"\x00\x00\x00\x20ftypisom")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        with anyio.fail_after(20):
            while not done:
                await anyio.sleep(0.001)
                await clock.advance(1)
    assert done[0].url == f"{server.url}/files/0001"
    assert [seen.method for seen in server.requests] == ["POST", "POST", "GET", "GET"]
    await provider.close()
    server.stop()


# ---- the vendors' own packages send the same ---------------------------------------------------------------


@pytest.mark.integration
def test_the_vendors_packages_upload_to_the_same_servers() -> None:
    """Their requests pass the checks of our servers: what these want is what the vendors' clients send."""
    for make in (MessagesFiles, ChatFiles, GeminiFiles):
        server: Any = make()
        server.key = CANARY
        if make is MessagesFiles:
            one = anthropic.Anthropic(
                api_key=CANARY, base_url=server.url.removesuffix("/v1"), http_client=httpx2.Client()
            )
            done: Any = one.beta.files.upload(file=("a.pdf", PDF, "application/pdf"))
            assert done.id == "file_0001"
            one.close()
        elif make is ChatFiles:
            with openai.OpenAI(api_key=CANARY, base_url=server.url) as two:
                after: Any = {"anchor": "created_at", "seconds": 3600}
                done = two.files.create(
                    file=("a.pdf", PDF, "application/pdf"), purpose="user_data", expires_after=after
                )
            assert done.id == "file-0001"
        else:
            options = types.HttpOptions(base_url=server.url.removesuffix("/v1beta"))
            three = genai.Client(api_key=CANARY, http_options=options)
            done = three.files.upload(file=BytesIO(PDF), config={"mime_type": "application/pdf", "display_name": "a"})
            assert done.uri == f"{server.url}/files/0001"
            three.close()
        assert server.kept["0001"] == ("application/pdf", PDF)
        server.stop()


# ---- what models make --------------------------------------------------------------------------------------


def _chat(*deltas: dict[str, Any]) -> Reply:
    reader = ChatReply()
    frames = [{"id": "1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    frames.append({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks = [chunk for frame in frames for chunk in reader.feed(json.dumps(frame))]
    return fold([*chunks, *reader.feed("[DONE]")])


def test_a_chat_brings_pictures_and_sound() -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text(PNG)}"}}
    drawn = _chat({"content": "Look:"}, {"images": [picture, {"odd": 1}, None]})
    assert drawn.blocks == (TextBlock("Look:"), MediaBlock("image", "image/png", data=text(PNG)))
    sound = bytes(range(100))
    pieces = [{"data": text(sound[at : at + 10]), "transcript": str(at)} for at in range(0, 100, 10)]
    said = _chat({"audio": {"id": "audio_1"}}, *({"audio": piece} for piece in pieces), {"audio": {"data": "é"}})
    words = "".join(str(at) for at in range(0, 100, 10))
    assert said.blocks == (TextBlock(words), MediaBlock("audio", "audio/pcm;rate=24000", data=text(sound)))
    # Nothing but a picture is an answer too, and what was said aloud goes back in words.
    assert _chat({"images": [picture]}).blocks == drawn.blocks[1:]
    history = (
        Message(0, "user", (TextBlock("hi"),), 0),
        Message(1, "assistant", said.blocks, 0, provider="openai"),
        Message(2, "user", (TextBlock("go on"),), 0),
    )
    assert write_messages(ModelRequest("m", history), Dialect())[1] == {"role": "assistant", "content": words}


async def test_no_file_goes_to_another_server_than_the_one_asked() -> None:
    server = GeminiFiles()
    server.broken = [raw(b"{}", "application/json").but(headers={"x-goog-upload-url": "https://elsewhere.example/u"})]
    provider = provider_at(server)
    with pytest.raises(ProviderError, match="to another server"):
        await provider.upload(MediaFile("file", "application/pdf", PDF))
    server.broken = [raw(b"{}", "application/json")]
    with pytest.raises(ProviderError, match="did not say under which id"):
        await provider.upload(MediaFile("file", "application/pdf", PDF))
    assert len(server.requests) == 2
    await provider.close()
    server.stop()


# ---- names of types, and addresses -------------------------------------------------------------------------

APIS: dict[str, Any] = {
    "anthropic": AnthropicProvider(api_key=CANARY, environ={}),
    "chat": OpenAIProvider(api="chat", api_key=CANARY, environ={}),
    "responses": OpenAIProvider(api="responses", api_key=CANARY, environ={}),
    "gemini": GeminiProvider(api_key=CANARY, environ={}),
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (MediaBlock("image", "image/jpg", data=text(b"\xff\xd8\xff\xe0" + bytes(60))), "image/jpeg"),
        (MediaBlock("image", "IMAGE/JPG", url="https://x/a"), "image/jpeg"),
        (MediaBlock("file", "application/x-pdf; version=1.7", data=text(PDF)), "application/pdf"),
    ],
)
def test_types_go_by_their_usual_names_and_what_is_stored_keeps_its_own(api: str, block: MediaBlock, kind: str) -> None:
    request = ask(block)
    fit = fitted(request, APIS[api].capabilities)
    assert fit.messages[0].blocks == (replace(block, media_type=kind),)
    assert request.messages[0].blocks == (block,)


@pytest.mark.parametrize(
    ("block", "taken"),
    [
        (MediaBlock("image", "image/png", url="gs://bucket/x.png"), {"gemini"}),
        (MediaBlock("file", "text/plain", url="https://x/a.txt"), {"gemini"}),
        (MediaBlock("file", "application/pdf", url="https://x/a.pdf"), {"anthropic", "responses", "gemini"}),
        (MediaBlock("file", "application/pdf", url="data:application/pdf,hello"), set()),
    ],
)
def test_only_who_fetches_an_address_is_sent_it(block: MediaBlock, taken: set[str]) -> None:
    assert {name for name, api in APIS.items() if problem(block, api.capabilities) is None} == taken


def test_messages_without_media_are_not_copied() -> None:
    result = Message(1, "user", (ToolResultBlock("c", (TextBlock("done"),)),), 0)
    request = ModelRequest("m", (result, Message(2, "user", (MediaBlock("image", url="https://x/a"),), 0)))
    assert fitted(request, APIS["gemini"].capabilities).messages[0] is result
