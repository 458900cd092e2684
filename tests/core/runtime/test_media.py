"""Media of agents: bytes apart from messages, uploads that are remembered, help for models that cannot see or hear."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.servers import anthropic, gemini
from tests.servers.chat import Said, fail
from tests.servers.files import ChatFiles, GeminiFiles, MessagesFiles

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, Hooks, open_store, tool
from kode.core.errors import StoreUnavailableError, UsageError
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import BlobBlock, MediaBlock, TextBlock
from kode.core.provider import (
    AnthropicProvider,
    GeminiProvider,
    MediaFile,
    OpenAIProvider,
    RetryPolicy,
    ScriptedProvider,
    Uploaded,
    call,
    say,
)
from kode.core.provider.anthropic.media import media_rules
from kode.core.provider.failure import provider_error
from kode.core.provider.openai.media import media_rules as openai_rules
from kode.core.runtime.context.showing import holds_media
from kode.core.runtime.media.remembered import MAX_BYTES, MAX_FILES, Remembered
from kode.core.testing.faulty import Fault, FaultyStore
from kode.core.tools.base import ToolOutcome

CANARY = "sk-canary-0123456789"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400  # 102 kB: apart from its message
PDF = b"%PDF-1.7\n" + bytes(5_000_000)
SMALL = b"\x89PNG\r\n\x1a\n" + bytes(100)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes = PNG, **more: Any) -> MediaBlock:
    return MediaBlock("image", more.pop("kind", "image/png"), data=text(data), **more)


def blocks(request: Any, at: int = 0) -> list[Any]:
    return list(request.messages[at].blocks)


def narrowed(provider: Any, **changes: Any) -> Any:
    """A scripted provider that takes less."""
    kinds = changes.pop("kinds", None)
    media = {kind: replace(rule, **changes) for kind, rule in provider.capabilities.media.items()}
    kept = media if kinds is None else {kind: media[kind] for kind in kinds}
    provider.capabilities = replace(provider.capabilities, media=kept)
    return provider


# ---- apart from their messages -----------------------------------------------------------------------------


async def test_large_media_lie_apart_and_are_there_when_the_model_is_asked(lab: Any) -> None:
    agent = await lab.agent([say("a"), say("b")])
    await agent.run([TextBlock("look"), image(name="a.png"), image(SMALL)])
    stored = (await lab.store.read_messages("a")).items[0].blocks
    sha = sha256(PNG).hexdigest()
    assert stored[1] == MediaBlock("image", "image/png", blob=sha, name="a.png")
    assert stored[2] == image(SMALL)
    assert await lab.store.get_blob("a", sha) == PNG
    asked = lab.provider.requests[0]
    assert blocks(asked) == [TextBlock("look"), image(name="a.png"), image(SMALL)]
    # Another process has them too.
    again = lab.deps([say("c")])
    await (await Agent.open("a", again)).run("and now?")
    assert blocks(again.providers["m"].requests[0])[1].data == text(PNG)


async def test_the_same_message_sent_twice_is_one(lab: Any) -> None:
    agent = await lab.agent([say("a")])
    first = await agent.send([image()], item_id="1")
    second = await agent.send([image()], item_id="1")
    assert (first.duplicate, second.duplicate) == (False, True)


async def test_what_models_and_tools_bring_lies_apart_too(lab: Any) -> None:
    @tool
    async def draw() -> ToolOutcome:
        """Draw."""
        return ToolOutcome((TextBlock("here"), image(name="t.png")))

    from kode.core.provider.assemble import fold
    from kode.core.provider.base import BlockWhole, ReplyEnd

    drawn = fold([BlockWhole(0, image(SMALL)), BlockWhole(1, image(PNG, opaque=None)), ReplyEnd()])
    agent = await lab.agent([call("draw", {}), drawn, say("end")], draw)
    await agent.run("go")
    await agent.run("again")
    messages = (await lab.store.read_messages("a")).items
    result = messages[2].blocks[0]
    assert result.content[1] == MediaBlock("image", "image/png", blob=sha256(PNG).hexdigest(), name="t.png")
    assert messages[3].blocks[0].data == text(SMALL)
    assert messages[3].blocks[1].blob == sha256(PNG).hexdigest()
    shown = blocks(lab.provider.requests[-1], 2)[0].content[1]
    assert shown.data == text(PNG)


async def test_bytes_that_are_gone_leave_a_line_and_an_event(lab: Any) -> None:
    @tool
    async def wait() -> str:
        """Do nothing."""
        return "ok"

    agent = await lab.agent([call("wait", {}), say("a"), say("b")], wait)
    told = BlobBlock("f" * 64, 12, "text/plain", "begins")
    await agent.run([MediaBlock("image", "image/png", blob="e" * 64), told])
    await agent.run("again")
    shown = blocks(lab.provider.requests[0])
    assert "left out, its bytes are not there any more" in shown[0].text
    assert shown[1].text == "begins\n[12 bytes of text/plain are not stored any more]"
    errors = [event for event in await lab.events() if event.type == "error"]
    assert [event.data["code"] for event in errors] == ["media_gone"] * 2  # once a drive


async def test_a_text_that_lies_apart_is_shown(lab: Any) -> None:
    agent = await lab.agent([say("a")])
    sha = await lab.store.put_blob("a", b"x" * 70_000, "text/plain")
    await agent.run([BlobBlock(sha, 70_000)])
    shown = blocks(lab.provider.requests[0])[0].text
    assert shown.startswith("x" * 65_536)
    assert shown.endswith("[4,464 more characters are not shown]")


# ---- at the door -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "code", "told"),
    [
        (MediaBlock("image"), "bad_media", "has nothing; give one of url, file_id, data and blob"),
        (MediaBlock("image", url="https://x", data="QQ=="), "bad_media", "has url and data"),
        (MediaBlock("image", url="file:///etc/passwd"), "bad_media", "give http, https, gs or data"),
        (MediaBlock("image", data="no base64"), "bad_media", "no base64 text"),
        (image(name="a.png"), "media_too_large", "'a.png' cannot be sent to scripted:scripted-1: it has 102,408 bytes"),
        (MediaBlock("audio", "audio/wav", data="QQ=="), "media_kind", "takes no audio (it takes: file, image)"),
        (MediaBlock("image", url="https://x/a.png"), "media_form", "fetches no URL; send the bytes"),
    ],
)
async def test_what_cannot_be_sent_is_refused_at_the_door(lab: Any, block: MediaBlock, code: str, told: str) -> None:
    agent = await lab.agent([say("a")])
    narrowed(lab.provider, kinds=("image", "file"), max_bytes=100_000, urls=False)
    with pytest.raises(UsageError) as caught:
        await agent.send([TextBlock("look"), block])
    assert caught.value.code == code
    assert told in caught.value.message
    assert (await agent.run("hi")).text == "a"
    assert len((await lab.store.read_messages("a")).items) == 2  # nothing of it was stored


async def test_what_was_stored_keeps_no_agent_from_going_on(lab: Any) -> None:
    """A history with media that the model of today cannot take: lines instead, and events."""
    agent = await lab.agent([say("a"), say("b")])
    await agent.run([image(), MediaBlock("audio", "audio/wav", data="QQ=="), image(SMALL)])
    narrowed(lab.provider, kinds=("image",), max_bytes=1_000)
    assert (await agent.run("go on")).text == "b"
    shown = blocks(lab.provider.requests[1])
    assert "102,408 bytes, and this model's API takes at most 1,000 of one image" in shown[0].text
    assert "takes no audio" in shown[1].text
    assert shown[2] == image(SMALL)
    codes = [event.data["code"] for event in await lab.events() if event.type == "error"]
    assert sorted(codes) == ["media_kind", "media_too_large"]


async def test_the_newest_fill_what_one_request_may_hold(lab: Any) -> None:
    agent = await lab.agent([say("a"), say("b")])
    lab.provider.capabilities = replace(lab.provider.capabilities, max_media_bytes=150_000)
    await agent.run([image(name="old"), image(SMALL, name="small"), image(name="new")])
    shown = blocks(lab.provider.requests[0])
    assert [getattr(block, "name", "line") for block in shown] == ["line", "small", "new"]
    assert "newer media fill what one request may hold" in shown[0].text
    lab.provider.capabilities = replace(lab.provider.capabilities, max_media_bytes=None)
    narrowed(lab.provider, max_items=1)
    await agent.run("again")
    shown = blocks(lab.provider.requests[1])
    assert [getattr(block, "name", "line") for block in shown] == ["line", "line", "new"]


# ---- help --------------------------------------------------------------------------------------------------


async def test_what_a_model_cannot_take_is_turned_into_what_it_can_once(lab: Any) -> None:
    heard: list[MediaFile] = []

    async def transcribe(file: MediaFile) -> str:
        heard.append(file)
        return " Good morning. "

    async def frames(file: MediaFile) -> list[MediaFile]:
        heard.append(file)
        return [MediaFile("image", "image/png", SMALL), MediaFile("image", "image/png", PNG)]

    async def fetch(url: str) -> MediaFile:
        heard.append(MediaFile("image", "image/png", url=url))
        return MediaFile("image", "image/jpeg", SMALL)  # it is a PNG

    helping: Any = {"transcriber": transcribe, "frame_extractor": frames, "media_fetcher": fetch}
    deps = lab.deps([say("a"), say("b")], **helping)
    narrowed(lab.provider, kinds=("image",), urls=False)
    agent = await lab.agent((), deps=deps, context=ContextPolicy(keep_media=9))
    await agent.run(
        [
            MediaBlock("audio", "audio/wav", data=text(b"RIFF0000WAVE"), name="a.wav"),
            MediaBlock("video", "video/mp4", data=text(b"0000ftypisom"), name="v.mp4"),
            MediaBlock("image", url="https://x/a.png"),
            MediaBlock("audio", "audio/mpeg", url="https://x/b.mp3"),
        ]
    )
    expected = [
        TextBlock("[Transcript of the audio a.wav]\nGood morning."),
        TextBlock("[The video v.mp4 as 2 pictures, in their order]"),
        image(SMALL, name="v.mp4"),
        image(PNG, name="v.mp4"),
        image(SMALL),
    ]
    shown = blocks(lab.provider.requests[0])
    assert shown[:5] == expected
    assert "Good morning" in shown[5].text
    assert [(file.kind, len(file.data), file.url) for file in heard] == [
        ("audio", 0, "https://x/b.mp3"),
        ("image", 0, "https://x/a.png"),
        ("video", 12, None),
        ("audio", 12, None),
    ]
    # Another process has it without asking again, though it has nobody to ask.
    later = lab.deps([say("c")], **helping)
    narrowed(later.providers["m"], kinds=("image",), urls=False)
    await (await Agent.open("a", later)).run("and?")
    assert len(heard) == 4
    assert blocks(later.providers["m"].requests[0]) == shown


async def test_help_that_fails_is_told_and_tried_again_later(lab: Any) -> None:
    good = False

    async def transcribe(file: MediaFile) -> str:
        if not good:
            raise OSError("no ears")
        return "hello"

    deps = lab.deps([say("a"), say("b")], transcriber=transcribe)
    narrowed(lab.provider, kinds=("image",))
    agent = await lab.agent((), deps=deps)
    await agent.run([MediaBlock("audio", "audio/wav", data="QQ==")])
    assert "left out, the transcript failed: OSError: no ears" in blocks(lab.provider.requests[0])[0].text
    assert [e.data["code"] for e in await lab.events() if e.type == "error"] == ["media_not_made"]
    good = True
    await agent.run("again")
    assert "hello" in blocks(lab.provider.requests[1])[0].text


async def test_help_that_takes_too_long_is_cut_off(lab: Any) -> None:
    async def transcribe(file: MediaFile) -> str:
        await lab.clock.sleep(10_000)
        return ""

    deps = lab.deps([say("a")], transcriber=transcribe, retry=RetryPolicy(max_tries=1))
    narrowed(lab.provider, kinds=("image",))
    agent = await lab.agent((), deps=deps, limits=Limits(model_timeout_s=60))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run([MediaBlock("audio", "audio/wav", data="QQ==")]))
        result = await lab.pass_until(run, 5.0)
    assert (result.status, result.error.code) == ("error", "timeout")
    assert "were not ready within" in result.error.text


async def test_an_agent_that_watches_many_videos_goes_on(lab: Any) -> None:
    """What is remembered of them stays within a document, and each is looked at once."""

    def video(more: int) -> MediaBlock:
        return MediaBlock("video", "video/mp4", data=text(b"0000ftypisom" + bytes(more)))

    seen: list[int] = []

    async def frames(file: MediaFile) -> list[MediaFile]:
        seen.append(len(file.data))
        one = MediaFile("image", "image/png", SMALL)
        return [one] * (601 if len(file.data) > 1_000 else 600)

    deps = lab.deps([say("a")] * 12, frame_extractor=frames)
    narrowed(lab.provider, kinds=("image",))
    agent = await lab.agent((), deps=deps)
    for n in range(10):
        assert (await agent.run([video(n)])).status == "ok"
    assert (await agent.run("and?")).status == "ok"
    assert seen == list(range(12, 22))
    assert len(blocks(lab.provider.requests[9], -1)) == 601
    assert (await agent.run([video(2_000)])).status == "ok"
    assert "601 frames came; give at most 600" in blocks(lab.provider.requests[-1], -1)[0].text
    (document,) = await lab.store.read_documents("a", "media")
    assert len(document.data) < 4_000


# ---- what was refused --------------------------------------------------------------------------------------


class Choosy(ScriptedProvider):
    """Refuses requests that show certain media."""

    def __init__(self, refuses: Callable[[MediaBlock], bool], told: str, code: str = "bad_request") -> None:
        super().__init__(lambda request: self._judged(request))
        self.refuses, self.told, self.code, self.always = refuses, told, code, False

    def _judged(self, request: Any) -> Any:
        shown = [block for message in request.messages for block in message.blocks if isinstance(block, MediaBlock)]
        if self.always or any(map(self.refuses, shown)):
            raise provider_error(self.code, self.told)
        return say("ok")

    @property
    def shown(self) -> list[int]:
        """How many media each request showed."""
        return [sum(isinstance(b, MediaBlock) for m in r.messages for b in m.blocks) for r in self.requests]


DEAD, FINE = "https://x.example/gone.png", "https://x.example/fine.png"


@pytest.mark.parametrize(
    ("block", "told", "code", "left"),
    [
        (MediaBlock("image", url=DEAD), f"Failed to download image from {DEAD}.", "bad_request", 1),
        (MediaBlock("image", url=DEAD), "Unable to download the file.", "bad_request", 0),
        (MediaBlock("file", file_id="file-1"), "No such File object: file-1", "model_not_found", 1),
        (image(SMALL), "Could not process image", "bad_request", 0),
    ],
)
async def test_media_that_stopped_working_keep_no_agent_from_going_on(
    lab: Any, block: MediaBlock, told: str, code: str, left: int
) -> None:
    """What the error names is left out, all if it names nothing; a day later they are shown again."""
    provider = Choosy(lambda shown: False, told, code)
    deps = replace(lab.deps(), providers={"m": provider})
    agent = await lab.agent((), deps=deps)
    await agent.run([block, MediaBlock("image", url=FINE)])
    provider.refuses = lambda shown: replace(shown, media_type=None) == replace(block, media_type=None)
    assert [(await agent.run("on")).status for _ in range(2)] == ["ok", "ok"]
    assert provider.shown == [2, 2, left, left]
    again = await Agent.open("a", deps)
    assert (await again.run("still")).status == "ok"
    assert provider.shown[4:] == [left]
    line = blocks(provider.requests[-1])[0].text
    assert f"left out, a request with it was refused: {told}"[:150] in line
    assert "media_refused" in [event.data.get("code") for event in await lab.events() if event.type == "error"]
    await lab.clock.advance(86_500)
    provider.refuses = lambda shown: False
    await again.run("tomorrow")
    assert provider.shown[5:] == [2]


async def test_a_request_that_is_refused_without_its_media_too_keeps_them(lab: Any) -> None:
    provider = Choosy(lambda shown: False, "no such setting")
    agent = await lab.agent((), deps=replace(lab.deps(), providers={"m": provider}))
    provider.always = True
    result = await agent.run([image(SMALL)])
    assert (result.status, result.error.code) == ("error", "bad_request")
    assert provider.shown == [1, 0]
    provider.always = False
    assert (await agent.run("now")).status == "ok"
    assert provider.shown == [1, 0, 1]


async def test_a_url_that_was_refused_is_fetched_by_who_can(lab: Any) -> None:
    async def fetch(url: str) -> MediaFile:
        return MediaFile("image", "image/png", SMALL)

    provider = Choosy(lambda shown: shown.url is not None, "cannot download")
    agent = await lab.agent((), deps=replace(lab.deps(), providers={"m": provider}, media_fetcher=fetch))
    assert (await agent.run([MediaBlock("image", url=DEAD)])).status == "ok"
    assert blocks(provider.requests[1])[0].data == text(SMALL)


# ---- a store that is away, and long histories --------------------------------------------------------------


def faulty(lab: Any) -> Any:
    """A store whose blobs may be away while all else is there."""
    store: Any = FaultyStore(lab.store, clock=lab.clock)

    def striking(method: str) -> Callable[..., Any]:
        inner = getattr(store, method)
        return lambda *args: store.operate(method, partial(inner, *args))

    store.get_blob, store.put_blob = striking("get_blob"), striking("put_blob")
    return store


@pytest.mark.parametrize("method", ["put_blob", "get_blob"])
async def test_a_store_that_is_away_for_a_while_is_waited_for(lab: Any, method: str) -> None:
    @tool
    async def draw() -> ToolOutcome:
        """Draw."""
        return ToolOutcome((image(),))

    store = faulty(lab)
    agent = await lab.agent((), draw, deps=lab.deps([call("draw", {}), say("end")], draw, store=store))
    store.faults = [Fault(method, nth=1, times=8)]
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)
    assert result.text == "end"
    assert len(store.struck) == 8
    assert blocks(lab.provider.requests[1], 2)[0].content == (image(),)


async def test_a_blob_that_stays_away_ends_the_drive(lab: Any) -> None:
    store = faulty(lab)
    agent = await lab.agent((), deps=lab.deps([say("end")], store=store))
    await agent.send([image()])
    store.faults = [Fault("get_blob", times=None)]
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        with pytest.raises(StoreUnavailableError):
            await lab.pass_until(lab.later(tasks, agent.complete))
    assert 55 < lab.clock.monotonic() - began < 75
    store.faults = []
    async with anyio.create_task_group() as tasks:
        later = await Agent.open("a", lab.deps([say("end")]))
        assert (await lab.pass_until(lab.later(tasks, later.complete))).text == "end"


async def test_a_request_does_not_go_through_a_long_history_for_its_media(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: how many messages are looked at for one step, early and late in a long run."""
    looked: list[int] = []
    marks: list[int] = []

    def counted(message: Any) -> bool:
        looked.append(message.seq)
        return holds_media(message)

    for module in ("kode.core.runtime.context.showing", "kode.core.runtime.media.supply"):
        monkeypatch.setattr(f"{module}.holds_media", counted)

    @tool
    async def look() -> ToolOutcome:
        """Look."""
        marks.append(len(looked))
        return ToolOutcome((image(SMALL),) if len(marks) == 1 else (TextBlock("nothing"),))

    steps = 200
    deps = lab.deps([call("look", {})] * steps + [say("end")], look)
    agent = await lab.agent((), look, deps=deps, limits=Limits(max_steps_per_run=steps + 1))
    assert (await agent.run("go")).text == "end"
    costs = [after - before for before, after in pairwise(marks)]
    assert costs[5] == costs[-1] <= 5


