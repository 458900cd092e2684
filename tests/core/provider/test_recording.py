"""What a model said is recorded once and replayed: the same chunks, the same failures, the same history."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.core.provider.asking import look

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, MemoryStore, RecordingProvider, ReplayProvider
from kode.core.errors import ProviderError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import (
    Json,
    MediaBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Usage,
)
from kode.core.provider import (
    BlockStart,
    BlockStop,
    BlockWhole,
    Capabilities,
    InputDelta,
    MediaRule,
    ModelRequest,
    OutputSchema,
    Prices,
    Reasoning,
    ReasoningDelta,
    ReplyEnd,
    RetryPolicy,
    ScriptedProvider,
    SystemPart,
    TextDelta,
    ToolChoice,
    ToolSpec,
    UsageReport,
    broken,
    calls,
    cut,
    fail,
    fold,
    say,
)
from kode.core.provider.record import Exchange, asked
from kode.core.testing.clock import VirtualClock


def user(text: str, **more: Any) -> Message:
    return Message(0, "user", (TextBlock(text),), 0, **more)


def asks(*texts: str, **more: Any) -> ModelRequest:
    return ModelRequest("m", tuple(user(text) for text in texts), **more)


async def answer(provider: Any, request: ModelRequest) -> list[Any]:
    """All chunks, and the error last if there is one."""
    got: list[Any] = []
    try:
        async with provider.stream(request) as chunks:
            async for chunk in chunks:
                got.append(chunk)  # noqa: PERF401 - what came before an error is wanted
    except ProviderError as error:
        got.append((error.code, error.message, error.retryable, error.fields))
    return got


def there(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recordings" / "some test.jsonl"


async def test_replies_and_failures_come_back_as_they_were(path: Path) -> None:
    turns = [
        say("Grüße 🎉\u2028", think="hm", chunk=1),
        calls(("look", {"path": "a"}), ("look", '{"pa'), text="Let me see", chunk=3),
        fail("rate_limited", "Slow down.", retry_after_s=2.5),
        broken(say("Half of it", chunk=2), 3, fail("overloaded")),
        cut(say("Half of it", chunk=2), 3),
    ]
    inner = ScriptedProvider(turns, name="vendor", model="v-1", window_tokens=9, prices=Prices(3, 15))
    recording = RecordingProvider(inner, path)
    requests = [asks("a"), asks("a", "b"), asks("c"), asks("d"), asks("e")]
    first = [await answer(recording, each) for each in requests]
    await recording.close()
    again = ReplayProvider(path)
    # In another order: each is found by what it asks.
    second = {at: await answer(again, requests[at]) for at in (4, 1, 3, 0, 2)}
    for at, expected in enumerate(first):
        if at == 3:  # an error may be raised or be the last chunk: it is the same
            expected[-1] = (expected[-1].error.code, expected[-1].error.message, True, {})
        assert second[at] == expected
    assert (again.name, again.model, again.window_tokens) == ("vendor", "v-1", 9)
    assert again.capabilities == inner.capabilities
    again.check()


class _All:
    """A provider that says everything there is to say."""

    name, model, window_tokens = "all", "all-1", 1_000
    capabilities = Capabilities(
        media={"image": MediaRule(frozenset({"image/png"}), 5)}, output_media=frozenset({"audio"})
    )
    CHUNKS = (
        BlockStart(0, "reasoning", opaque=Json('{"x":1}'), redacted=True),
        ReasoningDelta(0, "so", "sig"),
        BlockStop(0, Json('"y"')),
        BlockStart(1, "tool_use", "id", "look"),
        InputDelta(1, '{"a":'),
        TextDelta(1, "\ud83c"),
        TextDelta(1, "\udf89"),
        BlockWhole(2, MediaBlock("image", "image/png", data="aaaa", opaque=Json("[]"))),
        BlockWhole(3, ToolUseBlock("i", "n", Json('{"a":1.50}'))),
        UsageReport(Usage(1, 2, 3, 4, 5, 6)),
        ReplyEnd(raw="stop", model="m-9", id="r", provider="p"),
    )

    def stream(self, request: ModelRequest) -> _All:
        self._left = list(self.CHUNKS)
        return self

    async def __aenter__(self) -> _All:
        return self

    async def __aexit__(self, *error: Any) -> None:
        pass

    def __aiter__(self) -> _All:
        return self

    async def __anext__(self) -> Any:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)

    async def close(self) -> None:
        pass


async def test_every_kind_of_chunk_is_kept_whole(path: Path) -> None:
    recorded = await answer(RecordingProvider(_All(), path), asks("a"))
    again = ReplayProvider(path)
    assert await answer(again, asks("a")) == recorded == list(_All.CHUNKS)
    assert again.capabilities == _All.capabilities


_SAID = (ReasoningBlock("hm", "sig"), ToolUseBlock("c1", "look", Json('{"a":1}')))


def _result(data: str, call: str = "") -> Message:
    return Message(2, "user", (ToolResultBlock("c1", (TextBlock("it"), MediaBlock("image", data=data)), call=call),), 0)


FULL = ModelRequest(
    "m",
    (user("look"), Message(1, "assistant", _SAID, 0, provider="p"), _result("x" * 900, "1.1.1")),
    system=(SystemPart("Be brief.", "short"),),
    tools=(ToolSpec("look", "Look.", Json('{"type":"object"}')),),
    tool_choice=ToolChoice("required"),
    max_tokens=5,
    temperature=0.5,
    top_p=0.9,
    stop=("x",),
    seed=7,
    output_schema=OutputSchema(Json('{"type":"object"}')),
    reasoning=Reasoning("high"),
    extra_body=Json('{"a":1}'),
)
_CALL = FULL.messages[1]
SAME = {
    "times and ids of ours": {
        "messages": tuple(
            replace(m, at=9, seq=m.seq + 5, run=3, step=4, origin="inbox:x", sender="s", attempt="2.1")
            for m in (*FULL.messages[:2], _result("x" * 900, "9.9.9"))
        )
    },
    "who asks": {"agent_id": "b", "idempotency_key": "k", "timeout_s": 9.0},
    "marks of a cache": {"system": "Be brief.", "cache": "long", "cache_key": "k"},
    "headers": {"extra_headers": {"x": "y"}},
    "a user's name": {"metadata": {"user_id": "u"}},
}
OTHER: dict[str, dict[str, Any]] = {
    "model": {"model": "m2"},
    "system": {"system": "Be long."},
    "tools": {"tools": (ToolSpec("look", "Look!", Json('{"type":"object"}')),)},
    "no tools": {"tools": ()},
    "tool_choice": {"tool_choice": None},
    "max_tokens": {"max_tokens": 6},
    "temperature": {"temperature": 0.6},
    "top_p": {"top_p": None},
    "stop": {"stop": ("y",)},
    "seed": {"seed": 8},
    "output_schema": {"output_schema": None},
    "reasoning": {"reasoning": Reasoning("low")},
    "extra_body": {"extra_body": Json('{"a":2}')},
    "a message less": {"messages": FULL.messages[:-1]},
    "arguments": {
        "messages": (FULL.messages[0], replace(_CALL, blocks=(ToolUseBlock("c1", "look", Json('{"a":2}')),))),
    },
    "who said it": {"messages": (FULL.messages[0], replace(_CALL, provider="q"), FULL.messages[2])},
    "a picture": {"messages": (*FULL.messages[:2], _result("y" * 900))},
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
async def test_what_makes_a_request_the_same(path: Path, name: str) -> None:
    await answer(RecordingProvider(ScriptedProvider([say("Yes")]), path), FULL)
    again = ReplayProvider(path)
    got = await answer(again, replace(FULL, **(SAME.get(name) or OTHER[name])))
    assert (len(got) > 1) == (name in SAME), got
    assert await answer(again, FULL) != got or name in SAME


async def test_nothing_secret_is_in_it(path: Path) -> None:
    request = replace(
        FULL, extra_headers={"authorization": "canary-1"}, extra_body=dump({"token": "canary-2"}), agent_id="canary-3",
        metadata={"user": "canary-4"}, idempotency_key="canary-5",
    )  # fmt: skip
    await answer(RecordingProvider(ScriptedProvider([say("Yes")]), path), request)
    assert "canary" not in there(path)


async def test_a_request_that_was_not_recorded_says_what_is_different(path: Path) -> None:
    recording = RecordingProvider(ScriptedProvider([say("1"), say("2"), say("3")]), path)
    for request in (asks("a", "b"), asks("a", "the year is 2025", "c"), asks("z", "z", "z")):
        await answer(recording, request)
    again = ReplayProvider(path)
    [(code, message, retryable, _)] = await answer(again, asks("a", "the year is 2026", "c"))
    assert (code, retryable) == ("script", False)
    assert "number 2 of 3" in message
    assert '-     "text": "the year is 2025",' in message
    assert '+     "text": "the year is 2026",' in message
    assert "mask" in message
    assert '"text": "a"' not in message, "what both begin with is not shown"
    with pytest.raises(AssertionError, match=r"(?s)the year is 2026.*number 1, 2, 3 was never asked"):
        again.check()


async def test_a_long_difference_is_cut(path: Path) -> None:
    await answer(RecordingProvider(ScriptedProvider([say("1")]), path), asks("a"))
    [(_, message, _, _)] = await answer(ReplayProvider(path), asks(*[f"{n} " + "x" * 9_000 for n in range(100)]))
    assert len(message) < 6_000
    assert "more lines" in message


async def test_what_differs_in_every_run_is_masked(path: Path) -> None:
    def masked(folder: str) -> Any:
        return lambda text: text.replace(folder, "<tmp>")

    recording = RecordingProvider(ScriptedProvider([say("Yes")]), path, mask=masked("/tmp/run-1"))
    await answer(recording, asks("read /tmp/run-1/a.txt"))
    assert "run-1" not in there(path)
    again = ReplayProvider(path, mask=masked("/tmp/run-2"))
    assert len(await answer(again, asks("read /tmp/run-2/a.txt"))) > 1


async def test_the_same_question_has_its_answers_in_order(path: Path) -> None:
    recording = RecordingProvider(ScriptedProvider([fail("overloaded"), say("1"), say("2")]), path)
    for _ in range(3):
        await answer(recording, asks("a"))
    again = ReplayProvider(path)
    assert (await answer(again, asks("a")))[0][0] == "overloaded"
    async with again.stream(asks("a")) as chunks:
        await anext(chunks)  # left early: asked again it is the same
    texts = [next(c.text for c in await answer(again, asks("a")) if isinstance(c, TextDelta)) for _ in range(3)]
    assert texts == ["1", "2", "2"]


async def test_a_reply_that_is_left_is_not_kept(path: Path) -> None:
    clock = VirtualClock()
    recording = RecordingProvider(
        ScriptedProvider([say("ab", chunk=1), say("ab", gap_s=9), say("c")], clock=clock), path
    )
    async with recording.stream(asks("a")) as chunks:
        await anext(chunks)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer, recording, asks("b"))
        await clock.advance(1)
        tasks.cancel_scope.cancel()
    assert there(path) == ""
    await answer(recording, asks("c"))
    assert len(ReplayProvider(path).exchanges) == 1


async def test_the_file_reads_well_and_grows_by_what_is_new(path: Path) -> None:
    recording = RecordingProvider(ScriptedProvider([say("Hello", chunk=3), say("Bye")], name="v", model="v-1"), path)
    await answer(recording, asks("hi", system="Be brief."))
    before = there(path)
    await answer(recording, asks("hi", "go", seed=1))
    after = there(path)
    assert after.startswith(before)
    told = [json.loads(line) for line in after.splitlines()]
    assert {name: told[0][name] for name in ("kode", "version", "provider", "model")} == {
        "kode": "recording", "version": 1, "provider": "v", "model": "v-1",
    }  # fmt: skip
    said = {"role": "user", "blocks": [{"text": "hi", "type": "text"}]}
    assert told[1] == {"ask": {"model": "m", "system": ["Be brief."], "messages": [said]}}
    assert told[2:5] == [
        {"chunk": "BlockStart", "index": 0, "kind": "text"},
        {"chunk": "TextDelta", "index": 0, "text": "Hel"},
        {"chunk": "TextDelta", "index": 0, "text": "lo"},
    ]
    added = {"role": "user", "blocks": [{"text": "go", "type": "text"}]}
    assert told[8] == {"ask": {"seed": 1, "system": None, "keep": 1, "messages": [added]}}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_a_write_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = RecordingProvider(ScriptedProvider([say("1"), say("2")]), path)
    await answer(recording, asks("a"))
    before = there(path)

    def full(self: Path, text: str, **more: Any) -> None:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    *_, failure = await answer(recording, asks("b"))  # nothing but a ProviderError leaves a provider
    assert failure[0] == "script"
    assert "No space" in failure[1]
    assert there(path) == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty"),
        ("hello\n", "line 1"),
        ('{"kode": "recording", "version": 2, "provider": "x"}\n', "line 1.*version 1"),
        ('{"ask": {}}\n', "line 1"),
        ('HEAD{"chunk": "TextDelta", "index": 0, "text": "x"}\n', "line 2"),
        ('HEAD{"ask": {"messages": []}}\n{"chunk": "Nonsense"}\n', "line 3"),
        ('HEAD{"ask": {"messages": []}}\n{"chunk": "TextDelta", "ind', "line 3"),
        ('HEAD{"ask": {"messages": []}}\n{"chunk": "TextDelta", "index": "many"}\n', "line 3"),
        ("HEAD[]\n", "line 2"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str, found: str) -> None:
    head = '{"kode": "recording", "version": 1, "provider": "v", "model": "m", "window_tokens": 9}\n'
    path = tmp_path / "a.jsonl"
    path.write_text(text.replace("HEAD", head), encoding="utf-8")
    with pytest.raises(UsageError, match=f"(?s)a.jsonl.*{found}") as caught:
        ReplayProvider(path)
    assert caught.value.code == "bad_recording"


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="RecordingProvider"):
        ReplayProvider(tmp_path / "none.jsonl")


async def _history(provider: Any, at: int) -> tuple[list[Any], Any]:
    store = MemoryStore(VirtualClock(at))
    deps = Dependencies(store=store, tools=[look], providers={"m": provider}, retry=RetryPolicy(base_s=0))
    template = AgentTemplate("t", model="m", system_prompt="Be brief.", tools=("look",))
    agent = await Agent.create(AgentConfig(template), deps)
    results = [await agent.run(text) for text in ("Look at a and b.", "And now?")]
    found = (await store.read_messages(agent.agent_id, limit=99)).items
    await agent.close()
    history = [(m.role, m.blocks, m.provider, m.model, m.stop_reason, m.usage) for m in found]
    return history, [(each.status, each.text, each.usage, each.steps) for each in results]


async def test_a_whole_agent_is_replayed(path: Path) -> None:
    """Another store, other ids, another day: the same history, with the same failure on the way."""
    turns = [
        calls(("look", {"path": "a"}), ("look", {"path": "b"}), text="I look.", chunk=4),
        broken(say("Bo", chunk=1), 2, fail("overloaded")),
        say("Both are there.", think="Easy.", chunk=4),
        say("Still there."),
    ]
    recording = RecordingProvider(ScriptedProvider(turns, name="v", prices=Prices(3, 15)), path)
    first = await _history(recording, 1_000_000_000)
    again = ReplayProvider(path)
    assert await _history(again, 2_000_000_000_000_000) == first
    assert first[1][0][1] == "Both are there."
    again.check()


GUIDE = Path(__file__).parents[3] / "docs/guides/models.md"


def test_the_guides_lines_record_and_then_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-none")
    for name in ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "OLLAMA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    front, lines = (next(block for block in blocks if name in block) for name in ("FallbackProvider", "ReplayProvider"))
    space: dict[str, Any] = {}
    exec(front, space)
    assert [each.provider.name for each in space["front"].members] == ["anthropic", "openai", "ollama"]
    exec(lines, space)
    assert isinstance(space["provider"], RecordingProvider)
    space["provider"].keep(Exchange(asked(asks("a"))))
    exec(lines, space)
    assert isinstance(space["provider"], ReplayProvider)


async def test_what_python_finds_equal_is_not_always_the_same(path: Path) -> None:
    """1, 1.0 and true are three things in JSON; a file that took them for one could not replay itself."""
    recording = RecordingProvider(ScriptedProvider([say(word) for word in "123"]), path)
    requests = [
        ModelRequest("m", (Message(0, "assistant", (ToolUseBlock("c", "t", Json(f'{{"on":{value}}}')),), 0),))
        for value in ("1", "true", "1.0")
    ]
    said = [await answer(recording, each) for each in requests]
    replay = ReplayProvider(path)
    assert [await answer(replay, each) for each in requests] == said
    assert [fold(chunks).text for chunks in said] == ["1", "2", "3"]
    async with replay.stream(requests[0]) as chunks:
        await anext(aiter(chunks))
    replay.check()  # who left early has not undone what another has asked
