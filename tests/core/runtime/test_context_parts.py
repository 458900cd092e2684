"""The parts of a window by themselves: estimates, cuts, shortened texts, what is shown, summaries."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.message import (
    BlobBlock,
    Json,
    MediaBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.kernel.window import Range, Window
from kode.core.provider.base import Capabilities, ModelRequest, SystemPart, ToolSpec
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.context.cut import MAX_PINNED, cut_at, pinned_in
from kode.core.runtime.context.estimate import MEDIA_TOKENS, Size, request_tokens, size_of, text_tokens, tokens_of
from kode.core.runtime.context.shorten import shorten
from kode.core.runtime.context.showing import Showing
from kode.core.runtime.context.summary import HEAD, digest_of, transcript
from kode.core.runtime.context.window import window_bounds

IMAGE = MediaBlock("image", "image/png", data="AAAA", name="a.png")


def user(seq: int, text: str = "say", **more: object) -> Message:
    return Message(seq, "user", (TextBlock(text),), 0, **more)  # type: ignore[arg-type]


def uses(seq: int, n: int = 1) -> Message:
    return Message(seq, "assistant", tuple(ToolUseBlock(f"{seq}-{k}", "look", Json("{}")) for k in range(n)), 0)


def answers(seq: int, n: int = 1, text: str = "seen") -> Message:
    blocks = tuple(ToolResultBlock(f"{seq - 1}-{k}", (TextBlock(text),), call=f"1.1.{k}") for k in range(n))
    return Message(seq, "user", blocks, 0)


def says(seq: int) -> Message:
    return Message(seq, "assistant", (TextBlock("well"),), 0)


# ---- estimates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("abcdefghi", 2), ("1234567", 4), ("人工智能", 4), ("при", 2), ("é", 1), ("\ud800", 1)],
)
def test_a_text(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


def test_cjk_counts_by_the_character() -> None:
    text = "较早的内容要被总结" * 50
    assert text_tokens(text) == len(text)


def test_blocks_of_every_kind() -> None:
    blocks = (
        TextBlock("a" * 9), ReasoningBlock("a" * 9), ToolUseBlock("1", "a" * 9, Json('"aaaaaaa"')), IMAGE,
        ToolResultBlock("1", (TextBlock("a" * 9), IMAGE)), BlobBlock("0" * 64, 400),
        BlobBlock("0" * 64, 9, "image/png"),
    )  # fmt: skip
    size = size_of(blocks)
    assert size == Size(2 + 2 + (2 + 3 + 8) + (2 + 8) + 100, 3)
    assert size.tokens(3) == size.text + 3 * MEDIA_TOKENS
    assert size.tokens(1) < size.text + MEDIA_TOKENS + 100
    assert tokens_of((IMAGE, IMAGE)) == 2 * MEDIA_TOKENS


def test_a_request_counts_its_prompt_and_its_tools() -> None:
    bare = ModelRequest("m", [user(0)])
    spec = ToolSpec("look", "d" * 90, Json('{"type":"object"}'))
    full = ModelRequest("m", [user(0)], system=(SystemPart("a" * 900), SystemPart("b" * 900)), tools=(spec,))
    assert request_tokens(full) - request_tokens(bare) > 400 + 20


# ---- cuts ------------------------------------------------------------------------------------------------------


def each(messages: object) -> int:
    return len(messages)  # type: ignore[arg-type]


def test_a_cut_is_before_a_person_s_word_if_one_is_near() -> None:
    talk = [m for k in range(0, 20, 2) for m in (user(k), says(k + 1))]
    assert cut_at(talk, each, 7) == 14
    assert cut_at(talk, each, 8) == 12


def test_a_cut_in_a_long_run_is_between_two_steps() -> None:
    run = [user(0), *(m for k in range(1, 21, 2) for m in (uses(k), answers(k + 1)))]
    assert cut_at(run, each, 6) == 15
    assert cut_at(run, each, 7) == 15
    assert cut_at(run, each, 0) == 19, "the last step stays"


@pytest.mark.parametrize("messages", [[], [user(0)], [says(0)], [uses(0), answers(1)]])
def test_there_may_be_no_cut(messages: list[Message]) -> None:
    assert cut_at(messages, each, 0) == 0


def test_no_cut_of_any_history_parts_a_pair() -> None:
    random = Random(7)
    for _ in range(300):
        messages: list[Message] = []
        while len(messages) < random.randint(1, 40):
            n = len(messages)
            kind = random.choice(("user", "step", "says"))
            if kind == "step":
                calls = random.randint(1, 3)
                messages += [uses(n, calls), answers(n + 1, calls)]
            else:
                messages.append(user(n) if kind == "user" else says(n))
        at = cut_at(messages, each, random.randint(0, 30))
        kept = messages[at:]
        asked: list[str] = []
        for message in kept:
            assert [b.tool_use_id for b in message.blocks if isinstance(b, ToolResultBlock)] == asked
            asked = [b.id for b in message.blocks if isinstance(b, ToolUseBlock)]
        if any(m.role == "assistant" for m in messages):
            assert any(m.role == "assistant" for m in kept)


def test_what_is_pinned() -> None:
    yes = Json('{"pinned":true}')
    messages = [user(0), user(1, metadata=yes), user(2, metadata=Json('{"pinned":"no"}')), user(3, metadata=Json("[]"))]
    assert pinned_in(messages, 0) == (0, 1)
    assert pinned_in(messages, None) == (1,)
    assert pinned_in([answers(4)], 4) == (), "never a result without its call"
    assert pinned_in([Message(5, "assistant", (TextBlock("x"),), 0, metadata=yes)], None) == ()
    many = [user(k, metadata=yes) for k in range(40)]
    assert pinned_in(many, 0) == (0, *range(40 - MAX_PINNED, 40))


# ---- what is shown ---------------------------------------------------------------------------------------------


def test_a_text_is_shortened_to_its_head_and_tail() -> None:
    text = "HEAD" + "x" * 9_000 + "TAIL"
    short = shorten(text, 100)
    assert short.startswith("HEAD")
    assert short.endswith("TAIL")
    assert "characters not shown" in short
    assert text_tokens(short) <= 110
    assert shorten(text, 5_000) is text
    assert "characters not shown" in shorten(text, 30)
    assert shorten(text, 0) == "…"
    for tokens in range(60):
        assert text_tokens(shorten(text, tokens)) <= max(tokens, 1)
    assert text_tokens(shorten("总" * 9_000, 100)) <= 110


def shown(messages: list[Message], keep: int = 1, most: int = 200, window: Window = Window()) -> list[Message]:
    showing = Showing(keep, most)
    showing.look(window, messages)
    return showing.shown(messages)


def test_a_long_call_stays_json_and_what_is_signed_stays_whole() -> None:
    arguments = Json(json.dumps({"text": "y" * 9_000}))
    signed = (
        ReasoningBlock("z" * 9_000, "sig"), TextBlock("t" * 9_000, Json('"s"')),
        ToolUseBlock("1", "put", arguments, Json('"s"')),
    )  # fmt: skip
    plain = (ToolUseBlock("2", "put", arguments), TextBlock("q" * 9_000))
    (message,) = shown([Message(0, "assistant", (*signed, *plain), 0)])
    assert message.blocks[:3] == signed
    call, text = message.blocks[3:]
    assert isinstance(call, ToolUseBlock)
    assert isinstance(text, TextBlock)
    assert "not shown" in next(iter(json.loads(call.input)))
    assert len(call.input) < 1_000
    assert len(text.text) < 1_000


ANSWER = Message(9, "assistant", (TextBlock("ok"),), 0)


def test_media_that_were_never_shown_are_shown_however_many() -> None:
    """Somebody who asks to compare five pictures gets an answer about five."""
    old, new = Message(8, "user", (IMAGE, IMAGE), 0), Message(10, "user", (IMAGE,) * 5, 0)
    more = Message(11, "user", (IMAGE,), 0)
    got = shown([old, ANSWER, new, more], 3)
    assert [[b.type for b in m.blocks] for m in got] == [["text"] * 2, ["text"], ["image"] * 5, ["image"]]
    got = shown([old, new, more, replace(ANSWER, seq=12)], 3)
    assert [b.type for m in got[:3] for b in m.blocks] == ["text"] * 5 + ["image"] * 3


def test_a_message_of_many_small_parts_is_bounded_too() -> None:
    small = tuple(TextBlock(f"{n} b c d e f g h i j") for n in range(5_000))
    for block in (small, (ToolResultBlock("x", small, call="1.1.1"),)):
        (got,) = shown([Message(0, "user", block, 0)], most=5_000)
        assert size_of(got.blocks).text <= 5_000
        inner = got.blocks[0].content if isinstance(got.blocks[0], ToolResultBlock) else got.blocks
        assert inner[0] == small[0]
        assert inner[-1] == small[-1]
        assert sum("parts not shown" in getattr(b, "text", "") for b in inner) == 1
    each = tuple(ToolResultBlock(str(n), (TextBlock("word " * 40),)) for n in range(200))
    (got,) = shown([Message(0, "user", each, 0)], most=5_000)
    assert len(got.blocks) == 200, "every call keeps its result"
    assert size_of(got.blocks).text <= 5_000 + 200 * 8, "beside what each result costs by itself"


def test_media_in_a_message_are_hidden_from_the_oldest_on() -> None:
    message = Message(0, "user", (IMAGE, ToolResultBlock("1", (IMAGE, TextBlock("x"), IMAGE)), IMAGE), 0)
    kinds = []
    for keep in range(5):
        got, _ = shown([message, ANSWER], keep)
        inner = got.blocks[1]
        assert isinstance(inner, ToolResultBlock)
        kinds.append([b.type for b in (got.blocks[0], *inner.content, got.blocks[2])])
    assert [one.count("image") for one in kinds] == [0, 1, 2, 3, 4]
    assert kinds[2] == ["text", "text", "text", "image", "image"]
    got, _ = shown([Message(0, "user", (BlobBlock("0" * 64, 9, "image/png"),), 0), ANSWER], 0)
    assert got.blocks == (TextBlock("[image: image/png] (not shown any more)"),)


def test_it_follows_the_window_back_and_forth() -> None:
    showing = Showing(1, 200)
    messages = [*(Message(k, "user", (IMAGE,), 0) for k in range(6)), ANSWER]
    cut = Window("c", (), (Range(4),))
    for window, part in (
        (Window(), [*messages[:5], ANSWER]),
        (cut, messages[4:]),
        (Window(), messages),
        (cut, messages[4:]),
    ):
        showing.look(window, part)
        got = showing.shown(part)
        assert [m.blocks[0].type for m in got] == ["text"] * (len(part) - 2) + ["image", "text"]
        assert [showing.size(m) for m in part] == [size_of(m.blocks) for m in part]


def test_another_summary_is_looked_at_anew() -> None:
    showing = Showing(1, 200)
    first, second = (Message(-1, "user", (TextBlock(text),), 0, origin="summary") for text in ("a", "b" * 300))
    for window, summary in ((Window("c1", (), (Range(4),)), first), (Window("c2", (), (Range(4),)), second)):
        showing.look(window, [summary, user(4)])
        assert showing.size(summary) == size_of(summary.blocks)


def test_what_is_too_long_counts_as_it_is_shown() -> None:
    long, short = Message(0, "user", (TextBlock("word " * 900),), 0), Message(1, "user", (TextBlock("总" * 150),), 0)
    showing = Showing(1, 200)
    showing.look(Window(), [long, short])
    got = showing.shown([long, short])
    assert got[0] != long
    assert got[1] is short, "it is not too long, though it might be by its characters"
    assert showing.size(long) == Size(200)
    assert showing.size(short) == size_of(short.blocks) == Size(150)


def test_a_message_is_looked_at_and_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    showing, counted = Showing(1, 200), []
    monkeypatch.setattr("kode.core.runtime.context.showing.size_of", lambda b: counted.append(b) or size_of(b))
    messages = [Message(k, "user", (TextBlock("a"), TextBlock(str(k))), 0) for k in range(5)]
    for _ in range(2):
        showing.look(Window(), messages)
        assert [showing.size(m) for m in messages] == [Size(2)] * 5
    assert counted == [m.blocks for m in reversed(messages)]
    messages.append(Message(5, "user", (TextBlock("b"), TextBlock("5")), 0))
    showing.look(Window(), messages)
    assert counted[5:] == [messages[5].blocks]


# ---- summaries -------------------------------------------------------------------------------------------------


def test_a_digest_keeps_the_earlier_summary_and_stays_within_its_bound() -> None:
    earlier = Message(-1, "user", (TextBlock(f"{HEAD}\nThe goal is gold."),), 0, origin="summary")
    messages = [earlier, user(0, "begin " * 99), uses(1), answers(2, text="r" * 9_000), Message(3, "user", (IMAGE,), 0)]
    text = digest_of(messages, 400)
    assert text.startswith("The goal is gold.\nuser: begin")
    assert HEAD not in text
    assert "assistant: calls look {}" in text
    assert "user: result: rrr" in text
    assert "[image: a.png, image/png]" in text
    assert text_tokens(text) < 440
    assert text_tokens(digest_of([user(k, "word " * 50) for k in range(500)], 300)) < 330


def test_a_transcript_fits_into_its_room() -> None:
    messages = [user(k, "word " * 500, sender="Ann") for k in range(50)]
    text = transcript(messages, 1_000)
    assert text.startswith("Ann: word")
    assert text_tokens(text) <= 1_010
    assert "thought" not in transcript([Message(0, "assistant", (ReasoningBlock("thought"),), 0)], 1_000)


@pytest.mark.parametrize(
    ("policy", "output", "most", "target", "message"),
    [
        (ContextPolicy(), None, 75_904, 37_952, 37_952),
        (ContextPolicy(), 10_000, 70_000, 35_000, 35_000),
        (ContextPolicy(), 90_000, 55_000, 27_500, 27_500),
        (ContextPolicy(max_tokens=5_000), None, 5_000, 2_500, 2_500),
        (ContextPolicy(max_tokens=5_000, target_tokens=4_000, max_message_tokens=9_000), None, 5_000, 4_000, 9_000),
        (ContextPolicy(target_tokens=90_000), None, 75_904, 75_904, 37_952),
    ],
)
def test_bounds(policy: ContextPolicy, output: int | None, most: int, target: int, message: int) -> None:
    bounds = window_bounds(policy, ScriptedProvider(window_tokens=100_000, capabilities=Capabilities()), output)
    assert (bounds.most, bounds.target, bounds.message) == (most, target, message)