# ---- uploads, over HTTP ------------------------------------------------------------------------------------


class Vendor:
    """A vendor's server and what is asked of it."""

    def __init__(self, server: Any, make: Callable[[Any], Any], done: Callable[[str], Any], named: str) -> None:
        self.server, self.make, self.done, self.named = server, make, done, named

    def names(self) -> list[int]:
        """How many files each request referred to."""
        asked = [seen for seen in self.server.requests if b'"contents"' in seen.raw or b'"messages"' in seen.raw]
        return [seen.raw.decode("utf-8", "replace").count(self.named) for seen in asked]


def _anthropic(server: Any) -> Any:
    provider = AnthropicProvider(base_url=server.url, api_key=CANARY, environ={}, model="claude-9")
    provider.capabilities = replace(provider.capabilities, media=media_rules(official=True))
    return provider


def _openai(server: Any) -> Any:
    provider = OpenAIProvider(base_url=server.url, api_key=CANARY, environ={}, model="gpt-9")
    provider.capabilities = replace(provider.capabilities, media=openai_rules("openai", "gpt-9", official=True))
    return provider


def _gemini(server: Any) -> Any:
    return GeminiProvider(base_url=server.url, api_key=CANARY, environ={}, model="gemini-2.5-pro")


VENDORS: dict[str, tuple[Any, Any, Any, str]] = {
    "anthropic": (MessagesFiles, _anthropic, lambda said: anthropic.message(anthropic.text(said)), '"file_id"'),
    "openai": (ChatFiles, _openai, lambda said: said, '"file_id"'),
    "gemini": (GeminiFiles, _gemini, lambda said: gemini.content(gemini.frames(gemini.said(said))), '"fileUri"'),
}


