"""Media that a model does not take: turned into what it takes, or left out, so that the agent goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.core.runtime.media import PNG, SMALL, blocks, image, narrowed, text

from kode.core import Agent
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import MediaBlock, TextBlock
from kode.core.provider import (
    MediaFile,
    RetryPolicy,
    ScriptedProvider,
    say,
)
from kode.core.provider.failure import provider_error

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
