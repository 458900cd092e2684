"""Media as files of a vendor: uploaded once, asked for by id, and sent again where the vendor lost them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.core.runtime.media import CANARY, PDF, PNG, blocks, image, narrowed, text
from tests.servers import anthropic, gemini
from tests.servers.chat import Said, fail
from tests.servers.files import ChatFiles, GeminiFiles, MessagesFiles

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, open_store
from kode.core.kernel.message import MediaBlock, TextBlock
from kode.core.provider import (
    AnthropicProvider,
    GeminiProvider,
    MediaFile,
    OpenAIProvider,
    RetryPolicy,
    ScriptedProvider,
    Uploaded,
    say,
)
from kode.core.provider.anthropic.media import media_rules
from kode.core.provider.openai.media import media_rules as openai_rules
from kode.core.runtime.media.remembered import MAX_BYTES, MAX_FILES, Remembered


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