@pytest.fixture(params=list(VENDORS))
async def vendor(request: pytest.FixtureRequest) -> AsyncIterator[Vendor]:
    make, provider, done, named = VENDORS[request.param]
    server = make()
    server.key = CANARY
    yield Vendor(server, provider, done, named)
    server.stop()
    assert server.refused == []


def deps_at(vendor: Vendor, store: Any, **more: Any) -> Dependencies:
    more.setdefault("retry", RetryPolicy(max_tries=1))
    return Dependencies(store=store, tools=[], providers={"m": vendor.make(vendor.server)}, **more)


async def test_a_file_is_uploaded_once_for_all_requests_and_processes(vendor: Vendor, tmp_path: Path) -> None:
    vendor.server.reply(*map(vendor.done, "abcd"))
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        deps = deps_at(vendor, store)
        agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), deps)
        file = MediaBlock("file", "application/pdf", data=text(PDF), name="big.pdf")
        assert (await agent.run([TextBlock("read"), file])).text == "a"
        assert (await agent.run("more")).text == "b"
        await agent.close()
        await deps.providers["m"].close()  # type: ignore[index,union-attr]
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        deps = deps_at(vendor, store)
        again = await Agent.open("a", deps)
        assert (await again.run("still there?")).text == "c"
        # What the vendor lost is sent again, once.
        vendor.server.lose()
        assert (await again.run("and now?")).text == "d"
        await again.close()
        await deps.providers["m"].close()  # type: ignore[index,union-attr]
        (document,) = await store.read_documents("a", "media")
    assert vendor.server.uploads == 2
    assert vendor.names() == [1, 1, 1, 1, 1]  # one of them refused
    assert list(vendor.server.kept.values()) == [("application/pdf", PDF)]
    assert not any(text(PDF)[:40].encode() in seen.raw for seen in vendor.server.requests)
    noted = json.loads(document.data)
    assert list(noted["uploads"]) == [sha256(PDF).hexdigest()]
    assert CANARY not in document.data
    assert not any(CANARY.encode() in path.read_bytes() for path in sorted(tmp_path.iterdir()))  # noqa: ASYNC240


