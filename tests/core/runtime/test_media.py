"""Media of agents: bytes apart from messages, refused at the door, and there when the model is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import pairwise
from typing import Any

import anyio
import pytest
from tests.core.runtime.media import PNG, SMALL, blocks, image, narrowed, text

from kode.core import Agent, AgentConfig, AgentTemplate, Hooks, tool
from kode.core.errors import StoreUnavailableError, UsageError
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import BlobBlock, MediaBlock, TextBlock
from kode.core.provider import (
    call,
    say,
)
from kode.core.runtime.context.showing import holds_media
from kode.core.testing.faulty import Fault, FaultyStore
from kode.core.tools.base import ToolOutcome

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


async def test_media_that_a_hook_puts_into_a_request_are_made_ready_too(lab: Any) -> None:
    def add(request: Any) -> Any:
        first = request.messages[0]
        return replace(request, messages=[replace(first, blocks=(*first.blocks, image(PNG))), *request.messages[1:]])

    deps = lab.deps([say("a")], hooks=[Hooks("h", pre_model=add)])
    narrowed(lab.provider, max_bytes=1_000)
    agent = await Agent.create(AgentConfig(AgentTemplate("t", model="m", hooks=("h",)), agent_id="a"), deps)
    await agent.run("go")
    assert "left out, it has 102,408 bytes" in blocks(lab.provider.requests[0])[1].text