async def test_a_vendor_that_never_knows_its_files_is_asked_three_times_at_most(vendor: Vendor, lab: Any) -> None:
    """By the file it should know, by a new one, and then without: the agent goes on."""
    vendor.server.reply(vendor.done("a"), vendor.done("b"), vendor.done("c"))
    deps = deps_at(vendor, lab.store)
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), deps)
    await agent.run([MediaBlock("file", "application/pdf", data=text(PDF))])
    vendor.server.forgets = True
    assert (await agent.run("again")).text == "b"
    assert vendor.names() == [1, 1, 1, 0]
    assert vendor.server.uploads == 2
    assert (await agent.run("and again")).text == "c"
    assert vendor.names()[4:] == [0]  # it is remembered, for a day
    await deps.providers["m"].close()  # type: ignore[index,union-attr]


async def test_a_vendor_that_keeps_no_files_is_offered_one_once_and_gets_the_bytes(vendor: Vendor, lab: Any) -> None:
    vendor.server.broken = [fail(404, "no such place")]
    vendor.server.reply(vendor.done("a"), vendor.done("b"))
    deps = deps_at(vendor, lab.store)
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), deps)
    assert (await agent.run([MediaBlock("file", "application/pdf", data=text(PDF))])).text == "a"
    assert (await agent.run("more")).text == "b"
    await deps.providers["m"].close()  # type: ignore[index,union-attr]
    assert vendor.server.uploads == 0
    assert vendor.names() == [0, 0]
    assert vendor.server.requests[-1].raw.count(text(PDF)[:40].encode()) == 1


async def test_no_upload_without_leave_nor_of_what_is_small(vendor: Vendor, lab: Any) -> None:
    vendor.server.reply(vendor.done("a"), vendor.done("b"))
    never = deps_at(vendor, lab.store, upload_over=None)
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), never)
    await agent.run([MediaBlock("file", "application/pdf", data=text(PDF))])
    usual = deps_at(vendor, lab.store)
    small = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="b"), usual)
    await small.run([MediaBlock("file", "application/pdf", data=text(PDF[:1_000]))])
    assert vendor.server.uploads == 0
    for deps in (never, usual):
        await deps.providers["m"].close()  # type: ignore[index,union-attr]


async def test_an_upload_that_was_not_noted_is_done_again(lab: Any) -> None:
    """The process dies between the upload and the commit: the file is sent twice, and nothing is lost."""
    server = MessagesFiles()
    server.reply(Said(fault="stall"), anthropic.message(anthropic.text("read")))
    one = Dependencies(store=lab.store, tools=[], providers={"m": _anthropic(server)})
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), one)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.run, [MediaBlock("file", "application/pdf", data=text(PDF))])
        with anyio.fail_after(20):
            while len(server.requests) < 2:  # noqa: ASYNC110 - they come in another thread: the upload, the request
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert await lab.store.read_documents("a", "media") == ()
    two = Dependencies(store=lab.store, tools=[], providers={"m": _anthropic(server)})
    assert (await (await Agent.open("a", two)).complete()).text == "read"
    assert server.uploads == 2
    assert len(await lab.store.read_documents("a", "media")) == 1
    for deps in (one, two):
        await deps.providers["m"].close()  # type: ignore[index,union-attr]
    server.stop()


async def test_another_account_or_vendor_gets_the_file_itself(lab: Any) -> None:
    """Hand-over: ids of one are nothing to another."""
    first, second = MessagesFiles(), GeminiFiles()
    first.reply(anthropic.message(anthropic.text("a")))
    second.reply(gemini.content(gemini.frames(gemini.said("b"))))
    store = lab.store
    one = Dependencies(store=store, tools=[], providers={"m": _anthropic(first)})
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), one)
    await agent.run([MediaBlock("file", "application/pdf", data=text(PDF))])
    two = Dependencies(store=store, tools=[], providers={"m": _gemini(second)})
    assert (await (await Agent.open("a", two)).run("go on")).text == "b"
    assert (first.uploads, second.uploads) == (1, 1)
    assert b"file_0001" not in second.requests[-1].raw
    for deps in (one, two):
        await deps.providers["m"].close()  # type: ignore[index,union-attr]
    for server in (first, second):
        server.stop()
        assert server.refused == []


def test_what_is_remembered_is_bounded_and_another_accounts_is_forgotten() -> None:
    notes = Remembered("a", {str(n): {"id": "x"} for n in range(MAX_FILES + 5)}, {}, {"frames:1": [{"text": "x"}]})
    text = notes.text()
    again = Remembered.read(text, "a")
    assert list(again.uploads) == [str(n) for n in range(5, MAX_FILES + 5)]
    assert Remembered.read(text, "b").uploads == {}
    refused = {"2": {"until": 1, "why": "é" * 20_000}}
    long = Remembered("a", {"1": {"id": "x" * 130_000}}, refused, {"3": [{"text": "y"}]})
    assert len(long.text()) < MAX_BYTES
    assert Remembered.read(long.text(), "a").made == long.made
    assert Remembered.read(text, "b").made == again.made
    assert Remembered.read(None, "b") == Remembered("b")


async def test_a_file_that_is_about_to_expire_is_sent_again(lab: Any) -> None:
    server = ChatFiles()
    server.expires_in_s = lab.clock.now() // 1_000_000 + 3_600
    server.reply("a", "b", "c")
    deps = Dependencies(store=lab.store, tools=[], providers={"m": _openai(server)}, clock=lab.clock)
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), deps)
    await agent.run([MediaBlock("file", "application/pdf", data=text(PDF))])
    await agent.run("two")
    assert server.uploads == 1
    await lab.clock.advance(3_100)
    await agent.run("three")
    assert server.uploads == 2
    await deps.providers["m"].close()  # type: ignore[index,union-attr]
    server.stop()


async def test_an_upload_that_fails_for_now_is_tried_again(vendor: Vendor, lab: Any) -> None:
    vendor.server.broken = [fail(503, "busy")]
    vendor.server.reply(vendor.done("a"))
    deps = deps_at(vendor, lab.store, retry=RetryPolicy(max_tries=2, base_s=0))
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), deps)
    assert (await agent.run([MediaBlock("file", "application/pdf", data=text(PDF))])).text == "a"
    await deps.providers["m"].close()  # type: ignore[index,union-attr]
    assert vendor.names() == [1]  # nothing went with its bytes


async def test_a_picture_that_a_model_drew_goes_back_to_it_and_stays_with_the_agent(lab: Any) -> None:
    server, other = GeminiFiles(), MessagesFiles()
    signed = {"inlineData": {"mimeType": "image/png", "data": text(PNG)}, "thoughtSignature": "c2ln"}
    server.reply(gemini.content(gemini.frames(gemini.said("Look:"), signed)), VENDORS["gemini"][2]("b"))
    other.reply(VENDORS["anthropic"][2]("c"))
    one = Dependencies(store=lab.store, tools=[], providers={"m": _gemini(server)})
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), one)
    await agent.run("draw")
    drawn = (await lab.store.read_messages("a")).items[1].blocks[1]
    assert (drawn.type, drawn.media_type, drawn.data) == ("image", "image/png", None)
    assert await lab.store.get_blob("a", drawn.blob) == PNG
    await agent.run("again")
    assert signed in server.requests[1].body["contents"][1]["parts"]
    two = Dependencies(store=lab.store, tools=[], providers={"m": _anthropic(other)})
    assert (await (await Agent.open("a", two)).run("go on")).text == "c"
    assert text(PNG)[:40].encode() not in other.requests[0].raw
    for deps in (one, two):
        await deps.providers["m"].close()  # type: ignore[index,union-attr]
    for each in (server, other):
        each.stop()
        assert each.refused == []


class Keeping(ScriptedProvider):
    """One of the APIs of an account that keeps files."""

    account = "one"

    async def upload(self, file: MediaFile) -> Uploaded:
        return Uploaded(file_id="file-1")


async def test_another_api_of_the_account_that_takes_no_ids_gets_the_bytes(lab: Any) -> None:
    names = narrowed(Keeping([say("a")]), max_upload_bytes=10**6, file_ids="file-")
    bytes_only = narrowed(Keeping([say("b")]), file_ids=None)
    one = replace(lab.deps(), providers={"m": names}, upload_over=50_000)
    await (await lab.agent((), deps=one)).run([image()])
    assert blocks(names.requests[0])[0].file_id == "file-1"
    two = replace(lab.deps(), providers={"m": bytes_only}, upload_over=50_000)
    await (await Agent.open("a", two)).run("go on")
    assert blocks(bytes_only.requests[0])[0].data == text(PNG)


async def test_media_that_a_hook_puts_into_a_request_are_made_ready_too(lab: Any) -> None:
    def add(request: Any) -> Any:
        first = request.messages[0]
        return replace(request, messages=[replace(first, blocks=(*first.blocks, image(PNG))), *request.messages[1:]])

    deps = lab.deps([say("a")], hooks=[Hooks("h", pre_model=add)])
    narrowed(lab.provider, max_bytes=1_000)
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m", hooks=("h",)), agent_id="a"), deps)
    await agent.run("go")
    assert "left out, it has 102,408 bytes" in blocks(lab.provider.requests[0])[1].text
